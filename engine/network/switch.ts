/**
 * A virtual Ethernet switch (IEEE 802.1D, 7; VLANs as in 802.1Q): validates what comes in, learns where addresses are, and
 * hands each frame to the ports that it is for, in the same call.
 *
 * receive → taps → headers → validation → VLAN → MTU → learning → ingress hooks → lookup, and for each destination:
 * tag → forward hook → egress hooks → taps → deliver. Nothing is allocated per frame on the way.
 */
import { FRAME_MOST, type Frame } from "../device/net/frame.ts";
import { formatMac, type MacAddress } from "./address.ts";
import type { Headers } from "./headers.ts";
import { wirePacketLength } from "./offload.ts";
import { type DropReason, type PortOptions, type PortOwner, SwitchPort } from "./port.ts";
import { Deliveries } from "./switch-delivery.ts";
import { describePort, type MacFact, macFacts, type PortDescription } from "./switch-facts.ts";
import { MacTable } from "./switch-mac-table.ts";
import { hasTag, NOT_A_MEMBER, retag, UNTAGGED, VlanTable } from "./switch-vlan.ts";
import { type Variant, Work } from "./switch-work.ts";
import {
  type Clock,
  type ForwardHook,
  type FrameHook,
  type FrameTap,
  monotonicClock,
  NetworkError,
  type PortFacts,
  type Verdict,
} from "./types.ts";
import { checkFrame } from "./validation.ts";

/** Policies of a whole switch. */
export interface SwitchHooks {
  /** After the port's own. */
  readonly ingress?: FrameHook;
  /** Once for each destination: the FORWARD chain. */
  readonly forward?: ForwardHook;
  /** Before the port's own. */
  readonly egress?: FrameHook;
}

export interface SwitchOptions {
  readonly name: string;
  /** Largest IP packet in bytes; default 1500. Frames with segmentation are judged by their segments. */
  readonly mtu?: number;
  /** Whether ports belong to VLANs; otherwise tags pass unseen. Default false. */
  readonly vlanAware?: boolean;
  /** Whether ports are isolated from each other unless their options say otherwise; default false. */
  readonly isolated?: boolean;
  /** Most learned addresses; default 4096. */
  readonly macTableSize?: number;
  /** Seconds after which a learned address is forgotten; default 300. */
  readonly ageing?: number;
  readonly hooks?: SwitchHooks;
  readonly clock?: Clock;
}

const NS_PER_SECOND = 1_000_000_000;
const MTU_LEAST = 68;
const MTU_MOST = 65_535;
const PORTS_MOST = 1024;
const DEFAULT_VLAN = 1;
/** A port may answer while it is delivered to, and so on; more than that is a circle. */
const MOST_DEPTH = 8;

export class VirtualSwitch implements PortOwner {
  readonly name: string;
  readonly mtu: number;
  readonly vlanAware: boolean;
  /** What its ports are unless their options say otherwise. */
  readonly isolated: boolean;
  readonly #clock: Clock;
  readonly #learned: MacTable;
  readonly #fixed = new MacTable({ capacity: PORTS_MOST, ageing: Number.POSITIVE_INFINITY });
  /** By id, and in order of arrival; the latter is replaced, never changed, since a walk over it may be going on. */
  readonly #byId: (SwitchPort | undefined)[] = [];
  #ports: readonly SwitchPort[] = [];
  #ingress: FrameHook | undefined;
  #forward: ForwardHook | undefined;
  #egress: FrameHook | undefined;
  readonly #work: Work[] = [];
  #depth = 0;
  readonly #deliveries = new Deliveries();

  /** @throws NetworkError "bad-mtu" */
  constructor(options: SwitchOptions) {
    const mtu = options.mtu ?? 1500;
    if (!Number.isInteger(mtu) || mtu < MTU_LEAST || mtu > MTU_MOST) {
      throw new NetworkError("bad-mtu", `${mtu} is no MTU`, `use a number from ${MTU_LEAST} to ${MTU_MOST}`);
    }
    this.name = options.name;
    this.mtu = mtu;
    this.vlanAware = options.vlanAware ?? false;
    this.isolated = options.isolated ?? false;
    this.#clock = options.clock ?? monotonicClock;
    const ageing = (options.ageing ?? 300) * NS_PER_SECOND;
    const capacity = options.macTableSize;
    this.#learned = new MacTable(capacity === undefined ? { ageing } : { ageing, capacity });
    this.setHooks(options.hooks ?? {});
  }

  get ports(): readonly SwitchPort[] {
    return this.#ports;
  }

  /** @throws NetworkError "duplicate-name", "duplicate-mac", "bad-vlan", "too-many" */
  addPort(options: PortOptions): SwitchPort {
    if (this.#ports.some((port) => port.name === options.name)) {
      throw new NetworkError("duplicate-name", `${this.name} has a port ${options.name}`, "choose another name");
    }
    if (this.#ports.length === PORTS_MOST) {
      throw new NetworkError("too-many", `${this.name} has ${PORTS_MOST} ports`, "create another switch");
    }
    const mac = options.rules?.mac;
    if (mac !== undefined) this.#checkUnused(mac);
    const vlans = this.#vlansOf(options);
    const free = this.#byId.indexOf(undefined);
    const id = free < 0 ? this.#byId.length : free;
    const port = new SwitchPort(this, id, options, this.isolated, vlans);
    if (mac !== undefined) this.#fixed.learn(0, mac.high, mac.low, id, 1, 0);
    this.#byId[id] = port;
    this.#ports = [...this.#ports, port];
    return port;
  }

  #checkUnused(mac: MacAddress): void {
    const owner = this.#byId[this.#fixed.lookup(0, mac.high, mac.low, 0)];
    if (owner === undefined) return;
    const what = `${formatMac(mac)} is the address of ${owner.name} on ${this.name}`;
    throw new NetworkError("duplicate-mac", what, "give each interface its own mac=");
  }

  #vlansOf(options: PortOptions): VlanTable | undefined {
    if (this.vlanAware) return new VlanTable(options.vlan ?? { untagged: DEFAULT_VLAN });
    if (options.vlan === undefined) return undefined;
    throw new NetworkError("bad-vlan", `${this.name} knows no VLANs`, "create the switch with VLANs on");
  }

  /** The port's frames are no longer taken or delivered; its id becomes free. */
  removePort(port: SwitchPort): void {
    if (this.#byId[port.id] !== port) return;
    port.isRemoved = true;
    this.#learned.forgetPort(port.id);
    this.#fixed.forgetPort(port.id);
    this.#byId[port.id] = undefined;
    this.#ports = this.#ports.filter((other) => other !== port);
  }

  /** Replaces all hooks of the switch; the next frame meets the new ones. */
  setHooks(hooks: SwitchHooks): void {
    this.#ingress = hooks.ingress;
    this.#forward = hooks.forward;
    this.#egress = hooks.egress;
  }

  /** A frame from a port's interface; ports call it. */
  receive(port: SwitchPort, frame: Frame): void {
    const { counters } = port;
    counters.framesIn++;
    counters.bytesIn += frame.length;
    if (!port.isUp || port.isRemoved) {
      counters.dropIn("link-down");
      return;
    }
    const work = this.#enter();
    if (work === undefined) {
      counters.dropIn("loop");
      return;
    }
    try {
      const drop = this.#receive(port, frame, work);
      if (drop !== undefined) counters.dropIn(drop);
    } finally {
      this.#depth--;
    }
  }

  /**
   * Goes on with a frame that an ingress hook has taken: lookup and everything after it, without the ingress hooks that
   * were still to come (so queues come last among them). The frame is checked again for form, not for whose it is.
   * @param from as the hook had it; nothing happens when that port is gone or down
   */
  forward(from: PortFacts, frame: Frame): void {
    const port = this.#byId[from.id];
    if (port === undefined || port.name !== from.name || !port.isUp) return;
    const work = this.#enter();
    if (work === undefined) {
      port.counters.dropIn("loop");
      return;
    }
    try {
      const drop = this.#understand(port, frame, work) ?? this.#switch(port, frame, work);
      if (drop !== undefined) port.counters.dropIn(drop);
    } finally {
      this.#depth--;
    }
  }

  /**
   * Delivers a frame to one port past all hooks: what a forward or egress hook has taken (queues come last among them, in
   * the port's own egress hook), or an answer to whoever sent.
   * The frame has the tags that the port's interface expects, which is how hooks get it.
   * @param to as the hook had it; nothing happens when that port is gone
   */
  deliver(to: PortFacts, frame: Frame): void {
    const port = this.#byId[to.id];
    if (port === undefined || port.name !== to.name) return;
    this.#deliveries.deliver(port, frame);
  }

  /** Flushes the ports that were delivered to. Without this call it happens before the event loop's turn ends. */
  batchEnd(): void {
    if (this.#depth === 0) this.#deliveries.flush();
  }

  /** The tap sees what every port's own taps would. @returns removes it again */
  addTap(tap: FrameTap): () => void {
    return this.#deliveries.addTap(tap);
  }

  /** Ports call it: what was learned behind a port that is down says nothing any more. */
  linkChanged(port: SwitchPort): void {
    if (!port.isUp) this.#learned.forgetPort(port.id);
  }

  /** Where addresses are: the interfaces' own, then the learned ones. */
  macTable(): MacFact[] {
    const nameOf = (id: number): string => this.#byId[id]?.name ?? "";
    const fixed = macFacts(this.#fixed, 0, "fixed", nameOf);
    return [...fixed, ...macFacts(this.#learned, this.#clock.now(), "learned", nameOf)];
  }

  /** All ports with their counters, as plain data. */
  describePorts(): PortDescription[] {
    return this.#ports.map(describePort);
  }

  #enter(): Work | undefined {
    if (this.#depth === MOST_DEPTH) return undefined;
    const depth = this.#depth++;
    let work = this.#work[depth];
    if (work === undefined) {
      work = new Work();
      this.#work[depth] = work;
    }
    return work;
  }

  #receive(port: SwitchPort, frame: Frame, work: Work): DropReason | undefined {
    this.#deliveries.tap(frame, port, "in");
    const { headers } = work;
    const error = this.#understand(port, frame, work) ?? port.validator?.check(frame, headers);
    if (error !== undefined) return error;
    if (wirePacketLength(frame, headers) > this.mtu) return "mtu";
    if (headers.isBroadcast) port.counters.broadcastIn++;
    else if (headers.isMulticast) port.counters.multicastIn++;
    if (port.learns && !this.#learn(port, headers, work.vlan)) return "mac-taken";
    const own = port.ingress;
    if (own !== undefined) {
      const verdict = own(frame, headers, port);
      if (verdict !== "accept") return verdict === "drop" ? "policy" : undefined;
    }
    const all = this.#ingress;
    if (all !== undefined) {
      const verdict = all(frame, headers, port);
      if (verdict !== "accept") return verdict === "drop" ? "policy" : undefined;
    }
    return this.#switch(port, frame, work);
  }

  /** Headers, form and VLAN of a frame from `port`. */
  #understand(port: SwitchPort, frame: Frame, work: Work): DropReason | undefined {
    const { headers } = work;
    const error = headers.parse(frame) ?? checkFrame(frame, headers);
    if (error !== undefined) return error;
    work.vlan = port.vlans === undefined ? 0 : port.vlans.classify(headers);
    return work.vlan < 0 ? "vlan" : undefined;
  }

  /** @returns false where the address is another port's own */
  #learn(port: SwitchPort, headers: Headers, vlan: number): boolean {
    const { sourceHigh, sourceLow } = headers;
    const owner = this.#fixed.lookup(0, sourceHigh, sourceLow, 0);
    if (owner >= 0) return owner === port.id;
    this.#learned.learn(vlan, sourceHigh, sourceLow, port.id, port.macLimit, this.#clock.now());
    return true;
  }

  #switch(from: SwitchPort, frame: Frame, work: Work): DropReason | undefined {
    const { headers, vlan } = work;
    work.untagged.frame = undefined;
    work.tagged.frame = undefined;
    if (headers.isMulticast) {
      this.#flood(from, frame, work, false);
      return undefined;
    }
    const { destinationHigh, destinationLow } = headers;
    let id = this.#fixed.lookup(0, destinationHigh, destinationLow, 0);
    if (id < 0) id = this.#learned.lookup(vlan, destinationHigh, destinationLow, this.#clock.now());
    const to = id < 0 ? undefined : this.#byId[id];
    if (to === undefined) {
      this.#flood(from, frame, work, true);
      return undefined;
    }
    if (to === from) return "same-port";
    if (from.isolated && to.isolated) return "isolated";
    if (to.vlans?.formOf(vlan) === NOT_A_MEMBER) return "vlan";
    this.#send(from, to, frame, work);
    return undefined;
  }

  #flood(from: SwitchPort, frame: Frame, work: Work, isUnknown: boolean): void {
    const ports = this.#ports;
    for (let n = 0; n < ports.length; n++) {
      const to = ports[n]!;
      if (to === from || !to.isUp || (from.isolated && to.isolated) || (isUnknown && !to.floodUnknown)) continue;
      if (to.vlans?.formOf(work.vlan) !== NOT_A_MEMBER) this.#send(from, to, frame, work);
    }
  }

  /** One frame to one port that it may go to, through the hooks on the way. */
  #send(from: SwitchPort, to: SwitchPort, frame: Frame, work: Work): void {
    let out = frame;
    let { headers } = work;
    if (to.vlans !== undefined) {
      const isUntagged = to.vlans.formOf(work.vlan) === UNTAGGED;
      // A tag that says what it should stays as it is, with its priority.
      const isRight = isUntagged ? !hasTag(headers) : hasTag(headers) && headers.vlan === work.vlan;
      if (!isRight) {
        const variant = this.#variant(frame, work, isUntagged);
        if (variant.frame === undefined) {
          to.counters.dropOut("too-long");
          return;
        }
        out = variant.frame;
        headers = variant.headers;
      }
    }
    const forward = this.#forward;
    if (forward !== undefined && !goesOn(forward(out, headers, from, to), to)) return;
    const all = this.#egress;
    if (all !== undefined && !goesOn(all(out, headers, to), to)) return;
    const own = to.egress;
    if (own !== undefined && !goesOn(own(out, headers, to), to)) return;
    this.#deliveries.deliver(to, out);
  }

  /** The frame with its tag gone, or with its VLAN's; without a frame where it became too long. */
  #variant(frame: Frame, work: Work, isUntagged: boolean): Variant {
    const variant = isUntagged ? work.untagged : work.tagged;
    if (variant.frame !== undefined) return variant;
    const { headers } = work;
    const tagged = hasTag(headers);
    if (!isUntagged && !tagged && frame.length + 4 > FRAME_MOST) return variant;
    const priority = tagged ? headers.vlanTag & 0xf000 : 0;
    const made = retag(frame, variant.scratch, tagged, isUntagged ? -1 : priority | work.vlan);
    if (variant.headers.parse(made) === undefined) variant.frame = made;
    return variant;
  }
}

/** Whether a verdict lets the frame go on to the port; a drop is counted there. */
function goesOn(verdict: Verdict, to: SwitchPort): boolean {
  if (verdict === "drop") to.counters.dropOut("policy");
  return verdict === "accept";
}
