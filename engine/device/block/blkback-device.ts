/**
 * One virtual block device of blkback, as XenStore sees it: what it publishes, and what it makes of the toolstack's and the
 * frontend's nodes.
 */
import { Errno } from "../../abi/errors.ts";
import { BackendDevice, type BackendDeviceOptions, type OpenedDevice } from "../xenbus/backend-device.ts";
import { parseDecimal, quoteValue, readFlag, readJson } from "../xenbus/keys.ts";
import { XenbusState } from "../xenbus/state.ts";
import type { OtherEnd } from "../xenbus/xenbus.ts";
import type { VbdFacts, VbdIdentity, VbdResult, VbdService, VbdSpecification } from "./channel.ts";
import { SECTOR, VDISK_CDROM, VDISK_READONLY, VDISK_REMOVABLE } from "./protocol.ts";
import { readTransportParameters, type TransportLimits } from "./transport-parameters.ts";
import { PERSISTENT_KEY, STORE_KEY } from "./vbd-nodes.ts";

/** What every device of a blkback offers. */
export interface BlkbackLimits extends TransportLimits {
  /** feature-max-indirect-segments; 0: no indirect requests. */
  readonly indirectSegments: number;
}

export interface BlkbackDeviceOptions extends BackendDeviceOptions<VbdIdentity, VbdService> {
  readonly limits: BlkbackLimits;
}

type OpenedVbd = OpenedDevice<VbdSpecification, VbdFacts>;

export class BlkbackDevice extends BackendDevice<VbdIdentity, VbdSpecification, VbdFacts, VbdService> {
  private readonly limits: BlkbackLimits;
  private publishedSectors: string | undefined;

  constructor(options: BlkbackDeviceOptions) {
    super(options);
    this.limits = options.limits;
  }

  /** The image has another size now, in bytes: the frontend is told, as xen-blkback does. */
  resized(size: number): void {
    if (!this.opened) return;
    this.opened.facts = { ...this.opened.facts, size };
    this.changed();
  }

  protected override features(opened: OpenedVbd): Record<string, string> {
    const { limits } = this;
    const { specification, facts } = opened;
    const discard = offeredDiscard(specification, facts);
    return {
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
      ...imageProperties(opened),
    };
  }

  protected override properties(opened: OpenedVbd): Record<string, string> {
    const properties = imageProperties(opened);
    this.publishedSectors = properties.sectors;
    return properties;
  }

  protected override async resumed(): Promise<void> {
    // Read back: the image may have grown while nobody looked.
    this.publishedSectors = await this.store.read(`${this.xenbus.directory}/sectors`);
  }

  protected override async attach(
    { specification, facts }: OpenedVbd,
    frontend: OtherEnd,
    resume: boolean,
  ): Promise<VbdResult<void>> {
    const read = await readTransportParameters(this.store, frontend.directory, this.limits);
    if ("problem" in read) return { ok: false, errno: Errno.EINVAL, message: read.problem };
    const { protocol, rings, persistent } = read.value;
    return await this.service.attach({
      ...this.identity,
      protocol,
      rings,
      persistent: persistent && specification.persistent,
      readOnly: specification.readOnly || facts.readOnly,
      discard: offeredDiscard(specification, facts) !== undefined,
      resume,
    });
  }

  /** xen_vbd_resize: the new size, and the same state once more, so that the frontend's watch fires. */
  protected override async connectedStep({ facts }: OpenedVbd): Promise<void> {
    const sectors = sectorsOf(facts);
    if (sectors === this.publishedSectors) return;
    this.publishedSectors = sectors;
    await this.switchTo(XenbusState.Connected, XenbusState.Connected, { sectors });
  }

  protected override async specification(): Promise<VbdSpecification | string> {
    const { store } = this;
    const { directory } = this.xenbus;
    const mode = await store.read(`${directory}/mode`);
    if (mode !== "r" && mode !== "w") return `mode is ${mode === undefined ? "missing" : quoteValue(mode)}`;
    const target = await readJson(store, directory, STORE_KEY);
    if ("problem" in target) return target.problem;
    const discard = await store.read(`${directory}/discard-enable`);
    return {
      ...this.identity,
      readOnly: mode === "r",
      deviceType: (await store.read(`${directory}/device-type`)) ?? "disk",
      discard: discard === undefined || parseDecimal(discard) !== 0,
      persistent: await readFlag(store, directory, PERSISTENT_KEY),
      params: (await store.read(`${directory}/params`)) ?? "",
      store: target.value,
    };
  }

  protected override async letGo(): Promise<void> {
    this.publishedSectors = undefined;
    await super.letGo();
  }
}

function sectorsOf(facts: VbdFacts): string {
  return String(Math.floor(facts.size / SECTOR));
}

function imageProperties({ specification, facts }: OpenedVbd): Record<string, string> {
  const cdrom = specification.deviceType === "cdrom" ? VDISK_CDROM | VDISK_REMOVABLE : 0;
  const readOnly = specification.readOnly || facts.readOnly ? VDISK_READONLY : 0;
  return {
    sectors: sectorsOf(facts),
    "sector-size": String(facts.sectorSize),
    "physical-sector-size": String(facts.physicalSectorSize),
    info: String(cdrom | readOnly),
  };
}

/** Discard as the frontend gets to know it; undefined when it is not offered. */
function offeredDiscard(specification: VbdSpecification, facts: VbdFacts): VbdFacts["discard"] {
  return specification.discard && !specification.readOnly && !facts.readOnly ? facts.discard : undefined;
}
