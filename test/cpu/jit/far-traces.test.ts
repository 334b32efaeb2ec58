/** Blocks of other pages that become part of a function: what has to hold when the function runs, and what if it does not. */
import { describe, expect, it } from "vitest";
import { CUR, EXIT_BUDGET, EXIT_HALT, FRAMES, LAZY_KIND, RIP } from "../../../engine/cpu/assembly/layout.ts";
import { CodePages } from "../../../engine/cpu/jit/code-pages.ts";
import { TracePlan } from "../../../engine/cpu/jit/plan.ts";
import {
  CODE,
  DATA,
  HLT,
  type Machine,
  P,
  RW,
  STACK,
  US,
  USER_AT,
  USER_CODE,
  USER_DATA,
  USER_STACK,
} from "../privileged/machine.ts";
import { Pair } from "./pair.ts";
import { RAX, RBX, RCX, RDI, RSI, RSP, restart } from "./rerun.ts";

const PAGE = 0x1000;
const CALLEE = CODE + 2 * PAGE + 0x40;
const OTHER = CODE + 3 * PAGE + 0x40;
const ALIAS = 0x7000_0000_0000n;
const RET = 0xc3;

const little = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >> shift) & 0xff);
const call = (from: number, to: number): number[] => [0xe8, ...little(to - from - 5)];
const jump = (from: number, to: number): number[] => [0xe9, ...little(to - from - 5)];
/** add rax,n */
const addRax = (n: number): number[] => [0x48, 0x83, 0xc0, n];
/** add rbx,n */
const addRbx = (n: number): number[] => [0x48, 0x83, 0xc3, n];

/** A loop at the start: the body, dec rcx; jnz; hlt. */
const rounds = (body: readonly number[]): number[] => [
  ...body,
  ...[0x48, 0xff, 0xc9, 0x0f, 0x85, ...little(-(body.length + 9))],
  HLT,
];

const CALLER = rounds([...call(CODE, CALLEE), ...addRbx(3)]);
const COUNT = 25n;

function go(pair: Pair, budgets: readonly number[] = [1000], registers: Record<number, bigint> = {}): void {
  pair.each((machine) => restart(machine, { [RAX]: 0n, [RBX]: 0n, [RCX]: COUNT, ...registers }));
  expect(pair.runAll(budgets, 2000).reason).toBe(EXIT_HALT);
}

/** Machines that have run the code often enough, and joined what they could. */
function warm(code: readonly number[], callee: readonly number[], prepare?: (machine: Machine) => void): Pair {
  const pair = new Pair();
  pair.each((machine) => {
    machine.put(CALLEE, callee);
    prepare?.(machine);
    machine.kernel(code);
  });
  for (let n = 0; n < 4; n++) go(pair, [60]);
  return pair;
}

function planOf({ blocks }: Machine): TracePlan {
  return new TracePlan(blocks.reader, new CodePages(blocks.reader.view));
}

/** What an IRETQ to user code takes. */
function userFrame(machine: Machine, at: number, rip: number): void {
  [BigInt(rip), BigInt(USER_CODE), 2n, BigInt(USER_STACK), BigInt(USER_DATA)].forEach((value, n) => {
    machine.write64(at + n * 8, value);
  });
}

const sumOf = (pair: Pair): readonly bigint[] => [RAX, RBX].map((n) => pair.compiled.cpu.getRegister(n));

describe("blocks of another page", () => {
  it("are joined where the jump cache knows both pages", () => {
    const { compiled } = warm(CALLER, [...addRax(1), RET]);
    const plan = planOf(compiled);
    const far = plan.joinFar({ page: FRAMES + CODE }, CALLEE - CODE, [], 0);
    expect(far).toMatchObject({ base: BigInt(CODE), linear: BigInt(CALLEE) });
    expect(far?.block.head).toBe(compiled.blocks.head(CALLEE));
    expect(plan.joinFar({ page: FRAMES + CODE }, OTHER - CODE, [], 0)).toBeUndefined();
    expect(plan.joinFar({ page: FRAMES + DATA }, CALLEE - DATA, [], 0)).toBeUndefined();
  });

  it.each([[[1]], [[2]], [[3, 4]], [[5]], [[7, 11]], [[64]]])("end budgets of %j as the interpreter does", (pieces) => {
    const pair = warm(CALLER, [...addRax(1), RET]);
    go(pair, pieces);
    expect(sumOf(pair)).toEqual([COUNT, 3n * COUNT]);
  });

  it("return to wherever the callee says", () => {
    // The callee adds RSI to its return address: 4 leaves out the addition behind the call.
    const pair = warm(CALLER, [0x48, 0x01, 0x34, 0x24, ...addRax(1), RET], ({ cpu }) => cpu.setRegister(RSI, 0n));
    go(pair, [1000], { [RSI]: 4n });
    expect(sumOf(pair)).toEqual([COUNT, 0n]);
    go(pair, [1000], { [RSI]: 0n });
    expect(sumOf(pair)).toEqual([COUNT, 3n * COUNT]);
  });

  it("return through a jump to yet another page, and from calls within calls", () => {
    const inner = OTHER + 0x80;
    const pair = warm(CALLER, [...addRax(1), ...call(CALLEE + 4, inner), ...jump(CALLEE + 9, OTHER)], (machine) => {
      machine.put(OTHER, [...addRax(2), RET]);
      machine.put(inner, [...addRbx(1), RET]);
    });
    go(pair);
    expect(sumOf(pair)).toEqual([3n * COUNT, 4n * COUNT]);
  });

  it("are called by themselves as deep as it goes", () => {
    // test rsi,rsi; jz +12; dec rsi; call self; add rax,1; ret
    const self = [0x48, 0x85, 0xf6, 0x74, 12, 0x48, 0xff, 0xce, ...call(CALLEE + 8, CALLEE), ...addRax(1), RET];
    // mov rsi,rdi in front of the call
    const pair = warm(rounds([0x48, 0x89, 0xfe, ...call(CODE + 3, CALLEE), ...addRbx(3)]), self);
    for (const depth of [0n, 1n, 7n, 8n, 20n]) {
      go(pair, [5000], { [RDI]: depth });
      expect(sumOf(pair)).toEqual([COUNT * depth, 3n * COUNT]);
    }
  });

  it("are those that stand at the address from now on, after a change of the page tables", () => {
    const pair = warm(CALLER, [...addRax(1), RET], (machine) => machine.put(OTHER, [...addRax(5), RET]));
    pair.each((machine) => {
      machine.map(BigInt(CALLEE) & ~0xfffn, BigInt(OTHER) & ~0xfffn, P | RW);
      machine.cpu.flushTlb();
    });
    for (let n = 0; n < 3; n++) {
      go(pair);
      expect(sumOf(pair)).toEqual([5n * COUNT, 3n * COUNT]);
    }
  });

  it("are not those of the address where the code was compiled, when it runs at another", () => {
    const pair = warm(CALLER, [...addRax(1), RET], (machine) => {
      machine.map(ALIAS, BigInt(CODE), P | RW);
      // What the call reaches from there.
      machine.map(ALIAS + BigInt(2 * PAGE), BigInt(OTHER) & ~0xfffn, P | RW);
      machine.put(OTHER, [...addRax(7), RET]);
    });
    for (let n = 0; n < 4; n++) {
      go(pair);
      expect(sumOf(pair)).toEqual([COUNT, 3n * COUNT]);
      pair.each((machine) => {
        restart(machine, { [RAX]: 0n, [RBX]: 0n, [RCX]: COUNT });
        const view = new DataView(machine.ram.buffer);
        for (const at of [CUR, LAZY_KIND]) view.setUint32(at, 0, true);
        view.setBigUint64(RIP, ALIAS, true);
      });
      expect(pair.runAll([1000], 10).reason).toBe(EXIT_HALT);
      expect(sumOf(pair)).toEqual([7n * COUNT, 3n * COUNT]);
    }
  });

  it("are left when they rewrite the caller, or the caller rewrote them", () => {
    // mov [rdi],sil; add rax,1; ret. The addition in the caller becomes one of RSI.
    const pair = warm(CALLER, [0x40, 0x88, 0x37, ...addRax(1), RET], (machine) => machine.set({ [RDI]: BigInt(DATA) }));
    go(pair, [1000], { [RDI]: BigInt(CODE + 8), [RSI]: 9n });
    expect(sumOf(pair)).toEqual([COUNT, 9n * COUNT]);
    // The callee's own addition, behind it.
    go(pair, [1000], { [RDI]: BigInt(CALLEE + 6), [RSI]: 4n });
    expect(sumOf(pair)).toEqual([4n * COUNT, 9n * COUNT]);
  });

  it("are left when a string instruction in them rewrites the caller", () => {
    // push rcx; push rdi; push rax; mov ecx,1; mov eax,esi; rep stosb; pop rax; pop rdi; pop rcx; add rax,1; ret
    const callee = [0x51, 0x57, 0x50, 0xb9, 1, 0, 0, 0, 0x89, 0xf0, 0xf3, 0xaa, 0x58, 0x5f, 0x59, ...addRax(1), RET];
    const pair = warm(CALLER, callee, (machine) => machine.set({ [RDI]: BigInt(DATA) }));
    go(pair, [1000], { [RDI]: BigInt(CODE + 8), [RSI]: 9n });
    expect(sumOf(pair)).toEqual([COUNT, 9n * COUNT]);
  });

  it("fault where they are, with all before done", () => {
    // mov [rdi],rax; add rdi,8; add rax,1; ret: up to the end of a page, behind which none is.
    const page = ALIAS + 0x10000n;
    const pair = warm(CALLER, [0x48, 0x89, 0x07, 0x48, 0x83, 0xc7, 8, ...addRax(1), RET], (machine) => {
      machine.map(page, 0x200000n, P | RW);
      machine.set({ [RDI]: page });
    });
    for (const start of [0xff0n, 0xff4n, 0xfc0n]) {
      pair.each((machine) => restart(machine, { [RAX]: 0n, [RCX]: COUNT, [RDI]: page + start }));
      expect(pair.runAll([1000], 10).reason).toBe(EXIT_HALT);
      expect(pair.compiled.cpu.state.control.cr2).toBe(page + 0x1000n);
    }
    expect(pair.compiled.blocks.isCompiled(CODE)).toBe(true);
  });

  it("are not a user's because they are the supervisor's", () => {
    const at = USER_AT + 0x3000;
    const frame = STACK - 0x100;
    // The supervisor goes on with the same code as a user, who may not execute the other page.
    const caller = [...rounds([...call(USER_AT, at), ...addRbx(3)]).slice(0, -1), 0x48, 0xcf];
    const pair = new Pair();
    pair.each((machine) => {
      machine.put(at, [...addRax(1), RET]);
      machine.map(BigInt(at), BigInt(at), P | RW);
      machine.kernel([...jump(CODE, USER_AT)]);
      machine.put(USER_AT, caller);
    });
    for (let n = 0; n < 4; n++) {
      pair.each((machine) => userFrame(machine, frame, USER_AT));
      go(pair, [60], { [RSP]: BigInt(frame) });
      expect(sumOf(pair)).toEqual([COUNT, 3n * COUNT]);
      expect(pair.compiled.cpu.state.control.cr2).toBe(BigInt(at));
    }
    expect(pair.compiled.blocks.isCompiled(USER_AT)).toBe(true);
  });
});

describe("interrupts in compiled code", () => {
  const VECTOR = 0xf3;
  const [STI, CLI] = [0xfb, 0xfa];
  const LINE = DATA;
  /** cli; add rax,1; sti; add rbx,1 … */
  const code = rounds([CLI, ...addRax(1), STI, ...addRbx(1)]);

  function ready(): Pair {
    const pair = warm(code, [RET], (machine) => {
      machine.cpu.setInterruptLine(FRAMES + LINE, VECTOR);
      // inc r15; mov byte [LINE],0; iretq
      machine.put(0x5000, [0x49, 0xff, 0xc7, 0xc6, 0x04, 0x25, ...little(LINE), 0, 0x48, 0xcf]);
      machine.gate(VECTOR, { target: 0x5000n });
    });
    pair.each((machine) => machine.set({ 15: 0n }));
    return pair;
  }

  it("come behind the instruction after STI, not before", () => {
    const pair = ready();
    // Each stop is a chance for one to come.
    pair.each((machine) => restart(machine, { [RAX]: 0n, [RBX]: 0n, [RCX]: COUNT, 15: 0n }));
    let exit = pair.run(1);
    for (let n = 0; exit.reason === EXIT_BUDGET; n++) {
      if (n % 3 === 0) pair.each(({ ram }) => ram.setUint8(LINE, 1));
      exit = pair.run(1 + (n % 7));
    }
    expect(exit.reason).toBe(EXIT_HALT);
    expect(sumOf(pair)).toEqual([COUNT, COUNT]);
    expect(pair.compiled.cpu.getRegister(15)).toBeGreaterThan(5n);
  });

  it("that wait at STI are taken there", () => {
    const pair = ready();
    for (const rounds of [1n, 2n, COUNT]) {
      pair.each(({ ram }) => ram.setUint8(LINE, 1));
      go(pair, [1000], { 15: 0n, [RCX]: rounds });
      expect(pair.compiled.cpu.getRegister(15)).toBe(1n);
    }
  });

  it.each([
    ["CLI", CODE],
    ["STI", CODE + 5],
  ])("are not for a user to switch by %s", (_, start) => {
    const frame = STACK - 0x100;
    const pair = new Pair();
    pair.each((machine) => {
      machine.map(BigInt(CODE), BigInt(CODE), P | RW | US);
      machine.kernel([...code.slice(0, -1), 0x48, 0xcf]);
    });
    for (let n = 0; n < 5; n++) {
      pair.each((machine) => userFrame(machine, frame, start));
      go(pair, [60], { [RSP]: BigInt(frame) });
      // #GP at once.
      expect(sumOf(pair)).toEqual([COUNT, COUNT]);
    }
    expect(pair.compiled.blocks.isCompiled(start)).toBe(true);
  });
});
