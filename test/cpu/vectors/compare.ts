/** How results of a case are compared with the real processor's. */

import type { Form } from "./derive.ts";
import { type CaseRecord, COMPLETED, FLAG_ALL_DEFINED, FLAG_OF_DEFINED, hasErrorCode } from "./format.ts";
import type { Ending } from "./machine.ts";
import type { CaseState } from "./state.ts";

/** A case with the state it starts in; what `cases()` gives holds until the next one only. */
export interface Case {
  readonly form: Form;
  readonly index: number;
  readonly record: CaseRecord;
  readonly state: CaseState;
}

/** EFLAGS bits that are compared: what user mode can see but IF, IOPL and RF. */
const COMPARED_FLAGS = 0x244dd5;
const ARITHMETIC_OF = 2048;
/** Bit of a page fault's error code. */
const PAGE_FAULT_WRITE = 2;

export function hex(value: bigint | number): string {
  return value.toString(16);
}

export function differ(field: string, expected: bigint | number, actual: bigint | number): string {
  return `${field} expected ${hex(expected)} actual ${hex(actual)}`;
}

/** Whether two 80-bit values at `at` are within a few units in the last place. */
export function closeFloat80(expected: DataView, actual: DataView, at: number): boolean {
  const position = (view: DataView): bigint => {
    const signExponent = view.getUint16(at + 8, true);
    const place = (BigInt(signExponent & 0x7fff) << 63n) + BigInt.asUintN(63, view.getBigUint64(at, true));
    return signExponent & 0x8000 ? -place : place;
  };
  const distance = position(expected) - position(actual);
  return distance <= 4n && distance >= -4n;
}

export function closeFloat32(expected: DataView, actual: DataView, at: number): boolean {
  const a = expected.getFloat32(at, true);
  const b = actual.getFloat32(at, true);
  if (expected.getUint32(at, true) === actual.getUint32(at, true)) return true;
  return Math.abs(a - b) <= Math.abs(a) * 2 ** -10;
}

/** First difference of how a case ended. @param onward whether it ran on behind its end */
export function compareEnding(
  { form, record, state }: Omit<Case, "index">,
  ending: Ending,
  onward: boolean,
): string | undefined {
  let { vector, rip } = ending;
  const expected = record.outcome === COMPLETED ? -1 : record.outcome;
  // Run on behind its end, a case meets INT3, or a page fault where it left mapped code.
  if (onward && expected === -1 && vector === 3) [vector, rip] = [-1, rip - 1n];
  else if (onward && expected === -1 && vector === 14 && rip === record.rip) vector = -1;
  // A jump into the case's own bytes: the processor went on to the fault there, a single step stops before it.
  if (!onward && vector === -1 && rip === record.rip && rip !== BigInt(state.codeAddress)) vector = expected;
  if (vector !== expected) return `exception vector expected ${expected} actual ${vector}`;
  if (rip !== record.rip) return differ("rip", record.rip, rip);
  const ignored = vector === 14 && form.readsDestination ? PAGE_FAULT_WRITE : 0;
  if (hasErrorCode(vector) && (ending.error ^ record.error) & ~ignored) {
    return differ("error code", record.error, ending.error);
  }
  const bits = form.faultAddress === "exact" ? 0n : form.faultAddress === "page" ? 12n : 64n;
  if (vector === 14 && ending.cr2 >> bits !== record.cr2 >> bits) return differ("cr2", record.cr2, ending.cr2);
  let undef = record.flags & FLAG_ALL_DEFINED ? 0 : form.undef;
  if (record.flags & FLAG_OF_DEFINED) undef &= ~ARITHMETIC_OF;
  const flags = COMPARED_FLAGS & ~undef;
  if ((ending.eflags ^ record.eflags) & flags) return differ("flags", record.eflags & flags, ending.eflags & flags);
  return undefined;
}
