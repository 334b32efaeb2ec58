/**
 * One device of a frontend, as XenStore sees it: walks through the xenbus states (frontendStep), connects again when the
 * backend comes back (Closed → InitWait), and ends for good with the device or with a backend that breaks the protocol.
 * What is read and published is the kind's own: a kind of device extends this.
 */
import { Errno } from "../../abi/errors.ts";
import { messageOf } from "../../errors/message.ts";
import { readFlag } from "./keys.ts";
import { frontendStep, XenbusState, xenbusStateName } from "./state.ts";
import type { XenbusStore } from "./store-access.ts";
import { type OtherEnd, XenbusDevice } from "./xenbus.ts";

export interface FrontendDeviceOptions {
  readonly store: XenbusStore;
  /** "device/<type>/<number>" */
  readonly directory: string;
  readonly log: (message: string) => void;
}

/** Why a device is over: it was closed or removed, or the backend did what it must not do. */
export type FrontendEnd = "closed" | "backend-broken";

export abstract class FrontendDevice {
  private readonly store: XenbusStore;
  protected readonly xenbus: XenbusDevice;
  protected backend: OtherEnd | undefined;
  private over = false;
  private closing = false;
  /** Every connection allows one more: a backend that cannot connect is not asked for ever. */
  private mayRestart = false;
  /** What the backend did that it must not do. */
  private brokenBy: string | undefined;
  private closers: (() => void)[] = [];

  constructor(options: FrontendDeviceOptions) {
    this.store = options.store;
    this.xenbus = new XenbusDevice({ ...options, evaluate: () => this.evaluate() });
  }

  /** Looks again for pages that the backend held, and frees those it has let go of. @returns how many are left */
  abstract reclaim(): number;

  /** Reads what the backend offers and makes rings. @returns the nodes to publish; undefined after fatal() */
  protected abstract negotiate(own: XenbusState, backend: OtherEnd): Promise<Record<string, string> | undefined>;

  /**
   * The backend is connected: goes to Connected (switchToConnected) and begins to use the rings.
   * @returns whether they are in use
   */
  protected abstract connected(own: XenbusState, backend: OtherEnd): Promise<boolean>;

  /** Both ends are connected, and the backend has written its state again. */
  protected async refresh(_backend: OtherEnd): Promise<void> {}

  /** Gives the rings up, if there are any. */
  protected abstract disconnect(): void;

  /** The device is over, and hears so once: gives up everything and tells whoever waits. */
  protected abstract finish(code: FrontendEnd, message: string): void;

  /** Fulfilled when every change known so far has been dealt with. */
  idle(): Promise<void> {
    return this.xenbus.idle();
  }

  /** Disconnects for good; what is under way fails or is lost. Fulfilled when the frontend's state is Closed. */
  async close(): Promise<void> {
    if (this.over) return;
    this.closing = true;
    const ending = new Promise<void>((resolve) => this.closers.push(resolve));
    const own = await this.xenbus.state();
    if (own !== XenbusState.Closed && own !== XenbusState.Unknown) {
      await this.xenbus.switchState(own, XenbusState.Closing);
    }
    this.xenbus.changed();
    await ending;
  }

  /** Looks at XenStore from now on. */
  protected async begin(): Promise<void> {
    await this.xenbus.watch(this.xenbus.directory);
    this.xenbus.changed();
  }

  /** The backend breaks the protocol: the device ends soon. */
  protected broken(reason: string): void {
    this.brokenBy ??= reason;
    this.xenbus.changed();
  }

  /** Ends the device for the backend's fault, which is left in the error node. */
  protected async fatal(own: XenbusState, errno: number, message: string): Promise<void> {
    await this.xenbus.error(errno, message);
    if (own !== XenbusState.Closed) await this.xenbus.switchState(own, XenbusState.Closed);
    await this.end("backend-broken", message);
  }

  /** @returns false when the state is another by now; the next step then deals with it */
  protected async switchToConnected(own: XenbusState): Promise<boolean> {
    if (!(await this.xenbus.switchState(own, XenbusState.Connected))) {
      this.xenbus.changed();
      return false;
    }
    await this.xenbus.clearError();
    return true;
  }

  private async evaluate(): Promise<void> {
    if (this.over) return;
    try {
      await this.step();
    } catch (error) {
      // Without XenStore there is no device; whoever waits for it is told.
      await this.end("closed", `XenStore: ${messageOf(error)}`);
    }
  }

  private async step(): Promise<void> {
    this.reclaim();
    const own = await this.xenbus.state();
    if (own === XenbusState.Unknown) return await this.end("closed", "the device was removed");
    if (this.brokenBy !== undefined) {
      return await this.fatal(own, Errno.EINVAL, `the backend broke the protocol: ${this.brokenBy}`);
    }
    const backend = await this.findBackend();
    if (!backend) return await this.end("closed", "the device names no backend");
    const peer = await this.xenbus.peerState(backend);
    switch (frontendStep(own, peer)) {
      case "wait":
        if (own === XenbusState.Closed && (this.closing || peer === XenbusState.Unknown)) {
          await this.end("closed", "the device is closed");
        }
        return;
      case "negotiate":
        return await this.offerRings(own, backend);
      case "connect":
        if (await this.connected(own, backend)) this.mayRestart = true;
        return;
      case "refresh":
        return await this.refresh(backend);
      case "close":
        this.disconnect();
        return await this.switchTo(own, XenbusState.Closed);
      case "restart":
        if (this.closing || !this.mayRestart || !(await readFlag(this.store, backend.directory, "online"))) {
          return await this.end("closed", "the backend has closed the device");
        }
        this.mayRestart = false;
        return await this.switchTo(own, XenbusState.Initialising);
      case "illegal":
        return await this.fatal(own, Errno.EINVAL, `saw state ${xenbusStateName(peer)} at the backend`);
    }
  }

  private async offerRings(own: XenbusState, backend: OtherEnd): Promise<void> {
    this.disconnect();
    const nodes = await this.negotiate(own, backend);
    if (nodes) await this.switchTo(own, XenbusState.Initialised, nodes);
  }

  private async findBackend(): Promise<OtherEnd | undefined> {
    if (this.backend) return this.backend;
    const backend = await this.xenbus.otherEnd("backend");
    if (!backend) return undefined;
    this.backend = backend;
    await this.xenbus.watch(`${backend.directory}/state`);
    return backend;
  }

  private async switchTo(own: XenbusState, state: XenbusState, nodes?: Record<string, string>): Promise<void> {
    await this.xenbus.switchState(own, state, nodes);
    this.xenbus.changed();
  }

  private async end(code: FrontendEnd, message: string): Promise<void> {
    if (this.over) return;
    this.over = true;
    this.finish(code, message);
    await this.xenbus.close();
    for (const resolve of this.closers.splice(0)) resolve();
  }
}
