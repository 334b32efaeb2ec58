/**
 * Where the instruction pointer stands: helpers for handlers that must name the running or the following instruction.
 *
 * The interpreter keeps RIP implicit (the record in CUR says where it is); whoever changes control flow or leaves the
 * interpreter makes it exact here. RIP is the offset within CS.
 */
import { CUR, GPR, MODE, MODE_64, R_LENGTH, R_OFFSET, RIP, RIP_MASK, SLOT_CS, SLOT_PAGE } from "./layout";

/** Offset within CS of the instruction whose record is at `ip`. */
export function currentRip(ip: u32): u64 {
  const linear = load<u64>(GPR + SLOT_PAGE) + (load<u16>(ip + R_OFFSET) as u64);
  return (linear - load<u64>(GPR + SLOT_CS)) & load<u64>(RIP_MASK);
}

/** Offset within CS of the instruction behind the one whose record is at `ip`. */
export function nextRip(ip: u32): u64 {
  return (currentRip(ip) + (load<u8>(ip + R_LENGTH) as u64)) & load<u64>(RIP_MASK);
}

/** Continues at offset `rip` of CS: RIP becomes exact. */
export function jumpTo(rip: u64): void {
  store<u64>(RIP, rip);
  store<u32>(CUR, 0);
}

/** Continues behind the instruction at `ip`, with RIP exact. */
export function finish(ip: u32): void {
  jumpTo(nextRip(ip));
}

/** Makes RIP exact at the instruction itself, for exits that the caller completes or turns into a fault. */
export function stayAt(ip: u32): void {
  jumpTo(currentRip(ip));
}

/** Whether the processor runs 64-bit code (not compatibility mode). */
export function in64(): bool {
  return load<u32>(MODE) == MODE_64;
}

/** Whether bits 63…47 of the address are all equal (48-bit linear addresses). */
export function isCanonical(address: u64): bool {
  return ((((address << 16) as i64) >> 16) as u64) == address;
}
