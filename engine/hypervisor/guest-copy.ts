/**
 * Copies between the hypervisor and guest virtual memory. The guest's other vCPUs and its peers write while we read:
 * whatever is checked is checked in the private copy made here (XSA-155).
 */
import type { Fields, Layout, Struct, StructValue } from "../abi/struct.ts";
import { PAGE_SIZE } from "../abi/xen.ts";
import type { GuestCpu } from "./guest-cpu.ts";

const PAGE_MASK = BigInt(PAGE_SIZE - 1);

export class GuestCopy {
  private readonly cpu: GuestCpu;
  private readonly bytes: Uint8Array;

  constructor(cpu: GuestCpu) {
    this.cpu = cpu;
    this.bytes = new Uint8Array(cpu.memory.buffer);
  }

  /** Calls `visit` for each contiguous piece; false when a page is not there (earlier pieces were visited). */
  private walk(
    linear: bigint,
    length: number,
    write: boolean,
    visit: (address: number, done: number, size: number) => void,
  ): boolean {
    let done = 0;
    while (done < length) {
      const at = BigInt.asUintN(64, linear + BigInt(done));
      const size = Math.min(length - done, PAGE_SIZE - Number(at & PAGE_MASK));
      const address = this.cpu.translate(at, write);
      if (address === 0) return false;
      visit(address >>> 0, done, size);
      done += size;
    }
    return true;
  }

  /** A private copy of guest bytes, or undefined where the pointer is bad. */
  read(linear: bigint, length: number): Uint8Array<ArrayBuffer> | undefined {
    const copy = new Uint8Array(length);
    const complete = this.walk(linear, length, false, (address, done, size) => {
      copy.set(this.bytes.subarray(address, address + size), done);
    });
    return complete ? copy : undefined;
  }

  /** Whether every page of a range can be written. */
  writable(linear: bigint, length: number): boolean {
    return this.walk(linear, length, true, () => {});
  }

  /** Writes all of `data`, or nothing and false where any page of the range cannot be written. */
  write(linear: bigint, data: Uint8Array): boolean {
    if (!this.writable(linear, data.length)) return false;
    return this.walk(linear, data.length, true, (address, done, size) => {
      this.bytes.set(data.subarray(done, done + size), address);
    });
  }

  /** Whether the caller of the hypercall runs 32-bit code: then its structures have their 32-bit layout. */
  get narrow(): boolean {
    return !this.cpu.longMode;
  }

  /** A struct's layout in the caller's mode. */
  layout<F extends Fields>(struct: Struct<F>): Layout<F> {
    return this.narrow ? struct.compat : struct;
  }

  readStruct<F extends Fields>(linear: bigint, struct: Struct<F>): StructValue<F> | undefined {
    const layout = this.layout(struct);
    const copy = this.read(linear, layout.size);
    return copy && layout.read(new DataView(copy.buffer));
  }

  writeStruct<F extends Fields>(linear: bigint, struct: Struct<F>, value: Partial<StructValue<F>>): boolean {
    return this.write(linear, this.layout(struct).encode(value));
  }

  /** Bytes of an unsigned long (and of xen_pfn_t) in the caller's mode. */
  get longSize(): number {
    return this.narrow ? 4 : 8;
  }

  /** Elements first, first + 1, … of an array of unsigned longs. */
  readLongs(linear: bigint, first: number, count: number): number[] | undefined {
    const copy = this.read(linear + BigInt(first * this.longSize), count * this.longSize);
    if (copy === undefined) return undefined;
    return this.narrow ? [...new Uint32Array(copy.buffer)] : Array.from(new BigUint64Array(copy.buffer), Number);
  }

  /** Writes an array of unsigned longs; all ones in 32 bits where a value does not fit. */
  writeLongs(linear: bigint, values: readonly bigint[]): boolean {
    const array = this.narrow
      ? Uint32Array.from(values, (value) => Number(value > 0xffffffffn ? 0xffffffffn : value))
      : BigUint64Array.from(values);
    return this.write(linear, new Uint8Array(array.buffer));
  }
}
