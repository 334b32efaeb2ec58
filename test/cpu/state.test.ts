import { describe, expect, it } from "vitest";
import * as layout from "../../engine/cpu/assembly/layout.ts";
import { type CpuState, flatProtectedState, readState, writeState } from "../../engine/cpu/state.ts";

function memory(): WebAssembly.Memory {
  return new WebAssembly.Memory({ initial: 16, maximum: 16, shared: true });
}

/** A state in which no two fields hold the same value. */
function distinctState(): CpuState {
  const state = flatProtectedState(0x1000);
  let counter = 1n;
  const next = (): bigint => 0x1122334400000000n + counter++;
  state.registers = state.registers.map(next);
  state.rip = next();
  state.rflags = 0x246;
  Object.values(state.segments).forEach((segment, n) => {
    segment.selector = 8 * n + 3;
    segment.attributes = 0xc090 + n;
    segment.limit = 0x80000000 + n;
    segment.base = n < 4 ? BigInt(0xf0000000 + n) : next();
  });
  state.gdtr = { base: next(), limit: 0x7f };
  state.idtr = { base: next(), limit: 0xfff };
  for (const name of Object.keys(state.control) as (keyof CpuState["control"])[]) state.control[name] = next();
  for (const name of Object.keys(state.msrs) as (keyof CpuState["msrs"])[]) state.msrs[name] = next();
  state.debug = state.debug.map(next);
  state.x87 = {
    registers: Array.from({ length: 8 }, (_, n) => ({ significand: next(), signExponent: 0xc000 + n })),
    control: 0x27f,
    status: 0x3841,
    tag: 0xa5,
    opcode: 0x7ff,
    instructionPointer: next(),
    dataPointer: next(),
    codeSelector: 0x33,
    dataSelector: 0x2b,
  };
  state.xmm = state.xmm.map((_, n) => Uint8Array.from({ length: 16 }, (__, i) => 16 * n + i));
  state.mxcsr = 0x1fa0;
  state.interruptShadow = true;
  state.pendingVector = 0xf3;
  state.instructionCount = next();
  return state;
}

describe("CPU state", () => {
  it("survives a round trip through memory", () => {
    const cpu = memory();
    const state = distinctState();
    writeState(cpu, state);
    expect(readState(cpu)).toEqual(state);
  });

  it("keeps vector 0 apart from no pending vector", () => {
    const cpu = memory();
    const state = flatProtectedState(0);
    state.pendingVector = 0;
    writeState(cpu, state);
    expect(readState(cpu).pendingVector).toBe(0);
    state.pendingVector = undefined;
    writeState(cpu, state);
    expect(readState(cpu).pendingVector).toBeUndefined();
  });

  it("makes RIP exact and forgets lazy flags and exits", () => {
    const cpu = memory();
    const view = new DataView(cpu.buffer);
    for (const at of [layout.CUR, layout.LAZY_KIND, layout.EXIT, layout.EXC_DEPTH]) view.setUint32(at, 7, true);
    writeState(cpu, flatProtectedState(0xfff0));
    for (const at of [layout.CUR, layout.LAZY_KIND, layout.EXIT, layout.EXC_DEPTH]) {
      expect(view.getUint32(at, true)).toBe(0);
    }
    expect(view.getBigUint64(layout.RIP, true)).toBe(0xfff0n);
  });

  it("reads copies, not views", () => {
    const cpu = memory();
    writeState(cpu, distinctState());
    const state = readState(cpu);
    new Uint8Array(cpu.buffer, layout.XMM, 16).fill(0xee);
    expect(state.xmm[0]?.[1]).toBe(1);
  });
});
