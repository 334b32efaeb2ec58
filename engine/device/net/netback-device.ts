/**
 * One virtual network interface of netback, as XenStore sees it: publishes what it can do, checks what the frontend
 * publishes, has its rings attached and detached, and walks through the xenbus states (backendStep). Linux's netfront goes
 * from Initialising to Connected at once, when it sees InitWait; the backend connects then.
 */
import { Errno } from "../../abi/errors.ts";
import { parseDecimal, quoteValue, readFlag } from "../xenbus/keys.ts";
import { backendStep, XenbusState, xenbusStateName } from "../xenbus/state.ts";
import type { XenbusStore } from "../xenbus/store-access.ts";
import { type OtherEnd, XenbusDevice } from "../xenbus/xenbus.ts";
import type { VifFacts, VifIdentity, VifService, VifSpecification } from "./channel.ts";
import { type NetTransportLimits, readNetTransportParameters } from "./transport-parameters.ts";
import { SETTINGS_KEY } from "./vif-nodes.ts";

export interface NetbackDeviceOptions {
  readonly store: XenbusStore;
  readonly service: VifService;
  readonly limits: NetTransportLimits;
  readonly log: (message: string) => void;
  readonly identity: VifIdentity;
  /** The device has let go of everything and is of no more use: its directory is gone, or it is closed for good. */
  readonly ended: () => void;
}

const MULTICAST_KEY = "request-multicast-control";

export class NetbackDevice {
  readonly identity: VifIdentity;
  private readonly options: NetbackDeviceOptions;
  private readonly xenbus: XenbusDevice;
  private frontend: OtherEnd | undefined;
  private opened: VifFacts | undefined;
  private attached = false;
  /** Nothing has been decided yet: what the state nodes say may stem from an earlier life of this domain. */
  private adopting = true;
  /** The last connection failed; a frontend that does not start over gets no second try. */
  private failed = false;
  private multicastControl = false;

  constructor(options: NetbackDeviceOptions) {
    this.options = options;
    this.identity = options.identity;
    const { frontendId, handle } = options.identity;
    this.xenbus = new XenbusDevice({
      store: options.store,
      directory: `backend/vif/${frontendId}/${handle}`,
      evaluate: () => this.evaluate(),
      log: options.log,
    });
  }

  /** A node of the device's directory has changed. */
  changed(): void {
    this.xenbus.changed();
  }

  idle(): Promise<void> {
    return this.xenbus.idle();
  }

  get connected(): boolean {
    return this.attached;
  }

  /** Stops looking at XenStore; rings stay attached, for the domain's end or its next life. */
  close(): Promise<void> {
    return this.xenbus.close();
  }

  private async evaluate(): Promise<void> {
    const own = await this.xenbus.state();
    if (own === XenbusState.Unknown) return await this.end();
    const frontend = await this.findFrontend();
    if (!frontend) {
      if (own !== XenbusState.Closing)
        await this.fail(own, Errno.EINVAL, "frontend or frontend-id is missing or wrong");
      return;
    }
    const peer = await this.xenbus.peerState(frontend);
    if (peer === XenbusState.Closed || peer === XenbusState.Unknown) this.failed = false;
    const adopting = this.adopting;
    this.adopting = false;
    if (!this.attached && (own === XenbusState.Connected || (adopting && own === XenbusState.Closing))) {
      if (peer >= XenbusState.Initialised && peer <= XenbusState.Closing) {
        return await this.resume(own, frontend);
      }
    }
    await this.step(own, peer, frontend, adopting);
  }

  private async step(own: XenbusState, peer: XenbusState, frontend: OtherEnd, adopting: boolean): Promise<void> {
    switch (backendStep(own, peer)) {
      case "wait":
        if (own === XenbusState.Connected && this.attached) await this.followMulticast(frontend);
        return;
      case "publish":
        return await this.publish(own);
      case "connect":
        return await this.connect(own, frontend, adopting);
      case "closing":
        // The rings are served until the frontend is Closed: it may be in use still and refuse to close.
        return await this.switchTo(own, XenbusState.Closing);
      case "closed":
        // A frontend that has not looked yet is to find Closing, or it would wait for InitWait for ever.
        if (this.failed && peer === XenbusState.Initialising && own === XenbusState.Closing && (await this.online())) {
          return;
        }
        await this.letGo();
        return await this.switchTo(own, XenbusState.Closed);
      case "reopen":
        if (!(await this.online())) return await this.end();
        if (!this.failed) await this.publish(own);
        return;
      case "finished":
        if (!(await this.online())) await this.end();
        return;
      case "illegal":
        return await this.fail(own, Errno.EINVAL, `saw state ${xenbusStateName(peer)} at the frontend`);
    }
  }

  private async findFrontend(): Promise<OtherEnd | undefined> {
    if (this.frontend) return this.frontend;
    const frontend = await this.xenbus.otherEnd("frontend");
    if (frontend?.id !== this.identity.frontendId) return undefined;
    this.frontend = frontend;
    await this.xenbus.watch(`${frontend.directory}/state`);
    await this.xenbus.watch(`${frontend.directory}/${MULTICAST_KEY}`);
    return frontend;
  }

  private limitsOf({ queues }: VifFacts): NetTransportLimits {
    const { limits } = this.options;
    return queues === undefined ? limits : { ...limits, queues: Math.min(queues, limits.queues) };
  }

  /** Publishes features; the frontend reads them once it sees InitWait. */
  private async publish(own: XenbusState): Promise<void> {
    const opened = await this.ensureOpen(own);
    if (!opened) return;
    const limits = this.limitsOf(opened);
    await this.switchTo(own, XenbusState.InitWait, {
      "feature-sg": "1",
      "feature-gso-tcpv4": "1",
      "feature-gso-tcpv6": "1",
      "feature-ipv6-csum-offload": "1",
      "feature-rx-copy": "1",
      "feature-rx-flip": opened.flip ? "1" : "0",
      "feature-multicast-control": "1",
      "feature-dynamic-multicast-control": "1",
      "feature-split-event-channels": limits.split ? "1" : "0",
      "multi-queue-max-queues": String(limits.queues),
      // What a hotplug script would say when the interface is on its switch.
      "hotplug-status": "connected",
    });
  }

  private async connect(own: XenbusState, frontend: OtherEnd, resume: boolean): Promise<void> {
    if (this.failed) return;
    const opened = await this.ensureOpen(own);
    if (!opened || !(await this.attach(own, opened, frontend, resume))) return;
    await this.xenbus.clearError();
    await this.switchTo(own, XenbusState.Connected);
  }

  /** The domain was restarted under a connected frontend: everything goes on, and no state changes. */
  private async resume(own: XenbusState, frontend: OtherEnd): Promise<void> {
    const opened = await this.ensureOpen(own);
    if (!opened || !(await this.attach(own, opened, frontend, true))) return;
    this.changed();
  }

  private async attach(own: XenbusState, opened: VifFacts, frontend: OtherEnd, resume: boolean): Promise<boolean> {
    const { service, store } = this.options;
    const read = await readNetTransportParameters(store, frontend.directory, this.limitsOf(opened));
    if ("problem" in read) {
      await this.fail(own, Errno.EINVAL, read.problem);
      return false;
    }
    if (read.value.receive === "flip" && !opened.flip) {
      await this.fail(own, Errno.EOPNOTSUPP, "request-rx-copy is not 1, and pages cannot be exchanged");
      return false;
    }
    const result = await service.attach({ ...this.identity, ...read.value, resume });
    if (!result.ok) await this.fail(own, result.errno, result.message);
    else {
      this.attached = true;
      this.multicastControl = read.value.multicastControl;
    }
    return result.ok;
  }

  /** feature-dynamic-multicast-control: the frontend may change its mind while it is connected. */
  private async followMulticast(frontend: OtherEnd): Promise<void> {
    const wanted = await readFlag(this.options.store, frontend.directory, MULTICAST_KEY);
    if (wanted === this.multicastControl) return;
    this.multicastControl = wanted;
    this.options.service.setMulticastControl(this.identity, wanted);
  }

  /** Opens the interface unless it is open; reports why it cannot be. */
  private async ensureOpen(own: XenbusState): Promise<VifFacts | undefined> {
    if (this.opened) return this.opened;
    const specification = await this.specification();
    if (typeof specification === "string") {
      await this.fail(own, Errno.EINVAL, specification);
      return undefined;
    }
    const result = await this.options.service.open(specification);
    if (!result.ok) {
      await this.fail(own, result.errno, result.message);
      return undefined;
    }
    this.opened = result.value;
    return this.opened;
  }

  /** What the toolstack has written; a string says what is wrong with it. */
  private async specification(): Promise<VifSpecification | string> {
    const { store } = this.options;
    const { directory } = this.xenbus;
    const mac = (await store.read(`${directory}/mac`))?.toLowerCase();
    if (mac === undefined || !/^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/.test(mac)) {
      return `mac is ${mac === undefined ? "missing" : quoteValue(mac)}`;
    }
    const settings = await store.read(`${directory}/${SETTINGS_KEY}`);
    let parsed: unknown;
    try {
      parsed = settings === undefined ? undefined : JSON.parse(settings);
    } catch {
      return `${SETTINGS_KEY} is not JSON`;
    }
    const mtu = await store.read(`${directory}/mtu`);
    return {
      ...this.identity,
      mac,
      bridge: (await store.read(`${directory}/bridge`)) ?? "",
      ips: ((await store.read(`${directory}/ip`)) ?? "").split(/[\s,]+/).filter((ip) => ip !== ""),
      mtu: mtu === undefined ? undefined : parseDecimal(mtu),
      rate: await store.read(`${directory}/rate`),
      settings: parsed,
    };
  }

  private async online(): Promise<boolean> {
    return await readFlag(this.options.store, this.xenbus.directory, "online");
  }

  private async fail(own: XenbusState, errno: number, message: string): Promise<void> {
    this.failed = true;
    await this.xenbus.error(errno, message);
    if (own !== XenbusState.Closing) await this.switchTo(own, XenbusState.Closing);
  }

  private async switchTo(own: XenbusState, state: XenbusState, nodes?: Record<string, string>): Promise<void> {
    await this.xenbus.switchState(own, state, nodes);
    // Whether it was written or another state found: there may be a next step.
    this.changed();
  }

  /** Gives back rings and port: also those that an earlier life of this domain has left. */
  private async letGo(): Promise<void> {
    const { service } = this.options;
    await service.detach(this.identity);
    this.attached = false;
    if (this.opened) {
      this.opened = undefined;
      await service.close(this.identity);
    }
  }

  private async end(): Promise<void> {
    await this.xenbus.close();
    await this.letGo();
    this.options.ended();
  }
}
