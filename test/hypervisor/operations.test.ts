import { describe, expect, it } from "vitest";
import { Errno } from "../../engine/abi/errors.ts";
import * as grant from "../../engine/abi/grant-table.ts";
import * as hvm from "../../engine/abi/hvm.ts";
import { Hypercall } from "../../engine/abi/hypercalls.ts";
import * as memory from "../../engine/abi/memory-op.ts";
import * as sched from "../../engine/abi/sched-op.ts";
import * as vcpuAbi from "../../engine/abi/vcpu-op.ts";
import { sharedInfo, Virq, vcpuInfo, vcpuTimeInfo } from "../../engine/abi/xen.ts";
import { cpuidEntries } from "../../engine/hypervisor/cpuid.ts";
import { readMsr, readPort, writeMsr } from "../../engine/hypervisor/msr.ts";
import { fakeDomain } from "./fake-domain.ts";

const ARGS = 0x5000;
const SELF = 0x7ff0;

describe("hvm_op", () => {
  it("gives the console and XenStore parameters and takes the callback vector", () => {
    const { call, ram, cpu, domain } = fakeDomain();
    hvm.hvmParam.write(ram, ARGS, { domid: SELF, index: hvm.HvmParam.console_pfn });
    expect(call(Hypercall.hvm_op, hvm.HvmOp.get_param, ARGS)).toBe(0);
    expect(hvm.hvmParam.read(ram, ARGS).value).toBe(0xfefffn);
    expect(cpu.line.vector).toBe(0);
    hvm.hvmParam.write(ram, ARGS, { index: hvm.HvmParam.callback_irq, value: (2n << 56n) | 0xf3n });
    expect(call(Hypercall.hvm_op, hvm.HvmOp.set_param, ARGS)).toBe(0);
    expect(cpu.line).toEqual({ address: domain.mapping.base + domain.plan.sharedInfo, vector: 0xf3 });
  });

  it("refuses foreign, unknown and read-only parameters", () => {
    const { call, ram } = fakeDomain();
    for (const [domid, error] of [
      [0, Errno.EPERM],
      [3, Errno.ESRCH],
    ] as const) {
      hvm.hvmParam.write(ram, ARGS, { domid, index: 0 });
      expect(call(Hypercall.hvm_op, hvm.HvmOp.set_param, ARGS)).toBe(-error);
    }
    hvm.hvmParam.write(ram, ARGS, { domid: SELF, index: hvm.HvmParam.console_pfn });
    expect(call(Hypercall.hvm_op, hvm.HvmOp.set_param, ARGS)).toBe(-Errno.EPERM);
    hvm.hvmParam.write(ram, ARGS, { index: 1000 });
    expect(call(Hypercall.hvm_op, hvm.HvmOp.get_param, ARGS)).toBe(-Errno.EINVAL);
    expect(call(Hypercall.hvm_op, hvm.HvmOp.pagetable_dying, ARGS)).toBe(-Errno.ENOSYS);
  });
});

describe("vcpu_op", () => {
  it("moves vcpu_info once, marks everything pending and wires the line only with a vector", () => {
    const { call, ram, domain, cpu } = fakeDomain();
    vcpuAbi.registerVcpuInfo.write(ram, ARGS, { mfn: 0x20n, offset: 0x40 });
    expect(call(Hypercall.vcpu_op, vcpuAbi.VcpuOp.register_vcpu_info, 0, ARGS)).toBe(0);
    expect(vcpuInfo.read(ram, 0x20040)).toMatchObject({ upcallPending: 1, pendingSelector: 0xffffffffffffffffn });
    expect(vcpuTimeInfo.read(ram, 0x20060)).toMatchObject({ tscToSystemMul: 0x80000000, tscShift: 1, flags: 1 });
    expect(cpu.line.address).toBe(0);
    expect(domain.delivery.vcpuInfo(0)).toBe(0x20040);
    expect(call(Hypercall.vcpu_op, vcpuAbi.VcpuOp.register_vcpu_info, 0, ARGS)).toBe(-Errno.EINVAL);
  });

  it.each([
    ["across a page", { mfn: 0x20n, offset: 4096 - 32 }],
    ["misaligned", { mfn: 0x20n, offset: 4 }],
    ["outside of RAM", { mfn: 0x10000n, offset: 0 }],
    ["in a special frame", { mfn: 0xfefffn, offset: 0 }],
  ])("refuses vcpu_info %s", (_what, args) => {
    const { call, ram } = fakeDomain();
    vcpuAbi.registerVcpuInfo.write(ram, ARGS, args);
    expect(call(Hypercall.vcpu_op, vcpuAbi.VcpuOp.register_vcpu_info, 0, ARGS)).toBe(-Errno.EINVAL);
  });

  it("fires the singleshot timer once and answers ETIME for the past when asked to", () => {
    const { call, ram, domain, vcpu, time } = fakeDomain();
    const port = domain.events.bindVirq(Virq.timer, 0);
    vcpuAbi.setSingleshotTimer.write(ram, ARGS, { timeoutAbsNs: 5000n, flags: vcpuAbi.SINGLESHOT_FUTURE });
    expect(call(Hypercall.vcpu_op, vcpuAbi.VcpuOp.set_singleshot_timer, 0, ARGS)).toBe(0);
    vcpu.runTimers();
    expect(domain.delivery.isPending(port)).toBe(false);
    time.now = 5000;
    vcpu.runTimers();
    expect(domain.delivery.isPending(port)).toBe(true);
    expect(vcpu.timers.next).toBe(Number.POSITIVE_INFINITY);
    time.now = 6000;
    expect(call(Hypercall.vcpu_op, vcpuAbi.VcpuOp.set_singleshot_timer, 0, ARGS)).toBe(-Errno.ETIME);
  });

  it("repeats the periodic timer without making up for missed ticks", () => {
    const { call, ram, vcpu, time } = fakeDomain();
    vcpuAbi.setPeriodicTimer.write(ram, ARGS, { periodNs: 1_000_000n });
    expect(call(Hypercall.vcpu_op, vcpuAbi.VcpuOp.set_periodic_timer, 0, ARGS)).toBe(0);
    time.now = 1000 + 3_500_000;
    expect(vcpu.timers.expire(time.now)).toBe(true);
    expect(vcpu.timers.next).toBe(1000 + 4_000_000);
    vcpuAbi.setPeriodicTimer.write(ram, ARGS, { periodNs: 10n });
    expect(call(Hypercall.vcpu_op, vcpuAbi.VcpuOp.set_periodic_timer, 0, ARGS)).toBe(-Errno.EINVAL);
  });

  it("keeps run states and writes them to the registered area", () => {
    const { call, ram, vcpu, time } = fakeDomain();
    vcpuAbi.registerMemoryArea.write(ram, ARGS, { address: 0x6000n });
    expect(call(Hypercall.vcpu_op, vcpuAbi.VcpuOp.register_runstate_memory_area, 0, ARGS)).toBe(0);
    time.now = 3000;
    vcpu.enter("blocked");
    time.now = 10_000;
    vcpu.enter("running");
    expect(vcpuAbi.runstateInfo.read(ram, 0x6000)).toEqual({
      state: 0,
      stateEntryTime: 10_000n,
      time: [2000n, 0n, 7000n, 0n],
    });
    vcpuAbi.registerMemoryArea.write(ram, ARGS, { address: 0x7000_0000n });
    expect(call(Hypercall.vcpu_op, vcpuAbi.VcpuOp.register_runstate_memory_area, 0, ARGS)).toBe(-Errno.EFAULT);
  });

  it("follows the guest's own TSC offset", () => {
    const { ram, call, vcpu, cpu } = fakeDomain();
    vcpuAbi.registerMemoryArea.write(ram, ARGS, { address: 0x6000n });
    expect(call(Hypercall.vcpu_op, vcpuAbi.VcpuOp.register_vcpu_time_memory_area, 0, ARGS)).toBe(0);
    cpu.tscOffset = 12345n;
    vcpu.checkTime();
    const info = vcpuTimeInfo.read(ram, 0x6000);
    expect(info.tscTimestamp).toBe(12345n);
    expect(info.version % 2).toBe(0);
  });
});

describe("memory_op", () => {
  it("maps shared_info where the guest wants it, with the wall clock in it", () => {
    const { call, ram, domain, cpu } = fakeDomain();
    memory.addToPhysmap.write(ram, ARGS, { domid: SELF, space: memory.MapSpace.shared_info, idx: 0n, gpfn: 0x30n });
    expect(call(Hypercall.memory_op, memory.MemoryOp.add_to_physmap, ARGS)).toBe(0);
    expect(domain.physmap.get(0x30)?.offset).toBe(domain.plan.sharedInfo);
    expect(cpu.flushes).toBeGreaterThan(0);
    const seen = sharedInfo.read(new DataView(cpu.memory.buffer, cpu.translate(0x30000n, false), 4096));
    expect(seen).toMatchObject({ wcVersion: 2, wcSec: 1_700_000_000, wcNsec: 123_456_789 });
  });

  it("maps grant frames above RAM and refuses those it does not have", () => {
    const { call, ram, domain } = fakeDomain();
    const args = { domid: SELF, space: memory.MapSpace.grant_table, idx: 3n, gpfn: 0x10000n };
    memory.addToPhysmap.write(ram, ARGS, args);
    expect(call(Hypercall.memory_op, memory.MemoryOp.add_to_physmap, ARGS)).toBe(0);
    expect(domain.physmap.get(0x10000)?.offset).toBe(domain.plan.grantTable + 3 * 4096);
    memory.addToPhysmap.write(ram, ARGS, { ...args, idx: 32n });
    expect(call(Hypercall.memory_op, memory.MemoryOp.add_to_physmap, ARGS)).toBe(-Errno.EINVAL);
    memory.addToPhysmap.write(ram, ARGS, { ...args, gpfn: 1n << 40n });
    expect(call(Hypercall.memory_op, memory.MemoryOp.add_to_physmap, ARGS)).toBe(-Errno.EINVAL);
  });

  it("balloons: a frame given back is gone, and comes back zeroed", () => {
    const { call, ram, domain } = fakeDomain();
    ram.setUint32(0x80000, 0x1234, true);
    ram.setBigUint64(0x6000, 0x80n, true);
    memory.memoryReservation.write(ram, ARGS, { extentStart: 0x6000n, nrExtents: 1n, domid: SELF });
    expect(call(Hypercall.memory_op, memory.MemoryOp.decrease_reservation, ARGS)).toBe(1);
    expect(domain.physmap.get(0x80)).toBeUndefined();
    expect(domain.ram.used).toBe(255);
    expect(call(Hypercall.memory_op, memory.MemoryOp.decrease_reservation, ARGS)).toBe(0);
    expect(call(Hypercall.memory_op, memory.MemoryOp.populate_physmap, ARGS)).toBe(1);
    expect(ram.getUint32(0x80000, true)).toBe(0);
    ram.setBigUint64(0x6000, 0x200n, true);
    expect(call(Hypercall.memory_op, memory.MemoryOp.populate_physmap, ARGS)).toBe(0);
  });

  it("knows nothing of machine memory", () => {
    const { call } = fakeDomain();
    expect(call(Hypercall.memory_op, memory.MemoryOp.machine_memory_map, ARGS)).toBe(-Errno.ENOSYS);
  });
});

describe("grant_table_op", () => {
  it("answers sizes and insists on version 1", () => {
    const { call, ram } = fakeDomain();
    grant.querySize.write(ram, ARGS, { dom: SELF });
    expect(call(Hypercall.grant_table_op, grant.GrantTableOp.query_size, ARGS, 1)).toBe(0);
    expect(grant.querySize.read(ram, ARGS)).toMatchObject({ nrFrames: 1, maxNrFrames: 32, status: 0 });
    grant.setVersion.write(ram, ARGS, { version: 1 });
    expect(call(Hypercall.grant_table_op, grant.GrantTableOp.set_version, ARGS, 1)).toBe(0);
    grant.setVersion.write(ram, ARGS, { version: 2 });
    expect(call(Hypercall.grant_table_op, grant.GrantTableOp.set_version, ARGS, 1)).toBe(-Errno.ENOSYS);
  });

  it("has no peer whose grants could be mapped", () => {
    const { call, ram } = fakeDomain();
    for (const at of [ARGS, ARGS + 32]) grant.mapGrantRef.write(ram, at, { dom: 1, flags: grant.GNTMAP_HOST_MAP });
    expect(call(Hypercall.grant_table_op, grant.GrantTableOp.map_grant_ref, ARGS, 2)).toBe(0);
    expect(grant.mapGrantRef.read(ram, ARGS + 32).status).toBe(grant.GrantStatus.bad_domain);
    expect(call(Hypercall.grant_table_op, grant.GrantTableOp.map_grant_ref, ARGS, 0xffffffffn)).toBe(-Errno.EINVAL);
  });
});

describe("sched_op", () => {
  it.each([
    [sched.ShutdownReason.poweroff, "poweroff"],
    [sched.ShutdownReason.reboot, "reboot"],
    [sched.ShutdownReason.crash, "crash"],
  ])("shutdown reason %i ends the domain as %s", (reason, name) => {
    const { call, ram, domain } = fakeDomain();
    sched.schedShutdown.write(ram, ARGS, { reason });
    expect(call(Hypercall.sched_op, sched.SchedOp.shutdown, ARGS)).toBe(0);
    expect(domain.shutdown?.reason).toBe(name);
  });

  it("polls: at once if a port is pending, else it waits", () => {
    const { call, ram, domain, vcpu } = fakeDomain();
    ram.setUint32(0x6000, domain.consolePort, true);
    sched.schedPoll.write(ram, ARGS, { ports: 0x6000n, nrPorts: 1, timeout: 77n });
    expect(call(Hypercall.sched_op, sched.SchedOp.poll, ARGS)).toBe(0);
    expect(vcpu.wait).toEqual({ kind: "poll", ports: [domain.consolePort], deadline: 77 });
    vcpu.wait = undefined;
    domain.delivery.setPending(domain.consolePort);
    expect(call(Hypercall.sched_op, sched.SchedOp.poll, ARGS)).toBe(0);
    expect(vcpu.wait).toBeUndefined();
    ram.setUint32(0x6000, 5000, true);
    expect(call(Hypercall.sched_op, sched.SchedOp.poll, ARGS)).toBe(-Errno.EINVAL);
  });
});

describe("MSRs, ports and CPUID", () => {
  it("fills the hypercall page", () => {
    const { vcpu, ram } = fakeDomain();
    expect(writeMsr(vcpu, 0x40000000, 0x9000n)).toBe(true);
    const stub = [...new Uint8Array(ram.buffer, ram.byteOffset + 0x9000 + 17 * 32, 9)];
    expect(stub).toEqual([0xb8, 17, 0, 0, 0, 0x0f, 0x01, 0xd9, 0xc3]);
    expect(writeMsr(vcpu, 0x40000000, 0x9001n)).toBe(false);
    expect(writeMsr(vcpu, 0x40000000, 1n << 50n)).toBe(false);
  });

  it("answers #GP to MSRs nobody has, and all ones from empty ports", () => {
    const { vcpu } = fakeDomain();
    for (const msr of [0x3a, 0x64e, 0xc0011029]) expect(readMsr(vcpu, msr)).toBeUndefined();
    expect([1, 2, 4].map(readPort)).toEqual([0xff, 0xffff, 0xffffffff]);
  });

  it("sends itself interrupts through the x2APIC, one at a time", () => {
    const { vcpu, cpu } = fakeDomain();
    expect(writeMsr(vcpu, 0x83f, 0x40n)).toBe(true);
    expect(writeMsr(vcpu, 0x830, 0x40050n)).toBe(true);
    expect(cpu.injected).toEqual([0x40]);
    expect(readMsr(vcpu, 0x812)).toBe(1n);
    expect(readMsr(vcpu, 0x822)).toBe(1n << 16n);
    expect(writeMsr(vcpu, 0x80b, 0n)).toBe(true);
    expect(cpu.injected).toEqual([0x40, 0x50]);
    expect(writeMsr(vcpu, 0x80b, 0n)).toBe(true);
    expect(vcpu.apic.busy).toBe(false);
    expect(writeMsr(vcpu, 0x803, 0n)).toBe(false);
  });

  it("presents Xen behind a plain AMD processor", () => {
    const leaf = (number: number) => cpuidEntries({ vcpu: 0, domain: 7, tscKhz: 1e6 }).find((e) => e.leaf === number);
    const text = (...words: (number | undefined)[]) =>
      Buffer.from(new Uint32Array(words.map(Number)).buffer).toString();
    const vendor = leaf(0);
    expect(text(vendor?.ebx, vendor?.edx, vendor?.ecx)).toBe("AuthenticAMD");
    // Libraries that flush caches refuse to start without CLFLUSH, and the size of a line is part of that.
    expect([(leaf(1)?.edx ?? 0) & (1 << 19), ((leaf(1)?.ebx ?? 0) >>> 8) & 0xff]).toEqual([1 << 19, 64 / 8]);
    // glibc copies in bulk up to the size of the second level, in KiB here.
    expect((leaf(0x80000006)?.ecx ?? 0) >>> 16).toBe(16384);
    const xen = leaf(0x40000000);
    expect(text(xen?.ebx, xen?.ecx, xen?.edx)).toBe("XenVMMXenVMM");
    expect(xen?.eax).toBe(0x40000005);
    expect(leaf(0x40000001)?.eax).toBe(0x40011);
    expect(leaf(0x40000004)).toMatchObject({ eax: 24, ebx: 0, ecx: 7 });
    expect((leaf(1)?.ecx ?? 0) >>> 31).toBe(1);
    expect(leaf(0x80000007)?.edx).toBe(256);
  });
});
