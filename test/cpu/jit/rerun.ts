/** Machines that run the same supervisor code again and again, with warm TLBs, until it is compiled. */
import { expect } from "vitest";
import { CUR, EFLAGS, EXIT_HALT, LAZY_KIND, RIP } from "../../../engine/cpu/assembly/layout.ts";
import { CODE, Machine, STACK } from "../privileged/machine.ts";

export const [RAX, RCX, RBX, RSP, RSI, RDI] = [0, 1, 3, 4, 6, 7] as const;
export type Registers = Readonly<Record<number, bigint>>;

/**
 * Points a machine that stands in 64-bit supervisor code at the start of the code. Past the state that machine.change() writes:
 * that would flush the TLB, and compiled code would leave every access to the interpreter.
 */
export function restart(machine: Machine, registers: Registers = {}): void {
  expect([machine.cpu.cpl, machine.cpu.longMode]).toEqual([0, true]);
  const view = new DataView(machine.ram.buffer);
  for (const at of [CUR, LAZY_KIND]) view.setUint32(at, 0, true);
  view.setUint32(EFLAGS, 2, true);
  view.setBigUint64(RIP, BigInt(CODE), true);
  machine.set({ [RSP]: BigInt(STACK), ...registers });
}

/** Runs the code again, to a HLT. */
export function again(machine: Machine, registers: Registers = {}, budget = 1000): void {
  restart(machine, registers);
  expect(machine.cpu.run(budget).reason).toBe(EXIT_HALT);
}

/** A machine whose code has run three times: all of it that was reached is compiled, and was run so. */
export function compiled(
  bytes: readonly number[],
  registers: Registers = {},
  prepare?: (machine: Machine) => void,
): Machine {
  const machine = new Machine("compiled");
  prepare?.(machine);
  machine.kernel(bytes);
  for (let n = 0; n < 3; n++) again(machine, registers);
  expect(machine.blocks.isCompiled(CODE)).toBe(true);
  return machine;
}
