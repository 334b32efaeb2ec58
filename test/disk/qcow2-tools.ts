/** What the tests of qcow2 share: qemu-img, a model of a disk, random operations on both. */
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { onTestFinished } from "vitest";
import type { StoreFailure } from "../../engine/device/block/store.ts";
import { type HostIo, hostIo } from "../../engine/disk/host-io.ts";
import { openQcow2Store, type Qcow2Store } from "../../engine/disk/qcow2/store.ts";
import type { ImageLayer, Qcow2Spec } from "../../engine/disk/spec.ts";
import { discard, flush, memoryOf, scatterOf, transfer } from "./helpers.ts";

export const hasQemuImg = spawnSync("qemu-img", ["--version"]).status === 0;

export function qemuImg(...words: string[]): string {
  return execFileSync("qemu-img", words, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

export interface CheckResult {
  readonly status: number | null;
  readonly leaks: number;
  readonly errors: number;
  readonly output: string;
}

/** Runs qemu-img check; its counts. */
export function check(path: string): CheckResult {
  const run = spawnSync("qemu-img", ["check", "--output=json", "-f", "qcow2", path], { encoding: "utf8" });
  const output = run.stdout + run.stderr;
  const number = (name: string): number => Number(new RegExp(`"${name}": (\\d+)`).exec(run.stdout)?.[1] ?? 0);
  return {
    status: run.status,
    leaks: number("leaks"),
    errors: number("corruptions") + number("check-errors"),
    output,
  };
}

/** What a guest would read, by qemu-img's word. */
export function contents(path: string): Buffer {
  const raw = `${path}.raw`;
  qemuImg("convert", "-f", "qcow2", "-O", "raw", path, raw);
  return readFileSync(raw);
}

export function specOf(path: string, backing: readonly ImageLayer[] = [], readOnly = false): Qcow2Spec {
  return { kind: "qcow2", path, readOnly, backing: [...backing] };
}

export type TestStore = Qcow2Store & { readonly lines: string[] };

/** Nothing here pulls the plug, so waiting for the host's disk would show nothing. */
export const unsyncedIo: HostIo = { ...hostIo(), flush: () => 0 };

export function openedStore(spec: Qcow2Spec, io: HostIo = unsyncedIo): TestStore {
  const lines: string[] = [];
  const store = openQcow2Store(spec, (line) => lines.push(line), io);
  onTestFinished(() => store.close());
  return Object.assign(store, { lines });
}

/** The same numbers for the same seed (mulberry32). */
export function randomNumbers(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

const MEMORY = 8 << 20;
const memory = memoryOf(MEMORY);

/** Bytes of a store, through scattered pieces. */
export async function readStore(store: Qcow2Store, offset: number, length: number): Promise<Buffer | StoreFailure> {
  const parts: Buffer[] = [];
  for (let done = 0; done < length; ) {
    const part = Math.min(MEMORY, length - done);
    memory.bytes.fill(0xee, 0, part);
    const failure = await transfer(store, "read", offset + done, scatterOf(memory, pieces(part)));
    if (failure) return failure;
    parts.push(Buffer.from(gather(part)));
    done += part;
  }
  return Buffer.concat(parts);
}

/** Cuts a length into pieces whose order in memory is not their order in the request. */
function pieces(length: number): (readonly [number, number])[] {
  if (length < 1536) return [[0, length]];
  const first = 512 * Math.max(1, Math.floor(length / 1536));
  return [
    [length - first, first],
    [0, length - first],
  ];
}

function gather(length: number): Buffer {
  return Buffer.concat(pieces(length).map(([at, size]) => memory.bytes.slice(at, at + size)));
}

export function writeStore(store: Qcow2Store, offset: number, bytes: Uint8Array): Promise<StoreFailure | undefined> {
  let done = 0;
  for (const [at, size] of pieces(bytes.length)) {
    memory.bytes.set(bytes.subarray(done, done + size), at);
    done += size;
  }
  return transfer(store, "write", offset, scatterOf(memory, pieces(bytes.length)));
}

/** A disk as plain bytes. After a discard a range may hold anything until it is read. */
export class Model {
  bytes: Buffer;
  readonly clusterSize: number;

  constructor(bytes: Buffer, clusterSize: number) {
    this.bytes = Buffer.from(bytes);
    this.clusterSize = clusterSize;
  }

  /** Zeroes the whole clusters of a range, as a discard does. */
  discard(offset: number, length: number): void {
    const start = Math.ceil(offset / this.clusterSize) * this.clusterSize;
    const end = offset + length;
    const stop = end >= this.bytes.length ? end : end - (end % this.clusterSize);
    if (stop > start) this.bytes.fill(0, start, stop);
  }
}

/** One random operation on both; throws when the store fails. */
export async function step(store: Qcow2Store, model: Model, random: (below: number) => number): Promise<void> {
  const sectors = model.bytes.length / 512;
  const offset = random(sectors) * 512;
  const most = Math.min(sectors - offset / 512, random(4) === 0 ? 4096 : 64);
  const length = 512 * (1 + random(most));
  const choice = random(10);
  let failure: StoreFailure | undefined;
  if (choice < 6) {
    const bytes = Buffer.alloc(length);
    for (let at = 0; at < length; at += 512) bytes.fill(1 + random(255), at, at + 512);
    failure = await writeStore(store, offset, bytes);
    model.bytes.set(bytes, offset);
  } else if (choice < 8) {
    failure = await discard(store, offset, length);
    model.discard(offset, length);
  } else if (choice < 9) {
    failure = await flush(store);
  } else {
    const read = await readStore(store, offset, length);
    if (!Buffer.isBuffer(read)) failure = read;
    else if (!read.equals(model.bytes.subarray(offset, offset + length))) {
      throw new Error(`bytes at ${offset} differ (${length} read)`);
    }
  }
  if (failure) throw new Error(failure.message);
}
