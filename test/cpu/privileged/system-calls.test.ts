import { expect, it } from "vitest";
import {
  CODE,
  describeModes,
  HLT,
  KERNEL_CODE,
  KERNEL_DATA,
  Machine,
  NOP,
  STACK,
  USER_AT,
  USER_CODE,
  USER_CODE_32,
  USER_DATA,
  USER_STACK,
} from "./machine.ts";

const SYSCALL = [0x0f, 0x05];
const SYSRETQ = [0x48, 0x0f, 0x07];
const SYSENTER = [0x0f, 0x34];
const INT80 = [0xcd, 0x80];
const SWAPGS = [0x0f, 0x01, 0xf8];
/** INC EAX in 32-bit code, a prefix in 64-bit code. */
const INC_EAX_32 = 0x40;

function machineWithCalls(): Machine {
  const machine = new Machine();
  machine.gate(0x80, { dpl: 3 });
  machine.change((state) => {
    state.msrs.star = (0x1bn << 48n) | (BigInt(KERNEL_CODE) << 32n);
    state.msrs.lstar = BigInt(CODE);
    state.msrs.cstar = BigInt(CODE + 0x100);
    state.msrs.sfmask = 0x47700n;
    state.msrs.sysenterCs = BigInt(KERNEL_CODE);
    state.msrs.sysenterEip = BigInt(CODE + 0x200);
    state.msrs.sysenterEsp = BigInt(STACK - 0x100);
  });
  return machine;
}

/** The selectors CS and SS with CPL. */
function levels(machine: Machine): number[] {
  const { cs, ss } = machine.cpu.state.segments;
  return [cs.selector, ss.selector, machine.cpu.cpl];
}

describeModes("SYSCALL and SYSRET", () => {
  it("enter the kernel at LSTAR with RCX, R11, masked flags and an unchanged RSP, and return", () => {
    const machine = machineWithCalls();
    machine.put(CODE, [HLT, ...SYSRETQ]);
    machine.user([...SYSCALL, ...INT80], USER_AT, 0x246);
    machine.run();
    expect(machine.cpu.state.rip).toBe(BigInt(CODE + 1));
    expect([machine.cpu.getRegister(1), machine.cpu.getRegister(11)]).toEqual([BigInt(USER_AT + 2), 0x246n]);
    expect(machine.cpu.state.rflags).toBe(0x46);
    expect(machine.cpu.getRegister(4)).toBe(BigInt(USER_STACK));
    expect(levels(machine)).toEqual([KERNEL_CODE, KERNEL_DATA, 0]);
    expect(machine.trap()).toMatchObject({
      vector: 0x80,
      rip: BigInt(USER_AT + 4),
      cs: USER_CODE,
      ss: USER_DATA,
      rflags: 0x246,
      rsp: BigInt(USER_STACK),
    });
  });

  it("return to 32-bit code without REX.W, whose SYSCALL enters at CSTAR", () => {
    const machine = machineWithCalls();
    machine.kernel([0x0f, 0x07]);
    machine.put(CODE + 0x100, [HLT]);
    machine.put(USER_AT, [INC_EAX_32, ...SYSCALL]);
    machine.set({ 0: 4n, 1: BigInt(USER_AT), 11: 0x202n });
    machine.run();
    expect(machine.cpu.state.rip).toBe(BigInt(CODE + 0x101));
    expect([machine.cpu.getRegister(0), machine.cpu.getRegister(1)]).toEqual([5n, BigInt(USER_AT + 3)]);
    expect(machine.cpu.longMode).toBe(true);
  });

  it("are #UD without EFER.SCE, and SYSRET #GP for the user", () => {
    const machine = machineWithCalls();
    machine.user(SYSRETQ);
    expect(machine.trap()).toMatchObject({ vector: 13, error: 0 });
    machine.change((state) => {
      state.control.efer &= ~1n;
    });
    machine.user(SYSCALL);
    expect(machine.trap()).toMatchObject({ vector: 6, rip: BigInt(USER_AT) });
  });
});

describeModes("SYSENTER and SYSEXIT", () => {
  it("enter with the stack of the MSR and IF clear, and return to RDX and RCX", () => {
    const machine = machineWithCalls();
    machine.put(CODE + 0x200, [HLT, 0x48, 0x0f, 0x35]);
    machine.user(SYSENTER);
    machine.put(USER_AT + 0x40, INT80);
    machine.run();
    expect(levels(machine)).toEqual([KERNEL_CODE, KERNEL_DATA, 0]);
    expect(machine.cpu.getRegister(4)).toBe(BigInt(STACK - 0x100));
    expect(machine.cpu.interruptsEnabled).toBe(false);
    machine.set({ 1: BigInt(USER_STACK - 64), 2: BigInt(USER_AT + 0x40) });
    expect(machine.trap()).toMatchObject({
      vector: 0x80,
      rip: BigInt(USER_AT + 0x42),
      cs: USER_CODE,
      rsp: BigInt(USER_STACK - 64),
    });
  });

  it("return to 32-bit code without REX.W", () => {
    const machine = machineWithCalls();
    machine.put(USER_AT, [INC_EAX_32, ...INT80]);
    machine.kernel([0x0f, 0x35]);
    machine.set({ 0: 1n, 1: BigInt(USER_STACK), 2: BigInt(USER_AT) });
    expect(machine.trap()).toMatchObject({ cs: USER_CODE_32, ss: USER_DATA, rip: BigInt(USER_AT + 3) });
    expect(machine.cpu.getRegister(0)).toBe(2n);
  });

  it("are #GP(0) with a null selector in the MSR", () => {
    const machine = machineWithCalls();
    machine.change((state) => {
      state.msrs.sysenterCs = 0n;
    });
    machine.user(SYSENTER);
    expect(machine.trap()).toMatchObject({ vector: 13, error: 0, rip: BigInt(USER_AT) });
  });
});

describeModes("SWAPGS", () => {
  it("exchanges the base of GS with its MSR, used by the next access, and is #GP for the user", () => {
    const machine = machineWithCalls();
    machine.write64(0x21008, 42n);
    machine.kernel([...SWAPGS, 0x65, 0x48, 0x8b, 0x04, 0x25, 8, 0, 0, 0, HLT]); // mov rax,gs:[8]
    machine.change((state) => {
      state.segments.gs.base = 0x5555n;
      state.msrs.kernelGsBase = 0x21000n;
    });
    machine.run();
    expect(machine.cpu.getRegister(0)).toBe(42n);
    expect(machine.cpu.state.msrs.kernelGsBase).toBe(0x5555n);
    machine.user(SWAPGS);
    expect(machine.trap()).toMatchObject({ vector: 13, error: 0 });
  });
});

describeModes("IRETQ", () => {
  /** Runs IRETQ in the kernel on a frame of RIP, CS, RFLAGS, RSP, SS. */
  function iretq(machine: Machine, frame: readonly number[]): void {
    frame.forEach((value, n) => {
      machine.write64(STACK - 40 + n * 8, BigInt(value));
    });
    machine.kernel([0x48, 0xcf]);
    machine.set({ 4: BigInt(STACK - 40) });
  }

  it("goes to 64-bit user code and takes all flags, and data segments of the kernel become null", () => {
    const machine = machineWithCalls();
    machine.put(USER_AT, INT80);
    iretq(machine, [USER_AT, USER_CODE, 0x3202, USER_STACK - 8, USER_DATA]);
    expect(machine.trap()).toMatchObject({ cs: USER_CODE, rflags: 0x3202, rsp: BigInt(USER_STACK - 8), ss: USER_DATA });
    expect(machine.cpu.state.segments.ds.selector).toBe(0);
  });

  it("goes to compatibility mode by the code segment's L bit", () => {
    const machine = machineWithCalls();
    machine.put(USER_AT, [INC_EAX_32, NOP, ...INT80]);
    iretq(machine, [USER_AT, USER_CODE_32, 0x202, USER_STACK, USER_DATA]);
    machine.set({ 0: 0xffffffffn });
    expect(machine.trap()).toMatchObject({ vector: 0x80, cs: USER_CODE_32, rip: BigInt(USER_AT + 4) });
    expect(machine.cpu.getRegister(0)).toBe(0n);
    expect(machine.cpu.longMode).toBe(true);
  });

  it("may return to the kernel with a null SS", () => {
    const machine = machineWithCalls();
    machine.put(CODE + 0x80, [HLT]);
    iretq(machine, [CODE + 0x80, KERNEL_CODE, 2, STACK - 0x400, 0]);
    machine.run();
    expect(levels(machine)).toEqual([KERNEL_CODE, 0, 0]);
    expect(machine.cpu.getRegister(4)).toBe(BigInt(STACK - 0x400));
  });

  it("refuses selectors that do not fit, with the selector as error code and nothing changed", () => {
    const machine = machineWithCalls();
    const cases = [
      { cs: 0, ss: USER_DATA, error: 0 },
      { cs: USER_CODE & ~3, ss: USER_DATA, error: USER_CODE & ~3 },
      { cs: KERNEL_DATA, ss: KERNEL_DATA, error: KERNEL_DATA },
      { cs: USER_CODE, ss: 0, error: 0 },
      { cs: USER_CODE, ss: KERNEL_DATA, error: KERNEL_DATA },
    ];
    for (const { cs, ss, error } of cases) {
      iretq(machine, [USER_AT, cs, 0x202, USER_STACK, ss]);
      expect(machine.trap()).toMatchObject({ vector: 13, error, rip: BigInt(CODE), rsp: BigInt(STACK - 40) });
    }
  });

  it("does not let the user return to the kernel or change IF and IOPL", () => {
    const machine = machineWithCalls();
    const frame = [CODE, KERNEL_CODE, 0x202, STACK, KERNEL_DATA];
    for (const [n, value] of frame.entries()) machine.write64(USER_STACK - 40 + n * 8, BigInt(value));
    machine.user([0x48, 0xcf]);
    machine.set({ 4: BigInt(USER_STACK - 40) });
    expect(machine.trap()).toMatchObject({ vector: 13, error: KERNEL_CODE });
    machine.user([0x6a, 0, 0x9d, ...INT80]); // push 0; popfq
    expect(machine.trap().rflags).toBe(0x202);
  });
});
