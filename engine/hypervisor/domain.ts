/** A domain: everything the hypervisor keeps about one guest. It knows no device. */
import { PAGE_SHIFT } from "../abi/xen.ts";
import type { CpuMemory } from "../memory/cpu-memory.ts";
import type { FramePlan } from "../memory/frame-plan.ts";
import { CONSOLE_GFN, XENSTORE_GFN } from "../memory/frame-plan.ts";
import type { Mapping } from "../memory/guest-memory.ts";
import { EMPTY_DIRECTORY, Peers } from "../memory/peers.ts";
import type { Physmap } from "../memory/physmap.ts";
import { DOM0, type DomId, type EventPort, eventPort, type FileOffset } from "../memory/types.ts";
import { EventChannels } from "./event-channel.ts";
import { EventDelivery } from "./event-delivery.ts";
import { GrantMaps } from "./grant-map.ts";
import type { GuestCpu } from "./guest-cpu.ts";
import { HvmParams } from "./hvm-op.ts";
import type { PortEntry } from "./port-table.ts";
import { RamPool } from "./ram-pool.ts";
import { writeWallclock } from "./time.ts";
import { type SavedVcpu, VcpuContext } from "./vcpu.ts";
import { Watchdogs } from "./watchdog.ts";

/** Why a domain stopped by its own doing. */
export type Shutdown =
  | { readonly reason: "poweroff" | "reboot" }
  | { readonly reason: "crash"; readonly cause: string };

/** The guest's ends of its channels to XenStore and to the console: the first two ports of every domain. */
export const XENSTORE_PORT = eventPort(1);
export const CONSOLE_PORT = eventPort(2);

export interface DomainOptions {
  readonly id: DomId;
  readonly memory: CpuMemory;
  /** Nanoseconds since the domain started; the guest's system time and its TSC. */
  readonly clock: () => number;
  /** Host wall clock at domain time 0, ns since the epoch. */
  readonly wallclockNs: bigint;
  /** A line for the domain's hypervisor log. */
  readonly log: (line: string) => void;
  /** Bytes the guest wrote through console_io. */
  readonly emergencyConsole: (bytes: Uint8Array) => void;
  /** An event arrived for the host's end of the channel with this local port. */
  readonly notifyHost: (port: number) => void;
  /** Other domains' memory; without it there are no other domains. */
  readonly peers?: Peers;
}

/** An event channel as data; `vcpu` is the one that it notifies. */
export interface SavedPort extends PortEntry {
  readonly port: number;
  readonly vcpu: number;
}

/** What lies at `count` guest frames from `frame` on: pages of the domain's file from `offset` on. */
export interface SavedFrames {
  readonly frame: number;
  readonly count: number;
  readonly offset: number;
  readonly readOnly: boolean;
}

/** Everything that the hypervisor keeps about a guest besides its memory, as data. */
export interface SavedDomain {
  /** Domain time, ns. */
  readonly clock: number;
  /** Host wall clock at domain time 0, ns since the epoch, as the guest was told. */
  readonly wallclockNs: bigint;
  readonly wallclockVersion: number;
  readonly narrow: boolean;
  readonly params: readonly bigint[];
  readonly watchdogs: readonly (number | null)[];
  readonly grantFrames: number;
  readonly specialFrames: readonly (readonly [offset: number, frame: number])[];
  readonly ports: readonly SavedPort[];
  /** Ports of virtual interrupts by vCPU × NR_VIRQS + VIRQ. */
  readonly virqs: readonly (readonly [key: number, port: number])[];
  readonly physmap: readonly SavedFrames[];
  readonly vcpus: readonly SavedVcpu[];
}

export class Domain {
  readonly id: DomId;
  readonly plan: FramePlan;
  readonly mapping: Mapping;
  readonly physmap: Physmap;
  readonly ram: RamPool;
  readonly delivery: EventDelivery;
  readonly events: EventChannels;
  readonly peers: Peers;
  /** What this domain has mapped of others. */
  readonly grantMaps: GrantMaps;
  readonly params = new HvmParams();
  readonly vcpus: VcpuContext[] = [];
  readonly watchdogs = new Watchdogs();
  readonly clock: () => number;
  /** Host wall clock at domain time 0, ns since the epoch, as the guest is told. */
  wallclockNs: bigint;
  readonly log: (line: string) => void;
  readonly emergencyConsole: (bytes: Uint8Array) => void;
  /** The guest's ends of the console and XenStore channels. */
  readonly consolePort: EventPort;
  readonly xenstorePort: EventPort;
  /** Grant table frames that the guest has mapped or asked for. */
  grantFrames = 1;
  /** Guest frame at which each special frame is mapped, by file offset. */
  readonly specialFrames = new Map<FileOffset, number>();
  /** Set once the guest has asked to stop. */
  shutdown: Shutdown | undefined;
  /** What the guest has said beforehand about how it will stop (SCHEDOP_shutdown_code). */
  announcedShutdown: Shutdown | undefined;
  private readonly logged = new Set<string>();
  wallclockVersion = 0;
  /** Called when the guest has suspended itself for its toolstack, before it goes on in the same domain. */
  suspended: (() => void) | undefined;

  constructor(options: DomainOptions) {
    const { mapping, physmap } = options.memory;
    this.id = options.id;
    this.mapping = mapping;
    this.plan = mapping.plan;
    this.physmap = physmap;
    this.clock = options.clock;
    this.wallclockNs = options.wallclockNs;
    this.log = options.log;
    this.emergencyConsole = options.emergencyConsole;
    this.ram = new RamPool(mapping, this.plan.ramBytes >>> PAGE_SHIFT);
    this.delivery = new EventDelivery(mapping);
    this.delivery.initialise();
    this.writeWallclock();
    this.peers = options.peers ?? new Peers(EMPTY_DIRECTORY, options.id, mapping);
    this.grantMaps = new GrantMaps(mapping, options.id, this.peers);
    this.events = new EventChannels({
      self: options.id,
      mapping,
      delivery: this.delivery,
      peer: (id) => this.peers.mapping(id),
      vcpus: () => this.vcpus.length,
      notifyHost: options.notifyHost,
    });
    this.xenstorePort = this.events.allocateHost(DOM0);
    this.consolePort = this.events.allocateHost(DOM0);
    this.params.initialise({
      storePfn: XENSTORE_GFN,
      storePort: this.xenstorePort,
      consolePfn: CONSOLE_GFN,
      consolePort: this.consolePort,
    });
  }

  /** Adds the next vCPU. */
  addVcpu(cpu: GuestCpu): VcpuContext {
    const vcpu = new VcpuContext(this, this.vcpus.length, cpu);
    this.vcpus.push(vcpu);
    return vcpu;
  }

  /**
   * Gives shared_info the layout of the caller: 32 or 64 bits. Like Xen, at the moments when a guest starts to use it:
   * the write of its hypercall page and of its callback.
   */
  latchLayout(narrow: boolean): void {
    if (this.delivery.narrow === narrow) return;
    this.delivery.narrow = narrow;
    this.writeWallclock();
  }

  /** Tells the guest the host's wall clock; it looks at it when it starts and when it comes back from a suspend. */
  setWallclock(epochNs: bigint): void {
    this.wallclockNs = epochNs;
    this.writeWallclock();
  }

  private writeWallclock(): void {
    this.wallclockVersion += 2;
    writeWallclock(this.mapping, this.wallclockVersion, this.wallclockNs, this.delivery.narrow);
  }

  /** Logs a line the first time `key` is seen, so that a guest cannot flood the log. */
  logOnce(key: string, line: string): void {
    if (this.logged.size >= 256 || this.logged.has(key)) return;
    this.logged.add(key);
    this.log(line);
  }
}
