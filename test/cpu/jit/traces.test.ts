/** Blocks that become part of another block's function: which ones, and that nobody can tell from what they do. */
import { describe, expect, it } from "vitest";
import { EXIT_HALT, FRAMES, R_HEAT } from "../../../engine/cpu/assembly/layout.ts";
import { CodePages } from "../../../engine/cpu/jit/code-pages.ts";
import { TracePlan } from "../../../engine/cpu/jit/plan.ts";
import { CODE, type Machine } from "../privileged/machine.ts";
import { Pair } from "./pair.ts";
import { RAX, RBX, RCX, RDI, restart } from "./rerun.ts";

const HLT = 0xf4;
const ROUNDS = 25n;

/**
 * again: test cl,1; jz even; add rax,3; jmp meet; even: add rax,5 (sets what meet's adc reads); meet: adc rbx,rax; dec rcx;
 * jnz again; hlt. With the offsets of its blocks.
 */
const DIAMOND = [
  ...[0xf6, 0xc1, 1, 0x74, 6],
  ...[0x48, 0x83, 0xc0, 3, 0xeb, 4],
  ...[0x48, 0x83, 0xc0, 5],
  ...[0x48, 0x11, 0xc3, 0x48, 0xff, 0xc9, 0x75, -23 & 0xff],
  HLT,
];
const [AGAIN, EVEN, MEET, AFTER] = [0, 11, 15, 23];

function runDiamond(pair: Pair, budgets: readonly number[], registers: Record<number, bigint> = {}): void {
  pair.each((machine) => restart(machine, { [RAX]: 0n, [RBX]: -7n & (2n ** 64n - 1n), [RCX]: ROUNDS, ...registers }));
  expect(pair.runAll(budgets, 1000).reason).toBe(EXIT_HALT);
}

function diamond(code: readonly number[] = DIAMOND): Pair {
  const pair = new Pair();
  pair.each((machine) => machine.kernel(code));
  for (let n = 0; n < 3; n++) runDiamond(pair, [1000]);
  return pair;
}

const headOf = (machine: Machine, offset: number): number => machine.blocks.head(CODE + offset) ?? 0;

function planOf(machine: Machine): TracePlan {
  const { reader } = machine.blocks;
  return new TracePlan(reader, new CodePages(reader.view));
}

const PAGE = (FRAMES + CODE) & ~0xfff;

/** Bytes from the start of the code's page. */
const at = (offset: number): number => (CODE + offset) & 0xfff;

describe("joined blocks", () => {
  it("are the hot ones of the same page, each once on a way", () => {
    const { compiled } = diamond();
    const plan = planOf(compiled);
    const again = headOf(compiled, AGAIN);
    expect(plan.join(PAGE, at(EVEN), [again], 0)?.head).toBe(headOf(compiled, EVEN));
    expect(plan.join(PAGE, at(MEET), [again], 1)?.head).toBe(headOf(compiled, MEET));
    expect(plan.join(PAGE, at(AGAIN), [again], 1)).toBeUndefined();
    expect(plan.join(PAGE, at(MEET) + 0x1000, [again], 1)).toBeUndefined();
    expect(plan.join(PAGE, -1, [again], 1)).toBeUndefined();
    // It has a long way to go until it is hot.
    compiled.blocks.reader.view.setInt32(headOf(compiled, AFTER) + R_HEAT, 1000, true);
    expect(plan.join(PAGE, at(AFTER), [again], 1)).toBeUndefined();
  });

  it("are no more than fit", () => {
    const { compiled } = diamond();
    const plan = planOf(compiled);
    let joined = 0;
    while (plan.join(PAGE, at(MEET), [], 0) !== undefined) joined++;
    expect(joined).toBeGreaterThan(3);
    expect(joined).toBeLessThan(49);
    plan.settle(1);
    expect(plan.join(PAGE, at(MEET), [], 0)).toBeDefined();
    expect(plan.join(PAGE, at(MEET), [], 100)).toBeUndefined();
  });

  it.each([[[1]], [[2, 3]], [[5]], [[7, 11, 13]], [[64]], [[1000]]])(
    "end budgets of %j where the interpreter does",
    (pieces) => {
      const pair = diamond();
      runDiamond(pair, pieces);
      runDiamond(pair, pieces, { [RCX]: 2n });
    },
  );

  it("fault at the right instruction, with everything before it done", () => {
    // As DIAMOND, with mov [rdi],rax in place of even's addition and mov rdx,[rdi+8] in meet.
    const code = [
      ...[0xf6, 0xc1, 1, 0x74, 6, 0x48, 0x83, 0xc0, 3, 0xeb, 7],
      ...[0x48, 0x83, 0xc0, 5, 0x48, 0x89, 0x07],
      ...[0x48, 0x8b, 0x57, 8, 0x48, 0x11, 0xc3, 0x48, 0x83, 0xc7, 8, 0x48, 0xff, 0xc9, 0x75, -34 & 0xff, HLT],
    ];
    const pair = new Pair();
    const page = 0x7000_0000_0000n;
    pair.each((machine) => {
      machine.map(page, BigInt(0x200000), 3n);
      machine.kernel(code);
    });
    // Rounds go up to the end of the page, where the load or the store of one of them faults, and one way into the next.
    for (const start of [0xf80n, 0xf84n, 0xf81n, 0xf78n, 0xf00n, 0xfb0n, 0xfb8n]) {
      pair.each((machine) => restart(machine, { [RAX]: 1n, [RBX]: 2n, [RCX]: ROUNDS, [RDI]: page + start }));
      expect(pair.runAll([1000], 100).reason).toBe(EXIT_HALT);
    }
    expect(pair.compiled.blocks.isCompiled(CODE)).toBe(true);
  });

  it("are dropped with their page when its code changes", () => {
    const pair = diamond();
    // even adds 9 from now on.
    pair.each((machine) => {
      new Uint8Array(machine.ram.buffer)[FRAMES + CODE + EVEN + 3] = 9;
      machine.cpu.dropCode(FRAMES + CODE);
    });
    for (let n = 0; n < 3; n++) runDiamond(pair, [1000]);
    expect(pair.compiled.cpu.getRegister(RAX)).toBe(13n * 3n + 12n * 9n);
  });
});
