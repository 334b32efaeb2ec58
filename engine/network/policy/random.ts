/**
 * Random numbers that a seed repeats: xoshiro128** (Blackman and Vigna), seeded through splitmix32. Not for secrets.
 */
export class Random {
  readonly #state = new Uint32Array(4);

  constructor(seed: number) {
    let at = seed >>> 0;
    for (let n = 0; n < 4; n++) {
      at = (at + 0x9e37_79b9) >>> 0;
      let word = Math.imul(at ^ (at >>> 16), 0x21f0_aaad);
      word = Math.imul(word ^ (word >>> 15), 0x735a_2d97);
      this.#state[n] = word ^ (word >>> 15);
    }
    // Nothing ever comes of a state of zeros.
    if (this.#state.every((word) => word === 0)) this.#state[0] = 1;
  }

  /** An unsigned number of 32 bits. */
  word(): number {
    const state = this.#state;
    const product = Math.imul(state[1]!, 5);
    const result = Math.imul((product << 7) | (product >>> 25), 9) >>> 0;
    const shifted = state[1]! << 9;
    state[2] = state[2]! ^ state[0]!;
    state[3] = state[3]! ^ state[1]!;
    state[1] = state[1]! ^ state[2]!;
    state[0] = state[0]! ^ state[3]!;
    state[2] = state[2]! ^ shifted;
    state[3] = (state[3]! << 11) | (state[3]! >>> 21);
    return result;
  }

  /** From 0 to below 1. */
  uniform(): number {
    return this.word() / 0x1_0000_0000;
  }

  /** Mean 0, deviation 1 (Marsaglia's polar method). */
  normal(): number {
    for (;;) {
      const x = this.uniform() * 2 - 1;
      const y = this.uniform() * 2 - 1;
      const square = x * x + y * y;
      if (square === 0 || square >= 1) continue;
      return x * Math.sqrt((-2 * Math.log(square)) / square);
    }
  }
}
