/**
 * Random programs about memory: accesses relative to a few registers, which may come near the ends of pages of all kinds,
 * between instructions that change the flags, branch, call and move the registers.
 */
import type { Prng } from "../vectors/prng.ts";

/** RBX, RBP, RSI, RDI, R12, R13, R14: what accesses are relative to. */
export const BASES = [3, 5, 6, 7, 12, 13, 14] as const;
/** RAX, RCX, RDX, R8 … R11: what is computed with. */
const VALUES = [0, 1, 2, 8, 9, 10, 11] as const;
/** Counts the rounds of the program. */
export const COUNTER = 15;

type Bytes = readonly number[];

const little = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >> shift) & 0xff);
const rexOf = (wide: boolean, reg: number, rm: number): number => 0x40 | (wide ? 8 : 0) | ((reg & 8) >> 1) | (rm >> 3);

/** Random instructions of such programs. */
export class Maker {
  private readonly random: Prng;

  constructor(random: Prng) {
    this.random = random;
  }

  private value(): number {
    return this.random.pick(VALUES);
  }

  private displacement(): number {
    const { random } = this;
    const near = random.below(10) * 8 - 40;
    return random.chance(70) ? near : random.chance(50) ? random.below(600) - 300 : near + (random.chance(50) ? 1 : -3);
  }

  /** ModRM and what belongs to it: memory relative to a base. */
  private place(reg: number): { base: number; bytes: Bytes } {
    const base = this.random.chance(10) ? 4 : this.random.pick(BASES);
    const at = this.displacement();
    const short = at >= -128 && at < 128;
    const modrm = (short ? 0x40 : 0x80) | ((reg & 7) << 3) | (base & 7);
    const sib = (base & 7) === 4 ? [0x24] : [];
    return { base, bytes: [modrm, ...sib, ...(short ? [at & 0xff] : little(at))] };
  }

  private memory(): Bytes {
    const { random } = this;
    const wide = random.chance(60);
    const reg = this.value();
    const { base, bytes } = this.place(reg);
    const rex = rexOf(wide, reg, base);
    const prefix = !wide && random.chance(20) ? [0x66] : [];
    const choice = random.below(10);
    if (choice < 3) return [...prefix, rex, random.pick([0x89, 0x8b, 0x8b]), ...bytes];
    if (choice < 4) return [rex, random.pick([0x88, 0x8a, 0x00, 0x38]), ...bytes];
    if (choice < 5) return [rex, 0x0f, random.pick([0xb6, 0xb7, 0xbe, 0xbf, 0xaf]), ...bytes];
    if (choice < 6) return [rex, 0x0f, 0x40 | random.below(16), ...bytes];
    if (choice < 7) return [...prefix, rex, random.pick([0x01, 0x29, 0x31, 0x11, 0x19, 0x39, 0x85, 0x87]), ...bytes];
    if (choice < 8) return [...prefix, rex, random.pick([0x03, 0x2b, 0x33, 0x13, 0x1b, 0x3b, 0x23]), ...bytes];
    const group = this.place(random.below(2));
    if (choice < 9) return [...prefix, rexOf(wide, 0, group.base), 0xff, ...group.bytes];
    const immediate = this.place(random.below(8));
    return [rexOf(wide, 0, immediate.base), 0x83, ...immediate.bytes, random.below(256)];
  }

  private arithmetic(): Bytes {
    const { random } = this;
    const [a, b] = [this.value(), this.value()];
    const wide = random.chance(50);
    const rex = rexOf(wide, a, b);
    const modrm = 0xc0 | ((a & 7) << 3) | (b & 7);
    const choice = random.below(10);
    if (choice < 4) return [rex, random.pick([0x01, 0x29, 0x21, 0x09, 0x31, 0x11, 0x19, 0x39, 0x85]), modrm];
    if (choice < 5) return [rexOf(wide, 0, b), 0xff, 0xc0 | (random.below(2) << 3) | (b & 7)];
    if (choice < 6) {
      const shift = random.pick([0, 1, 2, 3, 4, 5, 7]);
      return [rexOf(wide, 0, b), random.pick([0xd1, 0xd3]), 0xc0 | (shift << 3) | (b & 7)];
    }
    if (choice < 7) return [rexOf(wide, 0, b), 0xc1, 0xe0 | (random.below(2) << 3) | (b & 7), random.below(64)];
    if (choice < 8) return [rexOf(false, 0, b), 0x0f, 0x90 | random.below(16), 0xc0 | (b & 7)];
    if (choice < 9) return [rex, 0x0f, random.chance(50) ? 0xaf : 0x40 | random.below(16), modrm];
    return [rexOf(wide, 0, b), 0xf7, 0xd0 | (random.below(2) << 3) | (b & 7)];
  }

  /** Moves a base, or makes it another one's. */
  private moves(): Bytes {
    const { random } = this;
    const [a, b] = [random.pick(BASES), random.pick(BASES)];
    const choice = random.below(4);
    if (choice === 0) return [rexOf(true, 0, a), 0x83, 0xc0 | (a & 7), (random.below(5) - 2) * 8];
    if (choice === 1) return [rexOf(true, 0, a), 0xff, 0xc0 | (random.below(2) << 3) | (a & 7)];
    if (choice === 2) return [rexOf(true, b, a), 0x89, 0xc0 | ((b & 7) << 3) | (a & 7)];
    return [
      rexOf(true, a, b),
      0x8d,
      0x40 | ((a & 7) << 3) | (b & 7),
      ...((b & 7) === 4 ? [0x24] : []),
      random.below(64),
    ];
  }

  private stack(): Bytes {
    const { random } = this;
    const reg = this.value();
    const push = random.chance(50) ? 0x50 : 0x58;
    return [...(reg > 7 ? [0x41] : []), push | (reg & 7)];
  }

  plain(): Bytes {
    const choice = this.random.below(100);
    if (choice < 50) return this.memory();
    if (choice < 78) return this.arithmetic();
    if (choice < 86) return this.moves();
    if (choice < 96) return this.stack();
    if (choice < 98) return this.random.pick([[0x9c], [0xfc], [0xf9], [0xf8], [0xf5]]);
    // mov ecx,5; rep stosb
    return [0xb9, 5, 0, 0, 0, 0xf3, 0xaa];
  }

  /** A branch over some instructions, or a call of them. */
  branch(): number[] {
    const { random } = this;
    const skipped = Array.from({ length: 1 + random.below(4) }, () => this.plain()).flat();
    if (random.chance(20)) return [0xe8, 2, 0, 0, 0, 0xeb, skipped.length + 1, ...skipped, 0xc3];
    if (random.chance(10)) return [0xe9, ...little(skipped.length), ...skipped];
    return [0x70 | random.below(16), skipped.length, ...skipped];
  }
}

/** A program of some rounds that ends with UD2; R15 says how many, unless something faults before. */
export function memoryProgram(random: Prng, length: number): number[] {
  const maker = new Maker(random);
  const body: number[] = [];
  for (let n = 0; n < length; n++) body.push(...(random.chance(15) ? maker.branch() : maker.plain()));
  const back = -(body.length + 9);
  return [...body, 0x49, 0xff, 0xcf, 0x0f, 0x85, ...little(back), 0x0f, 0x0b];
}
