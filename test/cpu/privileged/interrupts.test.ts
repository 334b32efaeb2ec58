import { expect, it } from "vitest";
import { EXIT_BUDGET, EXIT_HALT, FRAMES } from "../../../engine/cpu/assembly/layout.ts";
import {
  CODE,
  DATA,
  describeModes,
  HLT,
  KERNEL_CODE,
  Machine,
  NOP,
  RSP0,
  STACK,
  USER_AT,
  USER_CODE,
} from "./machine.ts";

const VECTOR = 0xf3;
const IF = 0x200;
const STI = 0xfb;
const CLI = 0xfa;
const MOV_SS_AX = [0x8e, 0xd0];

/** The line's byte lies in guest memory, so that the guest can withdraw it. */
const LINE = DATA;

function asserted(machine: Machine, level = 1): void {
  machine.cpu.setInterruptLine(FRAMES + LINE, VECTOR);
  machine.ram.setUint8(LINE, level);
}

describeModes("external interrupts", () => {
  it("are delivered before the next instruction while IF is set, without RF and error code", () => {
    const machine = new Machine();
    machine.user([NOP]);
    asserted(machine);
    expect(machine.trap()).toMatchObject({ vector: VECTOR, rip: BigInt(USER_AT), cs: USER_CODE, rflags: IF | 2 });
    expect(machine.cpu.getRegister(4)).toBe(BigInt(RSP0 - 40));
    expect(machine.cpu.interruptsEnabled).toBe(false);
  });

  it("wait for the instruction after STI", () => {
    const machine = new Machine();
    asserted(machine);
    machine.kernel([NOP, STI, NOP, NOP]);
    expect(machine.trap()).toMatchObject({ vector: VECTOR, rip: BigInt(CODE + 3), cs: KERNEL_CODE });
  });

  it("do not come between STI and CLI", () => {
    const machine = new Machine();
    asserted(machine);
    machine.kernel([STI, CLI, NOP, HLT]);
    expect(machine.run()).toEqual({ reason: EXIT_HALT });
    expect(machine.cpu.state.rip).toBe(BigInt(CODE + 4));
  });

  it("are not postponed by an STI that finds IF set", () => {
    const machine = new Machine();
    machine.kernel([STI, NOP, STI, NOP, NOP]);
    machine.steps(3);
    asserted(machine);
    expect(machine.trap().rip).toBe(BigInt(CODE + 3));
  });

  it("wait for the instruction after a load of SS", () => {
    const machine = new Machine();
    machine.kernel([...MOV_SS_AX, NOP, NOP]);
    machine.change((state) => {
      state.rflags |= IF;
      state.registers[0] = 0x10n;
    });
    machine.steps(1);
    expect(machine.cpu.state.interruptShadow).toBe(true);
    asserted(machine);
    expect(machine.trap().rip).toBe(BigInt(CODE + 3));
  });

  it("come directly after a POPF or an IRETQ that sets IF", () => {
    const machine = new Machine();
    asserted(machine);
    machine.kernel([0x68, 2, 2, 0, 0, 0x9d, NOP]); // push 0x202; popfq
    expect(machine.trap().rip).toBe(BigInt(CODE + 6));
    // the handler returns with IF set in the frame: the line is still up
    machine.kernel([0x48, 0xcf], 0x5000);
    expect(machine.trap()).toMatchObject({ vector: VECTOR, rip: BigInt(CODE + 6) });
  });

  it("are held back while IF is clear and come by level: again after each return until withdrawn", () => {
    const machine = new Machine();
    asserted(machine);
    // inc ebx; cmp ebx,3; jne +3; mov byte [rdi],0; iretq
    machine.put(0x5000, [0xff, 0xc3, 0x83, 0xfb, 3, 0x75, 3, 0xc6, 0x07, 0, 0x48, 0xcf]);
    machine.gate(VECTOR, { target: 0x5000n });
    machine.kernel([NOP, NOP, STI, NOP, NOP, HLT]);
    machine.set({ 3: 0n, 7: BigInt(LINE) });
    expect(machine.run()).toEqual({ reason: EXIT_HALT });
    expect(machine.cpu.getRegister(3)).toBe(3n);
    expect(machine.cpu.state.rip).toBe(BigInt(CODE + 6));
    expect(machine.cpu.getRegister(4)).toBe(BigInt(STACK));
  });

  it("reach a loop without any exit within one slice of instructions", () => {
    const machine = new Machine();
    machine.user([0xeb, 0xfe]);
    expect(machine.cpu.run(100)).toEqual({ reason: EXIT_BUDGET });
    asserted(machine);
    expect(machine.trap()).toMatchObject({ vector: VECTOR, rip: BigInt(USER_AT) });
  });

  it("are injected once", () => {
    const machine = new Machine();
    machine.put(0x5000, [0xff, 0xc3, 0x48, 0xcf]); // inc ebx; iretq
    machine.gate(VECTOR, { target: 0x5000n });
    machine.kernel([NOP, STI, NOP, NOP, HLT]);
    machine.cpu.inject(VECTOR);
    machine.steps(1);
    expect(machine.cpu.state.pendingVector).toBe(VECTOR);
    expect(machine.run()).toEqual({ reason: EXIT_HALT });
    expect(machine.cpu.getRegister(3)).toBe(1n);
    expect(machine.cpu.state.pendingVector).toBeUndefined();
  });

  it("take a disconnected line for nothing", () => {
    const machine = new Machine();
    asserted(machine);
    machine.cpu.setInterruptLine(0, 0);
    machine.kernel([STI, NOP, HLT]);
    machine.run();
    expect(machine.cpu.state.rip).toBe(BigInt(CODE + 3));
  });
});

describeModes("HLT", () => {
  it("stops the CPU with RIP past it; the interrupt of STI; HLT returns there", () => {
    const machine = new Machine();
    asserted(machine);
    machine.kernel([STI, HLT, NOP]);
    expect(machine.run()).toEqual({ reason: EXIT_HALT });
    expect(machine.cpu.state.rip).toBe(BigInt(CODE + 2));
    expect(machine.trap()).toMatchObject({ vector: VECTOR, rip: BigInt(CODE + 2) });
  });

  it("is a #GP for the user, as are CLI and STI below IOPL", () => {
    for (const opcode of [HLT, CLI, STI]) {
      const machine = new Machine();
      machine.user([opcode]);
      expect(machine.trap()).toMatchObject({ vector: 13, error: 0, rip: BigInt(USER_AT) });
    }
  });
});
