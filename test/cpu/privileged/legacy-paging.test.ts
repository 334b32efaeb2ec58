import { describe, expect, it } from "vitest";
import { flatProtectedState } from "../../../engine/cpu/state.ts";
import { A, CODE, D, GDT, HLT, IDT, INTERRUPT_GATE, KERNEL_CODE_32, Machine, NX, P, PS, RW, STACK } from "./machine.ts";

const DIRECTORY = 0x3f0000;
const TABLE = 0x3f1000;
const POINTERS = 0x3f2000;
const HANDLER = 0x5000;
const CR4_PSE = 0x10n;
const CR4_PAE = 0x20n;
const RAX = 0;
const RSI = 6;
const RDI = 7;
const LOAD_EAX = [0x8b, 0x06];
const STORE_EAX = [0x89, 0x07];

/** 32-bit protected mode with paging; every #PF ends in a HLT with the frame on the stack. */
function machine32(cr4: bigint, cr3: number, efer = 0n): Machine {
  const machine = new Machine();
  machine.put(HANDLER, [HLT]);
  const access = BigInt(0x80 | INTERRUPT_GATE);
  machine.write64(IDT + 14 * 8, BigInt(HANDLER) | (BigInt(KERNEL_CODE_32) << 16n) | (access << 40n));
  machine.change(() => {
    const state = flatProtectedState(CODE);
    Object.assign(state.control, { cr0: 0x80010011n, cr3: BigInt(cr3), cr4, efer });
    state.segments.cs.selector = KERNEL_CODE_32;
    state.registers[4] = BigInt(STACK);
    state.gdtr = { base: BigInt(GDT), limit: 0xfff };
    state.idtr = { base: BigInt(IDT), limit: 0x7ff };
    return state;
  });
  return machine;
}

function run(machine: Machine, code: readonly number[], linear: number): void {
  machine.kernel([...code, HLT]);
  machine.set({ [RSI]: BigInt(linear), [RDI]: BigInt(linear) });
  machine.run();
}

/** The error code a 32-bit #PF handler found, with CR2. */
function fault(machine: Machine): [error: number, cr2: bigint] {
  expect(machine.cpu.state.rip).toBe(BigInt(HANDLER + 1));
  return [machine.ram.getUint32(Number(machine.cpu.getRegister(4)), true), machine.cpu.state.control.cr2];
}

describe("32-bit paging", () => {
  /** The first 4 MiB as one large page, a page table at 8 MiB. */
  function machine(): Machine {
    const built = machine32(CR4_PSE, DIRECTORY);
    built.ram.setUint32(DIRECTORY, Number(P | RW | PS), true);
    built.ram.setUint32(DIRECTORY + 8, TABLE | Number(P | RW), true);
    built.ram.setUint32(TABLE + 4, 0x200000 | Number(P | RW), true);
    built.ram.setUint32(TABLE + 8, 0x201000 | Number(P), true);
    return built;
  }

  it("translates 4 MiB and 4 KiB pages and marks them accessed and dirty", () => {
    const built = machine();
    built.ram.setUint32(0x200010, 0x12345678, true);
    run(built, LOAD_EAX, 0x801010);
    expect(built.cpu.getRegister(RAX)).toBe(0x12345678n);
    expect([DIRECTORY + 8, TABLE + 4].map((at) => built.ram.getUint32(at, true) & 0x60)).toEqual([0x20, 0x20]);
    run(built, STORE_EAX, 0x801014);
    expect(built.ram.getUint32(TABLE + 4, true) & 0x60).toBe(0x60);
    expect(built.ram.getUint32(DIRECTORY + 8, true) & 0x60).toBe(0x20);
    expect(built.ram.getUint32(TABLE + 8, true) & 0x60).toBe(0);
    run(built, STORE_EAX, 0x300000);
    expect(built.ram.getUint32(DIRECTORY, true) & 0x60).toBe(0x60);
  });

  it("reports missing and read-only pages", () => {
    const built = machine();
    run(built, LOAD_EAX, 0x805000);
    expect(fault(built)).toEqual([0, 0x805000n]);
    run(built, STORE_EAX, 0x802004);
    expect(fault(built)).toEqual([3, 0x802004n]);
    run(built, STORE_EAX, 0xc0000000);
    expect(fault(built)).toEqual([2, 0xc0000000n]);
  });

  it("reports reserved bits of 4 MiB pages", () => {
    const built = machine();
    built.ram.setUint32(DIRECTORY + 16, 0x3f2000 | Number(P | RW | PS), true);
    run(built, LOAD_EAX, 0x1000000);
    expect(fault(built)).toEqual([9, 0x1000000n]);
  });

  it("ignores the large-page bit without CR4.PSE", () => {
    const built = machine();
    built.ram.setUint32(TABLE + CODE / 1024, CODE | Number(P | RW), true);
    built.ram.setUint32(TABLE + STACK / 1024, STACK | Number(P | RW), true);
    built.ram.setUint32(DIRECTORY, TABLE | Number(P | RW | PS), true);
    built.change((state) => {
      state.control.cr4 = 0n;
    });
    built.ram.setUint32(0x200020, 99, true);
    run(built, LOAD_EAX, 0x1020);
    expect(built.cpu.getRegister(RAX)).toBe(99n);
  });
});

describe("PAE paging", () => {
  function machine(efer = 0x800n): Machine {
    const built = machine32(CR4_PAE, POINTERS, efer);
    built.write64(POINTERS, BigInt(DIRECTORY) | P);
    built.write64(DIRECTORY, P | RW | PS);
    built.write64(DIRECTORY + 8, 0x200000n | P | RW | PS);
    built.write64(DIRECTORY + 16, BigInt(TABLE) | P | RW);
    built.write64(TABLE + 8, 0x200000n | P | RW | NX);
    built.write64(TABLE + 16, (1n << 51n) | P | RW);
    return built;
  }

  it("translates 2 MiB and 4 KiB pages and marks them accessed and dirty", () => {
    const built = machine();
    run(built, STORE_EAX, 0x401010);
    expect([DIRECTORY + 16, TABLE + 8].map((at) => built.read64(at) & (A | D))).toEqual([A, A | D]);
    built.ram.setUint32(0x200014, 77, true);
    run(built, LOAD_EAX, 0x200014);
    expect(built.cpu.getRegister(RAX)).toBe(77n);
    expect(built.read64(DIRECTORY + 8) & (A | D)).toBe(A);
  });

  it("reports fetches from NX pages, reserved bits and missing pages", () => {
    const built = machine();
    run(built, [0xff, 0xe7], 0x401000);
    expect(fault(built)).toEqual([0x11, 0x401000n]);
    run(built, LOAD_EAX, 0x402000);
    expect(fault(built)).toEqual([9, 0x402000n]);
    run(built, STORE_EAX, 0x80000000);
    expect(fault(built)).toEqual([2, 0x80000000n]);
  });

  it("treats NX as reserved without EFER.NXE", () => {
    const built = machine(0n);
    run(built, LOAD_EAX, 0x401000);
    expect(fault(built)).toEqual([9, 0x401000n]);
  });
});
