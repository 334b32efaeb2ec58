/** Replays a vector file on the CPU core and reports what differs. */
import { type Case, closeFloat32, closeFloat80, compareEnding, differ, hex } from "./compare.ts";
import {
  baseMemory,
  deriveCase,
  deriveProgram,
  type Form,
  PROFILE_INTEGER,
  TOLERANCE_RECIPROCAL,
  TOLERANCE_X87,
} from "./derive.ts";
import { type CaseRecord, FLAG_COMPAT, VectorReader } from "./format.ts";
import { AREA_SIZE, areaOffset, type Ending, type Machine } from "./machine.ts";
import { CaseState, CODE_BASE, FX_LEGACY, FX_ST, FX_XMM, PATCH_SIZE, SLOTS, slotAddress } from "./state.ts";

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

export interface CompiledOutcome extends Outcome {
  /** Cases that had the code pages to themselves. */
  readonly alone: number;
  /** Cases whose block was not compiled when they were judged. */
  readonly interpreted: number;
}

const REGISTER_NAMES = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"];
/** Enough for the longest REP and for the longest program; a core that runs wild stops there. */
const BLOCK_BUDGET = 10_000;
const PROGRAM_BUDGET = 1_000_000;
/** Sets of programs that are filled at a time: consecutive programs overlap. */
const OPEN_BATCHES = 8;

/** An outcome that is being counted. */
type Counting = { -readonly [Key in keyof CompiledOutcome]: CompiledOutcome[Key] } & { failures: Failure[] };

function isCompat({ flags }: CaseRecord): boolean {
  return (flags & FLAG_COMPAT) !== 0;
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

  /** The cases of a file, each with its initial state. */
  private *cases(file: Uint8Array): Generator<Case> {
    const reader = new VectorReader(file);
    const { state } = this;
    let index = 0;
    for (const form of reader.header.forms) {
      for (let i = 0; i < form.count; i++, index++) {
        const record = reader.readCode();
        const length = record.code.length;
        if (length === 0) {
          reader.readResult(0, 0, 0, state.registers);
          continue;
        }
        state.codeAddress = slotAddress(index % SLOTS, length);
        deriveCase(state, form, record.code, record.modrmAt, isCompat(record), reader.header.stream, index);
        reader.readResult(state.codeAddress, state.target, state.eflags, state.registers);
        yield { form, index, record, state };
      }
    }
  }

  /** Random programs, each with its initial state. */
  private *programs(file: Uint8Array): Generator<Case> {
    const reader = new VectorReader(file);
    const { state } = this;
    const [form] = reader.header.forms;
    if (!form) return;
    for (let index = 0; index < form.count; index++) {
      const record = reader.readCode();
      deriveProgram(state, record.code, reader.header.stream, index);
      reader.readResult(state.codeAddress, state.target, state.eflags, state.registers);
      yield { form, index, record, state };
    }
  }

  /** Lets the code pages hold these cases and INT3. */
  private place(...cases: readonly Case[]): void {
    const { machine } = this;
    machine.code.fill(0xcc);
    for (const { record, state } of cases) machine.code.set(record.code, state.codeAddress - CODE_BASE);
    machine.codeChanged();
  }

  /**
   * Replays single-instruction cases.
   * @param how "step" executes exactly one instruction; "block" decodes a block and runs it into the INT3 behind the
   *   case, as the native harness did
   */
  replayCases(file: Uint8Array, how: "step" | "block"): Outcome {
    const { machine } = this;
    const failures: Failure[] = [];
    let cases = 0;
    for (const each of this.cases(file)) {
      const at = each.state.codeAddress - CODE_BASE;
      const { code } = each.record;
      // A case before may have written to the code pages.
      if (how === "block") this.place(each);
      else machine.code.set(code, at);
      const difference = this.runCase(each, how === "step" ? 1 : BLOCK_BUDGET);
      machine.code.fill(0xcc, at, at + code.length);
      if (difference) failures.push(describe(each, difference));
      cases++;
    }
    return { cases, failures };
  }

  /**
   * Replays single-instruction cases of 64-bit code in compiled blocks: as many as there are slots are run once side by side,
   * are compiled together and run again. One that fares differently there, because it meets another's code or because code
   * was written over, is replayed with the code pages to itself.
   * @param stride replays every stride-th case only: an odd number
   */
  replayCompiled(file: Uint8Array, stride = 1): CompiledOutcome {
    const outcome: Counting = { cases: 0, failures: [], alone: 0, interpreted: 0 };
    const states = Array.from({ length: SLOTS }, () => new CaseState());
    let batch: Case[] = [];
    for (const each of this.cases(file)) {
      if (each.index % stride !== 0 || isCompat(each.record)) continue;
      const slot = each.index % SLOTS;
      if (batch.some(({ index }) => index % SLOTS === slot)) {
        this.replayBatch(batch, BLOCK_BUDGET, outcome);
        batch = [];
      }
      batch.push(kept(each, states[slot] ?? new CaseState()));
    }
    this.replayBatch(batch, BLOCK_BUDGET, outcome);
    return outcome;
  }

  private replayBatch(batch: readonly Case[], budget: number, outcome: Counting): void {
    const { machine } = this;
    machine.forgetCode();
    this.place(...batch);
    for (const each of batch) this.runCase(each, budget);
    machine.compile();
    const again = batch.filter((each) => {
      return !machine.isCompiled(each.state.codeAddress) || this.runCase(each, budget) !== undefined;
    });
    for (const each of again) {
      const { compiled, difference } = this.replayAlone(each, budget);
      if (!compiled) outcome.interpreted++;
      if (difference) outcome.failures.push(describe(each, difference));
    }
    outcome.cases += batch.length;
    outcome.alone += again.length;
  }

  /** Runs a case twice, the second time compiled: whether it was, and what differs then. */
  private replayAlone(each: Case, budget: number): { compiled: boolean; difference: string | undefined } {
    const { machine } = this;
    this.place(each);
    this.runCase(each, budget);
    // The first run may have written to the code.
    machine.code.fill(0xcc);
    machine.code.set(each.record.code, each.state.codeAddress - CODE_BASE);
    machine.compile();
    const compiled = machine.isCompiled(each.state.codeAddress);
    return { compiled, difference: this.runCase(each, budget) };
  }

  /** Replays random programs: each runs as decoded blocks to its closing INT3 or to its fault. */
  replayPrograms(file: Uint8Array): Outcome {
    const failures: Failure[] = [];
    let cases = 0;
    for (const each of this.programs(file)) {
      this.place(each);
      const difference = this.runCase(each, PROGRAM_BUDGET);
      if (difference) failures.push(describe(each, difference));
      cases++;
    }
    this.place();
    return { cases, failures };
  }

  /** Replays random programs as compiled blocks, those together whose code does not overlap. */
  replayCompiledPrograms(file: Uint8Array, stride = 1): CompiledOutcome {
    const outcome: Counting = { cases: 0, failures: [], alone: 0, interpreted: 0 };
    const open: Case[][] = [];
    for (const each of this.programs(file)) {
      if (each.index % stride !== 0) continue;
      const free = open.find((batch) => batch.every((other) => !overlap(each, other)));
      if (free !== undefined) {
        free.push(kept(each, new CaseState()));
        continue;
      }
      open.push([kept(each, new CaseState())]);
      if (open.length > OPEN_BATCHES) this.replayBatch(open.shift() ?? [], PROGRAM_BUDGET, outcome);
    }
    for (const batch of open) this.replayBatch(batch, PROGRAM_BUDGET, outcome);
    this.place();
    return outcome;
  }

  private touch(address: number, bytes: Uint8Array, guest: boolean): void {
    const offset = areaOffset(address);
    if (offset < 0) return;
    this.expectedMemory.set(bytes, offset);
    if (guest) this.machine.areas.set(bytes, offset);
    this.touched.push({ offset, length: bytes.length });
  }

  private runCase({ form, record, state }: Case, budget: number): string | undefined {
    const { machine } = this;
    const compat = isCompat(record);
    if (state.patchAddress !== 0) this.touch(state.patchAddress, state.patch.subarray(0, PATCH_SIZE), true);
    for (const run of record.memory) this.touch(run.at, run.bytes, false);
    if (form.profile !== PROFILE_INTEGER) machine.loadFx(state.fx, state.fxView);
    const ending = machine.execute(state, compat, budget);
    const difference =
      compareEnding({ form, record, state }, ending, budget > 1) ??
      this.compareRegisters(record, state, ending) ??
      (form.profile === PROFILE_INTEGER ? undefined : this.compareFx(form, record, state)) ??
      this.compareMemory(form, state);
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

  private compareRegisters(record: CaseRecord, state: CaseState, ending: Ending): string | undefined {
    const { machine } = this;
    for (let i = 0; i < 16; i++) {
      const expected = record.registers.get(i) ?? state.registers[i] ?? 0n;
      const actual = i === 4 ? ending.rsp : (machine.registers[i] ?? 0n);
      if (expected !== actual) return differ(REGISTER_NAMES[i] ?? `r${i}`, expected, actual);
    }
    return undefined;
  }

  private compareFx(form: Form, record: CaseRecord, state: CaseState): string | undefined {
    const { expectedFx, expectedView, actualFx, actualView } = this;
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

  private compareMemory(form: Form, state: CaseState): string | undefined {
    const { expectedMemory, machine } = this;
    for (const [from, to] of form.holes) {
      const offset = areaOffset(state.target);
      if (offset >= 0) machine.areas.copy(expectedMemory, offset + from, offset + from, offset + to);
    }
    if (machine.areas.equals(expectedMemory)) return undefined;
    const at = expectedMemory.findIndex((byte, i) => byte !== machine.areas[i]);
    const relative = at - areaOffset(state.target);
    return differ(`memory at operand + ${relative}`, expectedMemory[at] ?? 0, machine.areas[at] ?? 0);
  }
}

/** A case that stays when the next one is read. */
function kept(each: Case, state: CaseState): Case {
  state.copyFrom(each.state);
  return { ...each, state, record: { ...each.record, registers: new Map(each.record.registers) } };
}

/** Whether the code of two cases, with an INT3 behind it, shares bytes. */
function overlap(a: Case, b: Case): boolean {
  const [first, second] = a.state.codeAddress < b.state.codeAddress ? [a, b] : [b, a];
  return first.state.codeAddress + first.record.code.length + 1 > second.state.codeAddress;
}

function describe({ form, index, record }: Case, difference: string): Failure {
  return { form: form.name, index, bytes: Buffer.from(record.code).toString("hex"), difference };
}
