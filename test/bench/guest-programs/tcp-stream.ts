/**
 * A program for guests that moves bytes over one TCP connection in blocks of 64 KiB: connects or listens, sends so many
 * blocks, and reads to the end. busybox's nc moves 1 KiB a time, which measures system calls.
 */
import { Assembler } from "./assembler.ts";

export interface TcpStream {
  readonly role: "connect" | "listen";
  /** Four octets: of the server, or zeros for one that listens on all. */
  readonly address: readonly number[];
  readonly port: number;
  /** Sent before anything is read; 0: nothing. */
  readonly blocks: number;
}

export const TCP_BLOCK = 1 << 16;

/** arch/x86/entry/syscalls/syscall_64.tbl. */
const SYS = {
  read: 0,
  write: 1,
  mmap: 9,
  socket: 41,
  connect: 42,
  accept: 43,
  shutdown: 48,
  bind: 49,
  listen: 50,
  exit: 60,
} as const;
const AF_INET = 2;
const SOCK_STREAM = 1;
const SOCKADDR_BYTES = 16;
const SHUT_WR = 1;
const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS_POPULATE = 0x8022;

/** mov r32, imm32, by register. */
const MOV = {
  eax: [0xb8],
  edx: [0xba],
  esi: [0xbe],
  edi: [0xbf],
  r10d: [0x41, 0xba],
  r13d: [0x41, 0xbd],
} as const;
const JS = [0x0f, 0x88];
const JNE = [0x0f, 0x85];

function syscall(code: Assembler, number: number): Assembler {
  return code.number(MOV.eax, number).bytes(0x0f, 0x05);
}

/** A call that concerns the socket in ebx, and must not fail. */
function onSocket(code: Assembler, number: number): void {
  code.bytes(0x89, 0xdf); // mov edi, ebx
  syscall(code, number).bytes(0x85, 0xc0).jump(JS, "failed"); // test eax, eax
}

/** ebx = the connection. */
function connection(code: Assembler, { role }: TcpStream): void {
  code.number(MOV.edi, AF_INET).number(MOV.esi, SOCK_STREAM).bytes(0x31, 0xd2); // xor edx, edx
  syscall(code, SYS.socket).bytes(0x85, 0xc0).jump(JS, "failed").bytes(0x89, 0xc3); // test eax, eax; mov ebx, eax
  code.address(MOV.esi, "peer").number(MOV.edx, SOCKADDR_BYTES);
  onSocket(code, role === "connect" ? SYS.connect : SYS.bind);
  if (role === "connect") return;
  code.number(MOV.esi, 1);
  onSocket(code, SYS.listen);
  code.bytes(0x31, 0xf6, 0x31, 0xd2); // xor esi, esi; xor edx, edx
  onSocket(code, SYS.accept);
  code.bytes(0x89, 0xc3); // mov ebx, eax
}

/** rbp = a block of memory. */
function memory(code: Assembler): void {
  code.bytes(0x31, 0xff).number(MOV.esi, TCP_BLOCK).number(MOV.edx, PROT_READ_WRITE); // xor edi, edi
  code.number(MOV.r10d, MAP_PRIVATE_ANONYMOUS_POPULATE);
  code.bytes(0x49, 0x83, 0xc8, 0xff, 0x45, 0x31, 0xc9); // or r8, -1; xor r9d, r9d
  syscall(code, SYS.mmap).bytes(0x48, 0x85, 0xc0).jump(JS, "failed").bytes(0x48, 0x89, 0xc5); // mov rbp, rax
}

function block(code: Assembler, number: number): void {
  code.bytes(0x48, 0x89, 0xee).number(MOV.edx, TCP_BLOCK); // mov rsi, rbp
  onSocket(code, number);
}

/** The program as a static executable; it ends with status 1 when anything fails. */
export function tcpStreamProgram(stream: TcpStream): Uint8Array {
  const { address, port, blocks } = stream;
  const code = new Assembler();
  memory(code);
  connection(code, stream);
  if (blocks > 0) {
    code.number(MOV.r13d, blocks).label("send");
    block(code, SYS.write);
    code.number([0x3d], TCP_BLOCK).jump(JNE, "failed"); // cmp eax
    code.bytes(0x41, 0xff, 0xcd).jump(JNE, "send"); // dec r13d
    code.number(MOV.esi, SHUT_WR);
    onSocket(code, SYS.shutdown);
  }
  code.label("drain");
  block(code, SYS.read);
  code.bytes(0x85, 0xc0).jump(JNE, "drain"); // test eax, eax
  code.bytes(0x31, 0xff); // xor edi, edi
  syscall(code, SYS.exit);
  code.label("failed").number(MOV.edi, 1);
  syscall(code, SYS.exit);
  code.label("peer").bytes(AF_INET, 0, port >>> 8, port & 0xff, ...address, ...Array(8).fill(0));
  return code.executable();
}
