/**
 * A program for guests that transfers blocks between a device and an aligned buffer, past the page cache, and prints how
 * many nanoseconds that took. Its parameters are part of it, so that nothing is parsed in the guest.
 */
import { Assembler } from "./assembler.ts";

export interface DiskLoad {
  readonly device: string;
  readonly operation: "read" | "write";
  /** fsync(2) after every transfer. */
  readonly sync: boolean;
  readonly order: "sequential" | "random";
  /** Bytes of a transfer, a multiple of 512 below 2 GiB. */
  readonly bytes: number;
  /** How many transfers. */
  readonly count: number;
  /** The part of the device that is used, in transfers. */
  readonly blocks: number;
}

/** arch/x86/entry/syscalls/syscall_64.tbl. */
const SYS = { write: 1, open: 2, mmap: 9, pread64: 17, pwrite64: 18, exit: 60, fsync: 74, clock_gettime: 228 } as const;
const O_RDWR = 2;
const O_DIRECT = 0x4000;
const CLOCK_MONOTONIC = 1;
const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS_POPULATE = 0x8022;
const SEED = 12345;

/** mov r32, imm32, by register. */
const MOV = {
  eax: [0xb8],
  ecx: [0xb9],
  edx: [0xba],
  esi: [0xbe],
  edi: [0xbf],
  r10d: [0x41, 0xba],
  r13d: [0x41, 0xbd],
  r14d: [0x41, 0xbe],
} as const;
const CALL = [0xe8];
const JS = [0x0f, 0x88];
const JNE = [0x0f, 0x85];

function syscall(code: Assembler, number: number): Assembler {
  return code.number(MOV.eax, number).bytes(0x0f, 0x05);
}

/** open(device), buffer = mmap(…); r12 = descriptor, rbp = buffer, r15 = time. */
function prepare(code: Assembler, { bytes, count }: DiskLoad): void {
  code
    .address(MOV.edi, "device")
    .number(MOV.esi, O_RDWR | O_DIRECT)
    .bytes(0x31, 0xd2); // xor edx, edx
  syscall(code, SYS.open).bytes(0x85, 0xc0).jump(JS, "failed"); // test eax, eax
  code.bytes(0x41, 0x89, 0xc4); // mov r12d, eax
  code.bytes(0x31, 0xff).number(MOV.esi, bytes).number(MOV.edx, PROT_READ_WRITE); // xor edi, edi
  code.number(MOV.r10d, MAP_PRIVATE_ANONYMOUS_POPULATE);
  code.bytes(0x49, 0x83, 0xc8, 0xff, 0x45, 0x31, 0xc9); // or r8, -1; xor r9d, r9d
  syscall(code, SYS.mmap).bytes(0x48, 0x85, 0xc0).jump(JS, "failed"); // test rax, rax
  code.bytes(0x48, 0x89, 0xc5); // mov rbp, rax
  code.jump(CALL, "now").bytes(0x49, 0x89, 0xc7); // mov r15, rax
  code.number(MOV.r13d, count).number(MOV.r14d, SEED).bytes(0x31, 0xdb); // xor ebx, ebx
}

/** rax = number of the next block. */
function nextBlock(code: Assembler, { order, blocks }: DiskLoad): void {
  if (order === "random") {
    // A linear congruential generator, whose 32 bits are scaled to the number of blocks.
    code.number([0x45, 0x69, 0xf6], 1664525).number([0x41, 0x81, 0xc6], 1013904223); // imul r14d; add r14d
    code.bytes(0x44, 0x89, 0xf0).number(MOV.ecx, blocks); // mov eax, r14d
    code.bytes(0x48, 0x0f, 0xaf, 0xc1, 0x48, 0xc1, 0xe8, 0x20); // imul rax, rcx; shr rax, 32
    return;
  }
  code.bytes(0x48, 0x89, 0xd8, 0x48, 0xff, 0xc3); // mov rax, rbx; inc rbx
  code.number([0x48, 0x81, 0xfb], blocks).jump(JNE, "inside").bytes(0x31, 0xdb).label("inside"); // cmp rbx; xor ebx, ebx
}

function transfer(code: Assembler, load: DiskLoad): void {
  code.label("next");
  nextBlock(code, load);
  code.number(MOV.ecx, load.bytes).bytes(0x48, 0x0f, 0xaf, 0xc1, 0x49, 0x89, 0xc2); // imul rax, rcx; mov r10, rax
  code.bytes(0x44, 0x89, 0xe7, 0x48, 0x89, 0xee).number(MOV.edx, load.bytes); // mov edi, r12d; mov rsi, rbp
  syscall(code, load.operation === "read" ? SYS.pread64 : SYS.pwrite64);
  code.number([0x48, 0x3d], load.bytes).jump(JNE, "failed"); // cmp rax
  if (load.sync)
    syscall(code.bytes(0x44, 0x89, 0xe7), SYS.fsync)
      .bytes(0x85, 0xc0)
      .jump(JNE, "failed");
  code.bytes(0x41, 0xff, 0xcd).jump(JNE, "next"); // dec r13d
}

/** Prints the nanoseconds since r15 and ends. */
function report(code: Assembler): void {
  code.jump(CALL, "now").bytes(0x4c, 0x29, 0xf8); // sub rax, r15
  code.address(MOV.esi, "newline").number(MOV.ecx, 10);
  code.label("digit").bytes(0x31, 0xd2, 0x48, 0xf7, 0xf1); // xor edx, edx; div rcx
  code.bytes(0x80, 0xc2, 0x30, 0x48, 0xff, 0xce, 0x88, 0x16); // add dl, '0'; dec rsi; mov [rsi], dl
  code.bytes(0x48, 0x85, 0xc0).jump(JNE, "digit"); // test rax, rax
  code.address(MOV.edx, "end").bytes(0x48, 0x29, 0xf2).number(MOV.edi, 1); // sub rdx, rsi
  syscall(code, SYS.write).bytes(0x31, 0xff); // xor edi, edi
  syscall(code, SYS.exit);
  code.label("failed").number(MOV.edi, 1);
  syscall(code, SYS.exit);
}

/** The function "now": rax = nanoseconds of the monotonic clock. */
function clock(code: Assembler): void {
  code.label("now").number(MOV.edi, CLOCK_MONOTONIC).address(MOV.esi, "seconds");
  syscall(code, SYS.clock_gettime);
  code.address([0x48, 0x69, 0x04, 0x25], "seconds").number([], 1_000_000_000); // imul rax, [seconds], 10^9
  code.address([0x48, 0x03, 0x04, 0x25], "nanoseconds").bytes(0xc3); // add rax, [nanoseconds]; ret
}

/** The program as a static executable; it ends with status 1 when a transfer fails. */
export function diskLoadProgram(load: DiskLoad): Uint8Array {
  const code = new Assembler();
  prepare(code, load);
  transfer(code, load);
  report(code);
  clock(code);
  code.label("device").text(load.device);
  code.label("seconds").bytes(...Array(8).fill(0));
  code.label("nanoseconds").bytes(...Array(8).fill(0));
  code
    .bytes(...Array(24).fill(0))
    .label("newline")
    .bytes(0x0a)
    .label("end");
  return code.executable();
}
