/**
 * The table of domains: which exist, and how another process opens their memory.
 *
 * One shared file that the control plane writes and every domain's process maps. So a process finds a peer's memory without
 * asking anybody: a hypercall that names a domain is answered at once.
 */
import { openSync } from "node:fs";
import { DOMID_FIRST_RESERVED, PAGE_SIZE } from "../abi/xen.ts";
import { type FramePlan, planFrames, WASM_PAGE } from "./frame-plan.ts";
import { posix } from "./posix.ts";

import type { DomId } from "./types.ts";

/** struct { u32 state, generation, ramPages, pathLength; char path[112]; } a domain id */
const ENTRY = 128;
const STATE = 0;
const GENERATION = 4;
const RAM_PAGES = 8;
const PATH_LENGTH = 12;
const PATH = 16;
const LENGTH = Math.ceil((DOMID_FIRST_RESERVED * ENTRY) / WASM_PAGE) * WASM_PAGE;

const STATE_NONE = 0;
const STATE_LIVE = 1;

/** A living domain. */
export interface DirectoryEntry {
  /** Tells a domain from an earlier one with the same number. */
  readonly generation: number;
  readonly plan: FramePlan;
  /** Path of its memory. */
  readonly path: string;
}

export class DomainDirectory {
  /** Path by which other processes open the directory. */
  readonly path: string;
  private readonly words: Int32Array<SharedArrayBuffer>;
  private readonly bytes: Buffer;
  readonly close: () => void;

  private constructor(descriptor: number, path: string, close: () => void) {
    const pages = LENGTH / WASM_PAGE;
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    // A memory made with `shared: true` has a SharedArrayBuffer.
    const buffer = memory.buffer as SharedArrayBuffer;
    posix().mapFixed(posix().addressOf(buffer), LENGTH, descriptor, 0);
    this.path = path;
    this.words = new Int32Array(buffer);
    this.bytes = Buffer.from(buffer);
    this.close = close;
  }

  /** An empty directory; close() frees it. */
  static create(): DomainDirectory {
    const file = posix().createFile(LENGTH);
    return new DomainDirectory(file.descriptor, file.path, file.close);
  }

  /** The directory of another process. */
  static open(path: string): DomainDirectory {
    return new DomainDirectory(openSync(path, "r+"), path, () => {});
  }

  private word(id: number, field: number): number {
    return (id * ENTRY + field) >>> 2;
  }

  /** Enters a domain. @throws RangeError for a path that is too long (a bug: they are ours) */
  add(id: DomId, plan: FramePlan, path: string): void {
    const text = Buffer.from(path);
    if (text.length > ENTRY - PATH) throw new RangeError(`path ${path} does not fit`);
    text.copy(this.bytes, id * ENTRY + PATH);
    Atomics.store(this.words, this.word(id, PATH_LENGTH), text.length);
    Atomics.store(this.words, this.word(id, RAM_PAGES), plan.ramBytes / PAGE_SIZE);
    Atomics.add(this.words, this.word(id, GENERATION), 1);
    Atomics.store(this.words, this.word(id, STATE), STATE_LIVE);
  }

  /** Takes a domain out. Who has its memory mapped keeps it until it notices. */
  remove(id: DomId): void {
    Atomics.store(this.words, this.word(id, STATE), STATE_NONE);
  }

  /** The domain of that number, or undefined. */
  get(id: number): DirectoryEntry | undefined {
    if (!Number.isInteger(id) || id < 0 || id >= DOMID_FIRST_RESERVED) return undefined;
    if (Atomics.load(this.words, this.word(id, STATE)) !== STATE_LIVE) return undefined;
    const generation = Atomics.load(this.words, this.word(id, GENERATION));
    const length = Atomics.load(this.words, this.word(id, PATH_LENGTH));
    const path = this.bytes.toString("latin1", id * ENTRY + PATH, id * ENTRY + PATH + length);
    const ramBytes = Atomics.load(this.words, this.word(id, RAM_PAGES)) * PAGE_SIZE;
    // Its number may have gone to another domain while we read.
    return this.lives(id, generation) ? { generation, plan: planFrames(ramBytes), path } : undefined;
  }

  /** Whether the domain entered with that generation still lives. */
  lives(id: number, generation: number): boolean {
    return (
      Atomics.load(this.words, this.word(id, STATE)) === STATE_LIVE &&
      Atomics.load(this.words, this.word(id, GENERATION)) === generation
    );
  }

  /** Numbers of the living domains, ascending. */
  list(): number[] {
    const ids: number[] = [];
    for (let id = 0; id < DOMID_FIRST_RESERVED; id++) {
      if (Atomics.load(this.words, this.word(id, STATE)) === STATE_LIVE) ids.push(id);
    }
    return ids;
  }
}
