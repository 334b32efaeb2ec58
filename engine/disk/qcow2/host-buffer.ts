/** Memory of our own in the shape that HostIo moves bytes to and from, and what is done with scattered pieces. */
import type { Scatter } from "../../device/block/store.ts";
import type { MemoryView } from "../../device/domain-interface.ts";
import { posix } from "../../memory/posix.ts";

/** `length` zero bytes outside the JavaScript heap: their native address stays. */
export function hostBuffer(length: number): MemoryView {
  const buffer = new SharedArrayBuffer(Math.ceil(length / 8) * 8);
  const native = process.platform === "linux" || process.platform === "darwin";
  return {
    bytes: new Uint8Array(buffer),
    words: new Int32Array(buffer),
    view: new DataView(buffer),
    nativeAddress: native ? posix().addressOf(buffer) : 0n,
  };
}

/** One piece of a memory, to be set anew for each use. */
export class Span implements Scatter {
  memory: MemoryView;
  count = 1;
  readonly addresses = new Float64Array(1);
  readonly lengths = new Uint32Array(1);

  constructor(memory: MemoryView) {
    this.memory = memory;
  }

  set(memory: MemoryView, at: number, length: number): this {
    this.memory = memory;
    this.addresses[0] = at;
    this.lengths[0] = length;
    return this;
  }
}

/** A part of another scatter. Its arrays are reused, and grow when they must. */
export class SubScatter implements Scatter {
  memory: MemoryView;
  count = 0;
  addresses = new Float64Array(64);
  lengths = new Uint32Array(64);

  constructor(memory: MemoryView) {
    this.memory = memory;
  }

  /** Takes bytes [skip, skip + length) of `whole`. */
  cut(whole: Scatter, skip: number, length: number): this {
    this.memory = whole.memory;
    if (this.addresses.length < whole.count) {
      this.addresses = new Float64Array(whole.count * 2);
      this.lengths = new Uint32Array(whole.count * 2);
    }
    let count = 0;
    let rest = length;
    let left = skip;
    for (let i = 0; i < whole.count && rest > 0; i++) {
      const piece = whole.lengths[i]!;
      if (left >= piece) {
        left -= piece;
        continue;
      }
      const taken = Math.min(piece - left, rest);
      this.addresses[count] = whole.addresses[i]! + left;
      this.lengths[count++] = taken;
      rest -= taken;
      left = 0;
    }
    this.count = count;
    return this;
  }
}

export function totalLength(scatter: Scatter): number {
  let length = 0;
  for (let i = 0; i < scatter.count; i++) length += scatter.lengths[i]!;
  return length;
}

/** Zeroes bytes [skip, skip + length) of the pieces, or fills them from `source` when there is one. */
export function fill(scatter: Scatter, skip: number, length: number, source?: Uint8Array): void {
  const { bytes } = scatter.memory;
  let left = skip;
  let done = 0;
  for (let i = 0; i < scatter.count && done < length; i++) {
    const piece = scatter.lengths[i]!;
    if (left >= piece) {
      left -= piece;
      continue;
    }
    const taken = Math.min(piece - left, length - done);
    const at = scatter.addresses[i]! + left;
    if (source) bytes.set(source.subarray(done, done + taken), at);
    else bytes.fill(0, at, at + taken);
    done += taken;
    left = 0;
  }
}
