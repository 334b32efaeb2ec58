/** The architectural state of a CPU (cpu/state.ts) as JSON, checked when it comes back: 64-bit numbers are hexadecimal text. */
import { z } from "zod";
import type { CpuState } from "../cpu/state.ts";

/** A 64-bit number as hexadecimal text. */
export const hex64 = z.codec(z.string().regex(/^0x[0-9a-f]{1,16}$/), z.bigint(), {
  decode: (text) => BigInt(text),
  encode: (value) => `0x${BigInt.asUintN(64, value).toString(16)}`,
});

const xmm = z.codec(z.string().regex(/^[0-9a-f]{32}$/), z.instanceof(Uint8Array), {
  decode: (text) => Uint8Array.from(Buffer.from(text, "hex")),
  encode: (bytes) => Buffer.from(bytes).toString("hex"),
});

const u16 = z.int().min(0).max(0xffff);
const u32 = z.int().min(0).max(0xffffffff);
const table = z.strictObject({ base: hex64, limit: u32 });
const segment = z.strictObject({ selector: u16, base: hex64, limit: u32, attributes: u32 });

export const cpuStateSchema = z.strictObject({
  registers: z.array(hex64).length(16),
  rip: hex64,
  rflags: u32,
  segments: z.strictObject({
    es: segment,
    cs: segment,
    ss: segment,
    ds: segment,
    fs: segment,
    gs: segment,
    ldtr: segment,
    tr: segment,
  }),
  gdtr: table,
  idtr: table,
  control: z.strictObject({ cr0: hex64, cr2: hex64, cr3: hex64, cr4: hex64, cr8: hex64, efer: hex64 }),
  debug: z.array(hex64).length(8),
  msrs: z.strictObject({
    star: hex64,
    lstar: hex64,
    cstar: hex64,
    sfmask: hex64,
    kernelGsBase: hex64,
    sysenterCs: hex64,
    sysenterEsp: hex64,
    sysenterEip: hex64,
    tscAux: hex64,
    pat: hex64,
    tscOffset: hex64,
    apicBase: hex64,
    miscEnable: hex64,
    mtrrDefType: hex64,
  }),
  x87: z.strictObject({
    registers: z.array(z.strictObject({ significand: hex64, signExponent: u16 })).length(8),
    control: u16,
    status: u16,
    tag: z.int().min(0).max(0xff),
    opcode: u16,
    instructionPointer: hex64,
    dataPointer: hex64,
    codeSelector: u16,
    dataSelector: u16,
  }),
  xmm: z.array(xmm).length(16),
  mxcsr: u32,
  interruptShadow: z.boolean(),
  /** -1: none. */
  pendingVector: z.codec(z.int().min(-1).max(0xff), z.union([z.int(), z.undefined()]), {
    decode: (vector) => (vector < 0 ? undefined : vector),
    encode: (vector) => vector ?? -1,
  }),
  instructionCount: hex64,
}) satisfies z.ZodType<CpuState>;
