/** Turns rows of the instruction table into forms: one operand size, register or memory, 64-bit or compatibility mode. */
import { hasModrm, type Row } from "../../../engine/cpu/table/rows.ts";
import {
  AIM_ALIGN,
  AIM_BIT_OFFSET,
  AIM_BRANCH,
  AIM_COMPARE,
  AIM_DIVIDE,
  AIM_FAR,
  AIM_FRAME,
  AIM_IRET,
  AIM_PAIR,
  AIM_SELECTOR,
  AIM_SHIFT,
  AIM_STACK,
  AIM_STRING,
  AIM_TABLE,
  type Form,
  PROFILE_INTEGER,
  PROFILE_MMX,
  PROFILE_SSE,
  PROFILE_X87,
  TOLERANCE_RECIPROCAL,
  TOLERANCE_X87,
} from "./derive.ts";
import {
  KIND_BCD,
  KIND_FLOAT32,
  KIND_FLOAT64,
  KIND_FLOAT80,
  KIND_IMAGE,
  KIND_INTEGER,
  KIND_POINTER,
} from "./values.ts";

/** A form with what the encoder needs. */
export interface Variant {
  readonly row: Row;
  readonly size: 8 | 16 | 32 | 64;
  readonly memory: boolean;
  readonly compat: boolean;
  readonly form: Form;
}

/**
 * Rows that user-mode code on a running Linux cannot show: their result depends on time, on the processor model or on
 * the operating system's tables, or the kernel emulates them (UMIP) or takes them as its own calls.
 */
const NOT_NATIVE: ReadonlySet<string> = new Set([
  "cpuid",
  "rdtsc",
  "rdtscp",
  "rdpmc",
  "syscall",
  "sysenter",
  "int",
  "vmcall",
  "vmmcall",
  "sgdt",
  "sidt",
  "sldt",
  "str",
  "smsw",
  "int1",
  "lar",
  "lsl",
  "verr",
  "verw",
  "rdfsbase",
  "wrfsbase",
  "rdgsbase",
  "wrgsbase",
  "lfs",
  "lgs",
  "xgetbv",
  "rdpid",
  "rdrand",
  "rdseed",
  "monitor",
  "mwait",
  "xsetbv",
  "push_fs",
  "push_gs",
  "pop_fs",
  "pop_gs",
]);

/** Whether the row can be taken from a real processor in user mode. */
export function isNative(row: Row): boolean {
  return !NOT_NATIVE.has(row.mnemonic);
}

const FLAGS: Readonly<Record<string, number>> = { cf: 1, pf: 4, af: 16, zf: 64, sf: 128, of: 2048 };
const STATUS: Readonly<Record<string, number>> = { c0: 0x100, c1: 0x200, c2: 0x400, c3: 0x4000 };

function maskOf(row: Row, bits: Readonly<Record<string, number>>): number {
  const names = (row.attributes.get("undef") ?? "").split(",");
  return names.reduce((mask, name) => mask | (bits[name] ?? 0), 0);
}

const READ_MODIFY_WRITE =
  /^(add|or|adc|sbb|and|sub|xor|not|neg|inc|dec|rol|ror|rcl|rcr|shl|shr|sar|shld|shrd|bts|btr|btc|xchg|xadd|cmpxchg.*)$/;
const TRANSCENDENTAL = new Set(["fsin", "fcos", "fsincos", "fptan", "fpatan", "f2xm1", "fyl2x", "fyl2xp1"]);

function kindOf(row: Row, profile: number): number {
  const { mnemonic, operands } = row;
  if (profile === PROFILE_X87) {
    if (/^f(n)?(ldenv|rstor|stenv|save)$/.test(mnemonic)) return KIND_IMAGE;
    if (/^fb/.test(mnemonic)) return KIND_BCD;
    if (operands.includes("Mt")) return KIND_FLOAT80;
    if (/^fi/.test(mnemonic)) return KIND_INTEGER;
    return operands.includes("Md") ? KIND_FLOAT32 : operands.includes("Mq") ? KIND_FLOAT64 : KIND_INTEGER;
  }
  if (/^fxrstor|^fxsave/.test(mnemonic)) return KIND_IMAGE;
  if (profile === PROFILE_SSE || profile === PROFILE_MMX) {
    const source = /^cvtt?(..)2/.exec(mnemonic)?.[1] ?? mnemonic;
    if (source !== "pi" && /(ps|ss)$/.test(source)) return KIND_FLOAT32;
    if (/(pd|sd)$/.test(source)) return KIND_FLOAT64;
  }
  return KIND_INTEGER;
}

function aimOf(row: Row): number {
  const { mnemonic, operands, attributes } = row;
  let aim = 0;
  if (mnemonic === "xlat") aim |= AIM_TABLE;
  else if (attributes.has("string")) aim |= AIM_STRING;
  if (/^bt[scr]?$/.test(mnemonic) && operands.includes("Gv")) aim |= AIM_BIT_OFFSET;
  if (mnemonic === "enter" || mnemonic === "leave") aim |= AIM_FRAME;
  if (operands.includes("CL")) aim |= AIM_SHIFT;
  if (/^cmpxchg(8b|16b)$/.test(mnemonic)) aim |= AIM_PAIR;
  else if (mnemonic === "cmpxchg") aim |= AIM_COMPARE;
  if (mnemonic === "div" || mnemonic === "idiv") aim |= AIM_DIVIDE;
  if (/^iret/.test(mnemonic)) aim |= AIM_IRET | AIM_STACK;
  if (isIndirect(row)) aim |= AIM_BRANCH;
  if (isFar(row)) aim |= AIM_FAR;
  if (/^(ret|lret|retf|ret_far|pop|popf|popa)/.test(mnemonic)) aim |= AIM_STACK;
  if (operands[0] === "Sw" || /^pop_|^l[eds]s$/.test(mnemonic)) aim |= AIM_SELECTOR;
  return aim;
}

function isFar(row: Row): boolean {
  return (
    /^(lret|retf|ret_far|ljmp|lcall|jmp_far|call_far|jmpf|callf|les|lds|lss)/.test(row.mnemonic) ||
    /far/.test(row.handler)
  );
}

function isIndirect(row: Row): boolean {
  return row.map === 0 && row.opcode === 0xff && row.reg !== undefined && row.reg >= 2 && row.reg <= 5;
}

function isReturn(row: Row): boolean {
  return row.map === 0 && [0xc2, 0xc3, 0xca, 0xcb].includes(row.opcode);
}

/** Memory the processor fills with what is not architectural in user mode: last instruction and operand pointers. */
function holesOf(row: Row, size: number): [number, number][] {
  if (/^fxsave/.test(row.mnemonic))
    return [
      [6, 24],
      [28, 32],
    ];
  if (/^f(n)?(stenv|save)$/.test(row.mnemonic)) return [size === 16 ? [6, 14] : [12, 28]];
  return [];
}

/** Makers differ in the order of accesses (string comparison, far returns) and in how they report split operands. */
function faultAddressOf(row: Row, profile: number): Form["faultAddress"] {
  if (/^(cmps|retf|iret)/.test(row.mnemonic)) return "any";
  return profile === PROFILE_INTEGER && !/^cmpxchg8b/.test(row.mnemonic) ? "exact" : "page";
}

const SIZED = /^(E|G|I|R|Z|O)(v|z|y)$|^rAX$|^eAX$|^A[pv]$/;

/** Operand sizes a row is exercised with. */
function sizesOf(row: Row, compat: boolean): (8 | 16 | 32 | 64)[] {
  const { operands, attributes, mnemonic, prefix } = row;
  if (prefix !== "*") {
    const wide = operands.some((operand) => /^(E|G|R|M)y$/.test(operand)) || /^(fx|cmpxchg)/.test(mnemonic);
    return wide && !compat ? [32, 64] : [32];
  }
  const near = operands.some((operand) => /^J/.test(operand)) || isIndirect(row) || isReturn(row);
  const far = isFar(row);
  if (
    attributes.has("byte") ||
    (operands.length > 0 && operands.every((operand) => /b$|^AL$|^CL$|^1$/.test(operand)) && !near)
  ) {
    return [8];
  }
  // Near branches with an operand size prefix differ between processor makers in 64-bit mode.
  if (near && !far) return compat ? [16, 32] : [64];
  if (mnemonic === "bswap") return compat ? [32] : [32, 64];
  if (/^f(n)?(ldenv|rstor|stenv|save)$/.test(mnemonic)) return [16, 32];
  if (/^fx/.test(mnemonic)) return compat ? [32] : [32, 64];
  const sized =
    operands.some((operand) => SIZED.test(operand)) ||
    operands.length === 0 ||
    /^(lea|bound|fx|cmpxchg|mov)/.test(mnemonic);
  if (!sized && !attributes.has("d64") && !far) return [32];
  if (attributes.has("d64")) return compat ? [16, 32] : [16, 64];
  if (compat || far) return [16, 32];
  return [16, 32, 64];
}

function operandForms(row: Row): boolean[] {
  if (row.modrm || !hasModrm(row)) return [false];
  if (row.form) return [row.form === "m"];
  if (row.operands.some((operand) => /^M/.test(operand))) return [true];
  if (row.operands.some((operand) => /^[EWQ]/.test(operand))) return [false, true];
  return [false];
}

function makeForm(row: Row, profile: number, size: number, memory: boolean, compat: boolean): Form {
  const tolerance = TRANSCENDENTAL.has(row.mnemonic)
    ? TOLERANCE_X87
    : row.attributes.has("approx")
      ? TOLERANCE_RECIPROCAL
      : 0;
  const pointer = isIndirect(row) || isReturn(row);
  const image = /^(fxrstor|fxsave)/.test(row.mnemonic);
  return {
    name: `${row.mnemonic} ${row.operands.join(",")}${memory ? " [m]" : ""} ${size}${compat ? " compat" : ""}`,
    undef: maskOf(row, FLAGS),
    undefStatus: maskOf(row, STATUS),
    profile: image ? PROFILE_X87 : profile,
    aim: aimOf(row) | (profile === PROFILE_SSE || image ? AIM_ALIGN : 0),
    kind: pointer ? KIND_POINTER : kindOf(row, profile),
    tolerance,
    holes: holesOf(row, size),
    readsDestination: READ_MODIFY_WRITE.test(row.mnemonic),
    faultAddress: faultAddressOf(row, profile),
    count: 0,
  };
}

/** All variants of a row; those of compatibility mode only where it adds something. */
export function variantsOf(row: Row, profile: number): Variant[] {
  const variants: Variant[] = [];
  for (const compat of [false, true]) {
    if (compat ? row.attributes.has("only64") : row.attributes.has("no64")) continue;
    for (const size of sizesOf(row, compat)) {
      for (const memory of operandForms(row)) {
        variants.push({ row, size, memory, compat, form: makeForm(row, profile, size, memory, compat) });
      }
    }
  }
  return variants;
}

/** Instructions that only raise an exception in user mode, besides those marked as privileged. */
const ALWAYS_FAULTS = /^(in|out|ins|outs|insb|outsb|cli|sti|ud[012])$/;

/** How many cases a variant gets: more where results have more to go wrong. */
export function weightOf(variant: Variant): number {
  const { row, form, compat } = variant;
  let weight = 90;
  if (form.profile === PROFILE_X87) weight = form.tolerance ? 300 : row.operands.length === 0 ? 160 : 140;
  else if (form.profile === PROFILE_SSE) weight = form.kind === KIND_INTEGER ? 110 : 170;
  else if (form.profile === PROFILE_MMX) weight = 100;
  if (form.profile === PROFILE_INTEGER && form.aim & (AIM_STRING | AIM_SHIFT | AIM_DIVIDE)) weight = 150;
  if (row.attributes.has("priv") || ALWAYS_FAULTS.test(row.mnemonic)) weight = 6;
  if (compat && !row.attributes.has("no64")) weight = Math.ceil(weight / (form.profile === PROFILE_INTEGER ? 4 : 10));
  return weight * Math.min(row.modrm?.count ?? row.span, 4);
}
