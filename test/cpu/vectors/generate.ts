/**
 * Regenerates the golden vectors on the processor of this machine; see README.md.
 *
 *   generate.mjs HARNESS [OUTPUT-DIRECTORY]
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { INTEGER_ROWS } from "../../../engine/cpu/table/integer.ts";
import { MMX_ROWS } from "../../../engine/cpu/table/mmx.ts";
import { parseRows, type Row } from "../../../engine/cpu/table/rows.ts";
import { SSE_ROWS } from "../../../engine/cpu/table/sse.ts";
import { SYSTEM_ROWS } from "../../../engine/cpu/table/system.ts";
import { X87_ROWS } from "../../../engine/cpu/table/x87.ts";
import { baseMemory, deriveCase, PROFILE_INTEGER, PROFILE_MMX, PROFILE_SSE, PROFILE_X87 } from "./derive.ts";
import { fxDifferences } from "./difference.ts";
import { encode } from "./encode.ts";
import {
  type CaseRecord,
  COMPLETED,
  FLAG_ALL_DEFINED,
  FLAG_COMPAT,
  FLAG_OF_DEFINED,
  FORMAT_VERSION,
  VectorWriter,
} from "./format.ts";
import { isNative, type Variant, variantsOf, weightOf } from "./forms.ts";
import { type NativeResult, runNative } from "./native.ts";
import { Prng } from "./prng.ts";
import { generatePrograms } from "./programs.ts";
import { CASE_FLAG_COMPAT, CaseState, SLOTS, slotAddress } from "./state.ts";

interface Section {
  readonly name: string;
  readonly stream: number;
  readonly rows: string;
  readonly profile: number;
}

const SECTIONS: readonly Section[] = [
  { name: "integer", stream: 0x101, rows: INTEGER_ROWS, profile: PROFILE_INTEGER },
  { name: "system", stream: 0x202, rows: SYSTEM_ROWS, profile: PROFILE_INTEGER },
  { name: "x87", stream: 0x303, rows: X87_ROWS, profile: PROFILE_X87 },
  { name: "mmx", stream: 0x404, rows: MMX_ROWS, profile: PROFILE_MMX },
  { name: "sse", stream: 0x505, rows: SSE_ROWS, profile: PROFILE_SSE },
];

/** EFLAGS bits the vectors hold: everything user mode can see but IF, IOPL and RF. */
const COMPARED_FLAGS = 0x244dd5;
/** Cases of one harness run. */
const BATCH = 20_000;

const ROTATE_OR_SHIFT = /^(rol|ror|rcl|rcr|shl|shr|sar|shld|shrd)$/;

/** The count of a shift, masked as the processor does; undefined when the row is no shift. */
function shiftCount(variant: Variant, code: Uint8Array, state: CaseState): number | undefined {
  const { row, size } = variant;
  if (!ROTATE_OR_SHIFT.test(row.mnemonic)) return undefined;
  const last = row.operands.at(-1);
  const count = last === "CL" ? (state.halves[2] ?? 0) : last === "Ib" ? (code.at(-1) ?? 0) : 1;
  return count & (size === 64 ? 63 : 31);
}

/** What is defined in this case beyond the form's general rule, or undefined when the result itself is not. */
function definedFlags(variant: Variant, code: Uint8Array, state: CaseState): number | undefined {
  const count = shiftCount(variant, code, state);
  if (count === undefined) return 0;
  if (/^sh[lr]d$/.test(variant.row.mnemonic) && variant.size === 16 && count > 16) return undefined;
  return count === 0 ? FLAG_ALL_DEFINED : count === 1 ? FLAG_OF_DEFINED : 0;
}

/** Flag bits to ignore in a case. */
function ignoredFlags(undef: number, defined: number): number {
  return defined & FLAG_ALL_DEFINED ? 0 : defined & FLAG_OF_DEFINED ? undef & ~2048 : undef;
}

interface Prepared {
  readonly variant: Variant;
  readonly form: number;
  readonly code: Uint8Array;
  readonly modrmAt: number;
  readonly index: number;
}

/** Draws cases for all variants; the order is the order in the file. */
function prepare(section: Section, variants: readonly Variant[]): Prepared[] {
  const random = new Prng();
  const prepared: Prepared[] = [];
  variants.forEach((variant, form) => {
    random.seed(section.stream ^ 0x5555, form);
    for (let left = weightOf(variant); left > 0; left--) {
      const encoding = encode(random, variant);
      if (!encoding) continue;
      const index = prepared.length;
      encoding.place(slotAddress(index % SLOTS, encoding.code.length));
      prepared.push({ variant, form, code: encoding.code, modrmAt: encoding.modrmAt, index });
    }
  });
  return prepared;
}

function setUp(state: CaseState, section: Section, entry: Prepared): void {
  const { variant, code, modrmAt, index } = entry;
  state.codeAddress = slotAddress(index % SLOTS, code.length);
  deriveCase(state, variant.form, code, modrmAt, variant.compat, section.stream, index);
  state.codeLength = code.length;
  state.flags = variant.compat ? CASE_FLAG_COMPAT : 0;
}

/** Makes the record of a case, or undefined when its result is not architectural. */
function makeRecord(entry: Prepared, state: CaseState, result: NativeResult): CaseRecord | undefined {
  const { variant, code, modrmAt } = entry;
  const defined = definedFlags(variant, code, state);
  if (defined === undefined || result.timeout) return undefined;
  const start = BigInt(state.codeAddress);
  let { vector, rip } = result;
  const own = rip - start > 0n && rip - start <= BigInt(code.length);
  if (vector === 3 && !own) [vector, rip] = [COMPLETED, rip - 1n];
  else if (vector === 14 && rip !== start) vector = COMPLETED;
  // Random addresses may hit what Linux has mapped, and MASKMOVQ's partial effects differ between makers.
  if (vector === 14 && result.error & 1) return undefined;
  if (vector !== COMPLETED && /^maskmov/.test(variant.row.mnemonic)) return undefined;
  // A far target or a page fault beyond 2^47 says nothing new and does not fit the compact form.
  if (rip >= 1n << 47n) return undefined;
  const compared = COMPARED_FLAGS & ~ignoredFlags(variant.form.undef, defined);
  const registers = new Map<number, bigint>();
  for (let i = 0; i < 16; i++) {
    const value = result.registers[i] ?? 0n;
    if (value !== state.registers[i]) registers.set(i, value);
  }
  return {
    code,
    flags: (variant.compat ? FLAG_COMPAT : 0) | defined,
    modrmAt,
    outcome: vector,
    rip,
    error: result.error & (vector === 14 ? 0x1f : 0xffff),
    cr2: result.cr2,
    eflags: (state.eflags & ~compared) | (result.eflags & compared),
    registers,
    fx: fxDifferences(state.fx, result.fx),
    memory: result.memory,
  };
}

function generateSection(section: Section, harness: string, directory: string): Buffer {
  const rows: Row[] = parseRows(section.rows).filter(isNative);
  const variants = rows.flatMap((row) => variantsOf(row, section.profile));
  const prepared = prepare(section, variants);
  const writer = new VectorWriter();
  const state = new CaseState();
  const counts = new Uint32Array(variants.length);
  let dropped = 0;
  for (let from = 0; from < prepared.length; from += BATCH) {
    const batch = prepared.slice(from, from + BATCH);
    const results = runNative(
      harness,
      directory,
      baseMemory(),
      batch.map((entry) => () => {
        setUp(state, section, entry);
        return { state, code: entry.code };
      }),
    );
    batch.forEach((entry, i) => {
      setUp(state, section, entry);
      const result = results[i];
      if (!result) throw new Error("the harness returned too few results");
      const record = makeRecord(entry, state, result);
      if (record) counts[entry.form] = (counts[entry.form] ?? 0) + 1;
      else dropped++;
      // Dropped cases stay in place with empty code so that indexes, and with them seeds and slots, hold.
      writer.add(record ?? emptyRecord(state), state.codeAddress, state.target, state.eflags, state.registers);
    });
  }
  const entries = new Uint32Array(variants.length);
  for (const entry of prepared) entries[entry.form] = (entries[entry.form] ?? 0) + 1;
  const total = counts.reduce((sum, count) => sum + count, 0);
  const file = writer.finish({
    version: FORMAT_VERSION,
    stream: section.stream,
    forms: variants.map((variant, i) => ({ ...variant.form, count: entries[i] ?? 0 })),
  });
  console.log(`${section.name}: ${variants.length} forms, ${total} cases, ${dropped} dropped, ${file.length} bytes`);
  return file;
}

function emptyRecord(state: CaseState): CaseRecord {
  const rip = BigInt(state.codeAddress);
  const { eflags } = state;
  return {
    code: new Uint8Array(0),
    flags: 0,
    modrmAt: 0,
    outcome: COMPLETED,
    rip,
    error: 0,
    cr2: 0n,
    eflags,
    registers: new Map(),
    fx: [],
    memory: [],
  };
}

function main(): void {
  const [harness, output = "test/cpu/vectors"] = process.argv.slice(2);
  if (!harness) throw new Error("usage: generate.mjs HARNESS [OUTPUT-DIRECTORY]");
  const directory = mkdtempSync(join(tmpdir(), "domlab-vectors-"));
  try {
    for (const section of SECTIONS) {
      writeFileSync(join(output, `${section.name}.bin.br`), generateSection(section, harness, directory));
    }
    writeFileSync(join(output, "programs.bin.br"), generatePrograms(harness, directory));
  } finally {
    rmSync(directory, { recursive: true });
  }
}

main();
