/** New layers over the images of a machine's disks. */
import { rm } from "node:fs/promises";
import type { DeepReadonly, MachineConfig, MachineSnapshot } from "../store/schema.ts";
import type { MachineContext } from "./context.ts";
import { MachineError } from "./errors.ts";
import { type Disk, imageOf, isImage, isLayered } from "./guest-config.ts";
import type { ImageFile } from "./image-tools.ts";

/** A new empty image, and what it lies over. */
export interface NewLayer {
  readonly vdev: string;
  readonly frozen: { readonly path: string; readonly format: "raw" | "qcow2" };
  readonly path: string;
}

/** An image that is to be frozen. */
export interface LayerBase {
  readonly vdev: string;
  readonly image: ImageFile;
}

/**
 * The disks of a machine that a snapshot freezes: all that it may write.
 * @throws MachineError for one that cannot be frozen
 */
export function layeredDisks(name: string, disks: readonly Disk[]): LayerBase[] {
  const bad = disks.find(
    (disk) => disk.access === "rw" && (!isImage(disk) || disk.offset !== undefined || disk.length !== undefined),
  );
  if (bad !== undefined) {
    const why =
      bad.backend !== undefined
        ? `is served by ${bad.backend}`
        : isImage(bad)
          ? "is a part of an image"
          : "lies on an NBD server";
    const what = `the disk ${bad.vdev} of ${name} ${why}, which cannot be frozen here`;
    throw new MachineError("unsupported", what, `detach it, or give it access=ro`);
  }
  return disks.filter(isLayered).map((disk) => ({ vdev: disk.vdev, image: imageOf(disk) }));
}

/**
 * Makes an empty image over each of these; durable, and known to nobody yet.
 * @throws DiskError; none is left then
 */
export async function makeLayers(
  { images, layers }: Pick<MachineContext, "images" | "layers">,
  name: string,
  bases: readonly LayerBase[],
): Promise<NewLayer[]> {
  const made: NewLayer[] = [];
  try {
    for (const { vdev, image } of bases) {
      const { format } = await images.facts(image);
      const frozen = { path: image.path, format };
      const path = layers.newPath(name, vdev);
      await images.overlay(path, frozen);
      made.push({ vdev, frozen, path });
    }
    return made;
  } catch (error) {
    await removeLayers(made);
    throw error;
  }
}

/** Removes layers that came into no record. */
export async function removeLayers(made: readonly NewLayer[]): Promise<void> {
  for (const { path } of made) await rm(path, { force: true });
}

/** Makes the new layers the active images. */
export function useLayers(disks: MachineConfig["disks"], made: readonly NewLayer[]): void {
  for (const { vdev, path } of made) {
    const disk = disks.find((each) => each.vdev === vdev);
    if (disk !== undefined) Object.assign(disk, { source: path, format: "qcow2" });
  }
}

/** What a snapshot says of frozen images. */
export function frozenDisks(made: readonly NewLayer[]): MachineSnapshot["disks"] {
  return made.map(({ vdev, frozen }) => ({ vdev, image: frozen.path, format: frozen.format }));
}

/** A configuration that may be changed. */
export function editable(config: DeepReadonly<MachineConfig>): MachineConfig {
  return structuredClone(config) as MachineConfig;
}
