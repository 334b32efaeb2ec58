/** The disks of a machine: made, attached, detached and made larger, while it runs or not. */
import { link, mkdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { type DiskConfig, diskConfig, isNbdSource } from "../store/schema.ts";
import type { MachineContext } from "./context.ts";
import { removeLayers } from "./disk-layers.ts";
import { MachineError } from "./errors.ts";
import { type Disk, imageOf, isImage, vbdOf, vdevOf } from "./guest-config.ts";
import type { Machine } from "./machine.ts";
import type { OperationControl } from "./operations.ts";
import { wantSpace } from "./space.ts";

export interface NewDisk {
  readonly vdev: string;
  /** That of the image when it is made from one. */
  readonly size?: number | undefined;
  readonly format: "qcow2" | "raw";
  /** Name of an image of the library whose content it begins with: as an overlay over it, or with `copy` on its own. */
  readonly from?: string | undefined;
  readonly copy?: boolean | undefined;
  /** Where it is served; without it as the lab's settings say. */
  readonly placement?: DiskConfig["placement"] | undefined;
}

/** Keeps what disks are made from. @returns how to end that */
export function pinBases({ library }: Pick<MachineContext, "library">, disks: readonly NewDisk[]): () => void {
  return library.pin(disks.flatMap(({ from }) => (from === undefined ? [] : [from])));
}

/** The disk of that name. @throws MachineError */
function diskOf(machine: Machine, vdev: string): Disk {
  const { disks } = machine.record.config;
  const wanted = disks.find((disk) => disk.vdev === vdev || String(vdevOf(disk)) === vdev);
  if (wanted !== undefined) return wanted;
  const names = disks.map((disk) => disk.vdev).join(", ");
  const remedy = names === "" ? "it has none" : `it has: ${names}`;
  throw new MachineError("failed", `${machine.name} has no disk ${vdev}`, remedy);
}

/** @throws MachineError when there is one of that number */
function wantFree(machine: Machine, disk: Disk): void {
  if (!machine.record.config.disks.some((other) => vdevOf(other) === vdevOf(disk))) return;
  throw new MachineError(
    "busy",
    `${machine.name} has a disk ${disk.vdev} already`,
    "choose another vdev, or detach it",
  );
}

/**
 * The formats of images are looked up once, before any guest has written to them: afterwards a guest could make a raw
 * image look like one over any file of the host.
 * @throws DiskError for an image that cannot be read
 */
export async function fixFormats(
  { images }: Pick<MachineContext, "images">,
  disks: readonly DiskConfig[],
): Promise<DiskConfig[]> {
  const fixed: DiskConfig[] = [];
  for (const disk of disks) {
    const known = !isImage(disk) || disk.format !== "probe";
    fixed.push(known ? disk : { ...disk, format: (await images.facts(imageOf(disk))).format });
  }
  return fixed;
}

/** Fills a new image from one of the library. @throws DiskError, MachineError; nothing is left then */
async function makeFrom(
  { images, library, store }: Pick<MachineContext, "images" | "library" | "store">,
  path: string,
  wish: NewDisk & { readonly from: string },
  control: OperationControl | undefined,
): Promise<void> {
  if (wish.format !== "qcow2") {
    throw new MachineError("unsupported", "a disk made from an image is a qcow2 image", "leave the format out");
  }
  const base = await library.base(wish.from);
  const { virtualSize, used } = await images.facts(base);
  const { size = virtualSize } = wish;
  if (size < virtualSize) {
    const what = `${wish.from} has ${virtualSize} bytes: ${size} would cut something off`;
    throw new MachineError("unsupported", what, "name a larger size, or none");
  }
  if (!wish.copy) return await images.overlay(path, base, size);
  await wantSpace(store.paths.disks, used, `the copy of ${wish.from}`);
  const progress = (done: number, total: number) => control?.step(`copying ${wish.from}`, done, total);
  await images.copy(base, path, { signal: control?.signal, progress });
  if (size > virtualSize) await images.grow({ path, format: "qcow2" }, size);
}

/**
 * A new image in disks/, empty or with another one's content, and the disk that it is. @throws DiskError,
 * MachineError
 */
export async function makeDisk(
  context: Pick<MachineContext, "images" | "layers" | "library" | "store">,
  name: string,
  wish: NewDisk,
  control?: OperationControl,
): Promise<DiskConfig> {
  const { images, layers } = context;
  const path = layers.newPath(name, wish.vdev);
  const source = wish.format === "raw" ? path.replace(/\.qcow2$/, ".img") : path;
  const placement = wish.placement ?? context.store.data.settings.defaultPlacement;
  const disk = diskConfig.safeParse({ vdev: wish.vdev, source, format: wish.format, placement });
  if (!disk.success) {
    const what = `"${wish.vdev}" names no disk`;
    throw new MachineError("failed", what, "use xvda, xvdb and so on");
  }
  const { from, size } = wish;
  if (from !== undefined) await makeFrom(context, source, { ...wish, from }, control);
  else if (size !== undefined) await images.create(source, wish.format, size);
  else throw new MachineError("failed", `the disk ${wish.vdev} has neither a size nor an image`, "give it one");
  return disk.data;
}

/**
 * Gives a machine a disk, at once when it runs.
 * @returns whether it runs
 * @throws what the user can mend; nothing has changed then
 */
export function attachDisk(context: MachineContext, machine: Machine, given: DiskConfig): Promise<boolean> {
  return machine.queue.run(async () => {
    machine.want(["stopped", "running", "paused", "crashed"], "given a disk");
    wantFree(machine, given);
    const [disk = given] = await fixFormats(context, [given]);
    const run = machine.guest;
    const add = () =>
      machine.commit((draft) => {
        draft.config.disks.push(disk);
      });
    if (run === undefined) {
      await add();
      return false;
    }
    if (isImage(disk)) await context.layers.claim(machine.id, [imageOf(disk)]);
    await context.host.attachDisk(run.handle.id, await vbdOf(disk, context.images));
    try {
      await add();
    } catch (error) {
      await context.host.detachDisk(run.handle.id, vdevOf(disk), true).catch(() => undefined);
      throw error;
    }
    return true;
  });
}

/** A new disk for a machine, at once when it runs. @throws as attachDisk() */
export async function createDisk(context: MachineContext, machine: Machine, wish: NewDisk) {
  const release = pinBases(context, [wish]);
  const disk = await makeDisk(context, machine.name, wish).catch((error: unknown) => {
    release();
    throw error;
  });
  try {
    return { disk, live: await attachDisk(context, machine, disk) };
  } catch (error) {
    await removeLayers([{ vdev: disk.vdev, path: disk.source, frozen: { path: "", format: "raw" } }]);
    throw error;
  } finally {
    release();
  }
}

/**
 * Takes a disk away, from a running guest too. An image of the lab's own goes to the folder detached/, on its own feet.
 * @returns where the image is now
 * @throws what the user can mend
 */
export function detachDisk(
  context: MachineContext,
  machine: Machine,
  vdev: string,
  force: boolean,
  control: OperationControl,
): Promise<string> {
  return machine.queue.run(async () => {
    machine.want(["stopped", "running", "paused", "crashed"], "relieved of a disk");
    const disk = diskOf(machine, vdev);
    if (machine.guest !== undefined) await context.host.detachDisk(machine.guest.handle.id, vdevOf(disk), force);
    const own = isImage(disk) && context.layers.isOwn(disk.source);
    const kept = own ? await keepDetached(context, machine, disk, control) : undefined;
    await machine.commit((draft) => {
      draft.config.disks = draft.config.disks.filter((each) => each.vdev !== disk.vdev);
    });
    if (own) await context.layers.discard({ images: [imageOf(disk)] });
    return kept ?? disk.source;
  });
}

/** The image outside the pool: a second name of it, or a copy when it needs others. @returns its path */
async function keepDetached(
  context: MachineContext,
  machine: Machine,
  disk: Disk,
  control: OperationControl,
): Promise<string> {
  const folder = join(context.store.paths.folder, "detached");
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const path = join(folder, basename(disk.source));
  const { backing } = await context.images.facts(imageOf(disk));
  if (backing === undefined) {
    await link(disk.source, path);
    return path;
  }
  const owner = `detached disk of ${machine.id}`;
  try {
    await context.layers.claim(owner, [imageOf(disk)]);
    const progress = (done: number, total: number) => control.step("copying the image", done, total);
    await context.images.copy(imageOf(disk), path, { signal: control.signal, progress });
  } finally {
    context.layers.release(owner);
  }
  return path;
}

/**
 * Makes a disk larger; a running guest sees it at once.
 * @returns whether it runs
 * @throws what the user can mend
 */
export function resizeDisk(context: MachineContext, machine: Machine, vdev: string, size: number): Promise<boolean> {
  return machine.queue.run(async () => {
    machine.want(["stopped", "running", "paused", "crashed"], "given a larger disk");
    const disk = diskOf(machine, vdev);
    const why = isNbdSource(disk.source)
      ? "lies on an NBD server"
      : disk.backend !== undefined
        ? `is served by ${disk.backend}`
        : disk.access === "ro"
          ? "is read-only"
          : disk.offset !== undefined || disk.length !== undefined
            ? "is a part of an image"
            : undefined;
    if (why !== undefined) {
      const what = `the disk ${disk.vdev} of ${machine.name} ${why}: its size cannot be changed here`;
      throw new MachineError("unsupported", what, "change it where it is made");
    }
    const { virtualSize } = await context.images.facts(imageOf(disk));
    if (size < virtualSize) {
      const what = `${disk.vdev} of ${machine.name} has ${virtualSize} bytes: ${size} would cut something off`;
      throw new MachineError("unsupported", what, "name a larger size");
    }
    if (machine.guest !== undefined) {
      await context.host.resizeDisk(machine.guest.handle.id, vdevOf(disk), size);
      return true;
    }
    await context.layers.claim(machine.id, [imageOf(disk)]);
    try {
      await context.images.grow(imageOf(disk), size);
    } finally {
      context.layers.release(machine.id);
    }
    return false;
  });
}
