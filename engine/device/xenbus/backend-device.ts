/**
 * One device of a backend, as XenStore sees it: publishes what it can do, has its rings attached and detached, and walks
 * through the xenbus states (backendStep). What is read and published is the kind's own: a kind of device extends this.
 */
import { Errno } from "../../abi/errors.ts";
import { readFlag } from "./keys.ts";
import { backendStep, startedOver, XenbusState, xenbusStateName } from "./state.ts";
import type { XenbusStore } from "./store-access.ts";
import { type OtherEnd, XenbusDevice } from "./xenbus.ts";

/** Which device; fixed for its life. */
export interface DeviceIdentity {
  /** Names the device, and what it keeps, across restarts of the backend: "<type>/<frontend>/<number>". */
  readonly key: string;
  readonly frontendId: number;
}

export type DeviceResult<T> =
  | { readonly ok: true; readonly value: T }
  /** An errno, and one line that says what is wrong with the device's settings or the frontend's channel. */
  | { readonly ok: false; readonly errno: number; readonly message: string };

/** What every kind of device asks of whoever serves its rings. Calls about one device never overlap. */
export interface DeviceService<Identity, Specification, Facts> {
  /** Opens what the device stands for. Called again after close(), not before. */
  open(specification: Specification): Promise<DeviceResult<Facts>>;
  /** Gives the rings up: also what an earlier life of the backend left, and also when nothing is attached. */
  detach(device: Identity): Promise<void>;
  close(device: Identity): Promise<void>;
}

export interface BackendDeviceOptions<Identity, Service> {
  readonly store: XenbusStore;
  readonly service: Service;
  readonly log: (message: string) => void;
  readonly identity: Identity;
  /** The device has let go of everything and is of no more use: its directory is gone, or it is closed for good. */
  readonly ended: () => void;
}

/** What the device stands for, while it is open, and how it is offered. */
export interface OpenedDevice<Specification, Facts> {
  readonly specification: Specification;
  facts: Facts;
}

export abstract class BackendDevice<
  Identity extends DeviceIdentity,
  Specification = unknown,
  Facts = unknown,
  Service extends DeviceService<Identity, Specification, Facts> = DeviceService<Identity, Specification, Facts>,
> {
  readonly identity: Identity;
  protected readonly xenbus: XenbusDevice;
  protected readonly store: XenbusStore;
  protected readonly service: Service;
  protected opened: OpenedDevice<Specification, Facts> | undefined;
  private readonly ended: () => void;
  private frontend: OtherEnd | undefined;
  private attached = false;
  /** Nothing has been decided yet: what the state nodes say may stem from an earlier life of this domain. */
  private adopting = true;
  /** The frontend's state at the last look. */
  private seen: XenbusState = XenbusState.Unknown;
  /** The last connection failed; a frontend that does not start over gets no second try. */
  private failed = false;
  /** No step is taken: see freeze(). */
  private frozen = false;

  constructor(options: BackendDeviceOptions<Identity, Service>) {
    this.identity = options.identity;
    this.store = options.store;
    this.service = options.service;
    this.ended = options.ended;
    this.xenbus = new XenbusDevice({
      store: options.store,
      directory: `backend/${options.identity.key}`,
      evaluate: () => this.evaluate(),
      log: options.log,
    });
  }

  /** What the toolstack has written; a string says what is wrong with it. */
  protected abstract specification(): Promise<Specification | string>;

  /** Features and transport parameters: what the frontend reads once it sees InitWait. */
  protected abstract features(opened: OpenedDevice<Specification, Facts>): Record<string, string>;

  /**
   * Checks what the frontend has published, and has its rings attached.
   * @param resume an earlier life of this domain may have attached them already
   */
  protected abstract attach(
    opened: OpenedDevice<Specification, Facts>,
    frontend: OtherEnd,
    resume: boolean,
  ): Promise<DeviceResult<void>>;

  /** Properties: what the frontend reads once it sees Connected. The rings are attached. */
  protected properties(_opened: OpenedDevice<Specification, Facts>): Record<string, string> {
    return {};
  }

  /** The rings of an earlier life were attached again. */
  protected async resumed(): Promise<void> {}

  /** Both ends are connected, and something may have changed. */
  protected async connectedStep(_opened: OpenedDevice<Specification, Facts>, _frontend: OtherEnd): Promise<void> {}

  /** The frontend is known. */
  protected async watchFrontend(frontend: OtherEnd): Promise<void> {
    await this.xenbus.watch(`${frontend.directory}/state`);
  }

  /** A node of the device's directory has changed. */
  changed(): void {
    this.xenbus.changed();
  }

  idle(): Promise<void> {
    return this.xenbus.idle();
  }

  /**
   * Takes no more steps until thaw(): neither state nor rings nor what is open changes. Fulfilled when the step that was
   * under way is done.
   */
  freeze(): Promise<void> {
    this.frozen = true;
    return this.xenbus.idle();
  }

  /** Goes on; what changed meanwhile is looked at now. */
  thaw(): void {
    this.frozen = false;
    this.changed();
  }

  get connected(): boolean {
    return this.attached;
  }

  /** Stops looking at XenStore; rings stay attached, for the domain's end or its next life. */
  close(): Promise<void> {
    return this.xenbus.close();
  }

  private async evaluate(): Promise<void> {
    if (this.frozen) return;
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
    const { seen } = this;
    this.seen = peer;
    if (this.attached && startedOver(seen, peer)) return await this.closed(own);
    await this.step(own, peer, frontend, adopting);
  }

  private async step(own: XenbusState, peer: XenbusState, frontend: OtherEnd, adopting: boolean): Promise<void> {
    switch (backendStep(own, peer)) {
      case "wait":
        if (own === XenbusState.Connected && this.attached && this.opened) {
          await this.connectedStep(this.opened, frontend);
        }
        return;
      case "publish":
        return await this.publish(own);
      case "connect":
        return await this.connect(own, frontend, adopting);
      case "reconnect":
        if (!(await this.online())) return await this.end();
        return await this.connect(own, frontend, adopting);
      case "closing":
        // The rings are served until the frontend is Closed: it may be in use still and refuse to close.
        return await this.switchTo(own, XenbusState.Closing);
      case "closed":
        // A frontend that has not looked yet is to find Closing, or it would wait for InitWait for ever.
        if (this.failed && peer === XenbusState.Initialising && own === XenbusState.Closing && (await this.online())) {
          return;
        }
        return await this.closed(own);
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
    await this.watchFrontend(frontend);
    return frontend;
  }

  private async publish(own: XenbusState): Promise<void> {
    const opened = await this.ensureOpen(own);
    if (opened) await this.switchTo(own, XenbusState.InitWait, this.features(opened));
  }

  /** The connection is over: nothing is held any more. */
  private async closed(own: XenbusState): Promise<void> {
    await this.letGo();
    await this.switchTo(own, XenbusState.Closed);
  }

  private async connect(own: XenbusState, frontend: OtherEnd, resume: boolean): Promise<void> {
    if (this.failed) return;
    const opened = await this.ensureAttached(own, frontend, resume);
    if (!opened) return;
    const properties = this.properties(opened);
    await this.xenbus.clearError();
    await this.switchTo(own, XenbusState.Connected, properties);
  }

  /** The domain was restarted under a connected frontend: everything goes on, and no state changes. */
  private async resume(own: XenbusState, frontend: OtherEnd): Promise<void> {
    if (!(await this.ensureAttached(own, frontend, true))) return;
    await this.resumed();
    this.changed();
  }

  /** Opens the device and has its rings attached; reports why that cannot be. */
  private async ensureAttached(own: XenbusState, frontend: OtherEnd, resume: boolean): Promise<typeof this.opened> {
    const opened = await this.ensureOpen(own);
    if (!opened) return undefined;
    const result = await this.attach(opened, frontend, resume);
    if (!result.ok) {
      await this.fail(own, result.errno, result.message);
      return undefined;
    }
    this.attached = true;
    return opened;
  }

  /** Opens what the device stands for unless it is open; reports why it cannot be. */
  private async ensureOpen(own: XenbusState): Promise<typeof this.opened> {
    if (this.opened) return this.opened;
    const specification = await this.specification();
    if (typeof specification === "string") {
      await this.fail(own, Errno.EINVAL, specification);
      return undefined;
    }
    const result = await this.service.open(specification);
    if (!result.ok) {
      await this.fail(own, result.errno, result.message);
      return undefined;
    }
    this.opened = { specification, facts: result.value };
    return this.opened;
  }

  private async online(): Promise<boolean> {
    return await readFlag(this.store, this.xenbus.directory, "online");
  }

  private async fail(own: XenbusState, errno: number, message: string): Promise<void> {
    this.failed = true;
    await this.xenbus.error(errno, message);
    if (own !== XenbusState.Closing) await this.switchTo(own, XenbusState.Closing);
  }

  protected async switchTo(own: XenbusState, state: XenbusState, nodes?: Record<string, string>): Promise<void> {
    await this.xenbus.switchState(own, state, nodes);
    // Whether it was written or another state found: there may be a next step.
    this.changed();
  }

  /** Gives back rings and whatever is open: also those that an earlier life of this domain has left. */
  protected async letGo(): Promise<void> {
    await this.service.detach(this.identity);
    this.attached = false;
    if (this.opened) {
      this.opened = undefined;
      await this.service.close(this.identity);
    }
  }

  private async end(): Promise<void> {
    await this.xenbus.close();
    await this.letGo();
    this.ended();
  }
}
