/** Images as the tools open them: locked, with everything behind them, and ready to be read as one disk or changed. */
import { fstatSync } from "node:fs";
import { type ChainLayer, type ChainLock, followChain, type ImageFormat, lockChain } from "../chain.ts";
import { DiskError } from "../errors.ts";
import { lockImage } from "../image.ts";
import { EXTENSION } from "../qcow2/header.ts";
import { Qcow2Editor } from "./editor.ts";
import { ImageFile, type Task } from "./files.ts";
import { ChainReader, Qcow2Layer, RawLayer } from "./reader.ts";
import { repairFile } from "./repair.ts";
import { Scan } from "./scan.ts";
import { hasJournal, recoverSession } from "./session-recovery.ts";

/** An open, locked chain. */
export interface OpenChain {
  readonly layers: readonly ChainLayer[];
  readonly files: readonly ImageFile[];
  close(): void;
}

/** Why an image may not be changed that can be read all the same. */
const LEFT_AS_IT_IS: ReadonlySet<string> = new Set(["image-in-use", "no-permission", "read-only-image"]);

/** A chain's images as layers to read. @param from the first of them, counted from the active image */
export function readerOf(chain: OpenChain, from = 0): ChainReader {
  const layers = chain.layers.slice(from).map((layer, index) => {
    const file = chain.files[from + index]!;
    return layer.format === "raw" ? new RawLayer(file, layer.size) : Qcow2Layer.of(file);
  });
  return new ChainReader(layers);
}

/** Enters the journal that a killed block store has left. @throws DiskError */
function recoverLayer(path: string): void {
  const { file, close } = openFile(path, true);
  try {
    recoverSession(file);
  } finally {
    close();
  }
}

/**
 * The chain, once the journals are entered that a killed block store has left. An image that is only to be read may be in use,
 * as the layer below a running machine's is: it stays as it is, and its journal is read with it. Whether somebody writes it is
 * found out by its lock.
 * @throws DiskError
 */
function recoveredChain(path: string, writable: boolean, format: ImageFormat | undefined): ChainLayer[] {
  const layers = followChain(path, format);
  const pending = layers.filter(({ header }) => header !== undefined && hasJournal(header));
  for (const layer of pending) {
    try {
      recoverLayer(layer.path);
    } catch (error) {
      const isRead = !writable || layer !== layers[0];
      if (!isRead || !(error instanceof DiskError) || !LEFT_AS_IT_IS.has(error.code)) throw error;
    }
  }
  return pending.length === 0 ? layers : followChain(path, format);
}

/**
 * Opens and locks an image with all behind it.
 * @param writable the first one exclusively; the others are only read
 * @throws DiskError
 */
export function openChain(path: string, writable: boolean, format?: ImageFormat): OpenChain {
  const layers = recoveredChain(path, writable, format);
  const [active, ...backing] = layers;
  if (active === undefined) throw new Error("a chain has at least one image");
  const spec =
    active.format === "raw"
      ? ({ kind: "file", path: active.path, readOnly: !writable, format: "raw" } as const)
      : ({ kind: "qcow2", path: active.path, readOnly: !writable, backing: [...backing] } as const);
  const lock: ChainLock =
    spec.kind === "file"
      ? lockChain(spec)
      : lockChain({ ...spec, backing: backing.map((layer) => ({ path: layer.path, format: layer.format })) });
  return { layers, files: filesOf(lock), close: () => lock.release() };
}

function filesOf(lock: ChainLock): ImageFile[] {
  return lock.locks.map(({ path, descriptor }) => new ImageFile(path, descriptor));
}

/** Opens and locks one image, whatever lies behind it. `close` releases it. @throws DiskError */
export function openFile(path: string, writable: boolean): { readonly file: ImageFile; close(): void } {
  const lock = lockImage({ kind: "file", path, format: "raw", readOnly: !writable });
  return { file: new ImageFile(path, lock.descriptor), close: () => lock.release() };
}

/** Refuses qcow2 on block devices: the tools learn an image's end from its file's. */
export function requireFile(file: ImageFile): void {
  if (fstatSync(file.descriptor).isFile()) return;
  throw new DiskError("not-a-disk", `${file.path} is a block device`, "name an image that is a file");
}

/**
 * An editor for an image that was opened for writing. What an earlier operation left when it was killed is taken back first.
 * @throws DiskError when the image is damaged
 */
export async function editorOf(file: ImageFile, task: Task): Promise<Qcow2Editor> {
  requireFile(file);
  const quiet: Task = task.signal ? { signal: task.signal } : {};
  let scan = await new Scan(file).run(quiet);
  if (scan.leaks > 0 || (scan.dirty && !scan.corrupt)) {
    await repairFile(file, "leaks", quiet);
    scan = await new Scan(file).run(quiet);
  }
  if (scan.errors > 0 || scan.corrupt) {
    throw new DiskError(
      "unusable-image",
      `qcow2 image ${file.path} is damaged (${scan.errors} errors)`,
      "mend it with domlab image repair",
    );
  }
  const editor = new Qcow2Editor(file, scan);
  if (!(await dropAutoclear(editor))) return editor;
  await repairFile(file, "leaks", quiet);
  return new Qcow2Editor(file, await new Scan(file).run(quiet));
}

/**
 * Bits of features that we do not keep up, such as dirty bitmaps, are cleared by who writes (qcow2.txt, autoclear_features).
 * @returns whether that has left leaks
 */
async function dropAutoclear(editor: Qcow2Editor): Promise<boolean> {
  const { autoclear, extensions } = editor.header;
  if (autoclear.high === 0 && autoclear.low === 0) return false;
  await editor.setHeader({
    autoclear: { high: 0, low: 0 },
    extensions: extensions.filter(({ type }) => type !== EXTENSION.bitmaps),
  });
  return true;
}

/** Runs a change; when it fails, takes back the space that it had reserved, and lets the error through. */
export async function changing<Result>(file: ImageFile, action: () => Promise<Result>): Promise<Result> {
  try {
    return await action();
  } catch (error) {
    try {
      await repairFile(file, "leaks");
    } catch {
      // The first error says what is wrong; leaks harm nothing and are taken back the next time.
    }
    throw error;
  }
}
