/** Random encodings of a variant: prefixes, ModRM, SIB, displacement and immediate (APM volume 3, chapter 1). */
import { hasModrm } from "../../../engine/cpu/table/rows.ts";
import type { Variant } from "./forms.ts";
import type { Prng } from "./prng.ts";
import { CODE_BASE, CODE_SIZE, DATA_BASE, DATA_SIZE, SELECTOR_32 } from "./state.ts";

export interface Encoding {
  readonly code: Uint8Array;
  /** Offset of the ModRM byte of a memory operand, or 0. */
  readonly modrmAt: number;
  /** Patches relative fields once the code's address is known. */
  readonly place: (address: number) => void;
}

const IMMEDIATES = [0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff];

function immediate(random: Prng, size: number): number[] {
  const bytes: number[] = [];
  const value = random.chance(50) ? random.next() : random.pick(IMMEDIATES);
  const upper = random.chance(50) ? random.next() : (value | 0) >> 31;
  for (let i = 0; i < size; i++) bytes.push(((i < 4 ? value : upper) >>> (8 * (i & 3))) & 0xff);
  return bytes;
}

function immediateBytes(operand: string, size: number, compat: boolean, address: boolean): number {
  switch (operand) {
    case "Ib":
    case "Ibs":
      return 1;
    case "Iw":
      return 2;
    case "Iz":
      return size === 16 ? 2 : 4;
    case "Iv":
      return size / 8;
    case "Ob":
    case "Ov":
      return compat ? (address ? 2 : 4) : address ? 4 : 8;
    case "Ap":
    case "Av":
      return size === 16 ? 4 : 6;
    default:
      return 0;
  }
}

interface Modrm {
  bytes: number[];
  rex: number;
  /** Offset in `bytes` of a displacement that is an absolute or relative address to place, or -1. */
  placeAt: number;
  relative: boolean;
}

function displacement(random: Prng, size: number): number[] {
  const value = random.chance(70) ? random.below(0x2000) - 0x1000 : random.next() | 0;
  return Array.from({ length: size }, (_, i) => (value >> (8 * i)) & 0xff);
}

/** A memory operand of any kind: base, base and index, index only, absolute, RIP-relative; 16-bit forms with `narrow`. */
function memoryModrm(random: Prng, reg: number, compat: boolean, narrow: boolean): Modrm {
  const mode = random.below(3);
  const rex = compat ? 0 : random.below(4);
  const result: Modrm = { bytes: [], rex: 0, placeAt: -1, relative: false };
  const rm = random.chance(35) ? 4 : random.below(8);
  result.bytes.push((mode << 6) | (reg << 3) | rm);
  if (narrow) {
    result.bytes.push(...displacement(random, mode === 2 || (mode === 0 && rm === 6) ? 2 : mode));
    return result;
  }
  result.rex = rex;
  let base = rm;
  if (rm === 4) {
    const sib = random.next() & 0xff;
    result.bytes.push(sib);
    base = sib & 7;
    if (mode === 0 && base === 5 && ((sib >> 3) & 7) === 4 && (rex & 2) === 0) result.placeAt = 2;
  } else if (mode === 0 && rm === 5) {
    result.placeAt = 1;
    result.relative = !compat;
  }
  result.bytes.push(...displacement(random, mode === 0 ? (base === 5 ? 4 : 0) : mode === 1 ? 1 : 4));
  return result;
}

function prefixesOf(random: Prng, variant: Variant, address: boolean): number[] {
  const { row, size, memory, compat } = variant;
  const bytes: number[] = [];
  if (row.attributes.has("lock") && memory ? random.chance(8) : random.chance(1)) bytes.push(0xf0);
  if (memory && random.chance(4)) bytes.push(random.pick(compat ? [0x36, 0x3e, 0x26] : [0x2e, 0x36, 0x3e, 0x26]));
  if (size === 16) bytes.push(0x66);
  if (address) bytes.push(0x67);
  if (row.prefix !== "*" && row.prefix !== "") bytes.push(Number.parseInt(row.prefix, 16));
  else if (row.attributes.has("string") && row.mnemonic !== "xlat") {
    if (random.chance(65)) bytes.push(random.pick([0xf2, 0xf3]));
  } else if (row.prefix === "*" && row.map === 0 && row.opcode !== 0x90 && size !== 16 && random.chance(1))
    bytes.push(0xf2);
  if (bytes.length > 1 && row.prefix === "*" && random.chance(50)) bytes.reverse();
  if (size === 8 && !compat && random.chance(2)) bytes.unshift(0x66);
  return bytes;
}

function simplePrefixes({ row, size }: Variant): number[] {
  if (row.prefix !== "*" && row.prefix !== "") return [Number.parseInt(row.prefix, 16)];
  return size === 16 ? [0x66] : [];
}

function opcodeBytes(random: Prng, variant: Variant): { bytes: number[]; rexB: boolean } {
  const { row } = variant;
  const opcodeMap = [[], [0x0f], [0x0f, 0x38], [0x0f, 0x3a]][row.map] ?? [];
  const bytes = [...opcodeMap, row.opcode + random.below(row.span)];
  if (row.modrm) bytes.push(row.modrm.first + random.below(row.modrm.count));
  return { bytes, rexB: row.span === 8 };
}

/** A relative branch target outside the instruction itself, as a displacement to be placed later. */
function placeBranch(random: Prng, code: Uint8Array, at: number, size: number): (address: number) => void {
  const choice = random.next();
  const within = random.below(CODE_SIZE - 16);
  const far = random.chance(12);
  return (address) => {
    const end = address + code.length;
    let distance = size === 1 ? (choice << 24) >> 24 : far ? (choice | 0) >> (choice & 7) : CODE_BASE + within - end;
    if (distance < 0 && distance >= -code.length) distance += 64;
    for (let i = 0; i < size; i++) code[at + i] = (distance >> (8 * i)) & 0xff;
  };
}

function placeAddress(random: Prng, code: Uint8Array, at: number, relative: boolean): (address: number) => void {
  const offset = 64 + random.below(DATA_SIZE - 600);
  const wanted = DATA_BASE + (random.chance(70) ? offset & ~15 : offset);
  return (address) => {
    const value = relative ? wanted - (address + code.length) : wanted;
    for (let i = 0; i < 4; i++) code[at + i] = (value >> (8 * i)) & 0xff;
  };
}

/** Restricts encodings: memory operands are RBX plus a displacement, and there are no odd prefixes. */
export interface Simple {
  readonly displacement: () => number;
}

function simpleModrm(reg: number, displacement: number): Modrm {
  const bytes = [0x83 | (reg << 3)];
  for (let i = 0; i < 4; i++) bytes.push((displacement >> (8 * i)) & 0xff);
  return { bytes, rex: 0, placeAt: -1, relative: false };
}

/** One random encoding of the variant. @returns undefined where the drawn one would exceed 15 bytes */
export function encode(random: Prng, variant: Variant, simple?: Simple): Encoding | undefined {
  const { row, size, memory, compat } = variant;
  const string = row.attributes.has("string");
  const offset = row.operands.some((operand) => operand === "Ob" || operand === "Ov");
  const address =
    !simple && (memory || string || offset || /^j.?cxz|^loop/.test(row.mnemonic)) && random.chance(compat ? 5 : 8);
  const prefixes = simple ? simplePrefixes(variant) : prefixesOf(random, variant, address);
  const opcode = opcodeBytes(random, variant);
  let rex = 0;
  let modrm: Modrm | undefined;
  if (row.modrm === undefined && hasModrm(row)) {
    // FS and GS hold the thread's own data while the harness runs.
    const reg = row.reg ?? (row.operands.includes("Sw") ? random.pick([0, 0, 1, 2, 3, 3, 6]) : random.below(8));
    if (memory && simple) modrm = simpleModrm(reg, simple.displacement());
    else if (memory) modrm = memoryModrm(random, reg, compat, compat && address);
    else
      modrm = {
        bytes: [0xc0 | (reg << 3) | random.below(8)],
        rex: compat ? 0 : random.below(2),
        placeAt: -1,
        relative: false,
      };
    rex |= modrm.rex;
    if (!compat && row.reg === undefined && !row.operands.includes("Sw") && random.chance(50)) rex |= 4;
  }
  if (opcode.rexB && !compat && random.chance(50)) rex |= 1;
  if (compat) rex = 0;
  else if (size === 64 && !row.attributes.has("d64")) rex |= 8;
  else if (random.chance(size === 8 ? 25 : 3))
    rex |= 0x40 | (size === 8 || row.attributes.has("d64") ? random.next() & 8 : 0);
  // Half of the byte operands are without REX, so that AH … BH are named too.
  if (size === 8 && random.chance(35)) rex = 0;
  const bytes = [...prefixes];
  if (rex !== 0) bytes.push(0x40 | rex);
  bytes.push(...opcode.bytes);
  const modrmAt = bytes.length;
  if (modrm) bytes.push(...modrm.bytes);
  let branch = 0;
  let moffs = 0;
  const immediateAt = bytes.length;
  for (const operand of row.operands) {
    if (operand === "Jb" || operand === "Jz") {
      branch = operand === "Jb" ? 1 : size === 16 ? 2 : 4;
      bytes.push(...new Array<number>(branch).fill(0));
      continue;
    }
    const count = immediateBytes(operand, size === 64 && operand === "Iz" ? 32 : size, compat, address);
    if (operand.startsWith("O")) moffs = count;
    if (operand === "Ap" && count === 6 && random.chance(70)) {
      const target = CODE_BASE + 2 + random.below(CODE_SIZE - 16);
      bytes.push(target & 0xff, (target >> 8) & 0xff, target >> 16, 0, SELECTOR_32, 0);
      continue;
    }
    bytes.push(...immediate(random, count));
  }
  if (bytes.length > 15) return undefined;
  const code = Uint8Array.from(bytes);
  let place: (address: number) => void = () => undefined;
  if (branch > 0) place = placeBranch(random, code, immediateAt, branch);
  else if (modrm && modrm.placeAt >= 0) place = placeAddress(random, code, modrmAt + modrm.placeAt, modrm.relative);
  else if (moffs >= 4 && random.chance(95)) {
    code.fill(0, immediateAt, immediateAt + moffs);
    place = placeAddress(random, code, immediateAt, false);
  }
  return { code, modrmAt: memory ? modrmAt : 0, place };
}
