/** Replays a vector file on the CPU core and reports what differs. */
import {
  baseMemory,
  deriveCase,
  deriveProgram,
  type Form,
  PROFILE_INTEGER,
  TOLERANCE_RECIPROCAL,
  TOLERANCE_X87,
} from "./derive.ts";
import {
  type CaseRecord,
  COMPLETED,
  FLAG_ALL_DEFINED,
  FLAG_COMPAT,
  FLAG_OF_DEFINED,
  hasErrorCode,
  VectorReader,
} from "./format.ts";
import { AREA_SIZE, areaOffset, type Ending, type Machine } from "./machine.ts";
import { CaseState, FX_LEGACY, FX_ST, FX_XMM, PATCH_SIZE, SLOTS, slotAddress } from "./state.ts";

/** A case whose result differs from the real processor's. */
export interface Failure {
  readonly form: string;
  readonly index: number;
  readonly bytes: string;
  /** First differing field with both values. */
  readonly difference: string;
}

export interface Outcome {
  readonly cases: number;
  readonly failures: readonly Failure[];
}

/** EFLAGS bits that are compared: what user mode can see but IF, IOPL and RF. */
const COMPARED_FLAGS = 0x244dd5;
const REGISTER_NAMES = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"];
const ARITHMETIC_OF = 2048;
/** Enough for the longest REP and for the longest program; a core that runs wild stops there. */
const BLOCK_BUDGET = 10_000;
const PROGRAM_BUDGET = 1_000_000;
/** Bit of a page fault's error code. */
const PAGE_FAULT_WRITE = 2;

function hex(value: bigint | number): string {
  return value.toString(16);
}

function differ(field: string, expected: bigint | number, actual: bigint | number): string {
  return `${field} expected ${hex(expected)} actual ${hex(actual)}`;
}

/** Whether two 80-bit values at `at` are within a few units in the last place. */
function closeFloat80(expected: DataView, actual: DataView, at: number): boolean {
  const position = (view: DataView): bigint => {
    const signExponent = view.getUint16(at + 8, true);
    const place = (BigInt(signExponent & 0x7fff) << 63n) + BigInt.asUintN(63, view.getBigUint64(at, true));
    return signExponent & 0x8000 ? -place : place;
  };
  const distance = position(expected) - position(actual);
  return distance <= 4n && distance >= -4n;
}

function closeFloat32(expected: DataView, actual: DataView, at: number): boolean {
  const a = expected.getFloat32(at, true);
  const b = actual.getFloat32(at, true);
  if (expected.getUint32(at, true) === actual.getUint32(at, true)) return true;
  return Math.abs(a - b) <= Math.abs(a) * 2 ** -10;
}

export class Replay {
  private readonly state = new CaseState();
  private readonly base = Buffer.alloc(AREA_SIZE);
  private readonly expectedMemory = Buffer.alloc(AREA_SIZE);
  private readonly expectedFx = new Uint8Array(512);
  private readonly expectedView = new DataView(this.expectedFx.buffer);
  private readonly actualFx = new Uint8Array(512);
  private readonly actualView = new DataView(this.actualFx.buffer);
  private readonly touched: { offset: number; length: number }[] = [];

  private readonly machine: Machine;

  constructor(machine: Machine) {
    this.machine = machine;
    const { data, stack } = baseMemory();
    this.base.set(data);
    this.base.set(stack, data.length);
    this.expectedMemory.set(this.base);
    machine.areas.set(this.base);
  }

  /**
   * Replays single-instruction cases.
   * @param how "step" executes exactly one instruction; "block" decodes a block and runs it into the INT3 behind the
   *   case, as the native harness did
   */
  replayCases(file: Uint8Array, how: "step" | "block"): Outcome {
    const reader = new VectorReader(file);
    const failures: Failure[] = [];
    const { state, machine } = this;
    let index = 0;
    let cases = 0;
    for (const form of reader.header.forms) {
      for (let i = 0; i < form.count; i++, index++) {
        const record = reader.readCode();
        const length = record.code.length;
        if (length === 0) {
          reader.readResult(0, 0, 0, state.registers);
          continue;
        }
        cases++;
        const compat = (record.flags & FLAG_COMPAT) !== 0;
        state.codeAddress = slotAddress(index % SLOTS, length);
        deriveCase(state, form, record.code, record.modrmAt, compat, reader.header.stream, index);
        reader.readResult(state.codeAddress, state.target, state.eflags, state.registers);
        const at = state.codeAddress - CODE_BASE_ADDRESS;
        if (how === "block") {
          // A case before may have written to the code pages.
          machine.code.fill(0xcc);
          machine.codeChanged();
        }
        machine.code.set(record.code, at);
        const difference = this.runCase(form, record, compat, how === "step" ? 1 : BLOCK_BUDGET);
        machine.code.fill(0xcc, at, at + length);
        if (difference) failures.push(describe(form, index, record, difference));
      }
    }
    return { cases, failures };
  }

  /** Replays random programs: each runs as decoded blocks to its closing INT3 or to its fault. */
  replayPrograms(file: Uint8Array): Outcome {
    const reader = new VectorReader(file);
    const failures: Failure[] = [];
    const { state, machine } = this;
    const [form] = reader.header.forms;
    if (!form) return { cases: 0, failures };
    for (let index = 0; index < form.count; index++) {
      const record = reader.readCode();
      deriveProgram(state, record.code, reader.header.stream, index);
      reader.readResult(state.codeAddress, state.target, state.eflags, state.registers);
      machine.code.fill(0xcc);
      machine.code.set(record.code, state.codeAddress - CODE_BASE_ADDRESS);
      machine.codeChanged();
      const difference = this.runCase(form, record, false, PROGRAM_BUDGET);
      if (difference) failures.push(describe(form, index, record, difference));
    }
    machine.code.fill(0xcc);
    machine.codeChanged();
    return { cases: form.count, failures };
  }

  private touch(address: number, bytes: Uint8Array, guest: boolean): void {
    const offset = areaOffset(address);
    if (offset < 0) return;
    this.expectedMemory.set(bytes, offset);
    if (guest) this.machine.areas.set(bytes, offset);
    this.touched.push({ offset, length: bytes.length });
  }

  private runCase(form: Form, record: CaseRecord, compat: boolean, budget: number): string | undefined {
    const { state, machine } = this;
    if (state.patchAddress !== 0) this.touch(state.patchAddress, state.patch.subarray(0, PATCH_SIZE), true);
    for (const run of record.memory) this.touch(run.at, run.bytes, false);
    if (form.profile !== PROFILE_INTEGER) machine.loadFx(state.fx, state.fxView);
    const ending = machine.execute(state, compat, budget);
    const difference =
      this.compareEnding(form, record, ending, budget > 1) ??
      this.compareRegisters(record, ending) ??
      (form.profile === PROFILE_INTEGER ? undefined : this.compareFx(form, record)) ??
      this.compareMemory(form);
    this.restore(difference !== undefined || form.holes.length > 0);
    return difference;
  }

  private restore(everything: boolean): void {
    const { base, expectedMemory, machine } = this;
    if (everything) {
      machine.areas.set(base);
      expectedMemory.set(base);
    } else {
      for (const { offset, length } of this.touched) {
        const original = base.subarray(offset, offset + length);
        machine.areas.set(original, offset);
        expectedMemory.set(original, offset);
      }
    }
    this.touched.length = 0;
  }

  private compareEnding(form: Form, record: CaseRecord, ending: Ending, onward: boolean): string | undefined {
    let { vector, rip } = ending;
    const expected = record.outcome === COMPLETED ? -1 : record.outcome;
    // Run on behind its end, a case meets INT3, or a page fault where it left mapped code.
    if (onward && expected === -1 && vector === 3) [vector, rip] = [-1, rip - 1n];
    else if (onward && expected === -1 && vector === 14 && rip === record.rip) vector = -1;
    // A jump into the case's own bytes: the processor went on to the fault there, a single step stops before it.
    if (!onward && vector === -1 && rip === record.rip && rip !== BigInt(this.state.codeAddress)) vector = expected;
    if (vector !== expected) return `exception vector expected ${expected} actual ${vector}`;
    if (rip !== record.rip) return differ("rip", record.rip, rip);
    const ignored = vector === 14 && form.readsDestination ? PAGE_FAULT_WRITE : 0;
    if (hasErrorCode(vector) && (ending.error ^ record.error) & ~ignored) {
      return differ("error code", record.error, ending.error);
    }
    const bits = form.faultAddress === "exact" ? 0n : form.faultAddress === "page" ? 12n : 64n;
    if (vector === 14 && ending.cr2 >> bits !== record.cr2 >> bits) return differ("cr2", record.cr2, ending.cr2);
    let undef = record.flags & FLAG_ALL_DEFINED ? 0 : form.undef;
    if (record.flags & FLAG_OF_DEFINED) undef &= ~ARITHMETIC_OF;
    const flags = COMPARED_FLAGS & ~undef;
    if ((ending.eflags ^ record.eflags) & flags) return differ("flags", record.eflags & flags, ending.eflags & flags);
    return undefined;
  }

  private compareRegisters(record: CaseRecord, ending: Ending): string | undefined {
    const { state, machine } = this;
    for (let i = 0; i < 16; i++) {
      const expected = record.registers.get(i) ?? state.registers[i] ?? 0n;
      const actual = i === 4 ? ending.rsp : (machine.registers[i] ?? 0n);
      if (expected !== actual) return differ(REGISTER_NAMES[i] ?? `r${i}`, expected, actual);
    }
    return undefined;
  }

  private compareFx(form: Form, record: CaseRecord): string | undefined {
    const { expectedFx, expectedView, actualFx, actualView, state } = this;
    expectedFx.set(state.fx);
    for (const run of record.fx) expectedFx.set(run.bytes, run.at);
    this.machine.storeFx(actualFx, actualView);
    const fields: [string, number, number][] = [
      ["control word", 0, 0xffff],
      ["status word", 2, 0xffff & ~form.undefStatus],
    ];
    if (form.tolerance === TOLERANCE_X87) fields[1] = ["status word", 2, 0xffff & ~form.undefStatus & ~0x220];
    for (const [name, at, mask] of fields) {
      const expected = expectedView.getUint16(at, true) & mask;
      const actual = actualView.getUint16(at, true) & mask;
      if (expected !== actual) return differ(name, expected, actual);
    }
    if (expectedFx[4] !== actualFx[4]) return differ("tags", expectedFx[4] ?? 0, actualFx[4] ?? 0);
    if (expectedView.getUint32(24, true) !== actualView.getUint32(24, true)) {
      return differ("mxcsr", expectedView.getUint32(24, true), actualView.getUint32(24, true));
    }
    return this.compareFloatRegisters(form);
  }

  private compareFloatRegisters(form: Form): string | undefined {
    const { expectedView, actualView } = this;
    for (let at = FX_ST; at < FX_LEGACY; at += 16) {
      const x87 = at < FX_XMM;
      const [low, high] = [expectedView.getBigUint64(at, true), expectedView.getBigUint64(at + 8, true)];
      const [actualLow, actualHigh] = [actualView.getBigUint64(at, true), actualView.getBigUint64(at + 8, true)];
      const same = x87 ? BigInt.asUintN(16, high ^ actualHigh) === 0n : high === actualHigh;
      if (low === actualLow && same) continue;
      if (x87 && form.tolerance === TOLERANCE_X87 && closeFloat80(expectedView, actualView, at)) continue;
      if (!x87 && form.tolerance === TOLERANCE_RECIPROCAL) {
        if ([0, 4, 8, 12].every((lane) => closeFloat32(expectedView, actualView, at + lane))) continue;
      }
      const name = x87 ? `st${(at - FX_ST) / 16}` : `xmm${(at - FX_XMM) / 16}`;
      const text = (first: bigint, second: bigint): string => {
        return x87
          ? `${hex(BigInt.asUintN(16, second))}:${hex(first).padStart(16, "0")}`
          : `${hex(second)}:${hex(first).padStart(16, "0")}`;
      };
      return `${name} expected ${text(low, high)} actual ${text(actualLow, actualHigh)}`;
    }
    return undefined;
  }

  private compareMemory(form: Form): string | undefined {
    const { expectedMemory, machine } = this;
    for (const [from, to] of form.holes) {
      const offset = areaOffset(this.state.target);
      if (offset >= 0) machine.areas.copy(expectedMemory, offset + from, offset + from, offset + to);
    }
    if (machine.areas.equals(expectedMemory)) return undefined;
    const at = expectedMemory.findIndex((byte, i) => byte !== machine.areas[i]);
    const relative = at - areaOffset(this.state.target);
    return differ(`memory at operand + ${relative}`, expectedMemory[at] ?? 0, machine.areas[at] ?? 0);
  }
}

const CODE_BASE_ADDRESS = slotAddress(0, 1);

function describe(form: Form, index: number, record: CaseRecord, difference: string): Failure {
  return { form: form.name, index, bytes: Buffer.from(record.code).toString("hex"), difference };
}
