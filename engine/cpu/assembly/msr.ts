/**
 * RDMSR, WRMSR and the time stamp counter (SDM vol 4; APM vol 2 appendix A).
 *
 * Registers that are part of the processor's own state are handled here; all others leave exec() for the hypervisor,
 * which completes the instruction or raises #GP.
 */

import { requireKernel } from "./control";
import { completeInstruction } from "./cpuid";
import { raiseError } from "./fault";
import { finish, isCanonical, stayAt } from "./flow";
import { hostTsc } from "./host";
import {
  CPL,
  CR0,
  CR0_PG,
  CR4,
  CR4_TSD,
  EFER,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
  EFER_SCE,
  EXC_GP,
  EXIT,
  EXIT_A,
  EXIT_B,
  EXIT_C,
  EXIT_MSR_READ,
  EXIT_MSR_WRITE,
  GPR,
  MSR_APIC_BASE,
  MSR_CSTAR,
  MSR_KERNEL_GS_BASE,
  MSR_LSTAR,
  MSR_MISC_ENABLE,
  MSR_MTRR_DEF_TYPE,
  MSR_PAT,
  MSR_SFMASK,
  MSR_STAR,
  MSR_SYSENTER_CS,
  MSR_SYSENTER_EIP,
  MSR_SYSENTER_ESP,
  MSR_TSC_AUX,
  MSR_TSC_OFFSET,
  R_LENGTH,
  SLOT_FS,
  SLOT_GS,
} from "./layout";
import { flushTlb } from "./mmu";

const RAX = GPR;
const RCX = GPR + 8;
const RDX = GPR + 16;

/** EFER bits that may be written; LMA is ignored. */
const EFER_DEFINED: u64 = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
/** CR4.PCE: RDPMC outside of level 0. */
const CR4_PCE: u64 = 0x100;

// --- time stamp counter -----------------------------------------------------------------------------------------

/** Time stamp counter as the guest sees it. */
export function readTsc(): u64 {
  return hostTsc() + load<u64>(MSR_TSC_OFFSET);
}

function storePair(value: u64): void {
  store<u64>(RAX, value & 0xffffffff);
  store<u64>(RDX, value >> 32);
}

function requireTsc(): void {
  if (load<u64>(CR4) & CR4_TSD && load<u32>(CPL) != 0) raiseError(EXC_GP, 0);
}

export function readTimeStamp(_ip: u32): void {
  requireTsc();
  storePair(readTsc());
}

export function readTimeStampAux(_ip: u32): void {
  requireTsc();
  storePair(readTsc());
  store<u64>(RCX, load<u64>(MSR_TSC_AUX) & 0xffffffff);
}

/** RDPMC: the four counters of a K8 exist and never count. */
export function readPerformance(_ip: u32): void {
  if (load<u32>(CPL) != 0 && !(load<u64>(CR4) & CR4_PCE)) raiseError(EXC_GP, 0);
  if (load<u32>(RCX) > 3) raiseError(EXC_GP, 0);
  storePair(0);
}

// --- model specific registers -----------------------------------------------------------------------------------

/** Address of the state word behind an MSR that is a plain 64-bit word, or 0. */
function wordOf(msr: u32): u32 {
  switch (msr) {
    case 0x1b:
      return MSR_APIC_BASE;
    case 0x174:
      return MSR_SYSENTER_CS;
    case 0x175:
      return MSR_SYSENTER_ESP;
    case 0x176:
      return MSR_SYSENTER_EIP;
    case 0x1a0:
      return MSR_MISC_ENABLE;
    case 0x277:
      return MSR_PAT;
    case 0x2ff:
      return MSR_MTRR_DEF_TYPE;
    case 0xc0000080:
      return EFER;
    case 0xc0000081:
      return MSR_STAR;
    case 0xc0000082:
      return MSR_LSTAR;
    case 0xc0000083:
      return MSR_CSTAR;
    case 0xc0000084:
      return MSR_SFMASK;
    case 0xc0000100:
      return GPR + SLOT_FS;
    case 0xc0000101:
      return GPR + SLOT_GS;
    case 0xc0000102:
      return MSR_KERNEL_GS_BASE;
    case 0xc0000103:
      return MSR_TSC_AUX;
    default:
      return 0;
  }
}

/** MSRs that read as zero and ignore writes: kernels touch them without expecting #GP. */
function isInert(msr: u32): bool {
  switch (msr) {
    case 0x8b: // microcode revision
    case 0xfe: // MTRR capabilities: none
    case 0x179: // machine check capabilities: no banks
    case 0x17a: // machine check status
    case 0xc0010010: // SYSCFG
    case 0xc0010015: // HWCR
    case 0xc001001f: // NB_CFG
    case 0xc0010055: // interrupt pending message
    case 0xc0010058: // configuration space base: disabled
    case 0xc0010140: // OS visible workarounds: none
    case 0xc0010141:
    case 0xc0011020: // LS_CFG
    case 0xc0011021: // IC_CFG
    case 0xc0011022: // DC_CFG
      return true;
    default:
      return false;
  }
}

function writeEfer(value: u64): void {
  const old = load<u64>(EFER);
  if (value & ~EFER_DEFINED) raiseError(EXC_GP, 0);
  value = (value & ~(EFER_LMA as u64)) | (old & EFER_LMA);
  const changed = old ^ value;
  if (changed & EFER_LME && load<u64>(CR0) & CR0_PG) raiseError(EXC_GP, 0);
  store<u64>(EFER, value);
  if (changed & EFER_NXE) flushTlb(false);
}

/** Raises #GP(0) for values an MSR does not take. */
function checkValue(msr: u32, value: u64): void {
  switch (msr) {
    case 0x175:
    case 0x176:
    case 0xc0000082:
    case 0xc0000083:
    case 0xc0000100:
    case 0xc0000101:
    case 0xc0000102:
      if (!isCanonical(value)) raiseError(EXC_GP, 0);
      break;
    case 0x277:
      // each of the eight types is 0, 1, 4, 5, 6 or 7
      for (let shift: u32 = 0; shift < 64; shift += 8) {
        const type = ((value >> (shift as u64)) as u32) & 0xff;
        if (type > 7 || type == 2 || type == 3) raiseError(EXC_GP, 0);
      }
      break;
    case 0xc0000084:
    case 0xc0000103:
      if (value >> 32) raiseError(EXC_GP, 0);
      break;
  }
}

function exitTo(ip: u32, reason: u32, msr: u32, value: u64): void {
  stayAt(ip);
  store<u32>(EXIT_A, msr);
  store<u32>(EXIT_B, (load<u8>(ip + R_LENGTH) as u32) << 8);
  store<u64>(EXIT_C, value);
  store<u32>(EXIT, reason);
}

/** RDMSR. */
export function readMsr(ip: u32): void {
  requireKernel();
  const msr = load<u32>(RCX);
  const word = wordOf(msr);
  if (word) storePair(load<u64>(word));
  else if (msr == 0x10) storePair(readTsc());
  else if (isInert(msr)) storePair(0);
  else {
    exitTo(ip, EXIT_MSR_READ, msr, 0);
    return;
  }
  finish(ip);
}

/** WRMSR. */
export function writeMsr(ip: u32): void {
  requireKernel();
  const msr = load<u32>(RCX);
  const value = (load<u32>(RAX) as u64) | ((load<u32>(RDX) as u64) << 32);
  const word = wordOf(msr);
  if (msr == 0xc0000080) {
    writeEfer(value);
  } else if (word) {
    checkValue(msr, value);
    store<u64>(word, value);
  } else if (msr == 0x10) {
    store<u64>(MSR_TSC_OFFSET, value - hostTsc());
  } else if (!isInert(msr)) {
    exitTo(ip, EXIT_MSR_WRITE, msr, value);
    return;
  }
  finish(ip);
}

/** Finishes an EXIT_MSR_READ. */
export function completeMsrRead(value: u64): void {
  storePair(value);
  completeInstruction();
}

/** Finishes an EXIT_MSR_WRITE. */
export function completeMsrWrite(): void {
  completeInstruction();
}
