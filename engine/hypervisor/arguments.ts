/** Hypercall arguments that are 32-bit integers in the C declaration: their upper halves may hold anything. */
export function low32(argument: bigint): number {
  return Number(BigInt.asUintN(32, argument));
}
