/** Operand addressing of records. */
import { OP_ADDRESS } from "./generated/opcodes";
import { GPR, MODE, MODE_64, R_A, R_BASE, R_DISP, R_IMM, R_INDEX, R_OP, R_SCALE, SLOT_TEMP } from "./layout";

/** Linear address of the record's memory operand. */
export function ea(ip: u32): u64 {
  return (
    load<u64>(load<u8>(ip, R_BASE), GPR) +
    (load<u64>(load<u8>(ip, R_INDEX), GPR) << (<u64>load<u8>(ip, R_SCALE))) +
    <u64>(<i64>load<i32>(ip, R_DISP))
  );
}

/** Repeats the micro-operation at record `micro` that leaves its address in SLOT_TEMP. */
export function microAddress(micro: u32): void {
  if (<u32>load<u16>(micro, R_OP) == OP_ADDRESS) addressNarrow(micro);
  else store<u64>(GPR + SLOT_TEMP, load<u64>(load<u8>(micro, R_A), GPR) + ea(micro));
}

/**
 * The micro-operation before an instruction whose address does not fit the fast form: address size below 64 bits
 * (R_IMM = mask of the offset), wrapping before the segment base in slot R_A is added. Leaves the linear address in
 * SLOT_TEMP.
 */
export function addressNarrow(ip: u32): void {
  const offset = ea(ip) & <u64>load<u32>(ip, R_IMM);
  const linear = load<u64>(load<u8>(ip, R_A), GPR) + offset;
  store<u64>(GPR + SLOT_TEMP, load<u32>(MODE) == MODE_64 ? linear : <u64>(<u32>linear));
}
