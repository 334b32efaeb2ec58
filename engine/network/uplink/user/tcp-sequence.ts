/** Sequence numbers: arithmetic modulo 2^32 (RFC 9293, 3.4). All are unsigned numbers. */

export function advance(sequence: number, count: number): number {
  return (sequence + count) >>> 0;
}

/** How far `to` is ahead of `from`; negative when it is behind. Right within half the number space. */
export function distance(from: number, to: number): number {
  return (to - from) | 0;
}

/** Whether `a` comes before `b`. */
export function before(a: number, b: number): boolean {
  return ((a - b) | 0) < 0;
}
