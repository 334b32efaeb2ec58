/** Larger and smaller disks. */

import { dirname } from "node:path";
import type { ImageFormat } from "../chain.ts";
import { DiskError } from "../errors.ts";
import { LIMITS, l1EntriesFor } from "../qcow2/header.ts";
import { checkedSize, setLength } from "./create.ts";
import type { Qcow2Editor } from "./editor.ts";
import { type ImageFile, isZero, step, syncFolder, type Task } from "./files.ts";
import { changing, editorOf, type OpenChain, openChain, readerOf, requireFile } from "./open.ts";
import type { ChainReader } from "./reader.ts";
import { readSnapshots } from "./scan.ts";

const CHUNK = 2 << 20;

export interface ResizeOptions extends Task {
  readonly format?: ImageFormat;
  /** Without it a smaller size is refused. Even with it, only zeros are cut off. */
  readonly shrink?: boolean;
}

/**
 * Gives a disk another size. What is new reads as zero, whatever a backing image has there.
 * @param size bytes, rounded up to sectors
 * @returns bytes before and after
 * @throws DiskError "data-loss" of a smaller size without `shrink`, or when something would be cut off; "bad-size"; "no-space"
 */
export async function resizeImage(
  path: string,
  size: number,
  options: ResizeOptions = {},
): Promise<{ readonly before: number; readonly after: number }> {
  const after = checkedSize(size);
  const chain = openChain(path, true, options.format);
  try {
    const [top] = chain.layers;
    const [file] = chain.files;
    if (top === undefined || file === undefined) throw new Error("a chain has at least one image");
    requireFile(file);
    if (after < top.size) await checkShrink(readerOf(chain), after, options);
    if (after !== top.size) {
      if (top.format === "raw") await resizeRaw(file, after);
      else await changing(file, async () => await resizeQcow2(chain, file, after, options));
    }
    return { before: top.size, after };
  } finally {
    chain.close();
  }
}

async function checkShrink(reader: ChainReader, size: number, options: ResizeOptions): Promise<void> {
  const { path } = reader.layers[0]!;
  if (!options.shrink) {
    throw new DiskError(
      "data-loss",
      `${path} has ${reader.size} bytes, more than the new size`,
      "shrink the file system in it first, then say --shrink",
    );
  }
  for (let at = size; at < reader.size; ) {
    await step(options, at - size, reader.size - size);
    const { segment } = reader.segment(at, Math.min(reader.size, at + CHUNK));
    if (segment.kind === "data" || segment.kind === "compressed") {
      const bytes = new Uint8Array(segment.length);
      await reader.read(at, bytes);
      if (!isZero(bytes)) {
        const found = at + bytes.findIndex((byte) => byte !== 0);
        throw new DiskError(
          "data-loss",
          `${path} has data behind its new end, at ${found}`,
          "shrink the file system in it first, or choose a larger size",
        );
      }
    }
    at += segment.length;
  }
}

async function resizeRaw(file: ImageFile, size: number): Promise<void> {
  setLength(file, size);
  await file.sync();
  syncFolder(dirname(file.path));
}

async function resizeQcow2(chain: OpenChain, file: ImageFile, size: number, options: ResizeOptions): Promise<void> {
  const editor = await editorOf(file, options);
  const { header } = editor;
  checkSnapshots(editor);
  const l1Size = l1EntriesFor(size, header.clusterBits);
  if (l1Size * 8 > LIMITS.l1Table) {
    throw new DiskError(
      "bad-size",
      `a disk of ${size} bytes is too large for clusters of ${header.clusterSize}`,
      "convert it to an image with larger clusters",
    );
  }
  if (size < header.size) await cutOff(editor, size, options);
  else {
    // Entries behind the end may exist already; nobody sees them before the size is there.
    if (l1Size > header.l1Size) await editor.growL1(l1Size, {});
    await clearBehindEnd(chain, editor, size, options);
    await editor.setHeader({ size });
  }
}

function checkSnapshots({ file, header }: Qcow2Editor): void {
  const found = header.snapshotCount === 0 ? undefined : readSnapshots(file, header);
  if (!found?.snapshots.some(({ hasDiskSize }) => !hasDiskSize)) return;
  throw new DiskError(
    "unsupported-format",
    `${file.path} has internal snapshots that do not record the disk's size`,
    "delete them with qemu-img snapshot -d, or convert the image",
  );
}

/** Makes what lies between the old end and the new one zero: of the last cluster, and of what a backing image has there. */
async function clearBehindEnd(chain: OpenChain, editor: Qcow2Editor, size: number, task: Task): Promise<void> {
  const { clusterSize, header } = editor;
  const old = header.size;
  const behind = chain.layers[1]?.size ?? 0;
  const first = Math.floor(old / clusterSize);
  if (old % clusterSize !== 0) await clearTail(chain, editor, first);
  const from = Math.ceil(old / clusterSize);
  // Entries behind the old end, left by whoever made the disk smaller, must not come to light either.
  const end = Math.ceil(size / clusterSize);
  const clustersBehind = Math.min(end, Math.ceil(behind / clusterSize));
  for (let index = from; index < end; index++) {
    if ((index - from) % 65_536 === 0) {
      await step(task, index - from, end - from);
      await editor.flush();
    }
    if (index < clustersBehind) await editor.putZero(index);
    else if (editor.l2(Math.floor(index / editor.entriesPerL2)) === undefined) {
      index += editor.entriesPerL2 - (index % editor.entriesPerL2) - 1;
    } else editor.putAbsent(index);
  }
  await editor.flush();
}

/** The rest of the last cluster, which the old size had hidden. */
async function clearTail(chain: OpenChain, editor: Qcow2Editor, index: number): Promise<void> {
  const { clusterSize, header } = editor;
  const state = editor.state(index);
  if (state.kind === "zero" || (state.kind === "absent" && (chain.layers[1]?.size ?? 0) <= header.size)) return;
  const bytes = new Uint8Array(clusterSize);
  // Behind the disk's size the reader answers with zeros.
  await readerOf(chain).read(index * clusterSize, bytes);
  await editor.putData(index, bytes);
}

/** The size first: then nobody can see what goes. What is cut off holds only zeros. */
async function cutOff(editor: Qcow2Editor, size: number, task: Task): Promise<void> {
  const { clusterSize } = editor;
  const end = editor.clusters;
  await editor.setHeader({ size });
  for (let index = Math.ceil(size / clusterSize); index < end; index++) {
    if (index % 65_536 === 0) await step(task, index, end);
    if (editor.l2(Math.floor(index / editor.entriesPerL2)) === undefined) {
      index += editor.entriesPerL2 - (index % editor.entriesPerL2) - 1;
    } else editor.putAbsent(index);
  }
  await editor.flush();
}
