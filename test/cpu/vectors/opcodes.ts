/**
 * Regenerates opcodes.txt, the distinct instruction forms in the binaries a Debian guest executes; see README.md.
 *
 *   opcodes.mjs OUTPUT NAME=FILE …      FILE: an ELF file or a Linux bzImage
 *
 * One line a form: map and opcode, mandatory prefix (- for none), ModRM class, then how often each file has it and a
 * mnemonic. The ModRM class is `m` or `r`, with `/n` where ModRM.reg selects the instruction, or the whole byte for
 * register forms of x87, 0F 01 and 0F AE.
 */
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { extractKernel } from "../../../engine/builder/bzimage.ts";

interface Seen {
  readonly mnemonic: string;
  readonly counts: Map<string, number>;
}

const NO_MODRM_ONE =
  /^([0-3][4-7c-f]|[4-57][0-9a-f]|6[0168a-f]|9[0-9a-f]|a[0-9a-f]|b[0-9a-f]|c[23489a-f]|d[4-7]|e[0-9a-f]|f[0-24589a-d])$/;
const NO_MODRM_TWO = /^(0[4-9be]|3[0-7]|77|8[0-9a-f]|a[0-289a]|c[8-f]|ff|0b)$/;
const GROUPS_ONE = new Set([
  0x80, 0x81, 0x82, 0x83, 0x8f, 0xc0, 0xc1, 0xc6, 0xc7, 0xd0, 0xd1, 0xd2, 0xd3, 0xf6, 0xf7, 0xfe, 0xff,
]);
const GROUPS_TWO = new Set([0x00, 0x01, 0x0d, 0x18, 0x71, 0x72, 0x73, 0xae, 0xba, 0xc7]);

function hex(byte: number): string {
  return byte.toString(16).padStart(2, "0").toUpperCase();
}

function modrmClass(map: number, opcode: number, modrm: number): string {
  const register = modrm >= 0xc0;
  const coprocessor = map === 0 && opcode >= 0xd8 && opcode <= 0xdf;
  const system = map === 1 && (opcode === 0x01 || opcode === 0xae);
  if (register && (coprocessor || system)) return hex(modrm);
  const group = coprocessor || (map === 0 ? GROUPS_ONE : map === 1 ? GROUPS_TWO : new Set<number>()).has(opcode);
  return `${group ? `/${(modrm >> 3) & 7} ` : ""}${register ? "r" : "m"}`;
}

/** The form of an instruction's bytes, or undefined for prefixes alone. VEX and EVEX are one form each. */
export function formOf(bytes: readonly number[]): string | undefined {
  let at = 0;
  let prefix = "-";
  for (; at < bytes.length; at++) {
    const byte = bytes[at] ?? 0;
    if (byte === 0xf2 || byte === 0xf3) prefix = hex(byte);
    else if (byte === 0x66) prefix = prefix === "-" ? "66" : prefix;
    else if (![0x67, 0xf0, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65].includes(byte)) break;
  }
  if (((bytes[at] ?? 0) & 0xf0) === 0x40) at++;
  let opcode = bytes[at++];
  if (opcode === undefined) return undefined;
  if (opcode === 0xc4 || opcode === 0xc5) return "VEX";
  if (opcode === 0x62) return "EVEX";
  let map = 0;
  if (opcode === 0x0f) {
    map = 1;
    opcode = bytes[at++] ?? 0;
    if (opcode === 0x38 || opcode === 0x3a) {
      map = opcode === 0x38 ? 2 : 3;
      opcode = bytes[at++] ?? 0;
    }
  }
  const name = ["", "0F ", "0F 38 ", "0F 3A "][map] + hex(opcode);
  // In the one-byte map prefixes only change sizes and repetition, except for PAUSE.
  const shown = map === 0 && opcode !== 0x90 ? "-" : prefix;
  const noModrm = map === 0 ? NO_MODRM_ONE : map === 1 ? NO_MODRM_TWO : undefined;
  if (noModrm?.test(hex(opcode).toLowerCase())) return `${name} ${shown}`;
  return `${name} ${shown} ${modrmClass(map, opcode, bytes[at] ?? 0)}`;
}

async function scan(name: string, path: string, forms: Map<string, Seen>): Promise<void> {
  const objdump = spawn("objdump", ["-d", "-w", path], { stdio: ["ignore", "pipe", "inherit"] });
  for await (const line of createInterface({ input: objdump.stdout })) {
    const [, raw, text] = line.split("\t");
    if (!raw || !text || text.includes("(bad)")) continue;
    const form = formOf(
      raw
        .trim()
        .split(" ")
        .map((byte) => Number.parseInt(byte, 16)),
    );
    if (!form) continue;
    const words = text
      .split(/\s+/)
      .filter((word) => !/^(lock|rep[nz]?|repnz|data16|cs|ds|es|ss|fs|gs|addr32|bnd|notrack|rex.*)$/.test(word));
    const seen = forms.get(form) ?? { mnemonic: words[0] ?? text.trim(), counts: new Map<string, number>() };
    seen.counts.set(name, (seen.counts.get(name) ?? 0) + 1);
    forms.set(form, seen);
  }
}

async function main(): Promise<void> {
  const [output, ...inputs] = process.argv.slice(2);
  if (!output || inputs.length === 0) throw new Error("usage: opcodes.mjs OUTPUT NAME=FILE …");
  const directory = mkdtempSync(join(tmpdir(), "domlab-opcodes-"));
  const forms = new Map<string, Seen>();
  try {
    for (const input of inputs) {
      const [name = "", path = ""] = input.split("=");
      let elf = path;
      const file = readFileSync(path);
      if (file.readUInt32BE(0) !== 0x7f454c46) {
        elf = join(directory, "vmlinux");
        writeFileSync(elf, await extractKernel(file));
      }
      await scan(name, elf, forms);
    }
  } finally {
    rmSync(directory, { recursive: true });
  }
  const lines = [...forms]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([form, { mnemonic, counts }]) => {
      return `${form} | ${mnemonic} | ${[...counts].map(([name, count]) => `${name}:${count}`).join(" ")}`;
    });
  writeFileSync(output, `${lines.join("\n")}\n`);
}

await main();
