/** Deterministic 32-bit generator (xorshift with a multiplicative output step); the vectors depend on its sequence. */
export class Prng {
  private state = 1;

  /** Starts the sequence of `stream`, `index`: neighbouring indexes give unrelated sequences. */
  seed(stream: number, index: number): void {
    let mixed = Math.imul(stream ^ 0x5bd1e995, 0x85ebca6b) ^ Math.imul(index + 0x9e3779b9, 0xc2b2ae35);
    mixed ^= mixed >>> 15;
    mixed = Math.imul(mixed, 0x27d4eb2f);
    mixed ^= mixed >>> 13;
    this.state = mixed === 0 ? 0x1234567 : mixed;
    this.next();
    this.next();
  }

  /** @returns an unsigned 32-bit value */
  next(): number {
    let state = this.state;
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    this.state = state;
    const mixed = Math.imul(state, 0x9e3779b1);
    return (mixed ^ (mixed >>> 15)) >>> 0;
  }

  /** @returns an integer in [0, limit) */
  below(limit: number): number {
    return Math.floor((this.next() / 0x100000000) * limit);
  }

  /** @returns true in about `percent` of 100 calls */
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }

  /** @returns one of the list's elements */
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)] as T;
  }
}
