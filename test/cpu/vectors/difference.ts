import type { Run } from "./format.ts";
import { FX_LEGACY } from "./state.ts";

/** Byte runs in [from, to) where two images differ; gaps shorter than 4 bytes are swallowed. */
export function differences(before: Uint8Array, after: Uint8Array, from: number, to: number): Run[] {
  const runs: Run[] = [];
  for (let at = from; at < to; at++) {
    if (before[at] === after[at]) continue;
    let end = at + 1;
    for (let look = end; look < to && look < end + 4; look++) if (before[look] !== after[look]) end = look + 1;
    runs.push({ at, bytes: after.slice(at, end) });
    at = end;
  }
  return runs;
}

/** The FXSAVE image's differences without its last-instruction pointers, which user mode cannot see reliably. */
export function fxDifferences(before: Uint8Array, after: Uint8Array): Run[] {
  return [
    ...differences(before, after, 0, 6),
    ...differences(before, after, 24, 28),
    ...differences(before, after, 32, FX_LEGACY),
  ];
}
