import { expect, it } from "vitest";
import { EXIT_BUDGET, EXIT_HALT } from "../../../engine/cpu/assembly/layout.ts";
import {
  CODE,
  DATA,
  describeModes,
  HANDLERS,
  HLT,
  KERNEL_CODE,
  Machine,
  NOP,
  P,
  RW,
  US,
  USER_AT,
  USER_CODE,
} from "./machine.ts";

const TF = 0x100;
const PAGE = 0x7000_0000_0000n;

describeModes("single stepping at its edges", () => {
  it("is postponed by a load of SS to the instruction after it", () => {
    const machine = new Machine();
    machine.kernel([0x8e, 0xd0, NOP, NOP]); // mov ss,ax
    machine.set({ 0: 0x10n });
    machine.change((state) => {
      state.rflags |= TF;
    });
    expect(machine.trap()).toMatchObject({ vector: 1, rip: BigInt(CODE + 3) });
  });

  it("traps a SYSCALL in the kernel unless SFMASK clears TF", () => {
    for (const { sfmask, vector } of [
      { sfmask: 0n, vector: 1 },
      { sfmask: 0x100n, vector: 6 },
    ]) {
      const machine = new Machine();
      machine.put(CODE, [0x0f, 0x0b]);
      machine.change((state) => {
        Object.assign(state.msrs, { star: BigInt(KERNEL_CODE) << 32n, lstar: BigInt(CODE), sfmask });
      });
      machine.user([0x0f, 0x05], USER_AT, TF | 2);
      machine.gate(1, { ist: 1 });
      machine.gate(6, { ist: 1 });
      const frame = machine.trap();
      expect(frame.rip).toBe(BigInt(CODE));
      expect(frame.vector).toBe(vector);
    }
  });

  it("traps after the whole budget of run(1) was one instruction", () => {
    const machine = new Machine();
    machine.user([NOP, NOP], USER_AT, TF | 2);
    expect(machine.cpu.run(1)).toEqual({ reason: EXIT_BUDGET });
    expect(machine.cpu.state.rip).toBe(BigInt(HANDLERS + 16));
    expect(machine.cpu.instructions).toBe(1);
  });
});

describeModes("faults in merged instructions", () => {
  /** CMP RAX, [RSI]; JE: one record in the core. */
  const code = [NOP, 0x48, 0x3b, 0x06, 0x74, 0xfe, NOP];

  it("find the comparison's RIP, its flags untouched and both instructions not retired", () => {
    const machine = new Machine();
    machine.user(code, USER_AT, 0x8d7);
    machine.set({ 6: PAGE });
    expect(machine.trap()).toMatchObject({ vector: 14, error: 4, rip: BigInt(USER_AT + 1), rflags: 0x108d7 });
    expect(machine.cpu.instructions).toBe(2);
  });

  it("find the return address' page fault of RET and keep RSP", () => {
    const machine = new Machine();
    machine.user([0x5b, 0x5d, 0xc3]); // pop rbx; pop rbp; ret
    machine.map(PAGE, 0x200000n, P | RW | US);
    machine.set({ 4: PAGE + 0xff0n });
    expect(machine.trap()).toMatchObject({ vector: 14, error: 4, rip: BigInt(USER_AT + 2), rsp: PAGE + 0x1000n });
  });

  it("find the second of two PUSHes when the stack ends between them", () => {
    const machine = new Machine();
    machine.map(PAGE, 0x200000n, P | RW | US);
    machine.user([0x55, 0x53, 0x50, 0x48, 0x83, 0xec, 0x20]); // push rbp; push rbx; push rax; sub rsp,32
    machine.set({ 4: PAGE + 8n, 5: 0x1234n });
    expect(machine.trap()).toMatchObject({ vector: 14, error: 6, rip: BigInt(USER_AT + 1), rsp: PAGE });
    expect(machine.read64(0x200000)).toBe(0x1234n);
    expect(machine.cpu.state.control.cr2).toBe(PAGE - 8n);
  });
});

describeModes("jumps", () => {
  it("to a missing page fault at the target, with the jump retired", () => {
    const machine = new Machine();
    machine.user([0xff, 0xd0]); // call rax
    machine.set({ 0: PAGE });
    expect(machine.trap()).toMatchObject({ vector: 14, error: 0x14, rip: PAGE, rsp: 0x60000n - 8n, cs: USER_CODE });
    expect(machine.cpu.instructions).toBe(2);
  });

  it("to an address that is not canonical raise #GP", () => {
    const machine = new Machine();
    machine.user([0xff, 0xe0]); // jmp rax
    machine.set({ 0: 0x8000_0000_0000n });
    expect(machine.trap()).toMatchObject({ vector: 13, error: 0 });
  });

  it("by the user to a kernel function that the kernel has called fault", () => {
    const machine = new Machine();
    machine.put(CODE + 0x1000, [0xc3]);
    machine.kernel([0xff, 0xd0, 0xff, 0xd0, HLT]); // call rax, twice
    machine.set({ 0: BigInt(CODE + 0x1000) });
    expect(machine.run()).toEqual({ reason: EXIT_HALT });
    machine.user([0xff, 0xd0]);
    machine.set({ 0: BigInt(CODE + 0x1000) });
    expect(machine.trap()).toMatchObject({ vector: 14, error: 0x15, rip: BigInt(CODE + 0x1000) });
  });

  it("beyond the page fall through into the next one with its own rights", () => {
    const machine = new Machine();
    machine.map(PAGE, 0x200000n, P | US);
    machine.map(PAGE + 0x1000n, 0x201000n, P);
    machine.put(0x200ffe, [NOP, NOP]);
    machine.put(0x201000, [HLT]);
    machine.user([0xff, 0xe0]);
    machine.set({ 0: PAGE + 0xffen });
    expect(machine.trap()).toMatchObject({ vector: 14, error: 0x15, rip: PAGE + 0x1000n });
  });
});

describeModes("locked instructions", () => {
  it("fault for writing also where they would write nothing", () => {
    const machine = new Machine();
    machine.map(PAGE, 0x200000n, P | US);
    machine.user([0xf0, 0x48, 0x0f, 0xb1, 0x0f]); // lock cmpxchg [rdi],rcx
    machine.set({ 0: 5n, 7: PAGE });
    expect(machine.trap()).toMatchObject({ vector: 14, error: 7, rip: BigInt(USER_AT) });
    machine.user([0x48, 0x0f, 0xb1, 0x0f]);
    machine.set({ 0: 5n, 7: PAGE });
    expect(machine.trap()).toMatchObject({ vector: 14, error: 7, rip: BigInt(USER_AT) });
  });

  it("set the dirty bit of the page that holds a comparison's failed destination", () => {
    const machine = new Machine();
    const leaf = machine.map(PAGE, 0x200000n, P | RW);
    machine.kernel([0xf0, 0x48, 0x0f, 0xb1, 0x0f, HLT]);
    machine.set({ 0: 5n, 7: PAGE + BigInt(DATA & 0xfff) });
    machine.run();
    expect(machine.read64(leaf) & 0x60n).toBe(0x60n);
  });
});
