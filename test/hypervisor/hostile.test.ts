/** What a hostile or merely unusual guest may ask for: bad pointers everywhere, floods, odd numbers. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Errno } from "../../engine/abi/errors.ts";
import * as evtchn from "../../engine/abi/event-channel.ts";
import { GrantTableOp } from "../../engine/abi/grant-table.ts";
import * as hvm from "../../engine/abi/hvm.ts";
import { Hypercall } from "../../engine/abi/hypercalls.ts";
import { MemoryOp } from "../../engine/abi/memory-op.ts";
import * as sched from "../../engine/abi/sched-op.ts";
import { VcpuOp } from "../../engine/abi/vcpu-op.ts";
import { VersionOp } from "../../engine/abi/version.ts";
import { DOMID_SELF } from "../../engine/abi/xen.ts";
import { PortKind } from "../../engine/hypervisor/port-table.ts";
import { fakeDomain, RAM_BYTES } from "./fake-domain.ts";

const ARGS = 0x5000;
const NOWHERE = 0x7000_0000;
/** A structure there begins in RAM and ends behind it. */
const EDGE = RAM_BYTES - 2;
const { EventChannelOp, portOnly } = evtchn;

/** Every operation that takes a pointer: number, sub-operation, arguments before the pointer, and after it. */
const WITH_POINTER: readonly (readonly [string, number, number, readonly number[], readonly number[]])[] = [
  ...[1, 2, 3, 4, 5, 6, 8, 9].map((op) => [`xen_version ${op}`, Hypercall.xen_version, op, [], []] as const),
  ...[1, 2, 3, 4, 6, 7, 9, 14, 15, 23].flatMap((op) =>
    op === MemoryOp.increase_reservation || op === MemoryOp.maximum_ram_page
      ? []
      : [[`memory_op ${op}`, Hypercall.memory_op, op, [], []] as const],
  ),
  ...[0, 1, 10, 15, 23].map((op) => [`hvm_op ${op}`, Hypercall.hvm_op, op, [], []] as const),
  ...[4, 5, 6, 8, 10, 13].map((op) => [`vcpu_op ${op}`, Hypercall.vcpu_op, op, [0], []] as const),
  ...[0, 1, 3, 4, 5, 6, 7, 8, 9, 10].map((op) => [`event_channel_op ${op}`, 32, op, [], []] as const),
  ...[0, 1, 2, 4, 5, 6, 8, 10].map((op) => [`grant_table_op ${op}`, Hypercall.grant_table_op, op, [], [1]] as const),
  ...[2, 3, 4, 5, 6].map((op) => [`sched_op ${op}`, Hypercall.sched_op, op, [], []] as const),
  ["console_io write", Hypercall.console_io, 0, [10], []],
];

describe("bad guest pointers", () => {
  it.each(WITH_POINTER)("%s answers EFAULT", (_name, number, op, before, after) => {
    const { call, domain } = fakeDomain();
    for (const pointer of [NOWHERE, -1n, 0xffff_8000_0000_0000n, 0x0000_8000_0000_0000n]) {
      const raw = BigInt.asUintN(64, BigInt(pointer));
      expect(call(number, op, ...before, raw, ...after)).toBe(-Errno.EFAULT);
    }
    const edge = call(number, op, ...before, EDGE, ...after);
    const readsTwoBytes = number === Hypercall.event_channel_op && op === EventChannelOp.reset;
    const takesDomain = number === Hypercall.memory_op && [3, 4, 14].includes(op);
    if (!readsTwoBytes && !takesDomain) expect(edge).toBe(-Errno.EFAULT);
    expect(domain.shutdown).toBeUndefined();
  });

  it("multicall stops at an entry that is not there", () => {
    const { call } = fakeDomain();
    expect(call(Hypercall.multicall, NOWHERE, 1)).toBe(-Errno.EFAULT);
    expect(call(Hypercall.multicall, NOWHERE, 0)).toBe(0);
    expect(call(Hypercall.multicall, ARGS, 0xffffffff)).toBe(-Errno.EINVAL);
  });

  it("no numbers at all make a handler throw or answer anything but a 32-bit result", () => {
    const { call, domain } = fakeDomain();
    const number = fc.oneof(fc.constantFrom(...Object.values(Hypercall)), fc.nat(64));
    const argument = fc.oneof(
      fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
      fc.bigInt({ min: 0n, max: 40n }),
      fc.constantFrom(0n, BigInt(ARGS), BigInt(EDGE), BigInt(NOWHERE)),
    );
    const args = fc.tuple(number, argument, argument, argument, argument, argument);
    const memory = fc.uint8Array({ minLength: 64, maxLength: 64 });
    const bytes = new Uint8Array(domain.mapping.bytes.buffer, domain.mapping.base + ARGS, 64);
    fc.assert(
      fc.property(args, memory, ([hypercall, ...rest], content) => {
        bytes.set(content);
        domain.shutdown = undefined;
        expect(Math.abs(call(hypercall, ...rest))).toBeLessThan(2 ** 32);
      }),
      { numRuns: 3000 },
    );
  });
});

describe("register contents", () => {
  it("sub-operations are 32-bit numbers, the hypercall number has 64 bits", () => {
    const { call } = fakeDomain();
    const rubbish = 0xabcd_0000_0000n;
    expect(call(Hypercall.xen_version, rubbish | BigInt(VersionOp.version))).toBe(0x40011);
    expect(call(Hypercall.vcpu_op, rubbish | BigInt(VcpuOp.is_up), rubbish)).toBe(1);
    expect(call(Hypercall.sched_op, rubbish | BigInt(sched.SchedOp.yield))).toBe(0);
    const { cpu, vcpu } = fakeDomain();
    expect(vcpu.wait).toBeUndefined();
    cpu.setRegister(0, rubbish);
    expect(call(Number(rubbish) + Hypercall.xen_version, 0)).toBe(-Errno.ENOSYS);
  });

  it("a flood of unknown calls leaves a short log", () => {
    const { call, log } = fakeDomain();
    for (let i = 0; i < 5000; i++) expect(call(1000 + i, i)).toBe(-Errno.ENOSYS);
    for (let i = 0; i < 5000; i++) expect(call(Hypercall.sched_op, 100 + i)).toBe(-Errno.ENOSYS);
    expect(log.length).toBeLessThanOrEqual(256);
  });
});

describe("xen_version", () => {
  it("answers each sub-operation", () => {
    const { call } = fakeDomain();
    const results = Array.from({ length: 12 }, (_, op) => call(Hypercall.xen_version, op, 0x8000));
    expect(results).toEqual([0x40011, 0, 0, 0, 0, 0, 0, 4096, 0, 0, -Errno.EPERM, -Errno.ENOSYS]);
  });

  it("has one map of features", () => {
    const { call, ram } = fakeDomain();
    ram.setUint32(0x8000, 1, true);
    expect(call(Hypercall.xen_version, VersionOp.get_features, 0x8000)).toBe(-Errno.EINVAL);
  });
});

describe("event channels", () => {
  it.each([0, 4095, 4096, 0xffffffff])("refuse port %i where nothing is bound", (port) => {
    const { call, ram } = fakeDomain();
    portOnly.write(ram, ARGS, { port });
    for (const op of [EventChannelOp.send, EventChannelOp.close]) {
      expect(call(Hypercall.event_channel_op, op, ARGS)).toBe(-Errno.EINVAL);
    }
    evtchn.bindVcpu.write(ram, ARGS, { port, vcpu: 0 });
    expect(call(Hypercall.event_channel_op, EventChannelOp.bind_vcpu, ARGS)).toBe(-Errno.EINVAL);
  });

  it("have no FIFO interface and no priorities", () => {
    const { call } = fakeDomain();
    for (const op of [EventChannelOp.init_control, EventChannelOp.expand_array, EventChannelOp.set_priority]) {
      expect(call(Hypercall.event_channel_op, op, ARGS)).toBe(-Errno.ENOSYS);
    }
  });

  it("an IPI to oneself is pending at once", () => {
    const { call, ram, domain } = fakeDomain();
    evtchn.bindIpi.write(ram, ARGS, { vcpu: 0 });
    expect(call(Hypercall.event_channel_op, EventChannelOp.bind_ipi, ARGS)).toBe(0);
    const { port } = evtchn.bindIpi.read(ram, ARGS);
    portOnly.write(ram, ARGS, { port });
    expect(call(Hypercall.event_channel_op, EventChannelOp.send, ARGS)).toBe(0);
    expect(domain.delivery.isPending(port)).toBe(true);
    evtchn.bindIpi.write(ram, ARGS, { vcpu: 1 });
    expect(call(Hypercall.event_channel_op, EventChannelOp.bind_ipi, ARGS)).toBe(-Errno.ENOENT);
  });

  it("connect a domain with itself", () => {
    const { call, ram, domain } = fakeDomain();
    evtchn.allocUnbound.write(ram, ARGS, { dom: DOMID_SELF, remoteDom: DOMID_SELF });
    expect(call(Hypercall.event_channel_op, EventChannelOp.alloc_unbound, ARGS)).toBe(0);
    const offered = evtchn.allocUnbound.read(ram, ARGS).port;
    evtchn.bindInterdomain.write(ram, ARGS, { remoteDom: 7, remotePort: offered });
    expect(call(Hypercall.event_channel_op, EventChannelOp.bind_interdomain, ARGS)).toBe(0);
    const local = evtchn.bindInterdomain.read(ram, ARGS).localPort;
    expect(domain.delivery.isPending(local)).toBe(true);
    expect(domain.events.bindInterdomain(domain.id, offered)).toBe(-Errno.EINVAL);
    domain.delivery.clearPending(local);
    expect(domain.events.send(local)).toBe(0);
    expect(domain.delivery.isPending(offered)).toBe(true);
    expect(domain.events.send(offered)).toBe(0);
    expect(domain.delivery.isPending(local)).toBe(true);
    expect(domain.events.close(local)).toBe(0);
    expect(domain.events.get(offered)).toMatchObject({ kind: PortKind.unbound, domain: 7 });
    expect(domain.events.bindInterdomain(domain.id, 0xffffffff)).toBe(-Errno.EINVAL);
  });

  it("run out at 4095", () => {
    const { domain } = fakeDomain();
    let last = 0;
    for (let port = domain.events.bindIpi(0); port > 0; port = domain.events.bindIpi(0)) last = port;
    expect(last).toBe(4095);
    expect(domain.events.bindIpi(0)).toBe(-Errno.ENOSPC);
  });
});

describe("HVM parameters", () => {
  it("can all be asked for, and few of them set", () => {
    const { call, ram } = fakeDomain();
    for (let index = 0; index < 64; index++) {
      hvm.hvmParam.write(ram, ARGS, { domid: DOMID_SELF, index });
      expect([0, -Errno.EPERM, -Errno.EINVAL]).toContain(call(Hypercall.hvm_op, hvm.HvmOp.get_param, ARGS));
    }
    for (const index of [1, 2, 17, 18, 5, 9]) {
      hvm.hvmParam.write(ram, ARGS, { domid: DOMID_SELF, index, value: 3n });
      expect(call(Hypercall.hvm_op, hvm.HvmOp.set_param, ARGS)).toBe(-Errno.EPERM);
    }
    hvm.hvmParam.write(ram, ARGS, { domid: DOMID_SELF, index: 0xffffffff });
    expect(call(Hypercall.hvm_op, hvm.HvmOp.set_param, ARGS)).toBe(-Errno.EINVAL);
  });

  it("tells time and memory types", () => {
    const { call, ram, time } = fakeDomain();
    time.now = 12345;
    expect(call(Hypercall.hvm_op, hvm.HvmOp.get_time, ARGS)).toBe(0);
    expect(ram.getBigUint64(ARGS, true)).toBe(12345n);
    hvm.hvmGetMemType.write(ram, ARGS, { domid: DOMID_SELF, pfn: 1n << 40n });
    expect(call(Hypercall.hvm_op, hvm.HvmOp.get_mem_type, ARGS)).toBe(0);
    expect(hvm.hvmGetMemType.read(ram, ARGS).memType).toBe(hvm.HvmMemType.mmio_dm);
  });
});

describe("sched_op", () => {
  const shut = (reason: number) => {
    const { call, ram, domain } = fakeDomain();
    sched.schedShutdown.write(ram, ARGS, { reason });
    return { result: call(Hypercall.sched_op, sched.SchedOp.shutdown, ARGS), end: domain.shutdown };
  };

  it("cancels a suspend that nobody asked for", () => {
    expect(shut(sched.ShutdownReason.suspend)).toEqual({ result: 1, end: undefined });
  });

  it("takes any other reason for a crash", () => {
    expect(shut(sched.ShutdownReason.watchdog).end).toMatchObject({ reason: "crash", cause: /watchdog/ });
    expect(shut(200).end).toMatchObject({ reason: "crash", cause: /200/ });
  });

  it("keeps two watchdogs, which end the domain when nobody winds them up", () => {
    const { call, ram, domain, vcpu, time } = fakeDomain();
    const set = (id: number, timeout: number): number => {
      sched.schedWatchdog.write(ram, ARGS, { id, timeout });
      return call(Hypercall.sched_op, sched.SchedOp.watchdog, ARGS);
    };
    expect([set(0, 0), set(0, 10), set(0, 20), set(0, 30)]).toEqual([-Errno.EINVAL, 1, 2, -Errno.ENOSPC]);
    expect([set(3, 1), set(0xffffffff, 1)]).toEqual([-Errno.EINVAL, -Errno.EINVAL]);
    expect([set(1, 0), set(1, 5)]).toEqual([0, -Errno.EINVAL]);
    time.now = 15e9;
    vcpu.runTimers();
    expect(set(2, 20)).toBe(0);
    expect(domain.shutdown).toBeUndefined();
    time.now = 36e9;
    vcpu.runTimers();
    expect(domain.shutdown).toMatchObject({ reason: "crash", cause: /watchdog/ });
  });
});

describe("vcpu_op", () => {
  it("knows one vCPU, up and initialised", () => {
    const { call } = fakeDomain();
    const op = (operation: number, vcpu = 0) => call(Hypercall.vcpu_op, operation, vcpu, ARGS);
    expect(op(VcpuOp.is_up)).toBe(1);
    expect(op(VcpuOp.up)).toBe(0);
    expect(op(VcpuOp.initialise)).toBe(-Errno.EEXIST);
    expect(op(VcpuOp.is_up, 1)).toBe(-Errno.ENOENT);
    expect(op(VcpuOp.is_up, 0xffffffff)).toBe(-Errno.ENOENT);
    expect(op(99)).toBe(-Errno.ENOSYS);
  });

  it("powers off with its last vCPU", () => {
    const { call, domain } = fakeDomain();
    call(Hypercall.vcpu_op, VcpuOp.down, 0);
    expect(domain.shutdown).toEqual({ reason: "poweroff" });
  });
});

describe("grant_table_op", () => {
  it("answers ENOSYS to what it does not have", () => {
    const { call } = fakeDomain();
    expect(call(Hypercall.grant_table_op, GrantTableOp.dump_table, ARGS, 1)).toBe(-Errno.ENOSYS);
  });
});
