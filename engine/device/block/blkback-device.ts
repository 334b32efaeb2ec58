/**
 * One virtual block device of blkback, as XenStore sees it: publishes what it can do, checks what the frontend publishes,
 * has its rings attached and detached, and walks through the xenbus states (backendStep).
 */
import { Errno } from "../../abi/errors.ts";
import { parseDecimal, quoteValue, readFlag } from "../xenbus/keys.ts";
import { backendStep, XenbusState, xenbusStateName } from "../xenbus/state.ts";
import type { XenbusStore } from "../xenbus/store-access.ts";
import { type OtherEnd, XenbusDevice } from "../xenbus/xenbus.ts";
import type { VbdFacts, VbdIdentity, VbdService, VbdSpecification } from "./channel.ts";
import { SECTOR, VDISK_CDROM, VDISK_READONLY, VDISK_REMOVABLE } from "./protocol.ts";
import { readTransportParameters, type TransportLimits } from "./transport-parameters.ts";
import { PERSISTENT_KEY, STORE_KEY } from "./vbd-nodes.ts";

/** What every device of a blkback offers. */
export interface BlkbackLimits extends TransportLimits {
  /** feature-max-indirect-segments; 0: no indirect requests. */
  readonly indirectSegments: number;
}

export interface BlkbackDeviceOptions {
  readonly store: XenbusStore;
  readonly service: VbdService;
  readonly limits: BlkbackLimits;
  readonly log: (message: string) => void;
  readonly identity: VbdIdentity;
  /** The device has let go of everything and is of no more use: its directory is gone, or it is closed for good. */
  readonly ended: () => void;
}

export class BlkbackDevice {
  readonly identity: VbdIdentity;
  private readonly options: BlkbackDeviceOptions;
  private readonly xenbus: XenbusDevice;
  private frontend: OtherEnd | undefined;
  /** The opened image, and how it is offered. */
  private opened: { readonly specification: VbdSpecification; facts: VbdFacts } | undefined;
  private attached = false;
  /** Nothing has been decided yet: what the state nodes say may stem from an earlier life of this domain. */
  private adopting = true;
  /** The last connection failed; a frontend that does not start over gets no second try. */
  private failed = false;
  private publishedSectors: string | undefined;

  constructor(options: BlkbackDeviceOptions) {
    this.options = options;
    this.identity = options.identity;
    const { frontendId, vdev } = options.identity;
    this.xenbus = new XenbusDevice({
      store: options.store,
      directory: `backend/vbd/${frontendId}/${vdev}`,
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

  /** The image has another size now, in bytes: the frontend is told, as xen-blkback does. */
  resized(size: number): void {
    if (!this.opened) return;
    this.opened.facts = { ...this.opened.facts, size };
    this.changed();
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
        if (own === XenbusState.Connected && this.attached) await this.publishSize();
        return;
      case "publish":
        return await this.publish(own);
      case "connect":
        return await this.connect(own, frontend, adopting);
      case "closing":
        // Requests are served until the frontend is Closed: it may be in use still and refuse to close.
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
    return frontend;
  }

  /** Publishes features and transport parameters; the frontend reads them once it sees InitWait. */
  private async publish(own: XenbusState): Promise<void> {
    const opened = await this.ensureOpen(own);
    if (!opened) return;
    const { limits } = this.options;
    const { specification, facts } = opened;
    const discard = offeredDiscard(specification, facts);
    await this.switchTo(own, XenbusState.InitWait, {
      "feature-flush-cache": "1",
      "feature-barrier": "1",
      "feature-persistent": specification.persistent ? "1" : "0",
      "feature-max-indirect-segments": String(limits.indirectSegments),
      "feature-discard": discard ? "1" : "0",
      ...(discard
        ? {
            "discard-granularity": String(discard.granularity),
            "discard-alignment": String(discard.alignment),
            "discard-secure": discard.secure ? "1" : "0",
          }
        : {}),
      "max-ring-page-order": String(limits.ringPageOrder),
      "multi-queue-max-queues": String(limits.queues),
      ...this.properties(opened),
    });
  }

  private properties({ specification, facts }: NonNullable<typeof this.opened>): Record<string, string> {
    const cdrom = specification.deviceType === "cdrom" ? VDISK_CDROM | VDISK_REMOVABLE : 0;
    const readOnly = specification.readOnly || facts.readOnly ? VDISK_READONLY : 0;
    return {
      sectors: String(Math.floor(facts.size / SECTOR)),
      "sector-size": String(facts.sectorSize),
      "physical-sector-size": String(facts.physicalSectorSize),
      info: String(cdrom | readOnly),
    };
  }

  private async connect(own: XenbusState, frontend: OtherEnd, resume: boolean): Promise<void> {
    if (this.failed) return;
    const opened = await this.ensureOpen(own);
    if (!opened || !(await this.attach(own, opened, frontend, resume))) return;
    const properties = this.properties(opened);
    this.publishedSectors = properties.sectors;
    await this.xenbus.clearError();
    await this.switchTo(own, XenbusState.Connected, properties);
  }

  /** The domain was restarted under a connected frontend: everything goes on, and no state changes. */
  private async resume(own: XenbusState, frontend: OtherEnd): Promise<void> {
    const opened = await this.ensureOpen(own);
    if (!opened || !(await this.attach(own, opened, frontend, true))) return;
    // Read back: the image may have grown while nobody looked.
    this.publishedSectors = await this.options.store.read(`${this.xenbus.directory}/sectors`);
    this.changed();
  }

  private async attach(
    own: XenbusState,
    { specification, facts }: NonNullable<typeof this.opened>,
    frontend: OtherEnd,
    resume: boolean,
  ): Promise<boolean> {
    const { limits, service, store } = this.options;
    const read = await readTransportParameters(store, frontend.directory, limits);
    if ("problem" in read) {
      await this.fail(own, Errno.EINVAL, read.problem);
      return false;
    }
    const { protocol, rings, persistent } = read.value;
    const result = await service.attach({
      ...this.identity,
      protocol,
      rings,
      persistent: persistent && specification.persistent,
      readOnly: specification.readOnly || facts.readOnly,
      discard: offeredDiscard(specification, facts) !== undefined,
      resume,
    });
    if (!result.ok) await this.fail(own, result.errno, result.message);
    else this.attached = true;
    return result.ok;
  }

  /** xen_vbd_resize: the new size, and the same state once more, so that the frontend's watch fires. */
  private async publishSize(): Promise<void> {
    const { opened } = this;
    if (!opened) return;
    const sectors = String(Math.floor(opened.facts.size / SECTOR));
    if (sectors === this.publishedSectors) return;
    this.publishedSectors = sectors;
    await this.switchTo(XenbusState.Connected, XenbusState.Connected, { sectors });
  }

  /** Opens the image unless it is open; reports why it cannot be. */
  private async ensureOpen(own: XenbusState): Promise<typeof this.opened> {
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
    this.opened = { specification, facts: result.value };
    return this.opened;
  }

  /** What the toolstack has written; a string says what is wrong with it. */
  private async specification(): Promise<VbdSpecification | string> {
    const { store } = this.options;
    const { directory } = this.xenbus;
    const mode = await store.read(`${directory}/mode`);
    if (mode !== "r" && mode !== "w") return `mode is ${mode === undefined ? "missing" : quoteValue(mode)}`;
    const spec = await store.read(`${directory}/${STORE_KEY}`);
    let parsed: unknown;
    try {
      parsed = spec === undefined ? undefined : JSON.parse(spec);
    } catch {
      return `${STORE_KEY} is not JSON`;
    }
    const discard = await store.read(`${directory}/discard-enable`);
    return {
      ...this.identity,
      readOnly: mode === "r",
      deviceType: (await store.read(`${directory}/device-type`)) ?? "disk",
      discard: discard === undefined || parseDecimal(discard) !== 0,
      persistent: await readFlag(store, directory, PERSISTENT_KEY),
      params: (await store.read(`${directory}/params`)) ?? "",
      store: parsed,
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

  /** Gives back rings and image: also those that an earlier life of this domain has left. */
  private async letGo(): Promise<void> {
    const { service } = this.options;
    await service.detach(this.identity);
    this.attached = false;
    this.publishedSectors = undefined;
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

/** Discard as the frontend gets to know it; undefined when it is not offered. */
function offeredDiscard(specification: VbdSpecification, facts: VbdFacts): VbdFacts["discard"] {
  return specification.discard && !specification.readOnly && !facts.readOnly ? facts.discard : undefined;
}
