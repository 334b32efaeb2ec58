/**
 * Moving data up a chain: what an image lacks is copied into it from the images behind it, which are then no longer needed. At
 * every moment of it the image shows the same content; a process that is killed leaves an image that can be used, and the
 * operation can be started again.
 */
import { backingName, type ImageFormat } from "../chain.ts";
import { DiskError } from "../errors.ts";
import { wholeClusters } from "./convert.ts";
import { longName } from "./create.ts";
import type { Qcow2Editor } from "./editor.ts";
import { isZero, step, type Task } from "./files.ts";
import { changing, editorOf, type OpenChain, openChain, readerOf } from "./open.ts";
import { ChainReader } from "./reader.ts";

/** Bytes moved between two looks at the cancel signal; a multiple of every cluster size. */
const CHUNK = 2 << 20;
/** Bytes copied before they become part of the image, with two waits for the disk. */
const BATCH = 64 << 20;

export interface MergeReport {
  /** Bytes of the disk that were copied, zeros among them. */
  readonly copied: number;
  /** What lies behind the image now. */
  readonly backing: string | undefined;
}

/** The layers that are pulled up, and what remains behind them. */
interface Plan {
  readonly editor: Qcow2Editor;
  /** Of the image itself, without anything behind it. */
  readonly own: ChainReader;
  readonly pulled: ChainReader;
  /** All that lies behind the image: a cluster that is copied may hold parts that the pulled layers lack. */
  readonly behind: ChainReader;
  /** Bytes of the disk that will lie behind; undefined when nothing does. */
  readonly belowSize: number | undefined;
}

/** From `from` on, the next stretch of the disk that would look different without the pulled layers. */
function nextWanted(plan: Plan, from: number, end: number): { start: number; end: number } | undefined {
  const { pulled, belowSize } = plan;
  for (let at = from; at < end; ) {
    const { segment } = pulled.segment(at, end);
    const stop = at + segment.length;
    // What reads as zero anyway when the layers are gone needs no entry.
    const zeroBelow = belowSize === undefined || at >= belowSize;
    if (segment.kind !== "absent" && !(segment.kind === "zero" && zeroBelow)) return { start: at, end: stop };
    at = stop;
  }
  return undefined;
}

async function copyStretch(plan: Plan, start: number, end: number): Promise<void> {
  const { editor, behind } = plan;
  const { clusterSize } = editor;
  const bytes = new Uint8Array(end - start);
  await behind.read(start, bytes);
  const whole = wholeClusters(bytes, clusterSize);
  const first = start / clusterSize;
  let run = -1;
  const writeRun = async (stop: number) => {
    if (run >= 0) await editor.putData(first + run, whole.subarray(run * clusterSize, stop * clusterSize));
    run = -1;
  };
  const count = whole.length / clusterSize;
  for (let n = 0; n < count; n++) {
    const zero = isZero(whole.subarray(n * clusterSize, (n + 1) * clusterSize));
    if (!zero && run < 0) run = n;
    if (!zero) continue;
    await writeRun(n);
    await editor.putZero(first + n);
  }
  await writeRun(count);
}

/** Copies everything that is wanted. @returns bytes */
async function pull(plan: Plan, task: Task): Promise<number> {
  const { editor, own } = plan;
  const { clusterSize } = editor;
  const { size } = editor.header;
  let copied = 0;
  let unflushed = 0;
  for (let at = 0; at < size; ) {
    await step(task, at, size);
    const { segment } = own.segment(at, size);
    const stop = at + segment.length;
    if (segment.kind !== "absent") {
      at = stop;
      continue;
    }
    const wanted = nextWanted(plan, at, stop);
    if (wanted === undefined) {
      at = stop;
      continue;
    }
    const start = Math.max(at, wanted.start - (wanted.start % clusterSize));
    const end = Math.min(stop, start + CHUNK, Math.ceil(wanted.end / clusterSize) * clusterSize);
    await copyStretch(plan, start, end);
    at = end;
    copied += end - start;
    unflushed += end - start;
    if (unflushed < BATCH) continue;
    unflushed = 0;
    await editor.flush();
  }
  await editor.flush();
  return copied;
}

/** Copies what the image lacks from `depth` layers behind it, and puts it in front of the next one. */
async function pullLayers(chain: OpenChain, depth: number, task: Task): Promise<MergeReport> {
  const [file] = chain.files;
  const [top] = chain.layers;
  if (file === undefined || top === undefined) throw new Error("a chain has at least one image");
  return await changing(file, async () => {
    const editor = await editorOf(file, task);
    const behind = readerOf(chain, 1);
    const below = chain.layers[1 + depth];
    const plan: Plan = {
      editor,
      own: readerOf({ ...chain, layers: [top] }),
      pulled: new ChainReader(behind.layers.slice(0, depth)),
      behind,
      belowSize: below?.size,
    };
    const name = below === undefined ? undefined : backingName(top.path, below.path);
    const copied = await pull(plan, task);
    if (!(await editor.setHeader({ backingFile: name, backingFormat: below?.format }))) throw longName(top.path);
    await step(task, editor.header.size, editor.header.size);
    return { copied, backing: below?.path };
  });
}

function requireBacking(chain: OpenChain, path: string): void {
  if (chain.layers.length > 1) return;
  throw new DiskError("broken-chain", `${path} has no image behind it`, "there is nothing to merge");
}

async function onChain(
  path: string,
  format: ImageFormat | undefined,
  action: (chain: OpenChain) => Promise<MergeReport>,
): Promise<MergeReport> {
  const chain = openChain(path, true, format);
  try {
    requireBacking(chain, path);
    return await action(chain);
  } finally {
    chain.close();
  }
}

/**
 * Merges the image behind `path` into it: what `path` lacks is copied, and it is put in front of what the other was in front
 * of. The other image is not changed, and not deleted. Needs `path` for itself.
 * @throws DiskError "broken-chain" when there is nothing behind it; "image-in-use", "no-space", "cancelled": content unchanged
 */
export async function pullInto(path: string, task: Task = {}): Promise<MergeReport> {
  return await onChain(path, "qcow2", async (chain) => await pullLayers(chain, 1, task));
}

/** Copies all that lies behind `path` into it; it stands alone then. @throws DiskError as pullInto() */
export async function flatten(path: string, task: Task = {}): Promise<MergeReport> {
  return await onChain(path, "qcow2", async (chain) => await pullLayers(chain, chain.layers.length - 1, task));
}
