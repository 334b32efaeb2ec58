/**
 * The CPUID leaves a guest sees: a plain 64-bit processor (x86-64-v1 and CMPXCHG16B) under Xen.
 *
 * Vendor AMD and family 15: such a processor has neither Meltdown nor the other faults that make Linux isolate page
 * tables, and its C-state and microcode code paths are short. Standard leaves: AMD64 Architecture Programmer's Manual
 * volume 3, appendix E. Xen leaves: xen/include/public/arch-x86/cpuid.h.
 */
import * as abi from "../abi/cpuid.ts";
import { XEN_MAJOR, XEN_MINOR } from "./version.ts";

/** One leaf; without a subleaf it answers all of them. */
export interface CpuidEntry {
  readonly leaf: number;
  readonly subleaf?: number;
  readonly eax: number;
  readonly ebx: number;
  readonly ecx: number;
  readonly edx: number;
}

export interface CpuidOptions {
  readonly vcpu: number;
  readonly domain: number;
  /** Frequency of the guest's TSC, kHz. */
  readonly tscKhz: number;
}

const bits = (...positions: readonly number[]): number =>
  positions.reduce((mask, position) => (mask | (1 << position)) >>> 0, 0);

/** fpu, pse, tsc, msr, pae, cx8, apic, pge, cmov, clfsh, mmx, fxsr, sse, sse2. Libraries abort without clfsh (libpmem). */
const LEAF_1_EDX = bits(0, 3, 4, 5, 6, 8, 9, 13, 15, 19, 23, 24, 25, 26);
/** Bytes of a cache line, in units of 8. */
const FLUSHED_LINE = 64 / 8;
/** cx16, x2apic, hypervisor */
const LEAF_1_ECX = bits(13, 21, 31);
/** syscall, nx, long mode, and the AMD copies of the leaf 1 bits. */
const EXTENDED_EDX = bits(0, 3, 4, 5, 6, 8, 9, 11, 13, 15, 20, 23, 24, 29);
/** Enhanced REP MOVSB/STOSB: the CPU does them in bulk. */
const LEAF_7_EBX = bits(9);
const INVARIANT_TSC = bits(8);
/**
 * The caches. On this vendor's processors the C library copies by REP MOVSB only what fits into the second level (glibc,
 * sysdeps/x86/dl-cacheinfo.h); with a loop of its own it is some twenty times slower here. So that level is large.
 * Leaf 0x80000005: size in KiB, ways, lines a tag, bytes a line; 0x80000006: size in KiB, code of 16 ways, likewise.
 */
const FIRST_LEVEL = ((64 << 24) | (2 << 16) | (1 << 8) | 64) >>> 0;
const SECOND_LEVEL = ((16384 << 16) | (8 << 12) | (1 << 8) | 64) >>> 0;
/** Family 15, model 4, stepping 10. */
const SIGNATURE = 0x00000f4a;
/**
 * Guest-physical space is 4 GiB: the CPU's table of guest frames ends there, and Linux looks for room for its grant
 * table anywhere it may.
 */
const PHYSICAL_BITS = 32;
const LINEAR_BITS = 48;
const BRAND = "Domlab Virtual CPU";

/** Four characters in the byte order of a register. */
function word(text: string, offset: number): number {
  let value = 0;
  for (let i = 3; i >= 0; i--) value = (value << 8) | (text.charCodeAt(offset + i) || 0);
  return value >>> 0;
}

function entry(leaf: number, eax: number, ebx = 0, ecx = 0, edx = 0, subleaf?: number): CpuidEntry {
  const registers = { leaf: leaf >>> 0, eax: eax >>> 0, ebx: ebx >>> 0, ecx: ecx >>> 0, edx: edx >>> 0 };
  return subleaf === undefined ? registers : { ...registers, subleaf };
}

function standardLeaves(vcpu: number): CpuidEntry[] {
  const vendor = [word("Auth", 0), word("cAMD", 0), word("enti", 0)] as const;
  const brand = [0, 16, 32].map((start, i) =>
    entry(0x80000002 + i, word(BRAND, start), word(BRAND, start + 4), word(BRAND, start + 8), word(BRAND, start + 12)),
  );
  return [
    entry(0, 7, ...vendor),
    entry(1, SIGNATURE, ((vcpu << 24) | (1 << 16) | (FLUSHED_LINE << 8)) >>> 0, LEAF_1_ECX, LEAF_1_EDX),
    ...[2, 3, 4, 5, 6].map((leaf) => entry(leaf, 0)),
    entry(7, 0, LEAF_7_EBX, 0, 0, 0),
    entry(7, 0),
    entry(0x80000000, 0x80000008, ...vendor),
    entry(0x80000001, SIGNATURE, 0, 0, EXTENDED_EDX),
    ...brand,
    entry(0x80000005, 0, 0, FIRST_LEVEL, FIRST_LEVEL),
    entry(0x80000006, 0, 0, SECOND_LEVEL),
    entry(0x80000007, 0, 0, 0, INVARIANT_TSC),
    entry(0x80000008, PHYSICAL_BITS | (LINEAR_BITS << 8)),
  ];
}

/** tsc_to_system_mul and shift of a TSC at `khz`: ns = (ticks << shift) * mul >> 32. */
function tscScale(khz: number): { multiplier: number; shift: number } {
  let ratio = 1e6 / khz;
  let shift = 0;
  while (ratio >= 1) {
    ratio /= 2;
    shift++;
  }
  while (ratio < 0.5) {
    ratio *= 2;
    shift--;
  }
  return { multiplier: Math.floor(ratio * 2 ** 32), shift };
}

function xenLeaves(options: CpuidOptions): CpuidEntry[] {
  const base = abi.XEN_CPUID_BASE;
  const { multiplier, shift } = tscScale(options.tscKhz);
  return [
    entry(base, base + abi.XEN_CPUID_LEAVES, word("XenV", 0), word("MMXe", 0), word("nVMM", 0)),
    entry(base + 1, (XEN_MAJOR << 16) | XEN_MINOR),
    entry(base + 2, 1, abi.MSR_HYPERCALL_PAGE),
    entry(base + 3, abi.TIME_TSC_RELIABLE, abi.TSC_MODE_NEVER_EMULATE, options.tscKhz, 0, 0),
    entry(base + 3, 0, 0, multiplier, shift, 1),
    entry(base + 3, options.tscKhz, 0, 0, 0, 2),
    entry(base + 4, abi.HVM_VCPU_ID_PRESENT | abi.HVM_DOMID_PRESENT, options.vcpu, options.domain),
    entry(base + 5, 0, 0, 0, 0),
  ];
}

/** All leaves of one vCPU. Leaves that are not listed read as zero. */
export function cpuidEntries(options: CpuidOptions): CpuidEntry[] {
  return [...standardLeaves(options.vcpu), ...xenLeaves(options)];
}
