/** Random programs, interpreted and compiled: the same state and memory wherever a budget ends. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { EXIT_HALT, FRAMES } from "../../../engine/cpu/assembly/layout.ts";
import { type Machine, P, RW, US, USER_AT, USER_STACK } from "../privileged/machine.ts";
import { deriveProgram } from "../vectors/derive.ts";
import { Prng } from "../vectors/prng.ts";
import { PROGRAM_STREAM, ProgramMaker } from "../vectors/programs.ts";
import {
  CaseState,
  CODE_BASE,
  CODE_SIZE,
  DATA_BASE,
  DATA_SIZE,
  FX_XMM,
  STACK_BASE,
  STACK_SIZE,
} from "../vectors/state.ts";
import { BASES, COUNTER, memoryProgram } from "./memory-programs.ts";
import { pagedProgram } from "./paged-programs.ts";
import { Pair } from "./pair.ts";

const STOPS = 400;
const ARITHMETIC = 0x8d5;
const budgets = fc.array(fc.oneof(fc.integer({ min: 1, max: 30 }), fc.integer({ min: 1, max: 2000 })), {
  minLength: 1,
  maxLength: 6,
});

function mapIdentity(machine: Machine, from: number, size: number): void {
  for (let at = from; at < from + size; at += 0x1000) machine.map(BigInt(at), BigInt(at), P | RW | US);
}

function startProgram(machine: Machine, code: Uint8Array, state: CaseState): void {
  mapIdentity(machine, CODE_BASE, CODE_SIZE);
  mapIdentity(machine, DATA_BASE, DATA_SIZE);
  mapIdentity(machine, STACK_BASE, STACK_SIZE);
  machine.user([...code, 0xcc], state.codeAddress, (state.eflags & ARITHMETIC) | 0x202);
}

function setProgram(machine: Machine, from: CaseState): void {
  machine.change((state) => {
    state.registers = [...from.registers];
    state.rip = BigInt(from.codeAddress);
    state.xmm = state.xmm.map((_, n) => from.fx.slice(FX_XMM + n * 16, FX_XMM + n * 16 + 16));
    state.segments.cs = { selector: 0x2b, base: 0n, limit: 0xffffffff, attributes: 0xa0fb };
    state.segments.ss = { selector: 0x23, base: 0n, limit: 0xffffffff, attributes: 0xc0f3 };
  });
}

/** Points a machine at user code. */
function setUser(machine: Machine, rip: bigint): void {
  machine.change((state) => {
    state.rip = rip;
    state.rflags = 0x202;
    state.segments.cs = { selector: 0x2b, base: 0n, limit: 0xffffffff, attributes: 0xa0fb };
    state.segments.ss = { selector: 0x23, base: 0n, limit: 0xffffffff, attributes: 0xc0f3 };
  });
}

/** Programs in several pages: their linear addresses, which have another name each, and their frames, with others beside. */
const CODE_PAGES = 4;
const CODE_AT = 0x40_0000;
const ALIAS = 0x6000_0000_0000n;
const CODE_FRAME = 0x210000;
const OTHER_FRAME = 0x218000;

/** Another frame for one of the pages of code. */
function moveCode(random: Prng, frames: number[]): void {
  const n = random.below(frames.length);
  frames[n] = (frames[n] ?? 0) ^ (CODE_FRAME ^ OTHER_FRAME);
}

/** Pages of data at LOW: none, two to write, one to read, none, the page of the code, none. */
const LOW = 0x7000_0000_0000n;
const FRAME = 0x200000;
const PAGES: readonly (readonly [page: bigint, frame: number, flags: bigint])[] = [
  [1n, FRAME, P | RW | US],
  [2n, FRAME + 0x5000, P | RW | US],
  [3n, FRAME + 0x3000, P | US],
  [5n, USER_AT, P | RW | US],
];
const BORDERS = [1n, 2n, 2n, 3n, 3n, 4n].map((page) => LOW + page * 0x1000n);

/** Registers of a round: most bases are well inside the writable pages, the others near a border. */
function registers(random: Prng, onCode: boolean): Record<number, bigint> {
  const values: Record<number, bigint> = { [COUNTER]: BigInt(1 + random.below(12)) };
  for (const n of [0, 1, 2, 8, 9, 10, 11]) values[n] = (BigInt(random.next()) << 32n) | BigInt(random.next());
  for (const n of BASES) {
    const inside = LOW + 0x1000n + BigInt(0x200 + random.below(0x700));
    values[n] = random.chance(70) ? inside : random.pick(BORDERS) + BigInt(random.below(200) - 100);
  }
  if (onCode) values[random.pick(BASES)] = LOW + 0x5000n + BigInt(random.below(300));
  values[4] = random.chance(75) ? BigInt(USER_STACK - 0x800) : LOW + 0x2000n + BigInt(random.below(16) * 8 - 64);
  return values;
}

/** What may happen between two rounds. */
function between(random: Prng, pair: Pair): void {
  const choice = random.below(8);
  if (choice === 0) pair.each(({ cpu }) => cpu.flushTlb());
  else if (choice === 1) pair.each(({ cpu }) => cpu.dropCode(FRAMES + USER_AT));
  else if (choice === 2) pair.each(({ cpu }) => cpu.flushCode());
  else if (choice === 3) {
    const flags = random.chance(50) ? P | US : P | RW | US;
    pair.each((machine) => {
      machine.map(LOW + 0x2000n, BigInt(FRAME + 0x5000), flags);
      machine.cpu.flushTlb();
    });
  }
}

describe("compiled blocks", () => {
  const maker = new ProgramMaker();

  it("of programs over the instruction table end every budget as the interpreter does", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 100_000 }), budgets, (index, pieces) => {
        const code = maker.make(index);
        const state = new CaseState();
        deriveProgram(state, code, PROGRAM_STREAM, index);
        const pair = new Pair();
        pair.each((machine) => startProgram(machine, code, state));
        for (let round = 0; round < 3; round++) {
          pair.each((machine) => setProgram(machine, state));
          pair.runAll(round === 0 ? [50] : pieces, STOPS);
        }
        expect(pair.compiled.blocks.compiled().length).toBeGreaterThan(0);
      }),
      { numRuns: 40 },
    );
  });

  it("of programs that use memory at the ends of pages do so too", () => {
    let [faults, blocks] = [0, 0];
    fc.assert(
      fc.property(fc.integer(), fc.integer({ min: 3, max: 40 }), budgets, (seed, length, pieces) => {
        const random = new Prng();
        random.seed(seed, 1);
        const pair = new Pair();
        const code = memoryProgram(random, length);
        const onCode = random.chance(25);
        pair.each((machine) => {
          for (const [page, frame, flags] of PAGES) machine.map(LOW + page * 0x1000n, BigInt(frame), flags);
        });
        pair.each((machine) => machine.user(code, USER_AT));
        for (let round = 0; round < 8; round++) {
          const values = registers(random, onCode);
          pair.each((machine) => {
            setUser(machine, BigInt(USER_AT));
            machine.set(values);
          });
          if (pair.runAll(round === 0 ? [50] : pieces, STOPS).reason === EXIT_HALT) faults++;
          blocks += pair.compiled.blocks.compiled().length;
          between(random, pair);
        }
      }),
      { numRuns: 100 },
    );
    expect(faults).toBeGreaterThan(100);
    expect(blocks).toBeGreaterThan(1000);
  });

  it("of functions in several pages do so too, wherever these come to stand", () => {
    let [ends, blocks] = [0, 0];
    fc.assert(
      fc.property(fc.integer(), budgets, (seed, pieces) => {
        const random = new Prng();
        random.seed(seed, 2);
        const pair = new Pair();
        const program = pagedProgram(random, CODE_PAGES);
        pair.each((machine) => {
          for (const [page, frame, flags] of PAGES) machine.map(LOW + page * 0x1000n, BigInt(frame), flags);
          for (const { offset, bytes } of program) {
            machine.put(CODE_FRAME + offset, bytes);
            // What stands in the pages when they have changed places.
            machine.put(OTHER_FRAME + offset, [0x48, 0xff, 0xc0, ...bytes]);
          }
          machine.user([], USER_AT);
        });
        const frames = Array.from({ length: CODE_PAGES }, (_, n) => CODE_FRAME + n * 0x1000);
        for (let round = 0; round < 8; round++) {
          const values = registers(random, false);
          const alias = random.chance(30) ? ALIAS : BigInt(CODE_AT);
          pair.each((machine) => {
            frames.forEach((frame, n) => {
              machine.map(BigInt(CODE_AT + n * 0x1000), BigInt(frame), P | RW | US);
              machine.map(ALIAS + BigInt(n * 0x1000), BigInt(frame), P | RW | US);
            });
            setUser(machine, alias);
            machine.set(values);
          });
          if (pair.runAll(round === 0 ? [50] : pieces, STOPS).reason === EXIT_HALT) ends++;
          blocks += pair.compiled.blocks.compiled().length;
          if (random.chance(30)) moveCode(random, frames);
          else between(random, pair);
        }
      }),
      { numRuns: 60 },
    );
    expect(ends).toBeGreaterThan(100);
    expect(blocks).toBeGreaterThan(1000);
  });
});
