import { expect, it } from "vitest";
import { A, CODE, D, DATA, describeModes, HLT, LOAD, Machine, NX, P, RW, STORE, US, USER_AT } from "./machine.ts";

const PAGE = 0x7000_0000_0000n;
const RAX = 0;
const RSI = 6;
const RDI = 7;

/** Runs one access by the supervisor or the user at `linear`. @returns "ok", or the #PF's error code. */
function access(machine: Machine, kind: "load" | "store" | "fetch", linear: bigint, user = false): string {
  const bytes = { load: LOAD, store: STORE, fetch: [0xff, 0xe7] }[kind];
  if (user) machine.user([...bytes, 0x0f, 0x0b]);
  else machine.kernel([...bytes, 0x0f, 0x0b]);
  machine.set({ [RSI]: linear, [RDI]: linear });
  const { vector, error } = machine.trap();
  if (vector === 6) return "ok";
  if (vector !== 14) return `vector ${vector}`;
  expect(machine.cpu.state.control.cr2).toBe(linear);
  return (error ?? 0).toString(16);
}

function clearWriteProtect(machine: Machine): void {
  machine.change((state) => {
    state.control.cr0 &= ~0x10000n;
  });
}

describeModes("4-level paging", () => {
  it("translates 4 KiB, 2 MiB and 1 GiB pages", () => {
    const machine = new Machine();
    machine.write64(0x2ff008, 0x1122334455667788n);
    machine.map(PAGE, 0x2ff000n, P | RW);
    machine.map(PAGE + 0x4000_0000n, 0x200000n, P | RW, 21);
    machine.map(PAGE + 0x8000_0000n, 0n, P | RW, 30);
    for (const linear of [PAGE + 8n, PAGE + 0x400f_f008n, PAGE + 0x802f_f008n]) {
      machine.kernel([...LOAD, HLT]);
      machine.set({ [RSI]: linear });
      machine.run();
      expect(machine.cpu.getRegister(RAX)).toBe(0x1122334455667788n);
    }
  });

  it("sets the accessed bit on all levels at a read, the dirty bit in the leaf alone and only at a write", () => {
    const machine = new Machine();
    machine.map(PAGE, 0x200000n, P | RW);
    const bits = () => ([39, 30, 21, 12] as const).map((level) => machine.read64(machine.entry(PAGE, level)) & (A | D));
    expect(bits()).toEqual([0n, 0n, 0n, 0n]);
    expect(access(machine, "load", PAGE)).toBe("ok");
    expect(bits()).toEqual([A, A, A, A]);
    expect(access(machine, "store", PAGE)).toBe("ok");
    expect(bits()).toEqual([A, A, A, A | D]);
  });

  it("sets the dirty bit again after it was cleared and the page invalidated", () => {
    const machine = new Machine();
    const leaf = machine.map(PAGE, 0x200000n, P | RW);
    expect(access(machine, "store", PAGE)).toBe("ok");
    machine.write64(leaf, 0x200000n | P | RW);
    machine.kernel([0x0f, 0x01, 0x3f, ...LOAD, HLT]); // invlpg [rdi]
    machine.set({ [RSI]: PAGE, [RDI]: PAGE });
    machine.run();
    expect(machine.read64(leaf) & (A | D)).toBe(A);
    expect(access(machine, "store", PAGE)).toBe("ok");
    expect(machine.read64(leaf) & (A | D)).toBe(A | D);
  });

  it("marks a large page in its directory entry", () => {
    const machine = new Machine();
    const leaf = machine.map(PAGE, 0x200000n, P | RW, 21);
    expect(access(machine, "store", PAGE + 0x1234n)).toBe("ok");
    expect(machine.read64(leaf) & (A | D)).toBe(A | D);
  });

  it("leaves accessed and dirty alone in the leaf when the access faults", () => {
    const machine = new Machine();
    const leaf = machine.map(PAGE, 0x200000n, P);
    expect(access(machine, "store", PAGE)).toBe("3");
    expect(machine.read64(leaf) & (A | D)).toBe(0n);
  });

  it("reports a page that is not present with the kind of access in the error code", () => {
    const machine = new Machine();
    machine.map(PAGE, 0n, 0n);
    expect(access(machine, "load", PAGE)).toBe("0");
    expect(access(machine, "store", PAGE + 8n)).toBe("2");
    expect(access(machine, "fetch", PAGE)).toBe("10");
    expect(access(machine, "load", PAGE, true)).toBe("4");
    expect(access(machine, "store", PAGE, true)).toBe("6");
    expect(access(machine, "fetch", PAGE, true)).toBe("14");
  });

  it("keeps the user out of supervisor pages", () => {
    const machine = new Machine();
    machine.map(PAGE, 0x200000n, P | RW);
    expect(access(machine, "load", PAGE, true)).toBe("5");
    expect(access(machine, "store", PAGE, true)).toBe("7");
    expect(access(machine, "fetch", PAGE, true)).toBe("15");
    expect(access(machine, "load", BigInt(DATA), true)).toBe("5");
  });

  it("keeps the user out of a user page below a supervisor directory entry", () => {
    const machine = new Machine();
    machine.map(PAGE, 0x200000n, P | RW | US);
    const directory = machine.entry(PAGE, 21);
    machine.write64(directory, machine.read64(directory) & ~US);
    expect(access(machine, "load", PAGE, true)).toBe("5");
    expect(access(machine, "load", PAGE)).toBe("ok");
  });

  it("lets a supervisor translation that is cached not serve the user", () => {
    const machine = new Machine();
    machine.map(PAGE, 0x200000n, P | RW);
    expect(access(machine, "store", PAGE)).toBe("ok");
    expect(access(machine, "load", PAGE, true)).toBe("5");
  });

  it("protects read-only pages from the user always, from the supervisor with CR0.WP", () => {
    const machine = new Machine();
    machine.map(PAGE, 0x200000n, P | US);
    expect(access(machine, "store", PAGE, true)).toBe("7");
    expect(access(machine, "store", PAGE)).toBe("3");
    clearWriteProtect(machine);
    expect(access(machine, "store", PAGE)).toBe("ok");
    expect(access(machine, "store", PAGE, true)).toBe("7");
  });

  it("obeys a MOV to CR0 that sets WP after the page was written", () => {
    const machine = new Machine();
    clearWriteProtect(machine);
    machine.map(PAGE, 0x200000n, P);
    // mov [rdi],rax; mov rax,cr0; bts rax,16; mov cr0,rax; mov [rdi],rax
    machine.kernel([...STORE, 0x0f, 0x20, 0xc0, 0x48, 0x0f, 0xba, 0xe8, 16, 0x0f, 0x22, 0xc0, ...STORE, HLT]);
    machine.set({ [RDI]: PAGE });
    expect(machine.trap()).toMatchObject({ vector: 14, error: 3, rip: BigInt(CODE + 14) });
  });

  it("forbids to execute NX pages at any level of the tables", () => {
    const machine = new Machine();
    machine.map(PAGE, 0x200000n, P | RW | US | NX);
    expect(access(machine, "load", PAGE, true)).toBe("ok");
    expect(access(machine, "fetch", PAGE, true)).toBe("15");
    expect(access(machine, "fetch", PAGE)).toBe("11");
    machine.map(PAGE + 0x20_0000n, 0x200000n, P | RW | US);
    const directory = machine.entry(PAGE + 0x20_0000n, 21);
    machine.write64(directory, machine.read64(directory) | NX);
    expect(access(machine, "fetch", PAGE + 0x20_0000n)).toBe("11");
  });

  it("treats NX as a reserved bit and reports no fetches without EFER.NXE", () => {
    const machine = new Machine();
    machine.change((state) => {
      state.control.efer &= ~0x800n;
    });
    machine.map(PAGE, 0x200000n, P | RW | NX);
    machine.map(PAGE + 0x1000n, 0n, 0n);
    expect(access(machine, "load", PAGE)).toBe("9");
    expect(access(machine, "fetch", PAGE + 0x1000n)).toBe("0");
  });

  it("reports reserved bits: high addresses, the low address bits of large pages, PS in the top level", () => {
    const machine = new Machine();
    machine.map(PAGE, (1n << 51n) | 0x200000n, P | RW);
    expect(access(machine, "load", PAGE)).toBe("9");
    expect(access(machine, "store", PAGE, true)).toBe("f");
    machine.map(PAGE + 0x4000_0000n, 0x2000n, P | RW, 21);
    expect(access(machine, "load", PAGE + 0x4000_0000n)).toBe("9");
    machine.map(PAGE + 0x8000_0000n, 0x200000n, P | RW, 30);
    expect(access(machine, "store", PAGE + 0x8000_0000n)).toBe("b");
    const top = machine.entry(PAGE, 39);
    machine.write64(top, machine.read64(top) | 0x80n);
    machine.cpu.flushTlb();
    expect(access(machine, "load", PAGE + 0x1_0000n)).toBe("9");
  });

  it("raises #GP for addresses that are not canonical, #SS through RSP", () => {
    const machine = new Machine();
    machine.kernel(LOAD);
    machine.set({ [RSI]: 0x8000_0000_0000n });
    expect(machine.trap()).toMatchObject({ vector: 13, error: 0, rip: BigInt(CODE) });
    machine.gate(12, { ist: 1 });
    machine.kernel([0x58]); // pop rax
    machine.set({ 4: 0x8000_0000_0000n });
    expect(machine.trap()).toMatchObject({ vector: 12, error: 0, rip: BigInt(CODE) });
  });

  it("writes nothing of a store whose second page faults, and reports the second page", () => {
    const machine = new Machine();
    machine.map(PAGE, 0x200000n, P | RW);
    machine.map(PAGE + 0x1000n, 0x201000n, P);
    machine.kernel(STORE);
    machine.set({ [RAX]: -1n, [RDI]: PAGE + 0xffcn });
    expect(machine.trap()).toMatchObject({ vector: 14, error: 3, rip: BigInt(CODE) });
    expect(machine.cpu.state.control.cr2).toBe(PAGE + 0x1000n);
    expect(machine.read64(0x200ff8)).toBe(0n);
  });

  it("reads and writes across two pages that are not neighbours in memory", () => {
    const machine = new Machine();
    machine.map(PAGE, 0x205000n, P | RW);
    machine.map(PAGE + 0x1000n, 0x202000n, P | RW);
    machine.kernel([...STORE, ...LOAD.slice(0, 2), 0x1e, HLT]); // mov rbx,[rsi]
    machine.set({ [RAX]: 0x1122334455667788n, [RDI]: PAGE + 0xffdn, [RSI]: PAGE + 0xffdn });
    machine.run();
    expect(machine.cpu.getRegister(3)).toBe(0x1122334455667788n);
    expect(machine.read64(0x205ff8) >> 40n).toBe(0x667788n);
    expect(machine.read64(0x202000)).toBe(0x1122334455n);
  });

  it("faults on an instruction that runs into a missing page with that page in CR2", () => {
    const machine = new Machine();
    machine.map(PAGE, 0x200000n, P | RW | US);
    machine.put(0x200ffe, [0x48, 0xb8]); // mov rax,imm64
    machine.user([0xff, 0xe7], USER_AT);
    machine.set({ [RDI]: PAGE + 0xffen });
    expect(machine.trap()).toMatchObject({ vector: 14, error: 0x14, rip: PAGE + 0xffen });
    expect(machine.cpu.state.control.cr2).toBe(PAGE + 0x1000n);
  });
});
