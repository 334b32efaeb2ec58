import { expect, it } from "vitest";
import { describeModes, G, HLT, Machine, P, RELOAD_CR3, RW } from "./machine.ts";

const PAGE = 0x7000_0000_0000n;
/** Where the guest sees the page table that holds the entry under test. */
const ALIAS = 0x6000_0000_5000n;
const OLD = 0x200000;
const NEW = 0x300000;
const RSI = 6;
const RDI = 7;

/** MOV RBX, [RSI] caches the translation; what follows it decides whether MOV RCX, [RSI] sees the changed entry. */
const FIRST = [0x48, 0x8b, 0x1e];
const SECOND = [0x48, 0x8b, 0x0e, HLT];
/** MOV [RDI], RDX: the guest changes the entry itself. */
const CHANGE = [0x48, 0x89, 0x17];
const INVLPG_RSI = [0x0f, 0x01, 0x3e];
/** MOV RAX, CR4; BTC RAX, 7; MOV CR4, RAX. */
const TOGGLE_PGE = [0x0f, 0x20, 0xe0, 0x48, 0x0f, 0xba, 0xf8, 7, 0x0f, 0x22, 0xe0];

interface Options {
  readonly flags?: bigint;
  readonly bits?: 12 | 21 | 30;
  readonly offset?: bigint;
}

/** What the second load reads ("old" or "new" frame) when `between` runs after the entry changed. */
function afterChange(between: readonly number[], { flags = 0n, bits = 12, offset = 0n }: Options = {}): string {
  const machine = new Machine();
  const large = bits === 12 ? 0n : 0x80n;
  const leaf = machine.map(PAGE, BigInt(OLD), P | RW | flags, bits);
  machine.write64(OLD + Number(offset), 1n);
  machine.write64(NEW - (bits === 12 ? 0 : 0x100000) + Number(offset), bits === 12 ? 2n : 1n);
  machine.write64(Number(offset), 2n);
  machine.map(ALIAS, BigInt(leaf & ~0xfff), P | RW);
  machine.kernel([...FIRST, ...CHANGE, ...between, ...SECOND]);
  const frame = bits === 12 ? BigInt(NEW) : 0n;
  machine.set({
    2: frame | P | RW | flags | large,
    [RSI]: PAGE + offset,
    [RDI]: ALIAS + BigInt(leaf & 0xfff),
  });
  machine.run();
  expect(machine.cpu.getRegister(3)).toBe(1n);
  return machine.cpu.getRegister(1) === 2n ? "new" : "old";
}

describeModes("translation lookaside buffer", () => {
  it("may serve a changed entry as it was until it is invalidated: the test's own control", () => {
    expect(afterChange([])).toBe("old");
  });

  it("drops translations at a write to CR3", () => {
    expect(afterChange(RELOAD_CR3)).toBe("new");
  });

  it("keeps global pages over a write to CR3", () => {
    expect(afterChange(RELOAD_CR3, { flags: G })).toBe("old");
  });

  it("drops global pages when CR4.PGE is toggled", () => {
    expect(afterChange(TOGGLE_PGE, { flags: G })).toBe("new");
  });

  it("drops one 4 KiB page at INVLPG, also a global one", () => {
    expect(afterChange(INVLPG_RSI)).toBe("new");
    expect(afterChange(INVLPG_RSI, { flags: G })).toBe("new");
  });

  it("drops a whole 2 MiB page at an INVLPG anywhere in it", () => {
    // add rsi,0x3000; invlpg [rsi]; sub rsi,0x3000
    const elsewhere = [0x48, 0x81, 0xc6, 0, 0x30, 0, 0, ...INVLPG_RSI, 0x48, 0x81, 0xee, 0, 0x30, 0, 0];
    expect(afterChange(elsewhere, { bits: 21, offset: 0x80000n })).toBe("new");
    expect(afterChange(elsewhere, { bits: 21, offset: 0x80000n, flags: G })).toBe("new");
  });

  it("does not cache that a page was missing", () => {
    const machine = new Machine();
    const leaf = machine.map(PAGE, 0n, 0n);
    machine.kernel([...FIRST, HLT]);
    machine.set({ [RSI]: PAGE });
    expect(machine.trap()).toMatchObject({ vector: 14, error: 0 });
    machine.write64(leaf, BigInt(OLD) | P | RW);
    machine.write64(OLD, 7n);
    machine.kernel([...FIRST, HLT]);
    machine.run();
    expect(machine.cpu.getRegister(3)).toBe(7n);
  });

  it("serves a right that was added to an entry without any invalidation", () => {
    const machine = new Machine();
    const leaf = machine.map(PAGE, BigInt(OLD), P);
    machine.kernel([...FIRST, 0x48, 0x89, 0x06, HLT]); // mov rbx,[rsi]; mov [rsi],rax
    machine.set({ 0: 5n, [RSI]: PAGE });
    expect(machine.trap()).toMatchObject({ vector: 14, error: 3 });
    machine.write64(leaf, BigInt(OLD) | P | RW);
    machine.change((state) => {
      state.rip = machine.frame(14).rip;
    });
    machine.run();
    expect(machine.read64(OLD)).toBe(5n);
  });

  it("follows executed code to its new frame after INVLPG", () => {
    const machine = new Machine();
    const leaf = machine.map(PAGE, BigInt(OLD), P | RW);
    machine.put(OLD, [0xb8, 1, 0, 0, 0, 0xc3]); // mov eax,1; ret
    machine.put(NEW, [0xb8, 2, 0, 0, 0, 0xc3]);
    machine.map(ALIAS, BigInt(leaf & ~0xfff), P | RW);
    // call rsi; mov ebx,eax; mov [rdi],rdx; invlpg [rsi]; call rsi
    machine.kernel([0xff, 0xd6, 0x89, 0xc3, ...CHANGE, ...INVLPG_RSI, 0xff, 0xd6, HLT]);
    machine.set({ 2: BigInt(NEW) | P | RW, [RSI]: PAGE, [RDI]: ALIAS + BigInt(leaf & 0xfff) });
    machine.run();
    expect([machine.cpu.getRegister(3), machine.cpu.getRegister(0)]).toEqual([1n, 2n]);
  });
});
