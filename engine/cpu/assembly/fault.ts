/** Raising exceptions: the details go to state, and control leaves by an imported throw. */

import { hostThrow } from "./host";
import { CR2, EXC_ERROR, EXC_HAS_ERROR, EXC_PF, EXC_VECTOR } from "./layout";

/** Raises an exception without an error code. Does not return. */
export function raise(vector: u32): void {
  store<u32>(EXC_VECTOR, vector);
  store<u32>(EXC_HAS_ERROR, 0);
  hostThrow();
}

/** Raises an exception with an error code. Does not return. */
export function raiseError(vector: u32, code: u32): void {
  store<u32>(EXC_VECTOR, vector);
  store<u32>(EXC_HAS_ERROR, 1);
  store<u32>(EXC_ERROR, code);
  hostThrow();
}

/** Raises #PF: `code` has the bits P, W/R, U/S, RSVD, I/D. */
export function pageFault(address: u64, code: u32): void {
  store<u64>(CR2, address);
  raiseError(EXC_PF, code);
}
