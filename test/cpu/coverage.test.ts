/** No instruction that Debian's kernel, busybox or glibc contains is missing from the table (vectors/opcodes.txt). */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { INSTRUCTIONS } from "../../engine/cpu/table/index.ts";
import type { Row } from "../../engine/cpu/table/rows.ts";

/** A line of opcodes.txt: see vectors/opcodes.ts. */
interface OpcodeForm {
  readonly text: string;
  readonly mnemonic: string;
  readonly map: number;
  readonly opcode: number;
  readonly prefix: string;
  readonly reg?: number;
  readonly memory?: boolean;
  readonly modrm?: number;
}

/** Instructions we do not offer, with the CPUID bit or the circumstance that keeps the guest from executing them. */
const HIDDEN: readonly (readonly [mnemonics: RegExp, reason: string])[] = [
  [/^(VEX|EVEX)$/, "AVX, AVX2, AVX-512, BMI: CPUID.1:ECX.OSXSAVE and AVX, CPUID.7:EBX; no XCR0"],
  [/^(clac|stac)$/, "SMAP: CPUID.7:EBX.SMAP; patched in by alternatives"],
  [/^(xsave|xrstor|xsavec|xsaves|xrstors|xsaveopt|xgetbv|xsetbv)(64)?$/, "CPUID.1:ECX.XSAVE"],
  [/^(xbegin|xend|xabort|xtest)$/, "TSX: CPUID.7:EBX.RTM"],
  [/^(encls|enclu)$/, "CPUID.7:EBX.SGX"],
  [/^(rdpkru|wrpkru)$/, "CPUID.7:ECX.PKU"],
  [/^serialize$/, "CPUID.7:EDX.SERIALIZE"],
  [/^(monitor|mwait)$/, "CPUID.1:ECX.MONITOR"],
  [/^(monitorx|mwaitx)$/, "CPUID.80000001:ECX.MONITORX"],
  [/^(umonitor|umwait|tpause)$/, "CPUID.7:ECX.WAITPKG"],
  [/^(rdfsbase|wrfsbase|rdgsbase|wrgsbase)[lq]?$/, "CPUID.7:EBX.FSGSBASE, and CR4.FSGSBASE"],
  [/^(incsspq|rdsspq|saveprevssp|rstorssp|wrssq|wrussq|setssbsy|clrssbsy)$/, "CET: CPUID.7:ECX.CET_SS"],
  [/^(stgi|clgi|vmrun|vmload|vmsave|invlpga|skinit)$/, "SVM: CPUID.80000001:ECX.SVM"],
  [/^(vmgexit|pvalidate|rmpadjust|rmpupdate|psmash)$/, "SEV: CPUID.8000001F"],
  [/^(vmxon|vmxoff|vmptrld|vmclear|vmread|vmwrite|vmlaunch|vmresume|invept|invvpid)$/, "VMX: CPUID.1:ECX.VMX"],
  [/^invpcid$/, "CPUID.7:EBX.INVPCID"],
  [/^(clwb|clflushopt|cldemote)$/, "CPUID.7:EBX.CLWB, CLFLUSHOPT"],
  [/^(rdrand|rdseed)$/, "CPUID.1:ECX.RDRAND, CPUID.7:EBX.RDSEED"],
  [/^movbe$/, "CPUID.1:ECX.MOVBE"],
  [/^(tzcnt|lzcnt)$/, "runs as BSF or BSR without CPUID.7:EBX.BMI1, CPUID.80000001:ECX.ABM"],
  [/^(aes|pclmul|sha)/, "CPUID.1:ECX.AESNI, PCLMULQDQ, CPUID.7:EBX.SHA"],
];

const ENCODED = /^(?:0F (?:(38|3A) )?)?([0-9A-F]{2}) (-|66|F2|F3)(?: (?:\/([0-7]) )?(?:([mr])|([0-9A-F]{2})))?$/;

function parseForm(line: string): OpcodeForm {
  const [text = "", name = ""] = line.split("|").map((cell) => cell.trim());
  const mnemonic = text === "VEX" || text === "EVEX" ? text : name;
  const match = ENCODED.exec(text);
  if (!match) return { text, mnemonic, map: -1, opcode: 0, prefix: "-" };
  const [, secondByte, opcode = "", prefix = "", reg, kind, modrm] = match;
  return {
    text,
    mnemonic,
    map: secondByte === "38" ? 2 : secondByte === "3A" ? 3 : text.startsWith("0F ") ? 1 : 0,
    opcode: Number.parseInt(opcode, 16),
    prefix,
    ...(reg === undefined ? {} : { reg: Number(reg) }),
    ...(kind === undefined ? {} : { memory: kind === "m" }),
    ...(modrm === undefined ? {} : { modrm: Number.parseInt(modrm, 16) }),
  };
}

/** Whether a row decodes the form. */
function matches(row: Row, form: OpcodeForm): boolean {
  if (row.map !== form.map || form.opcode < row.opcode || form.opcode >= row.opcode + row.span) return false;
  if (row.prefix !== "*" && row.prefix !== (form.prefix === "-" ? "" : form.prefix)) return false;
  const reg = form.modrm === undefined ? form.reg : (form.modrm >> 3) & 7;
  if (row.reg !== undefined && reg !== undefined && row.reg !== reg) return false;
  if (row.modrm) {
    const { first, count } = row.modrm;
    return form.modrm !== undefined && form.modrm >= first && form.modrm < first + count;
  }
  const memory = form.modrm === undefined && form.memory === true;
  if (row.form !== undefined && (row.form === "m") !== memory) return false;
  if (memory) return row.operands.length === 0 || row.operands.some((operand) => /^[EMWQ]/.test(operand));
  return form.memory === undefined || !row.operands.some((operand) => /^M/.test(operand));
}

const forms = readFileSync(fileURLToPath(new URL("vectors/opcodes.txt", import.meta.url)), "utf8")
  .split("\n")
  .filter((line) => line !== "")
  .map(parseForm);

describe("instruction coverage", () => {
  it("has a list of forms from kernel, busybox and glibc", () => {
    expect(forms.length).toBeGreaterThan(600);
  });

  it("the table knows every form that CPUID does not hide", () => {
    const missing = forms.filter(
      (form) =>
        !HIDDEN.some(([mnemonics]) => mnemonics.test(form.mnemonic)) && !INSTRUCTIONS.some((row) => matches(row, form)),
    );
    expect(missing.map(({ text, mnemonic }) => `${text} ${mnemonic}`)).toEqual([]);
  });
});
