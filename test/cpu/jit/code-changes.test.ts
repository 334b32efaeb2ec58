import { describe, expect, it } from "vitest";
import { CODE_RESETS, EXIT_BUDGET, EXIT_HALT, FRAMES } from "../../../engine/cpu/assembly/layout.ts";
import { CODE, DATA, HLT, Machine, NOP, P, RW, STACK } from "../privileged/machine.ts";
import { again, compiled, RAX, RBX, RCX, RDI, RSI } from "./rerun.ts";

const PAGE = 0x1000;
const HIGH = 0x7000_0000_0000n;

const moveEax = (value: number): number[] => [0xb8, value, 0, 0, 0];
const nops = (count: number): number[] => Array.from({ length: count }, () => NOP);

describe("code that changes under compiled blocks", () => {
  /** MOV [RDI], CL in front: writes where the test points it to. */
  const WRITE = [0x88, 0x0f];

  it.each([1, 5, 40])("is seen %d instructions later in the same block", (distance) => {
    const immediate = CODE + 2 + distance + 1;
    const machine = compiled([...WRITE, ...nops(distance), ...moveEax(9), HLT], { [RDI]: BigInt(DATA), [RCX]: 7n });
    expect(machine.cpu.getRegister(RAX)).toBe(9n);
    again(machine, { [RDI]: BigInt(immediate), [RCX]: 7n });
    expect(machine.cpu.getRegister(RAX)).toBe(7n);
  });

  it("is seen in the middle of a block that jumps to its own start", () => {
    // mov [rdi],cl; mov eax,9; add ebx,eax; dec ecx; jne -13; hlt
    const loop = [...WRITE, ...moveEax(9), 0x01, 0xc3, 0xff, 0xc9, 0x75, -13 & 0xff, HLT];
    const machine = compiled(loop, { [RDI]: BigInt(DATA), [RCX]: 3n, [RBX]: 0n });
    expect(machine.cpu.getRegister(RBX)).toBe(27n);
    again(machine, { [RDI]: BigInt(CODE + 3), [RCX]: 3n, [RBX]: 0n });
    expect(machine.cpu.getRegister(RBX)).toBe(6n);
  });

  it.each([
    ["another block of the page", CODE + 0x100],
    ["another page", CODE + 3 * PAGE],
    ["a function across two pages", CODE + PAGE - 2],
  ])("is seen in %s", (_, at) => {
    // mov [rdi],cl; call rsi; hlt
    const machine = compiled(
      [...WRITE, 0xff, 0xd6, HLT],
      { [RDI]: BigInt(DATA), [RSI]: BigInt(at), [RCX]: 5n },
      (each) => each.put(at, [...moveEax(9), 0xc3]),
    );
    expect(machine.cpu.getRegister(RAX)).toBe(9n);
    again(machine, { [RDI]: BigInt(at + 1), [RSI]: BigInt(at), [RCX]: 5n });
    expect(machine.cpu.getRegister(RAX)).toBe(5n);
    again(machine, { [RDI]: BigInt(at + 1), [RSI]: BigInt(at), [RCX]: 6n });
    expect(machine.cpu.getRegister(RAX)).toBe(6n);
  });

  it("is seen when the callee rewrites the caller behind the call", () => {
    // call +20; mov eax,9; hlt … mov [rdi],cl; ret
    const code = [0xe8, 20, 0, 0, 0, ...moveEax(9), HLT, ...nops(14), ...WRITE, 0xc3];
    const machine = compiled(code, { [RDI]: BigInt(DATA), [RCX]: 7n });
    expect(machine.cpu.getRegister(RAX)).toBe(9n);
    again(machine, { [RDI]: BigInt(CODE + 6), [RCX]: 7n });
    expect(machine.cpu.getRegister(RAX)).toBe(7n);
  });

  it("is seen behind a string instruction that writes it", () => {
    // rep stosb; mov eax,9; hlt
    const machine = compiled([0xf3, 0xaa, ...moveEax(9), HLT], { [RDI]: BigInt(DATA), [RCX]: 1n, [RAX]: 3n });
    again(machine, { [RDI]: BigInt(CODE + 3), [RCX]: 1n, [RAX]: 3n });
    expect(machine.cpu.getRegister(RAX)).toBe(3n);
  });

  it("is seen through an alias of the page, by PUSH too", () => {
    const alias = (machine: Machine): number => machine.map(HIGH, BigInt(CODE), P | RW);
    const store = compiled([...WRITE, ...moveEax(9), HLT], { [RDI]: BigInt(DATA), [RCX]: 4n }, alias);
    again(store, { [RDI]: HIGH + 3n, [RCX]: 4n });
    expect(store.cpu.getRegister(RAX)).toBe(4n);
    // mov rsp,rdi; push rcx; mov eax,9; hlt
    const push = compiled([0x48, 0x89, 0xfc, 0x51, ...moveEax(9), HLT], { [RDI]: BigInt(STACK) }, alias);
    again(push, { [RDI]: HIGH + 12n, [RCX]: 0x00f4_0000_0006_b890n });
    expect(push.cpu.getRegister(RAX)).toBe(6n);
  });

  it("is seen after dropCode and flushCode, and compiled anew", () => {
    const machine = compiled([...moveEax(1), HLT]);
    const forget = [() => machine.cpu.dropCode(FRAMES + CODE), () => machine.cpu.flushCode()];
    for (const [n, drop] of forget.entries()) {
      machine.put(CODE, moveEax(n + 2));
      again(machine);
      expect(machine.cpu.getRegister(RAX)).toBe(BigInt(n + 1));
      drop();
      again(machine);
      expect(machine.cpu.getRegister(RAX)).toBe(BigInt(n + 2));
      expect(machine.blocks.isCompiled(CODE)).toBe(false);
      again(machine);
      expect(machine.cpu.getRegister(RAX)).toBe(BigInt(n + 2));
      expect(machine.blocks.isCompiled(CODE)).toBe(true);
    }
  });

  it("is seen after the records' pool has run full in the middle of compiled code", () => {
    const PAGES = 0x200;
    const functions = 0x200000;
    const machine = new Machine("compiled");
    const words = new Uint32Array(machine.ram.buffer);
    // Each page is one function: NOPs and RET. All of them decoded take more than the pool.
    for (let n = 0; n < PAGES; n++) {
      const at = functions + n * PAGE;
      machine.map(BigInt(at), BigInt(at), P | RW);
      new Uint8Array(machine.ram.buffer, machine.ram.byteOffset + at, PAGE).fill(NOP).set([0xc3], PAGE - 1);
    }
    // call rsi; add rsi,0x1000; inc ebx; dec ecx; jne -15; hlt
    machine.kernel([0xff, 0xd6, 0x48, 0x81, 0xc6, 0, 0x10, 0, 0, 0xff, 0xc3, 0xff, 0xc9, 0x75, -15 & 0xff, HLT]);
    machine.set({ [RBX]: 0n, [RCX]: BigInt(PAGES), [RSI]: BigInt(functions) });
    expect(machine.cpu.run(3 * PAGE)).toEqual({ reason: EXIT_BUDGET });
    expect(machine.cpu.run(2)).toEqual({ reason: EXIT_BUDGET });
    expect(machine.blocks.isCompiled(CODE)).toBe(true);
    const resets = words[CODE_RESETS >> 2];
    expect(machine.cpu.run(PAGES * (PAGE + 10))).toEqual({ reason: EXIT_HALT });
    expect(words[CODE_RESETS >> 2]).toBe((resets ?? 0) + 1);
    expect(machine.cpu.getRegister(RBX)).toBe(BigInt(PAGES));
    machine.put(CODE + 9, [NOP, NOP]);
    machine.cpu.dropCode(FRAMES + CODE);
    for (let n = 0; n < 2; n++) {
      again(machine, { [RBX]: 7n, [RCX]: 1n, [RSI]: BigInt(functions + (PAGES - 1) * PAGE) }, 2 * PAGE);
      expect(machine.cpu.getRegister(RBX)).toBe(7n);
    }
    expect(machine.blocks.isCompiled(CODE)).toBe(true);
  });
});
