/** A switch of the lab: the bridge itself, its uplink, and the queue in which interfaces wait for that. */
import type { Frame } from "../../device/net/frame.ts";
import { FairQueue, RateLimiter } from "../../network/policy/shaping.ts";
import { type PolicyHooks, SwitchPolicy } from "../../network/policy/switch-policy.ts";
import type { SwitchPort } from "../../network/port.ts";
import { VirtualSwitch } from "../../network/switch.ts";
import type { Clock, ForwardHook, PortFacts, Verdict } from "../../network/types.ts";
import type { Uplink } from "../../network/uplink/types.ts";
import type { SwitchConfig } from "../network-config.ts";
import { type Forwards, NO_FORWARDS, type UplinkWithForwards } from "./network-uplinks.ts";

/** Name of the port that an uplink has. */
export const UPLINK_PORT = "uplink";

/** What interfaces have sent to the uplink and what it has not taken yet, by deficit round robin. */
class UplinkShare {
  private readonly queue = new FairQueue();
  private readonly limiter: RateLimiter;
  private readonly clock: Clock;
  private readonly send: (frame: Frame) => void;
  private timer: { cancel(): void } | undefined;

  constructor(limiter: RateLimiter, clock: Clock, send: (frame: Frame) => void) {
    this.limiter = limiter;
    this.clock = clock;
    this.send = send;
  }

  /** Queues a copy of the frame. */
  offer(from: PortFacts, frame: Frame): Verdict {
    if (!this.queue.offer(from.id, frame)) return "drop";
    this.timer ??= this.clock.after(0, this.pump);
    return "taken";
  }

  private readonly pump = (): void => {
    this.timer = undefined;
    for (;;) {
      const length = this.queue.peekLength();
      if (length === 0) return;
      const wait = this.limiter.allow(length, this.clock.now());
      if (wait > 0) {
        this.timer = this.clock.after(wait, this.pump);
        return;
      }
      const frame = this.queue.take();
      if (frame !== undefined) this.send(frame);
    }
  };

  /** An interface is gone. */
  forget(from: PortFacts): void {
    this.queue.remove(from.id);
  }

  close(): void {
    this.timer?.cancel();
  }
}

export class LabSwitch {
  readonly config: SwitchConfig;
  readonly bridge: VirtualSwitch;
  /** Firewall, connections and classes. */
  readonly policy: SwitchPolicy;
  readonly clock: Clock;
  private entry: { readonly uplink: UplinkWithForwards; readonly port: SwitchPort } | undefined;
  private share: UplinkShare | undefined;
  /** Why the uplink does not work. */
  problem: string | undefined;

  /** @param log takes a line of the firewall's log */
  constructor(config: SwitchConfig, clock: Clock, log: (line: string) => void) {
    const { name, mtu, isolated, vlans } = config;
    this.config = config;
    this.clock = clock;
    this.bridge = new VirtualSwitch({ name, mtu, isolated, vlanAware: vlans, clock });
    this.policy = new SwitchPolicy({
      clock,
      log,
      answer: (to, frame) => this.bridge.deliver(to, frame),
      changed: (hooks) => this.setHooks(hooks),
    });
  }

  get uplink(): Uplink | undefined {
    return this.entry?.uplink.uplink;
  }

  /** Ways to forward ports of the host; there are none without an uplink that can. */
  get forwards(): Forwards {
    return this.entry?.uplink.forwards ?? NO_FORWARDS;
  }

  /** Where an uplink hands over frames. Nothing happens while it is on no port. */
  readonly fromUplink = (frame: Frame): void => this.entry?.port.receive(frame);
  readonly uplinkBatchEnd = (): void => this.bridge.batchEnd();

  /** Puts the uplink on a port of its own, which is never isolated. @throws as Uplink.start */
  async connectUplink(uplink: UplinkWithForwards): Promise<void> {
    await uplink.uplink.start();
    const port = this.bridge.addPort({ name: UPLINK_PORT, port: uplink.uplink, isolated: false });
    this.entry = { uplink, port };
    const { uplinkRate } = this.config;
    if (uplinkRate === undefined) return;
    this.share = new UplinkShare(new RateLimiter(uplinkRate), this.clock, (frame) => this.bridge.deliver(port, frame));
    this.setHooks(this.policy.hooks);
  }

  /** The last part of forwarding: frames to an uplink with a limit wait for their turn. */
  private get sharing(): ForwardHook | undefined {
    const { share, entry } = this;
    if (share === undefined || entry === undefined) return undefined;
    return (frame, _headers, from, to) => (to.id === entry.port.id ? share.offer(from, frame) : "accept");
  }

  private setHooks(hooks: PolicyHooks): void {
    const { sharing } = this;
    const { forward } = hooks;
    const both: ForwardHook | undefined =
      sharing &&
      ((frame, headers, from, to) => {
        const verdict = forward?.(frame, headers, from, to) ?? "accept";
        return verdict === "accept" ? sharing(frame, headers, from, to) : verdict;
      });
    this.bridge.setHooks(both === undefined ? hooks : { ...hooks, forward: both });
  }

  /** An interface has left. */
  interfaceRemoved(port: PortFacts, mac: string): void {
    this.share?.forget(port);
    this.entry?.uplink.unreserve?.(mac);
    // Its rules stay: the guest may connect again.
    this.policy.conntrack.removeOwner(port.id);
  }

  /** An interface has come. */
  interfaceAdded(mac: string, addresses: readonly string[]): void {
    this.entry?.uplink.reserve?.(mac, addresses);
  }

  async close(): Promise<void> {
    this.share?.close();
    await this.uplink?.close();
    if (this.entry !== undefined) this.bridge.removePort(this.entry.port);
    this.entry = undefined;
  }
}
