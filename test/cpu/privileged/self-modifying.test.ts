import { expect, it } from "vitest";
import { CODE, describeModes, HLT, Machine, NOP, P, RW } from "./machine.ts";

const RAX = 0;
const RBX = 3;
const PAGE = 0x1000;
const ALIAS = 0x7000_0000_0000n;
/** MOV [RDI], CL; ADD EBX, EAX; DEC ECX. */
const PATCH = [0x88, 0x0f];
const ADD = [0x01, 0xc3];
const DEC = [0xff, 0xc9];
const moveEax = (value: number): number[] => [0xb8, value, 0, 0, 0];
const jumpBack = (length: number): number[] => [0x75, -(length + 2) & 0xff];

/**
 * Runs a loop that patches the immediate of its own MOV EAX, imm with the counter 3, 2, 1 before it executes it.
 * @param between instructions between the store and the patched one
 * @param alias how far from the patched byte's own address the store goes
 * @returns the sum of what the patched instruction loaded: 6 if each store was seen.
 */
function patchedLoop(between: readonly number[], alias = 0n, at = CODE): bigint {
  const machine = new Machine();
  const body = [...PATCH, ...between, ...moveEax(9), ...ADD, ...DEC];
  machine.map(ALIAS, BigInt(CODE), P | RW);
  machine.map(ALIAS + 0x1000n, BigInt(CODE + PAGE), P | RW);
  machine.kernel([...body, ...jumpBack(body.length), HLT], at);
  machine.set({ [RBX]: 0n, 1: 3n, 7: BigInt(at + PATCH.length + between.length + 1) + alias });
  machine.run();
  return machine.cpu.getRegister(RBX);
}

const nops = (count: number): number[] => Array.from({ length: count }, () => NOP);

describeModes("self-modifying code", () => {
  it("sees a store into the very next instruction", () => {
    expect(patchedLoop([])).toBe(6n);
  });

  it("sees a store into a later instruction of the running block", () => {
    for (const distance of [1, 2, 7, 40, 62, 63, 64, 90]) expect(patchedLoop(nops(distance))).toBe(6n);
  });

  it("sees a store through an alias of the page", () => {
    expect(patchedLoop([], ALIAS - BigInt(CODE))).toBe(6n);
    expect(patchedLoop(nops(5), ALIAS - BigInt(CODE))).toBe(6n);
  });

  it("sees a store into an instruction that lies across, ends or begins a page", () => {
    for (let distance = 1; distance <= 12; distance++) {
      const at = CODE + PAGE - distance;
      expect(patchedLoop([], 0n, at)).toBe(6n);
      expect(patchedLoop([], ALIAS - BigInt(CODE), at)).toBe(6n);
    }
  });

  it("sees a store that begins in a page of data and ends in one of code", () => {
    const machine = new Machine();
    machine.put(CODE + PAGE, [...moveEax(1), HLT]);
    // jmp rsi runs the code once; then mov [rdi],rax; jmp rsi with the immediate changed
    machine.kernel([0xff, 0xe6], CODE);
    machine.set({ 6: BigInt(CODE + PAGE) });
    machine.run();
    machine.put(0x20000, [0x48, 0x89, 0x07, 0xff, 0xe6]);
    machine.change((state) => {
      state.rip = 0x20000n;
    });
    machine.set({ [RAX]: 0x0007b8n << 40n, 7: BigInt(CODE + PAGE - 5) });
    machine.run();
    expect(machine.cpu.getRegister(RAX)).toBe(7n);
  });

  it("sees code that REP MOVSB and REP STOSB put behind themselves", () => {
    const machine = new Machine();
    machine.put(0x20000, moveEax(5));
    // rep movsb; mov eax,1; hlt; then rep stosb of NOPs over it
    machine.kernel([0xf3, 0xa4, ...moveEax(1), HLT]);
    machine.set({ 1: 5n, 6: 0x20000n, 7: BigInt(CODE + 2) });
    machine.run();
    expect(machine.cpu.getRegister(RAX)).toBe(5n);
    machine.kernel([0xf3, 0xaa, ...moveEax(1), HLT]);
    machine.set({ [RAX]: BigInt(NOP), 1: 5n, 7: BigInt(CODE + 2) });
    machine.run();
    expect(machine.cpu.getRegister(RAX)).toBe(BigInt(NOP));
  });

  it("sees a changed function that was called before from another page", () => {
    const machine = new Machine();
    machine.put(CODE + PAGE, [...moveEax(1), 0xc3]);
    // call rsi; add ebx,eax; mov byte [rsi+1],2; call rsi; add ebx,eax
    machine.kernel([0xff, 0xd6, ...ADD, 0xc6, 0x46, 1, 2, 0xff, 0xd6, ...ADD, HLT]);
    machine.set({ [RBX]: 0n, 6: BigInt(CODE + PAGE) });
    machine.run();
    expect(machine.cpu.getRegister(RBX)).toBe(3n);
  });

  it("sees a store by PUSH and a locked instruction", () => {
    for (const store of [[0x50], [0xf0, 0x48, 0x87, 0x44, 0x24, 0xf8]]) {
      const machine = new Machine();
      const target = CODE + 8;
      // the eight bytes at the target become mov eax,7; hlt
      machine.kernel([...store, ...nops(8 - store.length), ...moveEax(1), HLT, NOP, NOP]);
      machine.set({ [RAX]: 0x9090f400000007b8n, 4: BigInt(target + 8) });
      machine.run();
      expect(machine.cpu.getRegister(RAX)).toBe(7n);
    }
  });
});
