/**
 * Chains of images: an image, the image behind it that holds what it lacks, and so on. Names of backing images stand in the
 * headers, where whoever could write the file could put any; so only plain paths are followed, formats are what the header says
 * and not what the file looks like, and a chain ends somewhere.
 */
import { closeSync, fstatSync, readSync } from "node:fs";
import { basename, dirname, relative, resolve } from "node:path";
import { oneLine } from "../errors/input-error.ts";
import { DiskError, errnoOf, OR_AS_RAW, unreadable, unsupportedFormat } from "./errors.ts";
import { PROBE_LENGTH, recogniseFormat } from "./format.ts";
import { type ImageLock, lockImage } from "./image.ts";
import { parseHeader, type Qcow2Header, readHeader } from "./qcow2/header.ts";
import type { FileSpec, Qcow2Spec, StoreSpec } from "./spec.ts";
import { openTarget } from "./target.ts";

export type ImageFormat = "raw" | "qcow2";

/** One image of a chain. Sizes in bytes. */
export interface ChainLayer {
  /** Absolute. */
  readonly path: string;
  readonly format: ImageFormat;
  /** Of the disk. */
  readonly size: number;
  /** Of a qcow2 image. */
  readonly header: Qcow2Header | undefined;
}

/** Longest chain, QEMU's limit as well. */
export const MOST_LAYERS = 200;

/** QEMU's rule: a colon before any slash ends the name of a protocol. */
const PROTOCOL = /^[^/]*:/;

/** How messages name a layer: by its place in the chain when it is not the image that was asked for. */
const placeIn = (top: string, depth: number): string => (depth === 0 ? "" : `, layer ${depth} behind ${top},`);

function broken(what: string, remedy: string): DiskError {
  return new DiskError("broken-chain", what, remedy);
}

/**
 * The absolute path of a backing file name as it stands in the header of the image at `path`.
 * @throws DiskError "broken-chain" of names that are no paths ("json:…", "nbd:…")
 */
export function resolveBacking(path: string, name: string): string {
  const plain = name.startsWith("file:") && !name.startsWith("file://") ? name.slice("file:".length) : name;
  if (PROTOCOL.test(plain) || plain.includes("\0") || plain === "") {
    throw broken(
      `the backing image of ${path} is named "${oneLine(plain).slice(0, 80)}", which is no path`,
      "give it a path with domlab image rebase",
    );
  }
  return resolve(dirname(path), plain);
}

/** How the image at `path` is to name `backing`: by its bare name within the same folder, else by its absolute path. */
export function backingName(path: string, backing: string): string {
  const target = resolve(backing);
  const near = relative(dirname(resolve(path)), target);
  if (near !== basename(near) || PROTOCOL.test(near)) return target;
  return near;
}

/** Opens one image and reads what there is to know about it. */
function openLayer(path: string, format: ImageFormat | undefined): { layer: ChainLayer; identity: string } {
  const { descriptor, size } = openTarget({ kind: "file", path, readOnly: true, format: "raw" }, false);
  try {
    const stat = fstatSync(descriptor);
    const identity = `${stat.dev}:${stat.ino}`;
    const known = format ?? probe(descriptor, path);
    if (known === "raw") {
      // The rest of a partial last sector reads as zero, as QEMU has it.
      return { layer: { path, format: known, size: Math.ceil(size / 512) * 512, header: undefined }, identity };
    }
    const header = readHeader(descriptor, path);
    return { layer: { path, format: known, size: header.size, header }, identity };
  } finally {
    closeSync(descriptor);
  }
}

/** The first bytes of a file, up to `length`. @throws DiskError "unreadable-image" */
function readHead(descriptor: number, path: string, length: number): Uint8Array {
  const head = new Uint8Array(length);
  try {
    return head.subarray(0, readSync(descriptor, head, 0, length, 0));
  } catch (error) {
    throw unreadable(path, errnoOf(error), error);
  }
}

function probe(descriptor: number, path: string): ImageFormat {
  const format = recogniseFormat(readHead(descriptor, path, PROBE_LENGTH));
  if (format === "raw" || format === "qcow2") return format;
  throw unsupportedFormat(`${path} is a ${format} image`, OR_AS_RAW, format);
}

/** Says which layer an error is about. */
function inChain(error: unknown, top: string, depth: number): unknown {
  if (!(error instanceof DiskError) || depth === 0) return error;
  if (error.code !== "missing-image") {
    const [what = ""] = error.message.split("; ");
    return new DiskError(error.code, `${what} (layer ${depth} behind ${top})`, error.remedy, error);
  }
  const [what = ""] = error.message.split("; ");
  return new DiskError(
    "missing-image",
    `${what} (layer ${depth} behind ${top})`,
    "put it back, or name another with domlab image rebase",
    error,
  );
}

function backingFormat(layer: ChainLayer, header: Qcow2Header): ImageFormat | undefined {
  const { backingFormat: format } = header;
  if (format === undefined || format === "raw" || format === "qcow2") return format;
  throw unsupportedFormat(`the image behind ${layer.path} is of the format "${oneLine(format).slice(0, 40)}"`);
}

/**
 * The images of a chain, nearest first.
 *
 * Where a header does not say its backing image's format, that is looked up, but a qcow2 image found so must not have a backing
 * image itself: it might be a raw image in which a guest has written a header that names a file of the host.
 * @param format of the first image; without it, it is looked up
 * @throws DiskError "missing-image" and others of a file that cannot be used, with its place; "broken-chain" of loops, of names
 * that are no paths, and of chains that are too long
 */
export function followChain(path: string, format?: ImageFormat): ChainLayer[] {
  const top = resolve(path);
  const layers: ChainLayer[] = [];
  const seen = new Set<string>();
  let next: { path: string; format: ImageFormat | undefined } | undefined = { path: top, format };
  while (next !== undefined) {
    const depth = layers.length;
    if (depth > MOST_LAYERS) {
      throw broken(`more than ${MOST_LAYERS} images lie behind ${top}`, "merge some with domlab image merge");
    }
    const { layer, identity } = layerOf(next, top, depth);
    if (seen.has(identity)) {
      throw broken(
        `${layer.path}${placeIn(top, depth)} is in its own chain already`,
        "mend it with domlab image rebase",
      );
    }
    seen.add(identity);
    layers.push(layer);
    const { header } = layer;
    if (header?.backingFile === undefined) break;
    if (depth > 0 && next.format === undefined) {
      throw broken(
        `the header in front of ${layer.path} does not say its format, and it has a backing image of its own`,
        "say the format with domlab image rebase --backing-format",
      );
    }
    next = { path: resolveBacking(layer.path, header.backingFile), format: backingFormat(layer, header) };
  }
  return layers;
}

function layerOf(next: { path: string; format: ImageFormat | undefined }, top: string, depth: number) {
  try {
    return openLayer(next.path, next.format);
  } catch (error) {
    throw inChain(error, top, depth);
  }
}

export interface ChainOptions {
  readonly readOnly: boolean;
  /** Without it, it is looked up. */
  readonly format?: ImageFormat;
  /** False: the guest is not offered discard. */
  readonly discard?: boolean;
}

/**
 * What a block backend needs to serve the image at `path` with all that lies behind it.
 * @throws DiskError as followChain()
 */
export function chainSpec(path: string, options: ChainOptions): FileSpec | Qcow2Spec {
  const [active, ...backing] = followChain(path, options.format);
  if (active === undefined) throw new Error("a chain has at least one image");
  const common = {
    path: active.path,
    readOnly: options.readOnly,
    ...(options.discard !== undefined && { discard: options.discard }),
  };
  if (active.format === "raw") return { kind: "file", ...common, format: "raw" };
  const layers = backing.map((layer) => ({ path: layer.path, format: layer.format }));
  return { kind: "qcow2", ...common, backing: layers };
}

/** The locks of all images of a chain, held until release() or until the process ends. */
export interface ChainLock<Spec extends FileSpec | Qcow2Spec = FileSpec | Qcow2Spec> {
  /**
   * The spec with the open files in it (openPath), so that another process serves these and no others, whatever is renamed.
   * On hosts without /proc it is the one that was given.
   */
  readonly spec: Spec;
  /** Of the first image. */
  readonly descriptor: number;
  /** Of all images, nearest first. */
  readonly locks: readonly ImageLock[];
  release(): void;
}

/** Bytes of an image that hold its header and its backing image's name. */
const HEADER_BYTES = 2 << 20;

/** Whether the images that were locked still name each other as the spec has it: they were followed before. */
function verify(spec: Qcow2Spec, locks: readonly ImageLock[]): void {
  const layers = [{ path: spec.path, format: "qcow2" as ImageFormat }, ...spec.backing];
  for (const [depth, layer] of layers.entries()) {
    const lock = locks[depth];
    const expected = layers[depth + 1];
    if (lock === undefined || layer.format === "raw") continue;
    const length = Math.min(HEADER_BYTES, Math.max(1, fstatSync(lock.descriptor).size));
    const { backingFile } = parseHeader(readHead(lock.descriptor, layer.path, length), layer.path);
    const named = backingFile === undefined ? undefined : resolveBacking(layer.path, backingFile);
    if (named !== expected?.path) {
      throw broken(`${layer.path} has another backing image than a moment ago`, "try again");
    }
  }
}

function withOpenPath<Layer extends { readonly path: string }>(layer: Layer, lock: ImageLock | undefined): Layer {
  if (process.platform !== "linux" || lock === undefined) return layer;
  return { ...layer, openPath: `/proc/${process.pid}/fd/${lock.descriptor}` };
}

/**
 * Locks all images of a store: the first exclusively, or shared when it is only read; those behind it shared. QEMU and its
 * tools see the same locks (disk/image.ts).
 * @throws DiskError "image-in-use", and all that opening the files can say
 */
export function lockChain<Spec extends FileSpec | Qcow2Spec>(spec: Spec): ChainLock<Spec> {
  const locks: ImageLock[] = [];
  const release = () => {
    for (const lock of locks.splice(0)) lock.release();
  };
  try {
    if (spec.kind === "file") {
      locks.push(lockImage(spec));
    } else {
      const { path, openPath, readOnly, backing } = spec;
      for (const [depth, layer] of [{ path, openPath }, ...backing].entries()) {
        locks.push(lockLayer(layer, depth > 0 || readOnly, path, depth));
      }
      verify(spec, locks);
    }
  } catch (error) {
    release();
    throw error;
  }
  const held = [...locks];
  const opened = withOpenPath(spec, held[0]);
  const backed =
    opened.kind === "qcow2"
      ? { ...opened, backing: opened.backing.map((layer, index) => withOpenPath(layer, held[index + 1])) }
      : opened;
  return { spec: backed, descriptor: held[0]!.descriptor, locks: held, release };
}

function lockLayer(
  { path, openPath }: { readonly path: string; readonly openPath?: string | undefined },
  readOnly: boolean,
  top: string,
  depth: number,
): ImageLock {
  try {
    return lockImage({ kind: "file", path, format: "raw", readOnly, ...(openPath !== undefined && { openPath }) });
  } catch (error) {
    throw inChain(error, top, depth);
  }
}

/** Checks that a store's images are there, fit together and are free, without keeping anything. @throws DiskError */
export function checkChain(spec: StoreSpec): void {
  if (spec.kind !== "nbd") lockChain(spec).release();
}
