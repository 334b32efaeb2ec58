/**
 * Copies between the hypervisor and guest virtual memory. The guest's other vCPUs and its peers write while we read:
 * whatever is checked is checked in the private copy made here (XSA-155).
 */
import type { Fields, Struct, StructValue } from "../abi/struct.ts";
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

  /** Writes all of `data`, or nothing and false where any page of the range cannot be written. */
  write(linear: bigint, data: Uint8Array): boolean {
    if (!this.walk(linear, data.length, true, () => {})) return false;
    return this.walk(linear, data.length, true, (address, done, size) => {
      this.bytes.set(data.subarray(done, done + size), address);
    });
  }

  readStruct<F extends Fields>(linear: bigint, struct: Struct<F>): StructValue<F> | undefined {
    const copy = this.read(linear, struct.size);
    return copy && struct.read(new DataView(copy.buffer));
  }

  writeStruct<F extends Fields>(linear: bigint, struct: Struct<F>, value: Partial<StructValue<F>>): boolean {
    return this.write(linear, struct.encode(value));
  }

  /** `count` unsigned 64-bit values. */
  readU64s(linear: bigint, count: number): BigUint64Array | undefined {
    const copy = this.read(linear, count * 8);
    return copy && new BigUint64Array(copy.buffer);
  }
}
