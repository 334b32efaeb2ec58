import { beforeEach, describe, expect, it } from "vitest";
import { LocalApic } from "../../engine/hypervisor/local-apic.ts";

const MSR = 0x800;
const SELF = 1n << 18n;

describe("local APIC", () => {
  let injected: number[];
  let apic: LocalApic;
  beforeEach(() => {
    injected = [];
    apic = new LocalApic(0, (vector) => injected.push(vector));
  });

  it("delivers the next self-IPI only after the end of the one in service, highest vector first", () => {
    apic.write(MSR + 0x3f, 0x40n);
    apic.write(MSR + 0x3f, 0x50n);
    apic.write(MSR + 0x3f, 0xf0n);
    expect(injected).toEqual([0x40]);
    apic.write(MSR + 0x0b, 0n);
    apic.write(MSR + 0x0b, 0n);
    apic.write(MSR + 0x0b, 0n);
    expect(injected).toEqual([0x40, 0xf0, 0x50]);
    expect(apic.busy).toBe(false);
  });

  it("refuses registers that do not exist and a non-zero end of interrupt", () => {
    expect(apic.read(MSR + 0x01)).toBeUndefined();
    expect(apic.write(MSR + 0x02, 1n)).toBe(false);
    expect(apic.write(MSR + 0x0b, 1n)).toBe(false);
  });

  describe("as a page of registers", () => {
    it("gives the same registers at 16 times their number", () => {
      expect(apic.readPage(0x30, 4)).toBe(0x50014);
      apic.writePage(0xf0, 4, 0x1ff);
      expect(apic.read(MSR + 0x0f)).toBe(0x1ffn);
    });

    it("has the ID in the upper byte", () => {
      expect(new LocalApic(3, () => {}).readPage(0x20, 4)).toBe(3 << 24);
    });

    it("keeps the logical destination and its format, which x2APIC mode fixes", () => {
      expect(apic.readPage(0xe0, 4)).toBe(0xffffffff);
      apic.writePage(0xd0, 4, 0x01000000);
      expect(apic.readPage(0xd0, 4)).toBe(0x01000000);
      expect(apic.read(MSR + 0x0d)).toBe(1n);
    });

    it("sends by both halves of the command register, and takes any value as end of interrupt", () => {
      apic.writePage(0x310, 4, 0);
      apic.writePage(0x300, 4, Number(SELF) | 0x61);
      expect(injected).toEqual([0x61]);
      expect(apic.readPage(0x300, 4)).toBe(Number(SELF) | 0x61);
      apic.writePage(0xb0, 4, 7);
      expect(apic.busy).toBe(false);
    });

    it("ignores accesses that are not aligned 32-bit ones", () => {
      expect(apic.readPage(0x32, 4)).toBe(0);
      expect(apic.readPage(0x30, 1)).toBe(0);
      apic.writePage(0x300, 2, 0x61);
      expect(injected).toEqual([]);
    });
  });
});
