import { expect, it } from "vitest";
import { EXIT_BUDGET, EXIT_HALT } from "../../../engine/cpu/assembly/layout.ts";
import { CODE, DATA, describeModes, HLT, LOAD, Machine, NOP, P, RW, STACK, STORE, USER_AT } from "./machine.ts";

const PAGE = 0x7000_0000_0000n;
const FRAME = 0x200000;
const RCX = 1;
const RSI = 6;
const RDI = 7;
const DF = 0x400;
const REP_MOVSQ = [0xf3, 0x48, 0xa5];
const REP_STOSB = [0xf3, 0xaa];

/** RCX, RSI, RDI. */
function indexes(machine: Machine): bigint[] {
  return [RCX, RSI, RDI].map((n) => machine.cpu.getRegister(n));
}

/** A kernel program with one mapped page at PAGE, none before and behind, that has run into its #PF. */
function faulted(code: readonly number[], registers: Readonly<Record<number, bigint>>, rflags = 2): Machine {
  const machine = new Machine();
  machine.map(PAGE, BigInt(FRAME), P | RW);
  for (let n = 0; n < 0x400; n++) machine.write64(DATA + n * 8, BigInt(n + 1));
  machine.kernel([...code, HLT]);
  machine.change((state) => {
    state.rflags = rflags;
  });
  machine.set(registers);
  expect(machine.trap()).toMatchObject({ vector: 14, rip: BigInt(CODE) });
  return machine;
}

/** Maps another page and returns from the #PF handler. */
function resumed(machine: Machine, linear: bigint, frame: number): void {
  machine.map(linear, BigInt(frame), P | RW);
  const { rip, rflags, rsp } = machine.frame(14);
  machine.change((state) => {
    Object.assign(state, { rip, rflags: rflags & ~0x10000 });
    state.registers[4] = rsp;
  });
  expect(machine.run()).toEqual({ reason: EXIT_HALT });
}

describeModes("repeated string instructions that fault in the middle", () => {
  it("leave what remains in RCX, RSI and RDI when the destination's next page is missing, and finish when restarted", () => {
    const machine = faulted(REP_MOVSQ, { [RCX]: 0x300n, [RSI]: BigInt(DATA), [RDI]: PAGE + 0x800n });
    expect(indexes(machine)).toEqual([0x200n, BigInt(DATA + 0x800), PAGE + 0x1000n]);
    expect(machine.cpu.state.control.cr2).toBe(PAGE + 0x1000n);
    resumed(machine, PAGE + 0x1000n, FRAME + 0x2000);
    expect(indexes(machine)).toEqual([0n, BigInt(DATA + 0x1800), PAGE + 0x2000n]);
    expect([machine.read64(FRAME + 0xff8), machine.read64(FRAME + 0x2000)]).toEqual([0x100n, 0x101n]);
    expect([machine.read64(FRAME + 0x2ff8), machine.read64(FRAME + 0x3000)]).toEqual([0x300n, 0n]);
  });

  it("stop at the source's missing page", () => {
    const machine = faulted(REP_MOVSQ, { [RCX]: 0x20n, [RSI]: PAGE + 0xfc0n, [RDI]: BigInt(DATA) });
    expect(indexes(machine)).toEqual([0x18n, PAGE + 0x1000n, BigInt(DATA + 0x40)]);
    expect(machine.frame(14).error).toBe(0);
  });

  it("write nothing of an element that reaches into the missing page", () => {
    const machine = faulted(REP_MOVSQ, { [RCX]: 4n, [RSI]: BigInt(DATA), [RDI]: PAGE + 0xff4n });
    expect(indexes(machine)).toEqual([3n, BigInt(DATA + 8), PAGE + 0xffcn]);
    expect(machine.cpu.state.control.cr2).toBe(PAGE + 0x1000n);
    expect(machine.read64(FRAME + 0xff8) >> 32n).toBe(0n);
  });

  it("stop below a page when the direction is down", () => {
    const registers = { [RCX]: 8n, [RSI]: BigInt(DATA + 0x100), [RDI]: PAGE + 0x18n };
    const machine = faulted(REP_MOVSQ, registers, DF | 2);
    expect(indexes(machine)).toEqual([4n, BigInt(DATA + 0xe0), PAGE - 8n]);
    expect(machine.cpu.state.control.cr2).toBe(PAGE - 8n);
    resumed(machine, PAGE - 0x1000n, FRAME + 0x4000);
    expect(indexes(machine)).toEqual([0n, BigInt(DATA + 0xc0), PAGE - 0x28n]);
    expect(machine.read64(FRAME + 0x4ff8)).toBe(0x1dn);
  });

  it("restart STOS the same way", () => {
    const machine = faulted(REP_STOSB, { 0: 0x5an, [RCX]: 0x1800n, [RDI]: PAGE + 1n });
    expect(indexes(machine)).toEqual([0x801n, 0n, PAGE + 0x1000n]);
    resumed(machine, PAGE + 0x1000n, FRAME + 0x2000);
    expect(indexes(machine)).toEqual([0n, 0n, PAGE + 0x1801n]);
    expect([machine.read64(FRAME), machine.read64(FRAME + 0x2800)]).toEqual([0x5a5a5a5a5a5a5a00n, 0x5an]);
  });

  it("read and write nothing with a count of zero", () => {
    const machine = new Machine();
    machine.kernel([...REP_MOVSQ, ...REP_STOSB, HLT]);
    machine.set({ [RCX]: 0n, [RSI]: PAGE, [RDI]: PAGE });
    expect(machine.run()).toEqual({ reason: EXIT_HALT });
  });
});

describeModes("other instructions that fault in the middle", () => {
  it("leave RSP of a PUSH, a CALL and a POP to memory as it was", () => {
    for (const code of [[0x50], [0xe8, 0, 0, 0, 0], [0x8f, 0x07], [0xff, 0x37]]) {
      const machine = new Machine();
      const pop = code[0] === 0x8f;
      machine.gate(14, { ist: 1 });
      machine.kernel(code);
      const rsp = pop ? BigInt(STACK - 16) : PAGE + 0x1000n;
      machine.set({ 4: rsp, [RDI]: pop ? PAGE : BigInt(DATA) });
      expect(machine.trap()).toMatchObject({ vector: 14, rip: BigInt(CODE), rsp, error: 2 });
    }
  });

  it("leave the flags of a read-modify-write on a read-only page as they were", () => {
    const machine = new Machine();
    machine.map(PAGE, BigInt(FRAME), P);
    machine.kernel([0xf9, 0x48, 0x01, 0x07]); // stc; add [rdi],rax
    machine.set({ 0: 0n, [RDI]: PAGE });
    expect(machine.trap()).toMatchObject({ vector: 14, error: 3, rflags: 0x10003 });
  });
});

describeModes("instruction counts", () => {
  it("count what retired: not the instruction that faults, in the middle of a block", () => {
    const machine = new Machine();
    machine.kernel([NOP, NOP, NOP, ...LOAD, NOP, NOP]);
    machine.set({ [RSI]: PAGE });
    machine.trap();
    // three before the fault, the handler's HLT
    expect(machine.cpu.instructions).toBe(4);
  });

  it("are the same in one run and in single steps, across faults, jumps and fused comparisons", () => {
    // loop: inc eax; cmp eax,200; jne loop; store to a missing page
    const code = [0xff, 0xc0, 0x3d, 200, 0, 0, 0, 0x75, 0xf7, ...STORE];
    const counts = [1, 2, 7, 100, 100_000].map((budget) => {
      const machine = new Machine();
      machine.user(code);
      machine.set({ 0: 0n, [RDI]: PAGE });
      while (machine.cpu.run(budget).reason === EXIT_BUDGET);
      return machine.cpu.instructions;
    });
    expect(counts).toEqual([601, 601, 601, 601, 601]);
  });

  it("grow by one for each run(1), which moves RIP by one instruction", () => {
    const machine = new Machine();
    machine.user([NOP, 0x48, 0xff, 0xc0, 0x3d, 1, 0, 0, 0, 0x75, 0xfe, NOP]); // nop; inc rax; cmp eax,1; jne; nop
    machine.set({ 0: 0n });
    const rips = [1, 4, 9, 11, 12].map((offset) => BigInt(USER_AT + offset));
    for (const [n, rip] of rips.entries()) {
      expect(machine.cpu.run(1)).toEqual({ reason: EXIT_BUDGET });
      expect(machine.cpu.state.rip).toBe(rip);
      expect(machine.cpu.instructions).toBe(n + 1);
    }
  });

  it("take a whole REP for one instruction", () => {
    const machine = new Machine();
    machine.kernel([...REP_STOSB, HLT]);
    machine.set({ [RCX]: 0x3000n, [RDI]: BigInt(DATA) });
    machine.cpu.run(1);
    expect([machine.cpu.instructions, machine.cpu.state.rip]).toEqual([1, BigInt(CODE + 2)]);
    expect(machine.cpu.getRegister(RCX)).toBe(0n);
  });
});
