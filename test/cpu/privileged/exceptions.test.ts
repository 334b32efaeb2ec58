import { expect, it } from "vitest";
import { EXIT_SHUTDOWN } from "../../../engine/cpu/assembly/layout.ts";
import {
  CODE,
  describeModes,
  HANDLERS,
  HLT,
  IDT,
  IST1,
  IST2,
  KERNEL_CODE,
  KERNEL_DATA,
  LOAD,
  Machine,
  mov,
  NOP,
  RSP0,
  STACK,
  TRAP_GATE,
  USER_AT,
  USER_CODE,
  USER_DATA,
  USER_STACK,
} from "./machine.ts";

const IF = 0x200;
const TF = 0x100;
const RF = 0x10000;
const MISSING = 0x7000_0000_0000n;

describeModes("exception delivery", () => {
  it("pushes SS, RSP, RFLAGS with RF, CS, RIP and the error code on the same stack, aligned to 16 bytes", () => {
    const machine = new Machine();
    machine.kernel([NOP, ...LOAD]);
    machine.set({ 4: BigInt(STACK - 5), 6: MISSING });
    expect(machine.trap()).toEqual({
      vector: 14,
      error: 0,
      rip: BigInt(CODE + 1),
      cs: KERNEL_CODE,
      rflags: RF | 2,
      rsp: BigInt(STACK - 5),
      ss: KERNEL_DATA,
    });
    expect(machine.cpu.getRegister(4)).toBe(BigInt(((STACK - 5) & ~15) - 48));
    expect(machine.cpu.state.segments.ss.selector).toBe(KERNEL_DATA);
  });

  it("switches to RSP0 and a null SS when it comes from the user", () => {
    const machine = new Machine();
    machine.user([0x0f, 0x0b]);
    expect(machine.trap()).toEqual({
      vector: 6,
      error: undefined,
      rip: BigInt(USER_AT),
      cs: USER_CODE,
      rflags: RF | IF | 2,
      rsp: BigInt(USER_STACK),
      ss: USER_DATA,
    });
    expect(machine.cpu.getRegister(4)).toBe(BigInt(RSP0 - 40));
    expect(machine.cpu.state.segments.ss.selector).toBe(0);
    expect(machine.cpu.cpl).toBe(0);
  });

  it("uses the gate's IST stack from any level", () => {
    const machine = new Machine();
    machine.gate(6, { ist: 2 });
    machine.kernel([0x0f, 0x0b]);
    expect(machine.trap().rsp).toBe(BigInt(STACK));
    expect(machine.cpu.getRegister(4)).toBe(BigInt(IST2 - 40));
    machine.user([0x0f, 0x0b]);
    machine.trap();
    expect(machine.cpu.getRegister(4)).toBe(BigInt(IST2 - 40));
  });

  it("masks interrupts through an interrupt gate, not through a trap gate", () => {
    const machine = new Machine();
    machine.user([0x0f, 0x0b]);
    machine.trap();
    expect(machine.cpu.interruptsEnabled).toBe(false);
    machine.gate(6, { type: TRAP_GATE });
    machine.user([0x0f, 0x0b]);
    machine.trap();
    expect(machine.cpu.interruptsEnabled).toBe(true);
  });

  it("raises #DE at DIV by zero with RIP at the instruction, #BP behind INT3", () => {
    const machine = new Machine();
    machine.kernel([NOP, 0xf7, 0xf1]);
    machine.set({ 1: 0n });
    expect(machine.trap()).toMatchObject({ vector: 0, rip: BigInt(CODE + 1) });
    expect(machine.frame(0).rflags & RF).toBe(RF);
    machine.kernel([NOP, 0xcc]);
    expect(machine.trap()).toMatchObject({ vector: 3, rip: BigInt(CODE + 2) });
    expect(machine.frame(3).rflags & RF).toBe(0);
  });

  it("checks the gate's DPL for INT n, not for hardware exceptions", () => {
    const machine = new Machine();
    machine.gate(0x80, { dpl: 3 });
    machine.user([0xcd, 0x80]);
    expect(machine.trap()).toMatchObject({ vector: 0x80, rip: BigInt(USER_AT + 2), rflags: IF | 2 });
    machine.user([0xcd, 0x0e]);
    expect(machine.trap()).toMatchObject({ vector: 13, error: 14 * 8 + 2, rip: BigInt(USER_AT) });
    machine.user([0xcc]);
    expect(machine.trap()).toMatchObject({ vector: 13, error: 3 * 8 + 2, rip: BigInt(USER_AT) });
  });

  it("raises #NP for a gate that is not present, with EXT for hardware events", () => {
    const machine = new Machine();
    machine.ram.setUint8(IDT + 6 * 16 + 5, 0x0e);
    machine.kernel([0x0f, 0x0b]);
    expect(machine.trap()).toMatchObject({ vector: 11, error: 6 * 8 + 3, rip: BigInt(CODE) });
    machine.kernel([0xcd, 6]);
    expect(machine.trap()).toMatchObject({ vector: 11, error: 6 * 8 + 2, rip: BigInt(CODE) });
  });

  it("raises #GP for a vector beyond the IDT's limit", () => {
    const machine = new Machine();
    machine.change((state) => {
      state.idtr.limit = 0x7ff;
    });
    machine.kernel([0xcd, 0x80]);
    expect(machine.trap()).toMatchObject({ vector: 13, error: 0x80 * 8 + 2 });
  });

  it("makes a page fault while delivering a page fault a double fault with error code 0", () => {
    const machine = new Machine();
    machine.gate(8, { ist: 1 });
    machine.kernel(LOAD);
    machine.set({ 4: MISSING, 6: MISSING + 0x5000n });
    expect(machine.trap()).toMatchObject({ vector: 8, error: 0, rip: BigInt(CODE), rsp: MISSING });
    expect(machine.cpu.getRegister(4)).toBe(BigInt(IST1 - 48));
    expect(machine.cpu.state.control.cr2).toBe(MISSING - 8n);
  });

  it("serves a page fault while delivering a contributory exception on its own", () => {
    const machine = new Machine();
    machine.gate(14, { ist: 1 });
    machine.kernel([0xf7, 0xf1]);
    machine.set({ 1: 0n, 4: MISSING });
    expect(machine.trap()).toMatchObject({ vector: 14, error: 2, rip: BigInt(CODE) });
  });

  it("makes two contributory exceptions a double fault", () => {
    const machine = new Machine();
    machine.gate(0, { selector: 0x1000 });
    machine.kernel([0xf7, 0xf1]);
    machine.set({ 1: 0n });
    expect(machine.trap()).toMatchObject({ vector: 8, error: 0, rip: BigInt(CODE) });
  });

  it("shuts down when the double fault cannot be delivered", () => {
    const machine = new Machine();
    machine.kernel(LOAD);
    machine.set({ 4: MISSING, 6: MISSING + 0x5000n });
    expect(machine.run()).toEqual({ reason: EXIT_SHUTDOWN });
  });

  it("shuts down without an IDT", () => {
    const machine = new Machine();
    machine.change((state) => {
      state.idtr.limit = 0;
    });
    machine.kernel([0xcd, 3]);
    expect(machine.run()).toEqual({ reason: EXIT_SHUTDOWN });
  });

  it("returns from a fault with IRETQ to the faulting instruction and stack, in the kernel and to the user", () => {
    const machine = new Machine();
    machine.put(0x5000, [...mov(6, CODE), 0x48, 0x83, 0xc4, 8, 0x48, 0xcf]); // mov rsi,CODE; add rsp,8; iretq
    machine.gate(14, { target: 0x5000n });
    machine.kernel([...LOAD, HLT]);
    machine.set({ 6: MISSING });
    machine.run();
    expect(machine.cpu.state.rip).toBe(BigInt(CODE + 4));
    expect(machine.cpu.getRegister(4)).toBe(BigInt(STACK));
    machine.put(0x5000, mov(6, USER_AT));
    machine.user([...LOAD, 0xcd, 0x80]);
    machine.gate(0x80, { dpl: 3 });
    machine.set({ 6: MISSING });
    expect(machine.trap()).toMatchObject({
      vector: 0x80,
      rip: BigInt(USER_AT + 5),
      rsp: BigInt(USER_STACK),
      rflags: IF | 2,
    });
  });
});

describeModes("single stepping", () => {
  it("traps after each instruction while TF is set, with DR6.BS and without RF", () => {
    const machine = new Machine();
    machine.user([NOP, NOP], USER_AT, TF | 2);
    expect(machine.trap()).toMatchObject({ vector: 1, rip: BigInt(USER_AT + 1), rflags: TF | 2 });
    expect((machine.cpu.state.debug[6] ?? 0n) & 0x4000n).toBe(0x4000n);
    expect(machine.cpu.state.rflags & TF).toBe(0);
  });

  it("starts one instruction after the POPF or IRETQ that sets TF", () => {
    const machine = new Machine();
    machine.kernel([0x6a, 2, 0x80, 0x4c, 0x24, 1, 1, 0x9d, NOP, NOP]); // push 2; or byte [rsp+1],1; popfq
    expect(machine.trap()).toMatchObject({ vector: 1, rip: BigInt(CODE + 9) });
  });

  it("takes no trap for INT n itself: its handler runs with TF clear", () => {
    const machine = new Machine();
    machine.gate(0x80, { dpl: 3 });
    machine.user([0xcd, 0x80, NOP], USER_AT, TF | 2);
    expect(machine.trap()).toMatchObject({ vector: 0x80, rip: BigInt(USER_AT + 2), rflags: TF | 2 });
  });

  it("takes the trap of a POPF that clears TF", () => {
    const machine = new Machine();
    machine.kernel([0x6a, 2, 0x9d, NOP]);
    machine.steps(1);
    machine.change((state) => {
      state.rflags |= TF;
    });
    expect(machine.trap()).toMatchObject({ vector: 1, rip: BigInt(CODE + 3), rflags: 2 });
  });

  it("delivers the fault of a stepped instruction instead of the trap", () => {
    const machine = new Machine();
    machine.user(LOAD, USER_AT, TF | 2);
    machine.set({ 6: MISSING });
    expect(machine.trap()).toMatchObject({ vector: 14, rip: BigInt(USER_AT), rflags: RF | TF | 2 });
    expect(HANDLERS + 14 * 16 + 1).toBe(Number(machine.cpu.state.rip));
  });
});
