import fc from "fast-check";
import { expect, it } from "vitest";
import { EXIT_BUDGET, EXIT_HALT } from "../../../engine/cpu/assembly/layout.ts";
import type { CpuState } from "../../../engine/cpu/state.ts";
import { DATA, describeModes, HANDLERS, Machine, mov, STACK, USER_AT } from "./machine.ts";

/**
 * A user program with what a CPU keeps lazily or caches: flags that live over instructions, a patched instruction, x87
 * and SSE registers, string moves, a system call and a page fault in each of its 40 rounds.
 */
function program(machine: Machine): void {
  const round = [
    ...[0x48, 0x01, 0xd8, 0x48, 0x11, 0xc3], // add rax,rbx; adc rbx,rax
    ...[0x0f, 0x92, 0xc2, 0x48, 0xd3, 0xc0], // setc dl; rol rax,cl
    ...[0x9c, 0x5d, 0x48, 0x01, 0xe8], // pushfq; pop rbp; add rax,rbp
    ...[0xd9, 0xe8, 0xde, 0xc1], // fld1; faddp
    ...[0x66, 0x48, 0x0f, 0x6e, 0xc0, 0x66, 0x0f, 0xd4, 0xc8], // movq xmm0,rax; paddq xmm1,xmm0
    ...[0x49, 0x89, 0xc8, 0xb9, 17, 0, 0, 0], // mov r8,rcx; mov ecx,17
    ...mov(7, USER_AT + 0x4000),
    ...[0xf3, 0x48, 0xab, 0x4c, 0x89, 0xc1], // rep stosq; mov rcx,r8
    ...[0xcd, 0x80], // int 80h
    ...[0x41, 0x88, 0x09, 0x48, 0x05], // mov [r9],cl; add rax,imm32 …
  ];
  const patched = USER_AT + round.length;
  const code = [...round, 0x11, 0, 0, 0, 0xff, 0xc9]; // … the patched immediate; dec ecx
  const back = -(code.length + 6);
  machine.gate(0x80, { dpl: 3, target: BigInt(HANDLERS + 0x1800) });
  machine.put(HANDLERS + 0x1800, [0x48, 0xff, 0x06, 0x48, 0xcf]); // inc qword [rsi]; iretq
  machine.user([...code, 0x0f, 0x85, back & 0xff, (back >> 8) & 0xff, 0xff, 0xff, 0x0f, 0x0b]); // jne; ud2
  machine.set({ 0: 0x123456789abcdefn, 1: 40n, 3: 0xfedcba987654321n, 6: BigInt(DATA), 9: BigInt(patched) });
  machine.change((state) => {
    state.x87.tag = 0x80;
    state.x87.status = 7 << 11;
  });
}

function finish(machine: Machine): { state: CpuState; ram: Uint8Array } {
  let exit = machine.run(100_000);
  while (exit.reason === EXIT_BUDGET) exit = machine.run(100_000);
  expect(exit.reason).toBe(EXIT_HALT);
  return { state: machine.cpu.state, ram: bytes(machine) };
}

function bytes({ ram }: Machine): Uint8Array {
  return new Uint8Array(ram.buffer, ram.byteOffset, STACK * 2);
}

function started(): Machine {
  const machine = new Machine();
  program(machine);
  return machine;
}

describeModes("CPU state", () => {
  const reference = finish(started());
  const total = Number(reference.state.instructionCount);

  it("runs the reference program to its end", () => {
    expect(total).toBeGreaterThan(800);
    expect(reference.state.rip).toBe(BigInt(HANDLERS + 6 * 16 + 1));
    expect(reference.ram[DATA]).toBe(40);
  });

  it("moved to another CPU after any number of instructions gives the result of running through", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: total - 1 }), fc.boolean(), (count, single) => {
        const first = started();
        if (single) for (let n = 0; n < count; n++) first.cpu.run(1);
        else first.run(count);
        const second = new Machine();
        const whole = ({ ram }: Machine) => new Uint8Array(ram.buffer, ram.byteOffset, ram.byteLength);
        whole(second).set(whole(first));
        second.cpu.state = first.cpu.state;
        const { state, ram } = finish(second);
        expect(state).toEqual(reference.state);
        expect(Buffer.compare(ram, reference.ram)).toBe(0);
      }),
      { numRuns: 30 },
    );
  });

  it("read and written back on the same CPU changes nothing", () => {
    const machine = started();
    while (machine.cpu.run(37).reason === EXIT_BUDGET) {
      const { state } = machine.cpu;
      machine.cpu.state = state;
    }
    expect(machine.cpu.state).toEqual(reference.state);
  });
});
