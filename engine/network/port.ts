/** One port of a virtual switch: an interface's or an uplink's end, with its settings, counters and policies. */
import type { DeliveryFailure, Frame, FramePort, FrameSink } from "../device/net/frame.ts";
import type { VlanMembership, VlanTable } from "./switch-vlan.ts";
import type { FrameHook, FrameTap, PortFacts } from "./types.ts";
import { type ValidationError, type ValidationRules, Validator } from "./validation.ts";

/** Why a switch dropped a frame, besides what validation and delivery say. */
export type SwitchDrop =
  | "link-down"
  /** Longer than the MTU, or its segments are. */
  | "mtu"
  /** The port is not in that VLAN, or takes no such tags. */
  | "vlan"
  /** Its source is the fixed address of another port. */
  | "mac-taken"
  /** Its destination is behind the port that it came from. */
  | "same-port"
  /** Both ports are isolated from each other. */
  | "isolated"
  /** A hook said so. */
  | "policy"
  /** Switches joined in a circle. */
  | "loop";

export type DropReason = SwitchDrop | ValidationError | DeliveryFailure;

/** The counters of a port as plain data; bytes count from the destination address on, without FCS. */
export interface PortStatistics {
  readonly framesIn: number;
  readonly bytesIn: number;
  readonly multicastIn: number;
  readonly broadcastIn: number;
  readonly droppedIn: number;
  readonly framesOut: number;
  readonly bytesOut: number;
  readonly multicastOut: number;
  readonly broadcastOut: number;
  readonly droppedOut: number;
  /** Both directions' drops by name. */
  readonly drops: Readonly<Partial<Record<DropReason, number>>>;
}

/**
 * What went through a port: "in" came from its interface into the switch, "out" was delivered to it. Dropped frames are
 * among `framesIn`, and never among `framesOut`. Broadcast frames do not count as multicast ones.
 */
export class PortCounters {
  framesIn = 0;
  bytesIn = 0;
  multicastIn = 0;
  broadcastIn = 0;
  droppedIn = 0;
  framesOut = 0;
  bytesOut = 0;
  multicastOut = 0;
  broadcastOut = 0;
  droppedOut = 0;
  readonly #drops = new Map<DropReason, number>();

  dropIn(reason: DropReason): void {
    this.droppedIn++;
    this.#drops.set(reason, (this.#drops.get(reason) ?? 0) + 1);
  }

  dropOut(reason: DropReason): void {
    this.droppedOut++;
    this.#drops.set(reason, (this.#drops.get(reason) ?? 0) + 1);
  }

  /** How often frames were dropped for this reason. */
  dropsOf(reason: DropReason): number {
    return this.#drops.get(reason) ?? 0;
  }

  statistics(): PortStatistics {
    const { framesIn, bytesIn, multicastIn, broadcastIn, droppedIn } = this;
    const { framesOut, bytesOut, multicastOut, broadcastOut, droppedOut } = this;
    const incoming = { framesIn, bytesIn, multicastIn, broadcastIn, droppedIn };
    const outgoing = { framesOut, bytesOut, multicastOut, broadcastOut, droppedOut };
    return { ...incoming, ...outgoing, drops: Object.fromEntries(this.#drops) };
  }

  reset(): void {
    this.framesIn = this.bytesIn = this.multicastIn = this.broadcastIn = this.droppedIn = 0;
    this.framesOut = this.bytesOut = this.multicastOut = this.broadcastOut = this.droppedOut = 0;
    this.#drops.clear();
  }
}

/** Policies of one port. `ingress` sees what its interface sends, `egress` what it is about to get. */
export interface PortHooks {
  readonly ingress?: FrameHook;
  readonly egress?: FrameHook;
}

export interface PortOptions {
  /** Unique within the switch; whoever makes ports keeps it unique within the lab. */
  readonly name: string;
  /** Where frames for the port go. */
  readonly port: FramePort;
  /** What its interface may send; without rules (uplinks), everything that is well formed. */
  readonly rules?: ValidationRules;
  /** Of VLAN-aware switches only; default: VLAN 1 without tags. */
  readonly vlan?: VlanMembership;
  /** Isolated ports reach only ports that are not isolated (private VLAN). Default: as the switch says. */
  readonly isolated?: boolean;
  /** Whether frames for unknown destinations come here too; default true. */
  readonly floodUnknown?: boolean;
  /** Most learned addresses behind this port; default 512. */
  readonly macLimit?: number;
  /** Default true. */
  readonly up?: boolean;
  readonly hooks?: PortHooks;
}

/** What a port needs of its switch. */
export interface PortOwner {
  receive(port: SwitchPort, frame: Frame): void;
  batchEnd(): void;
  linkChanged(port: SwitchPort): void;
}

const MAC_LIMIT = 512;

/** The end of a switch that an interface hands its frames to; made by VirtualSwitch.addPort(). */
export class SwitchPort implements PortFacts, FrameSink {
  readonly name: string;
  readonly id: number;
  readonly port: FramePort;
  readonly counters = new PortCounters();
  readonly isolated: boolean;
  readonly floodUnknown: boolean;
  readonly macLimit: number;
  /** The port's VLANs; undefined on switches that know none. */
  readonly vlans: VlanTable | undefined;
  /** The switch's own notes: the port has deliveries to flush; it has been removed. */
  isDirty = false;
  isRemoved = false;
  readonly #owner: PortOwner;
  #validator: Validator | undefined;
  #isUp: boolean;
  #ingress: FrameHook | undefined;
  #egress: FrameHook | undefined;
  #taps: readonly FrameTap[] = [];

  constructor(owner: PortOwner, id: number, options: PortOptions, isolated: boolean, vlans: VlanTable | undefined) {
    this.#owner = owner;
    this.id = id;
    this.name = options.name;
    this.port = options.port;
    this.isolated = options.isolated ?? isolated;
    this.floodUnknown = options.floodUnknown ?? true;
    this.macLimit = options.macLimit ?? MAC_LIMIT;
    this.vlans = vlans;
    this.#isUp = options.up ?? true;
    this.#validator = options.rules && new Validator(options.rules);
    this.setHooks(options.hooks ?? {});
  }

  /** A frame from the interface; lent until this returns. */
  receive(frame: Frame): void {
    this.#owner.receive(this, frame);
  }

  /** The interface has handed over a batch: whoever got frames is told now, not only at the end of the turn. */
  batchEnd(): void {
    this.#owner.batchEnd();
  }

  get validator(): Validator | undefined {
    return this.#validator;
  }

  /** Whether source addresses are learned: not where only one can come. */
  get learns(): boolean {
    const rules = this.#validator?.rules;
    return rules === undefined || rules.allowMac === true;
  }

  /** Other addresses for an interface while it runs. The MAC stays the one that it was added with. */
  setAddresses(addresses: ValidationRules["addresses"]): void {
    if (this.#validator === undefined) return;
    const { addresses: _before, ...rest } = this.#validator.rules;
    this.#validator = new Validator(addresses === undefined ? rest : { ...rest, addresses });
  }

  get isUp(): boolean {
    return this.#isUp;
  }

  /** Link up or down: a port that is down drops both ways, and what was learned behind it is forgotten. */
  setLink(up: boolean): void {
    if (up === this.#isUp) return;
    this.#isUp = up;
    this.#owner.linkChanged(this);
  }

  get ingress(): FrameHook | undefined {
    return this.#ingress;
  }

  get egress(): FrameHook | undefined {
    return this.#egress;
  }

  /** Replaces both hooks; the next frame meets the new ones. */
  setHooks(hooks: PortHooks): void {
    this.#ingress = hooks.ingress;
    this.#egress = hooks.egress;
  }

  get taps(): readonly FrameTap[] {
    return this.#taps;
  }

  /** @returns removes the tap again */
  addTap(tap: FrameTap): () => void {
    this.#taps = [...this.#taps, tap];
    return () => {
      this.#taps = this.#taps.filter((other) => other !== tap);
    };
  }
}
