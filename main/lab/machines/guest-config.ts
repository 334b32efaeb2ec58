/** A machine's record, as the host wants to have it. */
import { join } from "node:path";
import { parseVdev } from "../../../engine/device/block/vdev.ts";
import { parseNbdAddress } from "../../../engine/disk/nbd/uri.ts";
import type { StoreSpec } from "../../../engine/disk/spec.ts";
import type { RestoreConfig } from "../../../engine/domain/host.ts";
import type { VbdConfig } from "../../../engine/domain/vbd-toolstack.ts";
import { type DeepReadonly, type DiskConfig, isNbdSource, type MachineConfig } from "../store/schema.ts";
import type { ImageFile, ImageTools } from "./image-tools.ts";

export type Disk = DeepReadonly<DiskConfig>;

/** Whether a disk is an image of this host, which the lab can look at. */
export const isImage = (disk: Disk): boolean => disk.backend === undefined && !isNbdSource(disk.source);

/** Whether a disk is a whole image that its guest may write: one that snapshots put a layer over. */
export const isLayered = (disk: Disk): boolean => isImage(disk) && disk.access === "rw";

export const imageOf = (disk: Disk): ImageFile => ({ path: disk.source, format: disk.format });

/** Number of a disk that the schema has checked. */
export function vdevOf(disk: Pick<Disk, "vdev">): number {
  const vdev = parseVdev(disk.vdev);
  if (vdev === undefined) throw new Error(`${disk.vdev} is no disk`);
  return vdev;
}

async function storeOf(disk: Disk, images: ImageTools): Promise<StoreSpec> {
  const readOnly = disk.access === "ro";
  const common = { readOnly, ...(!disk.discard && { discard: false }) };
  if (isNbdSource(disk.source)) return { kind: "nbd", ...parseNbdAddress(disk.source), ...common };
  const { source: path, offset, length } = disk;
  if (disk.backend !== undefined || offset !== undefined || length !== undefined) {
    return {
      kind: "file",
      path,
      format: disk.format === "probe" ? "probe" : "raw",
      ...common,
      ...(offset !== undefined && { offset }),
      ...(length !== undefined && { length }),
    };
  }
  return await images.spec(imageOf(disk), { readOnly, discard: disk.discard });
}

/** A disk as the toolstack attaches it. @throws DiskError for an image that cannot be served */
export async function vbdOf(disk: Disk, images: ImageTools): Promise<VbdConfig> {
  return {
    vdev: vdevOf(disk),
    store: await storeOf(disk, images),
    readOnly: disk.access === "ro",
    deviceType: disk.deviceType,
    target: disk.source,
    placement: disk.placement,
    persistent: disk.persistent,
    ...(disk.backend !== undefined && { backend: disk.backend }),
  };
}

/** Where a machine's logs are, in its folder. */
export function logsOf(folder: string): { consoleLog: string; hypervisorLog: string; crashReport: string } {
  return {
    consoleLog: join(folder, "console.log"),
    hypervisorLog: join(folder, "hypervisor.log"),
    crashReport: join(folder, "crash.json"),
  };
}

/** Everything about a guest but what it boots. @throws DiskError for an image that cannot be served */
export async function restoreConfig(
  config: DeepReadonly<MachineConfig>,
  folder: string,
  images: ImageTools,
): Promise<RestoreConfig> {
  const disks: VbdConfig[] = [];
  for (const disk of config.disks) disks.push(await vbdOf(disk, images));
  const { consoleLog, hypervisorLog } = logsOf(folder);
  return {
    name: config.name,
    memoryMiB: config.memoryMiB,
    consoleLog,
    hypervisorLog,
    disks,
    vifs: structuredClone(config.vifs) as MachineConfig["vifs"],
  };
}
