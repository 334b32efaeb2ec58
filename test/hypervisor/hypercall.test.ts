import { describe, expect, it } from "vitest";
import { Errno } from "../../engine/abi/errors.ts";
import { Hypercall } from "../../engine/abi/hypercalls.ts";
import { multicallEntry } from "../../engine/abi/xen.ts";
import { fakeDomain } from "./fake-domain.ts";

describe("hypercall dispatch", () => {
  it("answers EPERM outside of level 0", () => {
    const { cpu, call } = fakeDomain();
    cpu.cpl = 3;
    expect(call(Hypercall.xen_version, 0)).toBe(-Errno.EPERM);
  });

  it("answers ENOSYS to an unknown number and logs it once with its arguments", () => {
    const { call, log } = fakeDomain();
    expect(call(77, 1, 2, 3, 4, 5)).toBe(-Errno.ENOSYS);
    expect(call(77, 9)).toBe(-Errno.ENOSYS);
    expect(log).toEqual(["hypercall 77(0x1, 0x2, 0x3, 0x4, 0x5) is not implemented"]);
  });

  it("is silent about vm_assist, which every Linux tries", () => {
    const { call, log } = fakeDomain();
    expect(call(Hypercall.vm_assist, 0)).toBe(-Errno.ENOSYS);
    expect(log).toEqual([]);
  });

  it("takes 32-bit arguments from EBX ECX … in 32-bit code and cuts the result", () => {
    const { vcpu, cpu, call } = fakeDomain();
    cpu.longMode = false;
    cpu.setRegister(3, 0xffffffff00000000n);
    expect(call(Hypercall.xen_version, 99)).toBe(0x40011);
    cpu.setRegister(3, 99n);
    call(Hypercall.xen_version);
    expect(cpu.getRegister(0)).toBe(0x100000000n - BigInt(Errno.ENOSYS));
    expect(vcpu.wait).toBeUndefined();
  });

  it("answers EFAULT to a pointer into nowhere, and writes nothing when a page of the range is missing", () => {
    const { call, ram } = fakeDomain();
    expect(call(Hypercall.xen_version, 6, 0x7000_0000)).toBe(-Errno.EFAULT);
    expect(call(Hypercall.xen_version, 3, 0xffff80)).toBe(-Errno.EFAULT);
    expect(call(Hypercall.xen_version, 3, 0xffc00)).toBe(0);
    ram.setUint8(0xfff80, 0xaa);
    expect(call(Hypercall.xen_version, 3, 0xfff80)).toBe(-Errno.EFAULT);
    expect(ram.getUint8(0xfff80)).toBe(0xaa);
  });

  it("copies structures that cross a page", () => {
    const { call, ram } = fakeDomain();
    ram.setUint32(0x1ffc, 0, true);
    expect(call(Hypercall.xen_version, 6, 0x1ffc)).toBe(0);
    expect(ram.getUint32(0x2000, true) & 0x304).toBe(0x304);
  });

  it("runs a multicall with a result for each entry and no nesting", () => {
    const { call, ram } = fakeDomain();
    multicallEntry.write(ram, 0x3000, { op: BigInt(Hypercall.xen_version), args: [0n] });
    multicallEntry.write(ram, 0x3040, { op: BigInt(Hypercall.multicall), args: [0x3000n, 1n] });
    expect(call(Hypercall.multicall, 0x3000, 2)).toBe(0);
    expect(multicallEntry.read(ram, 0x3000).result).toBe(0x40011n);
    expect(multicallEntry.read(ram, 0x3040).result).toBe(BigInt(-Errno.EINVAL));
  });

  it("passes console_io on and bounds it", () => {
    const { call, console, ram } = fakeDomain();
    for (const [i, char] of [..."hello"].entries()) ram.setUint8(0x4000 + i, char.charCodeAt(0));
    expect(call(Hypercall.console_io, 0, 5, 0x4000)).toBe(0);
    expect(console).toEqual(["hello"]);
    expect(call(Hypercall.console_io, 0, 40_000, 0x4000)).toBe(0);
    expect(console.slice(1).map((piece) => piece.length)).toEqual([16384, 16384, 7232]);
    expect(call(Hypercall.console_io, 0, 0xffffffff, 0x4000)).toBe(-Errno.EFAULT);
    expect(console.join("").length).toBeLessThan(1 << 21);
  });
});
