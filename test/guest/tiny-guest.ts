/** Guests of a few bytes: machine code made here, run by the real CPU under the real hypervisor in a domain process. */
import type { DomainExit } from "../../engine/domain/config.ts";
import { startDomain } from "../../engine/domain/host.ts";
import { tinyKernel } from "../cli/tiny-kernel.ts";

/** Where things are in guest-physical memory. The image begins with the code, at 1 MiB. */
export const CODE = 0x100000;
const IMAGE_SIZE = 0x8000;
const GDT = CODE + 0x4000;
const PML4 = CODE + 0x5000;
const PDPT = CODE + 0x6000;
const PAGE_DIRECTORY = CODE + 0x7000;
/** Zeroed RAM: arguments of calls, results, stack, a page for the hypercall stubs. */
export const ARGUMENTS = 0x120000;
export const RESULTS = 0x130000;
const STACK = 0x150000;
export const HYPERCALL_PAGE = 0x160000;
/** A guest frame for shared_info. */
export const SHARED_INFO = 0x170000;
/** 2 MiB that the page tables of 64-bit guests map read-only, and 2 MiB that they do not map. */
export const READ_ONLY = 0x600000;
export const UNMAPPED = 0x800000;

export const VMMCALL = [0x0f, 0x01, 0xd9];
export const VMCALL = [0x0f, 0x01, 0xc1];

const word = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
const quad = (value: number | bigint): number[] => {
  const wide = BigInt.asUintN(64, BigInt(value));
  return [...word(Number(wide & 0xffffffffn)), ...word(Number(wide >> 32n))];
};

/** Machine code in the making, with a slot for the result of each call. */
export abstract class Program {
  protected readonly bytes: number[] = [];
  /** Results so far; all have 8 bytes. */
  results = 0;

  get here(): number {
    return CODE + this.bytes.length;
  }

  emit(...code: readonly number[]): this {
    this.bytes.push(...code);
    return this;
  }

  /** Makes a hypercall and keeps its result. */
  abstract call(number: number | bigint, args: readonly (number | bigint)[], how?: readonly number[]): this;

  /** Stores a 32-bit number. */
  abstract put(address: number, value: number): this;

  /** Copies 4 bytes of guest memory to the results. */
  abstract show(address: number): this;

  wrmsr(msr: number, value: number): this {
    return this.emit(0xb9, ...word(msr), 0xb8, ...word(value), 0x31, 0xd2, 0x0f, 0x30);
  }

  protected slot(): number {
    return RESULTS + 8 * this.results++;
  }

  /** Writes all results through console_io, then shuts down for that reason. */
  finish(reason = 0): this {
    const count = this.results;
    this.call(18, [0, 8 * count, RESULTS]);
    this.put(ARGUMENTS, reason);
    return this.call(29, [2, ARGUMENTS]);
  }

  kernel(): Uint8Array {
    const image = [...this.bytes, ...new Array<number>(IMAGE_SIZE - this.bytes.length).fill(0)];
    tables(image);
    return tinyKernel(image);
  }
}

/** GDT (8: 64-bit code, 16: data, 24: data and 32: 64-bit code of level 3) and page tables: 1 GiB, one to one. */
function tables(image: number[]): void {
  const place = (address: number, bytes: readonly number[]): void => {
    image.splice(address - CODE, bytes.length, ...bytes);
  };
  const descriptors = [0n, 0x00af9b000000ffffn, 0x00cf93000000ffffn, 0x00cff3000000ffffn, 0x00affb000000ffffn];
  place(GDT, descriptors.flatMap(quad));
  place(GDT + 0x40, [descriptors.length * 8 - 1, 0, ...word(GDT)]);
  place(PML4, quad(PDPT | 7));
  place(PDPT, quad(PAGE_DIRECTORY | 7));
  for (let i = 0; i < 512; i++) {
    const address = i * 0x200000;
    const rights = address === READ_ONLY ? 0x85 : 0x87;
    place(PAGE_DIRECTORY + 8 * i, quad(address === UNMAPPED ? 0 : address + rights));
  }
}

/** A guest that stays in 32-bit protected mode without paging. */
export class Program32 extends Program {
  constructor() {
    super();
    this.emit(0xbc, ...word(STACK)); // mov esp
  }

  call(number: number | bigint, args: readonly (number | bigint)[], how = VMMCALL): this {
    const loads = [0xbb, 0xb9, 0xba, 0xbe, 0xbf]; // ebx ecx edx esi edi
    for (const [i, arg] of args.entries())
      this.emit(loads[i] ?? 0x90, ...word(Number(BigInt.asUintN(32, BigInt(arg)))));
    const slot = this.slot();
    this.emit(0xb8, ...word(Number(number)), ...how, 0xa3, ...word(slot));
    return this.emit(0x99, 0x89, 0x15, ...word(slot + 4)); // cdq; mov [slot + 4], edx
  }

  put(address: number, value: number): this {
    return this.emit(0xc7, 0x05, ...word(address), ...word(value));
  }

  show(address: number): this {
    return this.emit(0xa1, ...word(address), 0xa3, ...word(this.slot()));
  }

  /** call through the page of stubs */
  static page(number: number): number[] {
    return [0xba, ...word(HYPERCALL_PAGE + 32 * number), 0xff, 0xd2]; // mov edx; call edx
  }
}

/** A guest in long mode, interrupts off. */
export class Program64 extends Program {
  constructor() {
    super();
    this.emit(0x0f, 0x01, 0x15, ...word(GDT + 0x40)); // lgdt
    this.emit(0xb8, ...word(PML4), 0x0f, 0x22, 0xd8); // cr3
    this.emit(0xb8, ...word(0x20), 0x0f, 0x22, 0xe0); // cr4: PAE
    this.wrmsr(0xc0000080, 0x101); // EFER: LME, SCE
    this.emit(0xb8, ...word(0x80010001), 0x0f, 0x22, 0xc0); // cr0: PG, WP, PE
    this.emit(0xea, ...word(this.here + 7), 0x08, 0x00); // jmp 8:next
    this.emit(0x48, 0xbc, ...quad(STACK)); // mov rsp
  }

  call(number: number | bigint, args: readonly (number | bigint)[], how = VMMCALL): this {
    const loads = [
      [0x48, 0xbf],
      [0x48, 0xbe],
      [0x48, 0xba],
      [0x49, 0xba],
      [0x49, 0xb8],
    ]; // rdi rsi rdx r10 r8
    for (const [i, arg] of args.entries()) this.emit(...(loads[i] ?? []), ...quad(arg));
    return this.emit(0x48, 0xb8, ...quad(number), ...how, 0x48, 0xa3, ...quad(this.slot()));
  }

  put(address: number, value: number): this {
    return this.emit(0xc7, 0x04, 0x25, ...word(address), ...word(value));
  }

  show(address: number): this {
    return this.emit(0x8b, 0x04, 0x25, ...word(address), 0x48, 0xa3, ...quad(this.slot()));
  }

  /** Goes on at level 3. */
  user(): this {
    const next = this.here + 2 + 5 + 1 + 2 + 5 + 2;
    this.emit(0x6a, 0x1b, 0x68, ...word(STACK), 0x9c, 0x6a, 0x23, 0x68, ...word(next)); // ss rsp rflags cs rip
    return this.emit(0x48, 0xcf); // iretq
  }

  /** From level 3 back to level 0. Prepared by `beforeUser`, which wants to know where that is. */
  kernelAgain(): this {
    this.emit(0x0f, 0x05); // syscall
    return this;
  }

  /** STAR and LSTAR for `kernelAgain`, `distance` bytes of code from here. */
  beforeUser(target: number): this {
    this.emit(0xb9, ...word(0xc0000081), 0x31, 0xc0, 0xba, ...word(0x00130008), 0x0f, 0x30);
    return this.wrmsr(0xc0000082, target);
  }
}

export interface TinyRun {
  readonly exit: DomainExit;
  readonly output: Buffer;
  /** What Program.finish wrote: the calls' results, signed. */
  readonly results: number[];
}

/** Runs a kernel to its end, or for `limit` milliseconds. */
export async function runTiny(kernel: Uint8Array, limit = 60_000): Promise<TinyRun> {
  const domain = await startDomain({
    id: 1,
    name: "tiny",
    memoryMiB: 64,
    image: { kernel: { bytes: Uint8Array.from(kernel) }, initrd: [], commandLine: "" },
  });
  const pieces: Uint8Array[] = [];
  domain.console.onOutput((bytes) => void pieces.push(bytes));
  const timer = setTimeout(() => void domain.kill(), limit);
  const exit = await domain.exited;
  clearTimeout(timer);
  const output = Buffer.concat(pieces);
  const whole = new Uint8Array(output.subarray(0, output.length & ~7));
  return { exit, output, results: Array.from(new BigInt64Array(whole.buffer), Number) };
}
