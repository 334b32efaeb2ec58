import type { CpuState, SegmentState } from "../cpu/state.ts";

const CR0_PE = 1n;
const FLAT_LIMIT = 0xffffffff;
/** Present, S, 32-bit, 4 KiB granular; code: execute/read/accessed, data: read/write/accessed. */
const FLAT_CODE = 0xc09b;
const FLAT_DATA = 0xc093;
/** Present, busy 32-bit TSS. */
const BUSY_TSS = 0x008b;
const TSS_LIMIT = 0x67;

/** What FNINIT and a reset leave; the memory types after reset (SDM volume 3, table 10-1 and section 12.12). */
const X87_CONTROL = 0x37f;
const MXCSR_RESET = 0x1f80;
const DR6_RESET = 0xffff0ff0n;
const DR7_RESET = 0x400n;
const PAT_RESET = 0x0007040600070406n;
/** Local APIC at its usual address, enabled, in x2APIC mode, on the boot processor. */
const APIC_BASE = 0xfee00d00n;

/** Registers in which the entry differs from kernel to kernel. */
export interface PvhEntry {
  readonly eip: number;
  /** Guest-physical address of hvm_start_info. */
  readonly ebx: number;
}

/**
 * The state in which a PVH guest is entered (docs/misc/pvh.pandoc): 32-bit protected mode, paging off, flat segments,
 * TR a busy TSS of limit 0x67, all flags clear. The rest is as after a reset, on top of `zero`, a CPU's state before
 * anything was written to it.
 */
export function pvhEntryState(zero: CpuState, entry: PvhEntry): CpuState {
  const code: SegmentState = { selector: 0x8, base: 0n, limit: FLAT_LIMIT, attributes: FLAT_CODE };
  const data: SegmentState = { selector: 0x10, base: 0n, limit: FLAT_LIMIT, attributes: FLAT_DATA };
  const registers = new Array<bigint>(16).fill(0n);
  registers[3] = BigInt(entry.ebx);
  return {
    ...zero,
    registers,
    rip: BigInt(entry.eip),
    rflags: 2,
    segments: {
      ...zero.segments,
      es: { ...data },
      cs: code,
      ss: { ...data },
      ds: { ...data },
      fs: { ...data },
      gs: { ...data },
      tr: { selector: 0x18, base: 0n, limit: TSS_LIMIT, attributes: BUSY_TSS },
    },
    gdtr: { base: 0n, limit: 0 },
    idtr: { base: 0n, limit: 0 },
    control: { ...zero.control, cr0: CR0_PE, cr3: 0n, cr4: 0n, efer: 0n },
    debug: [0n, 0n, 0n, 0n, 0n, 0n, DR6_RESET, DR7_RESET],
    msrs: { ...zero.msrs, pat: PAT_RESET, apicBase: APIC_BASE },
    x87: { ...zero.x87, control: X87_CONTROL },
    mxcsr: MXCSR_RESET,
  };
}
