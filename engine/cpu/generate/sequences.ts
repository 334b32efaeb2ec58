/** Sequences: frequent runs of records that one case executes, saving the dispatches in between. */
import { SEQUENCES } from "../table/sequences.ts";
import type { Case } from "./cases.ts";

export interface Merge {
  readonly first: number;
  readonly second: number;
  readonly result: number;
}

export interface SequenceTable {
  readonly sequences: readonly (readonly Case[])[];
  /** Operation `first` at a record followed by `second` becomes `result`. */
  readonly merges: readonly Merge[];
}

/**
 * Resolves the table's names. A sequence of n is reached by merging its first n - 1 operations with the last, so every
 * prefix is a sequence too; missing ones are added.
 */
export function resolveSequences(cases: readonly Case[]): SequenceTable {
  const numbers = new Map(cases.map(({ name }, number) => [name, number]));
  const sequences: Case[][] = [];
  const merges: Merge[] = [];
  for (const line of SEQUENCES.split("\n").filter((each) => each.trim() !== "")) {
    const names = line.trim().split(/\s+/);
    for (let length = 2; length <= names.length; length++) {
      const key = names.slice(0, length).join(" ");
      if (numbers.has(key)) continue;
      const elements = names.slice(0, length).map((name) => {
        const found = cases[numbers.get(name) ?? -1];
        if (found === undefined) throw new Error(`sequence table: no operation "${name}"`);
        return found;
      });
      if (elements.slice(0, -1).some(({ falls }) => !falls)) throw new Error(`sequence table: "${key}" cannot go on`);
      const first = numbers.get(names.slice(0, length - 1).join(" "));
      const second = numbers.get(names[length - 1] ?? "");
      const result = cases.length + sequences.length;
      if (first === undefined || second === undefined) throw new Error(`sequence table: bad line "${line}"`);
      numbers.set(key, result);
      sequences.push(elements);
      merges.push({ first, second, result });
    }
  }
  return { sequences, merges };
}

/** Slots of the merge table, a power of two; decode.ts computes the same hash. */
const MERGE_SLOTS = 2048;

export const mergeSlot = (first: number, second: number): number => (first * 31 + second * 7) & (MERGE_SLOTS - 1);

/** The merges as an open-addressed hash table: key (first | second << 16, 0 = free) and result per slot. */
export function mergeTable(merges: readonly Merge[]): { keys: number[]; results: number[] } {
  const keys = new Array<number>(MERGE_SLOTS).fill(0);
  const results = new Array<number>(MERGE_SLOTS).fill(0);
  for (const { first, second, result } of merges) {
    let slot = mergeSlot(first, second);
    while (keys[slot] !== 0) slot = (slot + 1) & (MERGE_SLOTS - 1);
    keys[slot] = first + second * 65536;
    results[slot] = result;
  }
  return { keys, results };
}
