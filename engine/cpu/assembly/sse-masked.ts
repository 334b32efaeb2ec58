/**
 * The byte-masked stores MASKMOVQ and MASKMOVDQU, whose destination is implied: DS (or an override) and rDI.
 * Source: SDM volume 2, MASKMOVDQU.
 */
import { GPR, MODE, MODE_32, MODE_64, PREFIX_ADDR, PREFIX_SEG, R_PREFIX, R_SEG, SCRATCH, SLOT_ES } from "./layout";
import { checkWrite, st8 } from "./mmu";
import { general } from "./sse-common";

const SEGMENT_DS: u32 = 3;
const SEGMENT_FS: u32 = 4;
const RDI: u32 = 7;

/** Linear address of the implied destination. In 64-bit mode only FS and GS have a base. */
export function maskedAddress(ip: u32): u64 {
  const prefix: u32 = load<u8>(ip, R_PREFIX);
  const mode = load<u32>(MODE);
  const segment: u32 = (prefix & PREFIX_SEG) != 0 ? load<u8>(ip, R_SEG) : SEGMENT_DS;
  const other = (prefix & PREFIX_ADDR) != 0;
  let offset = general(RDI);
  if (mode == MODE_64) {
    if (other) offset &= 0xffffffff;
    return segment >= SEGMENT_FS ? offset + load<u64>(GPR + SLOT_ES + (segment << 3)) : offset;
  }
  const narrow = mode == MODE_32 ? other : !other;
  offset &= narrow ? 0xffff : 0xffffffff;
  return (offset + load<u64>(GPR + SLOT_ES + (segment << 3))) & 0xffffffff;
}

/**
 * Stores the bytes of `value` whose bit in `mask` is set. Everything from the first to the last of them is checked
 * first, so that a fault leaves nothing written; an empty mask touches no memory.
 */
export function storeMasked(address: u64, value: v128, mask: u32): void {
  if (mask == 0) return;
  const first = <u32>ctz(mask);
  const last: u32 = 31 - <u32>clz(mask);
  checkWrite(address + first, last - first + 1);
  v128.store(SCRATCH, value);
  for (let i = first; i <= last; i++) {
    if (((mask >> i) & 1) != 0) st8(address + i, load<u8>(SCRATCH + i));
  }
}
