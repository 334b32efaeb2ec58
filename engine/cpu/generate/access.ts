/** Text of operand accesses in generated AssemblyScript. All values are u64, zero-extended from the operand size. */

/** Operand size as the power of two of its bytes: 0 = 8 bits … 3 = 64 bits. */
export type Size = 0 | 1 | 2 | 3;
export const SIZES: readonly Size[] = [0, 1, 2, 3];

export const bits = (size: Size): number => 8 << size;
/** How far a value is shifted left so that its sign bit becomes bit 63. */
export const shiftOf = (size: Size): number => 64 - bits(size);
export const bytes = (size: Size): number => 1 << size;
export const mask = (size: Size): string => ["0xff", "0xffff", "0xffffffff", "0xffffffffffffffff"][size] ?? "";

const uint = (size: Size): string => `u${bits(size)}`;

/** Value of the register whose slot the record's `field` names. */
export function reg(size: Size, field: string): string {
  return size === 3
    ? `load<u64>(load<u8>(ip, ${field}), GPR)`
    : `<u64>load<${uint(size)}>(load<u8>(ip, ${field}), GPR)`;
}

/** Statement storing `value` (u64) to a register; 32-bit results zero-extend, smaller ones merge. */
export function setReg(size: Size, field: string, value: string): string {
  const slot = `load<u8>(ip, ${field})`;
  if (size === 3) return `store<u64>(${slot}, ${value}, GPR);`;
  if (size === 2) return `store<u64>(${slot}, <u64><u32>(${value}), GPR);`;
  return `store<${uint(size)}>(${slot}, <${uint(size)}>(${value}), GPR);`;
}

/** Linear address of the memory operand. */
export const EFFECTIVE =
  "load<u64>(load<u8>(ip, R_BASE), GPR) + (load<u64>(load<u8>(ip, R_INDEX), GPR) << <u64>load<u8>(ip, R_SCALE)) + <u64><i64>load<i32>(ip, R_DISP)";

/** Statements declaring `name` as the value in memory at `a` (a u64 in scope); `e` becomes the TLB entry. */
export function loadMemory(size: Size, name: string, address = "a", miss = "missRead"): string {
  const last = size === 0 ? address : `(${address} + ${bytes(size) - 1})`;
  const hit = `load<${uint(size)}>(<u32>${address} + load<u32>(${name}e, TLB_ADDEND))`;
  return [
    `const ${name}e: u32 = tlb + (<u32>(${address} >> 7) & TLB_MASK);`,
    `const ${name}: u64 = load<u64>(${name}e) == (${last} & PAGE) ? <u64>${hit} : ${miss}(${address}, ${bytes(size)}, ip);`,
  ].join("\n");
}

/** Statements storing `value` (u64) to memory at `a`. */
export function storeMemory(size: Size, value: string, address = "a", miss = "missWrite"): string {
  const name = "w";
  const last = size === 0 ? address : `(${address} + ${bytes(size) - 1})`;
  return [
    `const ${name}e: u32 = tlb + (<u32>(${address} >> 7) & TLB_MASK);`,
    `if (load<u64>(${name}e, TLB_W) == (${last} & PAGE)) store<${uint(size)}>(<u32>${address} + load<u32>(${name}e, TLB_ADDEND), <${uint(size)}>(${value}));`,
    `else ${miss}(${address}, ${value}, ${bytes(size)}, ip);`,
  ].join("\n");
}

/** The immediate, sign-extended to 64 bits and cut to the operand size. */
export function immediate(size: Size): string {
  return size === 3 ? "load<u64>(ip, R_IMM)" : `<u64>load<${uint(size)}>(ip, R_IMM)`;
}

/** Shifts a value so that its sign bit is bit 63. */
export const high = (size: Size, value: string): string => (size === 3 ? value : `(${value}) << ${shiftOf(size)}`);

/** Statements noting lazy flags of `a` and `b` (already shifted by the caller through {@link high}). */
export function lazy(kind: string, size: Size, a: string, b: string): string {
  return [
    `store<u64>(LAZY_A, ${a});`,
    `store<u64>(LAZY_B, ${b});`,
    `store<u32>(LAZY_KIND, ${kind} | ${shiftOf(size) << 8});`,
  ].join("\n");
}
