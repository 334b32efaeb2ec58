/**
 * The backend's half of a connected network interface: its queues as one port of a switch.
 *
 * Everything runs on one thread, which calls: poll() in turn with other interfaces while there is traffic; flush() after
 * frames were delivered (a FrameSink's batchEnd does it for the ports of a batch); arm() of all before it sleeps, and
 * service() whose answer says how long it may.
 */
import { type BacklogLimits, DEFAULT_BACKLOG } from "./backlog.ts";
import { NetCounter } from "./counters.ts";
import { flowHash } from "./flow-hash.ts";
import type { DeliveryFailure, Frame, FramePort, FrameSink } from "./frame.ts";
import { MULTICAST_SIZE, MulticastList } from "./multicast.ts";
import {
  NET_QUEUE_REGION,
  NetQueue,
  type NetQueueChannel,
  type NetQueueContext,
  type NetQueueParts,
} from "./netback-queue.ts";
import type { NotificationPolicy } from "./notification.ts";
import type { FrameAcceptance } from "./receive-ring.ts";
import type { Admission } from "./transmit-ring.ts";

/** Bytes that an interface needs in memory that outlives the process: its multicast addresses, then its queues. */
export function vifRegionSize(queues: number): number {
  return MULTICAST_SIZE + queues * NET_QUEUE_REGION;
}
/** Where in that memory a queue's region begins. */
export function queueRegion(queue: number): number {
  return MULTICAST_SIZE + queue * NET_QUEUE_REGION;
}

export interface VifOptions extends NetQueueContext {
  readonly queues: readonly NetQueueChannel[];
  /** Where the multicast addresses lie: MULTICAST_SIZE bytes that outlive the process. */
  readonly multicast: { readonly memory: NetQueueChannel["memory"]; readonly address: number };
  /** The frontend asked for multicast control. */
  readonly multicastControl: boolean;
  /** Takes the place of netQueueParts(). */
  readonly parts?: (channel: NetQueueChannel) => NetQueueParts;
}

export class Vif implements FramePort {
  readonly accepts: FrameAcceptance;
  readonly queues: readonly NetQueue[];
  private readonly options: VifOptions;
  private readonly multicast: MulticastList;
  private linkUp = true;
  private held = false;
  private closed = false;
  private turn = 0;
  /** The queues that have had a frame since the last flush. */
  private readonly touched: NetQueue[] = [];

  constructor(options: VifOptions) {
    this.options = options;
    this.accepts = options.accepts;
    this.multicast = new MulticastList(options.multicast.memory, options.multicast.address);
    this.multicast.enabled = options.multicastControl;
    if (!options.queues.every((queue) => queue.adopted)) this.multicast.clear();
    const context = {
      ...options,
      now: () => options.now(),
      log: (message: string) => options.log(message),
      sink: this.gate(options.sink),
    };
    this.queues = options.queues.map(
      (channel) => new NetQueue(context, channel, this.multicast, options.parts?.(channel)),
    );
    // What the guest told the backend before is not known here, and it will not say it again: it hears everything.
    if (this.queues.some((queue) => queue.takenOver)) this.multicast.enabled = false;
  }

  /** The sink behind the carrier. */
  private gate(sink: FrameSink): FrameSink {
    return {
      receive: (frame) => {
        if (this.linkUp) sink.receive(frame);
        else this.options.counters.add(NetCounter.tx_down);
      },
      batchEnd: () => sink.batchEnd?.(),
    };
  }

  /** What the guest asks for while it is connected (feature-dynamic-multicast-control). */
  setMulticastControl(enabled: boolean): void {
    this.multicast.enabled = enabled;
  }

  /**
   * Leaves the guest's rings and pages alone until release(), with everything that was done made known. What the guest
   * transmits stays in its ring; what it is sent waits in the backlog, or is dropped.
   */
  hold(): void {
    this.held = true;
    this.touched.length = 0;
    for (const queue of this.queues) queue.hold();
  }

  /** Ends hold(). */
  release(): void {
    this.held = false;
    if (!this.closed) for (const queue of this.queues) queue.release();
  }

  /** Carrier: while it is down the guest's frames are answered and dropped, and it gets none. It cannot be told (netif.h). */
  setLink(up: boolean): void {
    this.linkUp = up;
    if (!up) for (const queue of this.queues) queue.receive.backlog.clear();
  }
  get link(): boolean {
    return this.linkUp;
  }

  /** When the guest is sent events; see NotificationPolicy. */
  setNotification(policy: NotificationPolicy): void {
    for (const queue of this.queues) for (const notifier of queue.notifiers) notifier.policy = policy;
  }

  /** How much waits for the guest's buffers, for all queues together, and how long. */
  setBacklog(limits: BacklogLimits = DEFAULT_BACKLOG): void {
    const bytes = Math.floor(limits.bytes / Math.max(1, this.queues.length));
    for (const queue of this.queues) queue.receive.backlog.limits = { ...limits, bytes };
  }

  /** What the guest may send; undefined: as much as it likes. */
  setAdmission(admit: Admission | undefined): void {
    for (const queue of this.queues) queue.transmit.admit = admit;
  }

  /** Frames that wait for the guest's buffers. */
  get waiting(): number {
    return this.queues.reduce((sum, queue) => sum + queue.waiting, 0);
  }

  /** Whether a ring is not served any more, since the guest broke the protocol. */
  get broken(): boolean {
    return this.queues.some((queue) => queue.transmit.broken || queue.receive.broken);
  }

  /** Gives a frame to the guest. flush() makes it known. */
  deliver(frame: Frame): DeliveryFailure | undefined {
    const { counters } = this.options;
    if (this.closed || !this.linkUp) {
      counters.add(NetCounter.rx_dropped);
      counters.add(NetCounter.rx_down);
      return "down";
    }
    if (!this.multicast.wants(frame.head)) {
      counters.add(NetCounter.rx_filtered);
      return undefined;
    }
    const { queues, touched } = this;
    const queue = queues.length === 1 ? queues[0]! : queues[flowHash(frame.head, frame.headLength) % queues.length]!;
    if (!touched.includes(queue)) touched.push(queue);
    return queue.receive.deliver(frame);
  }

  /** Publishes what was delivered; notifies according to the policy. */
  flush(): void {
    while (this.touched.length > 0) this.touched.pop()?.receive.flush();
  }

  /**
   * Takes up to `budget` packets from the guest, from its queues in turn.
   * @returns packets taken; 0: there are none, or none is admitted now
   */
  poll(budget: number): number {
    if (this.closed || this.held) return 0;
    const { queues } = this;
    const share = Math.max(1, Math.floor(budget / queues.length));
    let taken = 0;
    for (let n = 0; n < queues.length && taken < budget; n++) {
      taken += queues[(this.turn + n) % queues.length]!.poll(Math.min(share, budget - taken));
    }
    this.turn = (this.turn + 1) % queues.length;
    return taken;
  }

  /** Before sleeping: asks for events from all queues. @returns whether there is something to do already */
  arm(): boolean {
    if (this.closed || this.held) return false;
    let ready = false;
    for (const queue of this.queues) ready = queue.arm() || ready;
    return ready;
  }

  /** Does what the clock says. @returns when to be called again, in nanoseconds of now(); Infinity: no need */
  service(now: number): number {
    let next = Number.POSITIVE_INFINITY;
    if (!this.closed) for (const queue of this.queues) next = Math.min(next, queue.service(now));
    return next;
  }

  /** Ends the connection; no ring is touched afterwards. */
  close(): void {
    if (this.closed) return;
    this.closed = true;
    for (const queue of this.queues) queue.close();
  }
}
