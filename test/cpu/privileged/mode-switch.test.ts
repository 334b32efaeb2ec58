import { expect, it } from "vitest";
import { EXIT_SHUTDOWN } from "../../../engine/cpu/assembly/layout.ts";
import { flatProtectedState } from "../../../engine/cpu/state.ts";
import {
  CALL_GATE,
  CODE,
  DATA,
  describeModes,
  GDT,
  HLT,
  KERNEL_CODE,
  KERNEL_CODE_32,
  Machine,
  mov,
  RSP0,
  STACK,
  TSS,
  USER_AT,
  USER_CODE,
  USER_DATA,
  USER_STACK,
} from "./machine.ts";

const INC_EAX_32 = 0x40;
const EFER = 0xc0000080;

function word(value: number): number[] {
  return [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
}

describeModes("entry into long mode", () => {
  /** In flat 32-bit code without paging, GDT and the 4-level tables in place, as a boot loader leaves a kernel. */
  function protectedMachine(): { machine: Machine; cr3: number } {
    const machine = new Machine();
    const { gdtr, idtr, control } = machine.cpu.state;
    machine.change(() => {
      const state = flatProtectedState(CODE);
      state.segments.cs.selector = KERNEL_CODE_32;
      state.registers[4] = BigInt(STACK);
      return { ...state, gdtr, idtr };
    });
    return { machine, cr3: Number(control.cr3) };
  }

  const setPae = [0xb8, 0x20, 0, 0, 0, 0x0f, 0x22, 0xe0]; // mov eax,20; mov cr4,eax
  const setLme = [0xb9, ...word(EFER), 0x0f, 0x32, 0x0f, 0xba, 0xe8, 8, 0x0f, 0x30]; // rdmsr; bts eax,8; wrmsr
  const setPaging = [0xb8, 0x11, 0, 0, 0x80, 0x0f, 0x22, 0xc0]; // mov eax,80000011; mov cr0,eax
  const setTables = (cr3: number) => [0xb8, ...word(cr3), 0x0f, 0x22, 0xd8];

  it("goes by CR4.PAE, CR3, EFER.LME and CR0.PG into compatibility mode and by a far jump into 64-bit code", () => {
    const { machine, cr3 } = protectedMachine();
    const start = [...setPae, ...setTables(cr3), ...setLme, ...setPaging, INC_EAX_32, HLT];
    const jump = [0xea, ...word(CODE + 0x100), KERNEL_CODE, 0];
    machine.put(CODE + 0x100, [...mov(3, 0x123456789abcdef0n), HLT]);
    machine.kernel([...start, ...jump]);
    machine.run();
    expect(machine.cpu.state.control.efer & 0x500n).toBe(0x500n);
    expect(machine.cpu.longMode).toBe(false);
    expect(machine.cpu.getRegister(0)).toBe(0x80000012n);
    machine.run();
    expect(machine.cpu.longMode).toBe(true);
    expect(machine.cpu.getRegister(3)).toBe(0x123456789abcdef0n);
  });

  it("stays out of long mode without EFER.LME: CR0.PG gives 32-bit PAE paging", () => {
    const { machine, cr3 } = protectedMachine();
    machine.write64(0x3f0000, 0x83n);
    machine.write64(0x3f1000, 0x3f0001n);
    expect(cr3).not.toBe(0x3f1000);
    machine.kernel([...setPae, ...setTables(0x3f1000), ...setPaging, INC_EAX_32, HLT]);
    machine.run();
    expect(machine.cpu.state.control.efer & 0x400n).toBe(0n);
    expect(machine.cpu.getRegister(0)).toBe(0x80000012n);
  });

  it("refuses CR0.PG with LME but without PAE, and CR0.PG without PE", () => {
    const withoutPe = [0xb8, 0x10, 0, 0, 0x80, 0x0f, 0x22, 0xc0]; // mov eax,80000010; mov cr0,eax
    for (const code of [
      [...setLme, ...setPaging],
      [...setPae, ...withoutPe],
    ]) {
      const { machine } = protectedMachine();
      machine.change((state) => {
        state.idtr.limit = 0;
      });
      machine.kernel([...code, HLT]);
      expect(machine.run()).toEqual({ reason: EXIT_SHUTDOWN });
      expect(machine.cpu.state.control).toMatchObject({ cr0: 0x11n });
      expect(machine.cpu.state.control.efer & 0x400n).toBe(0n);
    }
  });

  it("cannot give up PAE, PE or LME while long mode is active: #GP(0)", () => {
    const machine = new Machine();
    // mov rax,cr4; btr rax,5; mov cr4,rax: PAE may not go while in long mode
    machine.kernel([0x0f, 0x20, 0xe0, 0x48, 0x0f, 0xba, 0xf0, 5, 0x0f, 0x22, 0xe0]);
    expect(machine.trap()).toMatchObject({ vector: 13, error: 0, rip: BigInt(CODE + 8) });
    machine.kernel([0x0f, 0x20, 0xc0, 0x48, 0x0f, 0xba, 0xf0, 0, 0x0f, 0x22, 0xc0]); // btr rax,0 of CR0
    expect(machine.trap()).toMatchObject({ vector: 13, error: 0, rip: BigInt(CODE + 8) });
    machine.kernel([...setLme.slice(0, 7), 0x0f, 0xba, 0xf0, 8, 0x0f, 0x30]); // btr eax,8 of EFER: LME under paging
    expect(machine.trap()).toMatchObject({ vector: 13, error: 0, rip: BigInt(CODE + 11) });
  });
});

describeModes("far transfers", () => {
  it("go from 64-bit to compatibility code of the same level with RETFQ, and back with a far jump", () => {
    const machine = new Machine();
    // push 40; push target; retfq
    machine.kernel([0x6a, KERNEL_CODE_32, 0x68, ...word(CODE + 0x100), 0x48, 0xcb]);
    machine.put(CODE + 0x100, [INC_EAX_32, HLT, 0xea, ...word(CODE + 0x200), KERNEL_CODE, 0]);
    machine.put(CODE + 0x200, [0x48, 0xff, 0xc0, HLT]); // inc rax
    machine.set({ 0: 0xffffffffn });
    machine.run();
    expect([machine.cpu.longMode, machine.cpu.getRegister(0)]).toEqual([false, 0n]);
    expect(machine.cpu.getRegister(4)).toBe(BigInt(STACK));
    machine.run();
    expect([machine.cpu.longMode, machine.cpu.getRegister(0)]).toEqual([true, 1n]);
  });

  it("deliver exceptions of compatibility code to the 64-bit handler", () => {
    const machine = new Machine();
    machine.kernel([0x6a, KERNEL_CODE_32, 0x68, ...word(CODE + 0x100), 0x48, 0xcb]);
    machine.put(CODE + 0x100, [0x0f, 0x0b]);
    expect(machine.trap()).toMatchObject({ vector: 6, cs: KERNEL_CODE_32, rip: BigInt(CODE + 0x100) });
    expect(machine.cpu.longMode).toBe(true);
  });

  it("set the accessed bit of the code descriptor", () => {
    const machine = new Machine();
    machine.write64(GDT + KERNEL_CODE_32, 0x00cf9a000000ffffn);
    machine.kernel([0x6a, KERNEL_CODE_32, 0x68, ...word(CODE + 0x100), 0x48, 0xcb]);
    machine.put(CODE + 0x100, [HLT]);
    machine.run();
    expect(machine.read64(GDT + KERNEL_CODE_32)).toBe(0x00cf9b000000ffffn);
  });
});

describeModes("call gates", () => {
  const POINTER = USER_AT + 0x1000;
  const CALL_FAR = [0xff, 0x1e]; // call far [rsi]
  const INT80 = [0xcd, 0x80];

  function gate(machine: Machine, dpl: number, target: number): void {
    const access = BigInt(0x8c | (dpl << 5));
    const low = BigInt(target & 0xffff) | (BigInt(KERNEL_CODE) << 16n) | (access << 40n);
    machine.write64(GDT + CALL_GATE, low | (BigInt(target >>> 16) << 48n));
    machine.write64(GDT + CALL_GATE + 8, 0n);
  }

  function caller(dpl: number, kernel: readonly number[]): Machine {
    const machine = new Machine();
    gate(machine, dpl, CODE);
    machine.gate(0x80, { dpl: 3 });
    machine.put(CODE, kernel);
    machine.write64(POINTER, BigInt(CALL_GATE | 3) << 32n);
    machine.user([...CALL_FAR, ...INT80]);
    machine.set({ 6: BigInt(POINTER) });
    return machine;
  }

  it("switch to RSP0 and push SS, RSP, CS and RIP; a far return goes back to the user and drops kernel segments", () => {
    const machine = caller(3, [HLT, 0x48, 0xcb]);
    machine.run();
    expect(machine.cpu.cpl).toBe(0);
    expect(machine.cpu.getRegister(4)).toBe(BigInt(RSP0 - 32));
    const pushed = [0, 1, 2, 3].map((n) => machine.read64(RSP0 - 32 + n * 8));
    expect(pushed).toEqual([BigInt(USER_AT + 2), BigInt(USER_CODE), BigInt(USER_STACK), BigInt(USER_DATA)]);
    expect(machine.trap()).toMatchObject({ vector: 0x80, cs: USER_CODE, ss: USER_DATA, rsp: BigInt(USER_STACK) });
    expect(machine.cpu.state.segments.ds.selector).toBe(0);
  });

  it("return with an immediate that releases bytes of the outer stack too", () => {
    const machine = caller(3, [HLT, 0x48, 0xca, 16, 0]);
    machine.run();
    // the outer RSP and SS lie behind 16 bytes of parameters
    const frame = [USER_AT + 2, USER_CODE, 0, 0, USER_STACK - 64, USER_DATA];
    for (const [n, value] of frame.entries()) machine.write64(DATA + n * 8, BigInt(value));
    machine.set({ 4: BigInt(DATA) });
    expect(machine.trap()).toMatchObject({ vector: 0x80, rsp: BigInt(USER_STACK - 64 + 16) });
  });

  it("refuse callers above their DPL", () => {
    const machine = caller(0, [HLT]);
    expect(machine.trap()).toMatchObject({ vector: 13, error: CALL_GATE, rip: BigInt(USER_AT), cs: USER_CODE });
  });

  it("leave nothing changed when the inner stack faults", () => {
    const machine = caller(3, [HLT]);
    machine.gate(14, { ist: 1 });
    machine.write64(TSS + 4, 0x7000_0000_0000n);
    expect(machine.trap()).toMatchObject({
      vector: 14,
      error: 2,
      rip: BigInt(USER_AT),
      cs: USER_CODE,
      rsp: BigInt(USER_STACK),
      ss: USER_DATA,
    });
  });
});
