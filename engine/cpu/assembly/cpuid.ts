/** CPUID answers from the table the program around the CPU fills in (CPUID_TABLE). */
import { CPUID_COUNT, CPUID_TABLE, EXIT, EXIT_B, EXIT_NONE, GPR, RIP, RIP_MASK } from "./layout";

const RAX = GPR;
const RCX = GPR + 8;
const RDX = GPR + 16;
const RBX = GPR + 24;
/** Subleaf of entries that answer for every ECX. */
const ANY: u32 = 0xffffffff;

/** Address of the entry for a leaf, or 0. */
function findEntry(leaf: u32, subleaf: u32): u32 {
  const end: u32 = CPUID_TABLE + (load<u32>(CPUID_COUNT) << 5);
  for (let at: u32 = CPUID_TABLE; at < end; at += 32) {
    if (load<u32>(at) != leaf) continue;
    const own = load<u32>(at + 4);
    if (own == ANY || own == subleaf) return at;
  }
  return 0;
}

/** Whether leaf 7 offers RDFSBASE and its relatives, and with them CR4.FSGSBASE. */
export function cpuidAllowsFsGsBase(): bool {
  const entry = findEntry(7, 0);
  return entry != 0 && (load<u32>(entry + 12) & 1) != 0;
}

function answer(a: u32, b: u32, c: u32, d: u32): void {
  store<u64>(RAX, a as u64);
  store<u64>(RBX, b as u64);
  store<u64>(RCX, c as u64);
  store<u64>(RDX, d as u64);
}

/** CPUID: leaves without an entry answer zeros. */
export function cpuid(_ip: u32): void {
  const entry = findEntry(load<u32>(RAX), load<u32>(RCX));
  if (entry == 0) answer(0, 0, 0, 0);
  else answer(load<u32>(entry + 8), load<u32>(entry + 12), load<u32>(entry + 16), load<u32>(entry + 20));
}

/** Moves RIP past the instruction that made exec() exit; its length is in bits 8…15 of EXIT_B. */
export function completeInstruction(): void {
  const length = ((load<u32>(EXIT_B) >> 8) & 0xff) as u64;
  store<u64>(RIP, (load<u64>(RIP) + length) & load<u64>(RIP_MASK));
  store<u32>(EXIT, EXIT_NONE);
}
