import { type CpuState, flatProtectedState } from "../cpu/state.ts";

const RBX = 3;
/** Local APIC at its usual address, enabled, in x2APIC mode, on the boot processor. */
const APIC_BASE = 0xfee00d00n;

/** Registers in which the entry differs from kernel to kernel. */
export interface PvhEntry {
  readonly eip: number;
  /** Guest-physical address of hvm_start_info. */
  readonly ebx: number;
}

/** The state in which a PVH guest is entered (docs/misc/pvh.pandoc): flat 32-bit protected mode, EBX the start info. */
export function pvhEntryState(entry: PvhEntry): CpuState {
  const state = flatProtectedState(entry.eip);
  state.registers[RBX] = BigInt(entry.ebx);
  state.msrs.apicBase = APIC_BASE;
  return state;
}
