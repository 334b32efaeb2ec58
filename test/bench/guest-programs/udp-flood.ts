/** A program for guests that sends UDP datagrams to one address until it is killed. */
import { Assembler } from "./assembler.ts";

/** arch/x86/entry/syscalls/syscall_64.tbl. */
const SYS = { socket: 41, sendto: 44, exit: 60 } as const;
const AF_INET = 2;
const SOCK_DGRAM = 2;
const SOCKADDR_BYTES = 16;

/** mov r32, imm32, by register. */
const MOV = { eax: [0xb8], edx: [0xba], esi: [0xbe], edi: [0xbf], r8d: [0x41, 0xb8], r9d: [0x41, 0xb9] } as const;
const JS = [0x0f, 0x88];
const JMP = [0xe9];

export interface UdpFlood {
  /** Four octets. */
  readonly address: readonly number[];
  readonly port: number;
  /** Payload of a datagram; sent from the program's own text, so below 4096. */
  readonly bytes: number;
}

function syscall(code: Assembler, number: number): Assembler {
  return code.number(MOV.eax, number).bytes(0x0f, 0x05);
}

/** The program as a static executable; it ends with status 1 when there is no socket. Errors of sending are for later. */
export function udpFloodProgram({ address, port, bytes }: UdpFlood): Uint8Array {
  const code = new Assembler();
  code.number(MOV.edi, AF_INET).number(MOV.esi, SOCK_DGRAM).bytes(0x31, 0xd2); // xor edx, edx
  syscall(code, SYS.socket).bytes(0x85, 0xc0).jump(JS, "failed"); // test eax, eax
  code.bytes(0x89, 0xc3); // mov ebx, eax
  code.label("next").bytes(0x89, 0xdf); // mov edi, ebx
  code.address(MOV.esi, "payload").number(MOV.edx, bytes);
  code.bytes(0x45, 0x31, 0xd2); // xor r10d, r10d
  code.address(MOV.r8d, "to").number(MOV.r9d, SOCKADDR_BYTES);
  syscall(code, SYS.sendto).jump(JMP, "next");
  code.label("failed").number(MOV.edi, 1);
  syscall(code, SYS.exit);
  code.label("to").bytes(AF_INET, 0, port >>> 8, port & 0xff, ...address, ...Array(8).fill(0));
  code.label("payload").bytes(...Array(bytes).fill(0x2e));
  return code.executable();
}
