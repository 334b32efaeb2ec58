/** What compiled code and its compiler need of the core besides the functions that the interpreter uses too. */
import { HANDLERS } from "./generated/handlers";

/** Address of the u16 function table indexes, one a handler, in the order of the generator's numbers. */
export function handlerIndexes(): usize {
  return HANDLERS;
}

export function bswap32(value: u32): u32 {
  return bswap<u32>(value);
}

export function bswap64(value: u64): u64 {
  return bswap<u64>(value);
}
