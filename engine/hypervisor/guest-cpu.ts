/** What the hypervisor needs of a virtual CPU. Structural: engine/cpu knows nothing of it. */
export interface GuestCpu {
  /** Linear memory that `translate` and `setInterruptLine` address. */
  readonly memory: WebAssembly.Memory;
  readonly cpl: number;
  readonly interruptsEnabled: boolean;
  /** CS.L: hypercall arguments are in the 64-bit registers. */
  readonly longMode: boolean;
  /** What the guest sees as TSC at domain time 0, ns (it can write its TSC). */
  readonly tscOffset: bigint;
  /** Registers in encoding order: 0 RAX, 1 RCX, 2 RDX, 3 RBX, 4 RSP, 5 RBP, 6 RSI, 7 RDI, 8…15. */
  getRegister(number: number): bigint;
  setRegister(number: number, value: bigint): void;
  /** Address in `memory` of a linear address as the guest's page tables have it now, or 0. */
  translate(linear: bigint, write: boolean): number;
  /** While the byte at that address is non-zero and interrupts are enabled, `vector` is delivered. */
  setInterruptLine(byteAddress: number, vector: number): void;
  /** One external interrupt, delivered as soon as the guest takes interrupts. */
  inject(vector: number): void;
  /** Exception at the current instruction. */
  raise(vector: number, errorCode?: number): void;
  /** Forgets translations, after a change of the physmap. */
  flushTlb(): void;
  /** Forgets decoded code, after code was written past the CPU. */
  flushCode(): void;
  /** Forgets code decoded from the page at an address of `memory`. */
  dropCode(address: number): void;
}

export const RAX = 0;
export const RCX = 1;
export const RDX = 2;
export const RBX = 3;
export const RSI = 6;
export const RDI = 7;
export const R8 = 8;
export const R9 = 9;
export const R10 = 10;
