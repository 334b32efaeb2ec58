/** Random programs of several functions in several pages, which call one another, jump to one another's ends, and return. */
import type { Prng } from "../vectors/prng.ts";
import { Maker } from "./memory-programs.ts";

/** A piece of code and where it stands, from the start of the program. */
export interface Piece {
  readonly offset: number;
  readonly bytes: readonly number[];
}

const PAGE = 0x1000;
/** Room for a function: bodies are at most half as long. */
const ROOM = 0x200;

const little = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >> shift) & 0xff);

/** A call (or a jump) at `from` to `to`. */
const leap = (opcode: number, from: number, to: number): number[] => [opcode, ...little(to - from - 5)];

class PagedProgram {
  private readonly random: Prng;
  private readonly maker: Maker;
  /** Where each function stands: it calls those behind it in the list only. */
  private readonly starts: readonly number[];

  constructor(random: Prng, pages: number, functions: number) {
    this.random = random;
    this.maker = new Maker(random);
    const places = Array.from({ length: (pages * PAGE) / ROOM - 1 }, (_, n) => (n + 1) * ROOM + random.below(16));
    this.starts = Array.from({ length: functions }, () => places.splice(random.below(places.length), 1)[0] ?? 0);
  }

  /** Instructions, calls of later functions among them. */
  private body(at: number, callees: readonly number[], length: number): number[] {
    const { random, maker } = this;
    const bytes: number[] = [];
    for (let n = 0; n < length; n++) {
      const choice = random.below(100);
      const callee = random.pick(callees.length > 0 ? callees : [0]);
      if (choice < 30 && callee !== 0) {
        const call = leap(0xe8, at + bytes.length, callee);
        // Over it, or not.
        if (random.chance(30)) {
          bytes.push(0x70 | random.below(16), call.length);
          bytes.push(...leap(0xe8, at + bytes.length, callee));
        } else bytes.push(...call);
      } else if (choice < 40) bytes.push(...maker.branch());
      else bytes.push(...maker.plain());
    }
    return bytes;
  }

  private function(n: number): Piece {
    const { random, starts } = this;
    const offset = starts[n] ?? 0;
    const callees = starts.slice(n + 1);
    const bytes = this.body(offset, callees, 1 + random.below(8));
    const last = callees.at(-1);
    const tail = last !== undefined && random.chance(20) ? leap(0xe9, offset + bytes.length, last) : [0xc3];
    return { offset, bytes: [...bytes, ...tail] };
  }

  /** Begins at offset 0. */
  make(): Piece[] {
    const body = this.body(0, this.starts, 12);
    const back = -(body.length + 9);
    const main = [...body, 0x49, 0xff, 0xcf, 0x0f, 0x85, ...little(back), 0x0f, 0x0b];
    return [{ offset: 0, bytes: main }, ...this.starts.map((_, n) => this.function(n))];
  }
}

/** A program of some rounds that ends with UD2; R15 says how many, unless something faults before. */
export function pagedProgram(random: Prng, pages: number): Piece[] {
  return new PagedProgram(random, pages, 3 + random.below(8)).make();
}
