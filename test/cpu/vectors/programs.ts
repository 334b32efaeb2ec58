/** Random programs: straight lines with forward branches and calls inside one counted loop, over integer and SSE forms. */
import { INTEGER_ROWS } from "../../../engine/cpu/table/integer.ts";
import { parseRows, type Row } from "../../../engine/cpu/table/rows.ts";
import { SSE_ROWS } from "../../../engine/cpu/table/sse.ts";
import { baseMemory, deriveProgram, PROFILE_INTEGER, PROFILE_SSE, PROGRAM_FORM } from "./derive.ts";
import { differences } from "./difference.ts";
import { encode } from "./encode.ts";
import { COMPLETED, FORMAT_VERSION, VectorWriter } from "./format.ts";
import { type Variant, variantsOf } from "./forms.ts";
import { runNative } from "./native.ts";
import { Prng } from "./prng.ts";
import { CaseState, FX_LEGACY } from "./state.ts";

export const PROGRAM_STREAM = 0x909;
const PROGRAMS = 2600;
const MAX_CODE = 0x3f0;
/** Room for operands of 64 bytes on both sides of RBX. */
const REACH = 0xe00;

/** RBX (data), RSP and R12 (loop counter) keep their values; BH is number 7 of byte operands. */
const RESERVED = new Set([3, 4, 12]);

const EXCLUDED =
  /^(enter|leave|ret|push|pop|pushf|popf|lahf|sahf|cld|std|xlat|bsf|bsr|shld|shrd|bswap|int3|int1|rcp|rsqrt|ldmxcsr|stmxcsr|fx|maskmov|pause|bt[src]?$|salc|mfence|lfence|sfence|clflush|cmpxchg(8b|16b))/;

function isUsable(row: Row): boolean {
  const { attributes, operands, mnemonic } = row;
  if (attributes.has("jump") || attributes.has("priv") || attributes.has("no64") || attributes.has("string"))
    return false;
  if (EXCLUDED.test(mnemonic)) return false;
  // MMX registers would change the x87 state; offsets and segment registers need more set-up than a program has.
  return !operands.some((operand) => /^[PQNO]/.test(operand) || operand === "Sw");
}

/** Whether the encoding leaves the reserved registers alone. */
function isHarmless(code: Uint8Array, variant: Variant): boolean {
  const { row, size, memory } = variant;
  let at = 0;
  while ([0x66, 0xf2, 0xf3].includes(code[at] ?? 0)) at++;
  const rex = ((code[at] ?? 0) & 0xf0) === 0x40 ? (code[at++] ?? 0) : 0;
  const narrow = size === 8 || row.operands.some((operand) => operand.endsWith("b"));
  const bad = (number: number): boolean => RESERVED.has(number) || (narrow && rex === 0 && number === 7);
  const opcodeAt = at + (row.map === 0 ? 0 : row.map === 1 ? 1 : 2);
  if (row.span === 8) return !bad(((code[opcodeAt] ?? 0) & 7) | ((rex & 1) << 3));
  if (row.operands.every((operand) => /^(AL|rAX|eAX|I|1|CL)/.test(operand))) return true;
  const modrm = code[opcodeAt + 1] ?? 0;
  if (row.reg === undefined && bad(((modrm >> 3) & 7) | ((rex & 4) << 1))) return false;
  return memory || !bad((modrm & 7) | ((rex & 1) << 3));
}

type Instruction = readonly number[];

/** Makes random programs, each from its number alone. */
export class ProgramMaker {
  private readonly random = new Prng();
  private readonly integer: Variant[];
  private readonly sse: Variant[];

  constructor() {
    const usable = (text: string, profile: number): Variant[] =>
      parseRows(text)
        .filter(isUsable)
        .flatMap((row) => variantsOf(row, profile))
        .filter((variant) => !variant.compat);
    this.integer = usable(INTEGER_ROWS, PROFILE_INTEGER);
    this.sse = usable(SSE_ROWS, PROFILE_SSE);
  }

  /** One instruction of the table, followed by a comparison where it leaves flags undefined. */
  private plain(): Instruction[] {
    const { random } = this;
    for (;;) {
      const vectors = random.chance(25);
      const variant = random.pick(vectors ? this.sse : this.integer);
      if (/^i?div$/.test(variant.row.mnemonic) && random.chance(85)) continue;
      const place = (): number => {
        const offset = random.below(2 * REACH) - REACH;
        return vectors ? offset & ~15 : offset;
      };
      const encoding = encode(random, variant, { displacement: place });
      if (!encoding || !isHarmless(encoding.code, variant)) continue;
      const result: Instruction[] = [[...encoding.code]];
      // AF is never looked at by what these programs contain, and ignored at their end.
      if (variant.form.undef & ~16) result.push(this.compare());
      return result;
    }
  }

  /** CMP of two registers: defines all arithmetic flags. */
  private compare(): Instruction {
    const { random } = this;
    const rex = 0x48 | (random.chance(50) ? 5 : 0);
    return [random.chance(50) ? rex : 0x40 | (rex & 5), 0x39, 0xc0 | (random.below(8) << 3) | random.below(8)];
  }

  /** LEA RSI, LEA RDI, MOV ECX, REP MOVS/STOS/…: bulk operations on the data area. */
  private bulk(): Instruction[] {
    const { random } = this;
    const address = (): number[] => {
      const value = random.below(REACH) - REACH / 2;
      return [0, 8, 16, 24].map((shift) => (value >> shift) & 0xff);
    };
    const opcode = random.pick([0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xa6, 0xae]);
    const wide = opcode === 0xa5 || opcode === 0xab ? [0x48] : [];
    return [
      [0x48, 0x8d, 0xb3, ...address()],
      [0x48, 0x8d, 0xbb, ...address()],
      [0xb9, 1 + random.below(60), 0, 0, 0],
      [random.chance(70) ? 0xf3 : 0xf2, ...wide, opcode],
    ];
  }

  /** A forward jump, conditional or not, over some plain instructions. */
  private branch(): Instruction[] {
    const { random } = this;
    const skipped = Array.from({ length: 1 + random.below(3) }, () => this.plain()).flat();
    const distance = skipped.reduce((sum, instruction) => sum + instruction.length, 0);
    if (random.chance(20)) return [[0xe9, distance, 0, 0, 0], ...skipped];
    if (random.chance(30)) return [[0x0f, 0x80 | random.below(16), distance, 0, 0, 0], ...skipped];
    return [[0x70 | random.below(16), distance], ...skipped];
  }

  /** CALL over a jump into a subroutine with RET, or an indirect jump through RAX. */
  private call(): Instruction[] {
    const { random } = this;
    const body = Array.from({ length: 1 + random.below(3) }, () => this.plain()).flat();
    const distance = body.reduce((sum, instruction) => sum + instruction.length, 0) + 1;
    if (random.chance(30)) return [[0x48, 0x8d, 0x05, 2, 0, 0, 0], [0xff, 0xe0], ...body];
    return [[0xe8, 2, 0, 0, 0], [0xeb, distance], ...body, [0xc3]];
  }

  /** @returns the code of program `index` */
  make(index: number): Uint8Array {
    const { random } = this;
    random.seed(PROGRAM_STREAM ^ 0x5555, index);
    const length = 20 + random.below(41);
    const rounds = 1 + random.below(index % 10 === 0 ? 200 : 8);
    const body: Instruction[] = [];
    while (body.length < length) {
      const choice = random.below(100);
      if (choice < 80) body.push(...this.plain());
      else if (choice < 92) body.push(...this.branch());
      else if (choice < 96) body.push(...this.call());
      else body.push(...this.bulk());
    }
    const bytes = body.flat();
    const back = -(bytes.length + 3 + 6);
    const loop = [0x41, 0xff, 0xcc, 0x0f, 0x85, back & 0xff, (back >> 8) & 0xff, 0xff, 0xff];
    return Uint8Array.from([0x41, 0xbc, rounds, 0, 0, 0, ...bytes, ...loop]);
  }
}

/** Generates, runs and packs all random programs. @returns the compressed file */
export function generatePrograms(harness: string, directory: string): Buffer {
  const maker = new ProgramMaker();
  const codes = Array.from({ length: PROGRAMS }, (_, index) => maker.make(index)).filter(
    (code) => code.length <= MAX_CODE,
  );
  const state = new CaseState();
  const results = runNative(
    harness,
    directory,
    baseMemory(),
    codes.map((code, index) => () => {
      deriveProgram(state, code, PROGRAM_STREAM, index);
      return { state, code };
    }),
  );
  const writer = new VectorWriter();
  const outcomes = new Map<number, number>();
  codes.forEach((code, index) => {
    deriveProgram(state, code, PROGRAM_STREAM, index);
    const result = results[index];
    if (!result || result.timeout) throw new Error(`program ${index} did not end`);
    outcomes.set(result.vector, (outcomes.get(result.vector) ?? 0) + 1);
    const registers = new Map<number, bigint>();
    result.registers.forEach((value, i) => {
      if (value !== state.registers[i]) registers.set(i, value);
    });
    const completed = result.vector === 3;
    const record = {
      code,
      flags: 0,
      modrmAt: 0,
      outcome: completed ? COMPLETED : result.vector,
      rip: completed ? result.rip - 1n : result.rip,
      error: result.error & (result.vector === 14 ? 0x1f : 0xffff),
      cr2: result.cr2,
      eflags: (state.eflags & ~0x8c5) | (result.eflags & 0x8c5),
      registers,
      fx: [...differences(state.fx, result.fx, 24, 28), ...differences(state.fx, result.fx, 160, FX_LEGACY)],
      memory: result.memory,
    };
    writer.add(record, state.codeAddress, state.target, state.eflags, state.registers);
  });
  const forms = [{ ...PROGRAM_FORM, count: codes.length }];
  const file = writer.finish({ version: FORMAT_VERSION, stream: PROGRAM_STREAM, forms });
  console.log(`programs: ${codes.length}, outcomes ${JSON.stringify([...outcomes])}, ${file.length} bytes`);
  return file;
}
