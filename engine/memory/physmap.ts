/** Guest frame → address in the vCPU's linear memory: the table that the CPU's software TLB is filled from. */
import { PAGE_SHIFT, PAGE_SIZE } from "../abi/xen.ts";
import { CONSOLE_GFN, XENSTORE_GFN } from "./frame-plan.ts";
import type { Mapping } from "./guest-memory.ts";
import { type FileOffset, fileOffset, type Gfn, gfn } from "./types.ts";

/** Bit 0 of an entry: the guest may not write the frame. */
const READ_ONLY = 1;
/** An entry that is no address: the device page. */
const DEVICE = 2;

export interface PhysmapEntry {
  readonly offset: FileOffset;
  readonly readOnly: boolean;
}

export class Physmap {
  readonly frames: number;
  private readonly table: Uint32Array;
  private readonly base: number;
  private readonly length: number;

  /** `table` is the byte address of the table in the mapping's linear memory, `frames` its number of u32 entries. */
  constructor(mapping: Mapping, table: number, frames: number) {
    this.frames = frames;
    this.table = new Uint32Array(mapping.bytes.buffer, table, frames);
    this.base = mapping.base;
    this.length = mapping.plan.length;
  }

  /** Maps RAM one to one from guest frame 0 and the two toolstack pages at their fixed frames. */
  mapInitial(plan: Mapping["plan"]): void {
    for (let frame = 0; frame < plan.ramBytes >>> PAGE_SHIFT; frame++) {
      this.map(gfn(frame), fileOffset(frame * PAGE_SIZE));
    }
    this.map(XENSTORE_GFN, plan.xenstore);
    this.map(CONSOLE_GFN, plan.console);
  }

  /** True for a frame number that the table has room for. */
  covers(frame: number): boolean {
    return Number.isInteger(frame) && frame >= 0 && frame < this.frames;
  }

  /** @throws RangeError outside the table or the file (a bug: guest values are checked with covers()) */
  map(frame: Gfn, offset: FileOffset, readOnly = false): void {
    if (!this.covers(frame) || offset < 0 || offset >= this.length) {
      throw new RangeError(`cannot map guest frame ${frame} at ${offset}`);
    }
    this.table[frame] = (this.base + offset) | (readOnly ? READ_ONLY : 0);
  }

  /** Marks the frame whose accesses the vCPU's device page answers. */
  mapDevice(frame: Gfn): void {
    if (!this.covers(frame)) throw new RangeError(`no guest frame ${frame}`);
    this.table[frame] = DEVICE;
  }

  unmap(frame: Gfn): void {
    if (this.covers(frame)) this.table[frame] = 0;
  }

  /** What lies at a guest frame, or undefined. */
  get(frame: number): PhysmapEntry | undefined {
    const entry = this.covers(frame) ? this.table[frame] : 0;
    if (entry === undefined || entry === 0 || entry === DEVICE) return undefined;
    const readOnly = (entry & READ_ONLY) !== 0;
    return { offset: fileOffset(entry - (readOnly ? READ_ONLY : 0) - this.base), readOnly };
  }
}
