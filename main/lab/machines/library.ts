/**
 * The lab's library of disk images, images/library/: files that machines are made from, named by their users. Its
 * folder is all that is known of it: a file's name is the image's, its ending the format, which is never looked up
 * again, as a raw image may come to look like another one. What is deleted goes to images/trash/ until it is purged.
 */
import { randomBytes } from "node:crypto";
import { link, lstat, mkdir, readdir, realpath, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, extname, join, sep } from "node:path";
import { errnoOf } from "../../../engine/builder/errors.ts";
import { followChain } from "../../../engine/disk/chain.ts";
import { recover } from "../../../engine/disk/image-tools/check.ts";
import { convertImage, type SourceFormat } from "../../../engine/disk/image-tools/convert.ts";
import { createQcow2, createRaw } from "../../../engine/disk/image-tools/create.ts";
import { imageInfo } from "../../../engine/disk/image-tools/info.ts";
import { openChain, openFile } from "../../../engine/disk/image-tools/open.ts";
import { isVhd } from "../../../engine/disk/image-tools/vhd.ts";
import { syncFolder } from "../../images/cache.ts";
import { LIBRARY_NAME, type LibraryImage } from "../image-api.ts";
import { suggestion } from "../store/nearest.ts";
import type { LabPaths } from "../store/paths.ts";
import { MachineError } from "./errors.ts";
import type { OperationControl } from "./operations.ts";
import { wantSpace } from "./space.ts";

type Format = "qcow2" | "raw";

const ENDINGS: Readonly<Record<Format, string>> = { qcow2: ".qcow2", raw: ".img" };
const LONGEST = 128;

/** A file of the library. */
export interface LibraryFile {
  readonly name: string;
  readonly path: string;
  readonly format: Format;
}

/** A deleted image: milliseconds since 1970 and its file name. */
export interface TrashFile extends LibraryFile {
  readonly deleted: string;
  readonly date: Date;
}

function fileOf(folder: string, file: string): LibraryFile | undefined {
  const ending = extname(file);
  const format = ending === ENDINGS.qcow2 ? "qcow2" : ending === ENDINGS.raw ? "raw" : undefined;
  const name = basename(file, ending);
  return format === undefined || !LIBRARY_NAME.test(name) ? undefined : { name, path: join(folder, file), format };
}

/** What the user calls a file: uploads have something before their name (main/serve/uploads.ts). */
export function nameOfFile(path: string): string {
  return basename(path).replace(/^upload-[0-9a-f]{16}-(?=.)/, "");
}

/** A name for a file that was called so elsewhere. */
function asName(file: string): string {
  const stem = nameOfFile(file).replace(/\.(qcow2|img|raw|vhd|vpc|bin)$/i, "");
  const clean = stem.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+|[-.]+$/g, "");
  return clean.slice(0, LONGEST - 8) || "image";
}

/** @throws MachineError */
function wantName(name: string): void {
  if (LIBRARY_NAME.test(name)) return;
  const rule = "1 to 128 letters, digits, dots, hyphens and underscores, a letter or digit first";
  throw new MachineError("failed", `"${name.slice(0, 100)}" is no name for an image`, `use ${rule}`);
}

/** Also of a fixed VHD, which begins like a raw image. @throws DiskError */
function isVhdFile(path: string): boolean {
  const { file, close } = openFile(path, false);
  try {
    return isVhd(file);
  } finally {
    close();
  }
}

export interface ImportWish {
  readonly path: string;
  readonly name: string | undefined;
  readonly move: boolean;
  readonly format: Format | "vhd" | undefined;
}

export class ImageLibrary {
  readonly folder: string;
  readonly trash: string;
  private readonly paths: LabPaths;
  /** Names that are being given to images. */
  private readonly coming = new Set<string>();
  /** Images that machines are being made from, and how often. */
  private readonly pins = new Map<string, number>();
  /** Images that are being changed or taken away. */
  private readonly leaving = new Set<string>();

  constructor(paths: LabPaths) {
    this.paths = paths;
    this.folder = join(paths.images, "library");
    this.trash = join(paths.images, "trash");
  }

  /** The images, by name. */
  async list(): Promise<LibraryFile[]> {
    const names = await readdir(this.folder).catch(() => []);
    const files = names.sort().map((name) => fileOf(this.folder, name));
    return files.filter((file) => file !== undefined);
  }

  /** The image of that name. @throws MachineError */
  async find(name: string): Promise<LibraryFile> {
    const files = await this.list();
    const found = files.find((file) => file.name === name) ?? files.find((file) => file.path === name);
    if (found !== undefined) return found;
    const names = files.map((file) => file.name);
    const remedy = names.length === 0 ? "import one first" : suggestion(name, names);
    throw new MachineError("failed", `the library has no image ${name}`, remedy);
  }

  /** The name of an image that is called by its name or its path. */
  private nameIn(text: string): string {
    return (this.has(text) && fileOf(this.folder, basename(text))?.name) || text;
  }

  /**
   * Keeps images from being deleted or changed.
   * @returns how to end that
   * @throws MachineError when one is being deleted or changed
   */
  pin(images: readonly string[]): () => void {
    const names = images.map((image) => this.nameIn(image));
    const gone = names.find((name) => this.leaving.has(name));
    if (gone !== undefined) throw new MachineError("busy", `${gone} is being changed`, "try again when that is done");
    for (const name of names) this.pins.set(name, (this.pins.get(name) ?? 0) + 1);
    return () => {
      for (const name of names) {
        const left = (this.pins.get(name) ?? 1) - 1;
        if (left === 0) this.pins.delete(name);
        else this.pins.set(name, left);
      }
    };
  }

  /**
   * Changes an image that no machine is being made from, and none is meanwhile.
   * @throws MachineError "busy" otherwise; what `change` throws
   */
  async alone<Result>({ name }: LibraryFile, change: () => Promise<Result>): Promise<Result> {
    const busy = this.pins.has(name) ? "a machine is being made from it" : "it is being changed already";
    if (this.pins.has(name) || this.leaving.has(name)) {
      throw new MachineError("busy", `${name} cannot be changed now: ${busy}`, "try again when that is done");
    }
    this.leaving.add(name);
    try {
      return await change();
    } finally {
      this.leaving.delete(name);
    }
  }

  /** @param own an image whose name does not count, as it is to get another one */
  private async taken(own?: string): Promise<Set<string>> {
    const names = (await this.list()).map(({ name }) => name).filter((name) => name !== own);
    return new Set([...names.map((name) => name.toLowerCase()), ...this.coming]);
  }

  /** A free name that looks like the text. */
  private async freeName(text: string): Promise<string> {
    const taken = await this.taken();
    const base = asName(text);
    for (let number = 1; ; number++) {
      const name = number === 1 ? base : `${base}-${number}`;
      if (!taken.has(name.toLowerCase())) return name;
    }
  }

  private pathOf(name: string, format: Format): string {
    return join(this.folder, `${name}${ENDINGS[format]}`);
  }

  /**
   * Puts an image into the library that `make` makes at a path of tmp/, whole or not at all; or that it has put at
   * its place itself, when it answers true.
   * @throws MachineError when the name is taken; what `make` throws
   */
  private async add(
    wanted: string,
    format: Format,
    make: (path: string, target: string) => Promise<boolean>,
    { control, own }: { readonly control?: OperationControl; readonly own?: string } = {},
  ): Promise<LibraryImage> {
    wantName(wanted);
    if ((await this.taken(own)).has(wanted.toLowerCase())) {
      const remedy = `choose another name, for example ${await this.freeName(wanted)}`;
      throw new MachineError("failed", `the library has an image ${wanted} already`, remedy);
    }
    const key = wanted.toLowerCase();
    const target = this.pathOf(wanted, format);
    const work = join(this.paths.tmp, `library-${randomBytes(8).toString("hex")}${ENDINGS[format]}`);
    this.coming.add(key);
    try {
      await mkdir(this.folder, { recursive: true, mode: 0o700 });
      if (!(await make(work, target))) {
        control?.commit();
        await rename(work, target);
      }
      await syncFolder(this.folder);
      return this.rowOf({ name: wanted, path: target, format });
    } finally {
      this.coming.delete(key);
      await rm(work, { force: true });
    }
  }

  private rowOf({ name, path, format }: LibraryFile): LibraryImage {
    const [facts] = imageInfo(path, format);
    return { name, path, format, virtualSize: facts?.virtualSize ?? 0 };
  }

  /** An empty image. @throws MachineError, DiskError */
  create(name: string, size: number, format: Format): Promise<LibraryImage> {
    return this.add(name, format, async (work) => {
      await (format === "raw" ? createRaw(work, size) : createQcow2(work, { size }));
      return false;
    });
  }

  /** A copy with what a guest sees of an image. @throws MachineError, DiskError */
  convert(
    source: { readonly path: string; readonly format: Format },
    name: string,
    format: Format,
    control: OperationControl,
  ): Promise<LibraryImage> {
    const make = (work: string) => this.copy(source.path, source.format, work, format, control);
    return this.add(name, format, make, { control });
  }

  private async copy(
    source: string,
    sourceFormat: SourceFormat,
    work: string,
    format: Format,
    control: OperationControl,
  ): Promise<false> {
    const { blocks } = await stat(source);
    await wantSpace(this.paths.tmp, blocks * 512, `the copy of ${source}`);
    await convertImage(source, work, format, {
      sourceFormat,
      signal: control.signal,
      progress: ({ done, total }) => control.step("copying the image", done, total),
    });
    return false;
  }

  /**
   * Takes a user's image in.
   * @throws MachineError, DiskError; the file is where it was then, unless it was uploaded: whoever sent it has the original
   */
  async import(wish: ImportWish, control: OperationControl): Promise<LibraryImage> {
    try {
      return await this.importFile(wish, control);
    } finally {
      if (wish.move && dirname(wish.path) === this.paths.tmp) await rm(wish.path, { force: true });
    }
  }

  private async importFile({ path, name, move, format }: ImportWish, control: OperationControl): Promise<LibraryImage> {
    const source = await this.importable(path);
    control.step("looking at the image");
    const foreign = format === "vhd" || (format === undefined && isVhdFile(source));
    const [own, next] = foreign ? [] : imageInfo(source, format);
    if (next !== undefined) {
      const what = `${source} is an overlay over ${next.path}, which would not come with it`;
      throw new MachineError("unsupported", what, `flatten it first: domlab image convert ${source} whole.qcow2`);
    }
    const kept: Format = own?.format ?? "qcow2";
    const make = async (work: string, target: string): Promise<boolean> => {
      if (move && own !== undefined && (await this.take(source, kept, target, control))) return true;
      return await this.copy(source, own?.format ?? "vhd", work, kept, control);
    };
    const image = await this.add(name ?? (await this.freeName(path)), kept, make, { control });
    // Only when the copy is safe.
    if (move) await rm(source, { force: true });
    return image;
  }

  /** The file that is meant, if it is the user's to give away. @throws MachineError, the system's error */
  private async importable(path: string): Promise<string> {
    const source = await realpath(path);
    const file = await lstat(source);
    if (!file.isFile()) throw new MachineError("unsupported", `${path} is no file`, "name an image file");
    const home = this.paths.folder;
    const given = [this.paths.tmp, join(home, "detached")];
    if (source.startsWith(home + sep) && !given.includes(dirname(source))) {
      throw new MachineError("unsupported", `${path} belongs to the lab`, "convert it, or clone its machine");
    }
    return source;
  }

  /**
   * Names the file itself so. @returns false when it lies on another file system @throws DiskError while it is in use
   */
  private async take(source: string, format: Format, target: string, control: OperationControl): Promise<boolean> {
    openChain(source, true, format).close();
    await recover(source, format);
    if (control.signal.aborted) control.commit();
    try {
      await link(source, target);
    } catch (error) {
      if (["EXDEV", "EPERM", "EMLINK", "ENOTSUP", "EOPNOTSUPP"].includes(errnoOf(error) ?? "")) return false;
      throw error;
    }
    return true;
  }

  /** Gives an image that nobody uses another name: overlays would name it by its old one. @throws MachineError */
  async rename(file: LibraryFile, name: string): Promise<LibraryImage> {
    if (name === file.name) return this.rowOf(file);
    const move = async (_: string, target: string) => {
      await rename(file.path, target);
      return true;
    };
    return await this.add(name, file.format, move, { own: file.name });
  }

  /** Puts an image aside that nobody uses. @throws MachineError */
  async delete(file: LibraryFile): Promise<TrashFile> {
    await mkdir(this.trash, { recursive: true, mode: 0o700 });
    const deleted = `${Date.now()}-${basename(file.path)}`;
    await rename(file.path, join(this.trash, deleted));
    await syncFolder(this.folder);
    return { ...file, path: join(this.trash, deleted), deleted, date: new Date() };
  }

  /** The deleted images, the last one first. */
  async listDeleted(): Promise<TrashFile[]> {
    const found: TrashFile[] = [];
    for (const deleted of await readdir(this.trash).catch(() => [])) {
      const [, time = "", original = ""] = /^(\d{1,15})-(.+)$/.exec(deleted) ?? [];
      const file = fileOf(this.folder, original);
      if (file !== undefined) {
        found.push({ ...file, path: join(this.trash, deleted), deleted, date: new Date(Number(time)) });
      }
    }
    return found.sort((a, b) => b.date.getTime() - a.date.getTime());
  }

  /** @throws MachineError */
  private async findDeleted(deleted: string): Promise<TrashFile> {
    const found = (await this.listDeleted()).find((file) => file.deleted === deleted);
    if (found !== undefined) return found;
    const remedy = "it may have been purged; import it again";
    throw new MachineError("failed", `there is no deleted image ${deleted}`, remedy);
  }

  /** Brings a deleted image back, under another name when its own is taken. @throws MachineError */
  async undelete(deleted: string): Promise<LibraryImage> {
    const found = await this.findDeleted(deleted);
    return await this.add(await this.freeName(found.name), found.format, async (_, target) => {
      await rename(found.path, target);
      return true;
    });
  }

  /** Removes for good what was deleted more than so many days ago. @returns how many images that were */
  async purge(days: number, now = Date.now()): Promise<number> {
    const old = (await this.listDeleted()).filter(({ date }) => date.getTime() + days * 86_400_000 <= now);
    for (const { path } of old) await rm(path, { force: true });
    return old.length;
  }

  /** Removes a deleted image for good. @throws MachineError */
  async purgeOne(deleted: string): Promise<void> {
    await rm((await this.findDeleted(deleted)).path, { force: true });
    await syncFolder(this.trash);
  }

  /** Whether a file is an image of the library, by its path. */
  has(path: string): boolean {
    return dirname(path) === this.folder;
  }

  /** What a new disk is made from. @throws MachineError, DiskError for one that cannot be read */
  async base(name: string): Promise<LibraryFile> {
    const file = await this.find(name);
    followChain(file.path, file.format);
    return file;
  }
}
