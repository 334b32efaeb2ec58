/** Error numbers and statuses as Xen 4.17 answers a domain without privileges, where a caller may tell them apart. */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Errno } from "../../engine/abi/errors.ts";
import * as evtchn from "../../engine/abi/event-channel.ts";
import * as grant from "../../engine/abi/grant-table.ts";
import * as hvm from "../../engine/abi/hvm.ts";
import { Hypercall } from "../../engine/abi/hypercalls.ts";
import * as memory from "../../engine/abi/memory-op.ts";
import * as sched from "../../engine/abi/sched-op.ts";
import type { Fields, Struct, StructValue } from "../../engine/abi/struct.ts";
import { VersionOp } from "../../engine/abi/version.ts";
import { DOMID_SELF, Virq } from "../../engine/abi/xen.ts";
import { fakeDomain } from "./fake-domain.ts";
import { ARGS, GrantLab, type Guest } from "./grant-domains.ts";

const { EventChannelOp } = evtchn;
const { GrantStatus, GrantTableOp } = grant;
const { MapSpace, MemoryOp } = memory;
const CALLER = 5;
const OTHER = 6;
const NOBODY = 77;

let lab: GrantLab;
let guest: Guest;
beforeEach(() => {
  lab = new GrantLab();
  guest = lab.guest(CALLER);
  lab.guest(OTHER);
});
afterEach(() => lab.close());

function put<F extends Fields>(struct: Struct<F>, args: Partial<StructValue<F>>): void {
  new Uint8Array(guest.ram.buffer, guest.ram.byteOffset + ARGS, struct.size).set(struct.encode(args));
}

describe("an operation on another domain", () => {
  const operations: readonly (readonly [string, (dom: number) => void, number, readonly number[]])[] = [
    ["alloc_unbound", (dom) => put(evtchn.allocUnbound, { dom }), Hypercall.event_channel_op, [6, ARGS]],
    ["evtchn status", (dom) => put(evtchn.channelStatus, { dom, port: 1 }), Hypercall.event_channel_op, [5, ARGS]],
    ["evtchn reset", (dom) => put(evtchn.resetChannels, { dom }), Hypercall.event_channel_op, [10, ARGS]],
    ["get_param", (domid) => put(hvm.hvmParam, { domid, index: 1 }), Hypercall.hvm_op, [1, ARGS]],
    ["set_param", (domid) => put(hvm.hvmParam, { domid, index: 0 }), Hypercall.hvm_op, [0, ARGS]],
    ["get_mem_type", (domid) => put(hvm.hvmGetMemType, { domid }), Hypercall.hvm_op, [15, ARGS]],
    ["add_to_physmap", (domid) => put(memory.addToPhysmap, { domid }), Hypercall.memory_op, [7, ARGS]],
    ["its batch", (domid) => put(memory.addToPhysmapBatch, { domid }), Hypercall.memory_op, [23, ARGS]],
    ["remove_from_physmap", (domid) => put(memory.removeFromPhysmap, { domid }), Hypercall.memory_op, [15, ARGS]],
    ["current_reservation", (dom) => put(evtchn.resetChannels, { dom }), Hypercall.memory_op, [3, ARGS]],
    ["maximum_gpfn", (dom) => put(evtchn.resetChannels, { dom }), Hypercall.memory_op, [14, ARGS]],
    ["gnttab get_version", (dom) => put(grant.getVersion, { dom }), Hypercall.grant_table_op, [10, ARGS, 1]],
    ["remote_shutdown", (domainId) => put(sched.remoteShutdown, { domainId }), Hypercall.sched_op, [4, ARGS]],
  ];

  it.each(operations)("%s: EPERM, or ESRCH where there is none", (_name, prepare, number, args) => {
    const answers = [OTHER, 0, NOBODY, 0x7ff2].map((dom) => {
      prepare(dom);
      return guest.call(number, ...args);
    });
    expect(answers).toEqual([-Errno.EPERM, -Errno.EPERM, -Errno.ESRCH, -Errno.ESRCH]);
    expect(guest.domain.shutdown).toBeUndefined();
  });

  it("on its grant table: permission_denied, or bad_domain", () => {
    const { query_size, setup_table } = GrantTableOp;
    const sizes = [OTHER, NOBODY].map((dom) => guest.grantOp(query_size, grant.querySize, { dom }).status);
    const setups = [OTHER, NOBODY].map((dom) => guest.grantOp(setup_table, grant.setupTable, { dom }).status);
    const refused = [GrantStatus.permission_denied, GrantStatus.bad_domain];
    expect([sizes, setups]).toEqual([refused, refused]);
    expect(guest.call(Hypercall.grant_table_op, query_size, ARGS, 2)).toBe(-Errno.EINVAL);
  });

  it("one call takes as many grants as Linux's gntdev maps at once", () => {
    const { map_grant_ref } = GrantTableOp;
    expect(guest.call(Hypercall.grant_table_op, map_grant_ref, 0x10000, 5000)).toBe(0);
    expect(guest.call(Hypercall.grant_table_op, map_grant_ref, 0x10000, 65537)).toBe(-Errno.EINVAL);
  });

  it("remote_shutdown is not for oneself", () => {
    put(sched.remoteShutdown, { domainId: CALLER });
    expect(guest.call(Hypercall.sched_op, sched.SchedOp.remote_shutdown, ARGS)).toBe(-Errno.EPERM);
  });
});

describe("event channels", () => {
  it("a global interrupt of another vCPU is EINVAL, one of a vCPU's own that is not there ENOENT", () => {
    const answers = [Virq.console, Virq.timer].map((virq) => {
      put(evtchn.bindVirq, { virq, vcpu: 3 });
      return guest.call(Hypercall.event_channel_op, EventChannelOp.bind_virq, ARGS);
    });
    expect(answers).toEqual([-Errno.EINVAL, -Errno.ENOENT]);
  });
});

describe("add_to_physmap", () => {
  const add = (args: Partial<ReturnType<typeof memory.addToPhysmap.read>>): number => {
    put(memory.addToPhysmap, { domid: DOMID_SELF, ...args });
    return guest.call(Hypercall.memory_op, MemoryOp.add_to_physmap, ARGS);
  };

  it("moves a range of frames, which are gone from their first place", () => {
    for (let i = 0; i < 3; i++) guest.write32(0x40000 + 4096 * i, 100 + i);
    expect(add({ space: MapSpace.gmfn_range, size: 3, idx: 0x40n, gpfn: 0x300n })).toBe(0);
    expect([0, 1, 2].map((i) => guest.read32(0x300000 + 4096 * i))).toEqual([100, 101, 102]);
    expect(guest.domain.physmap.get(0x41)).toBeUndefined();
    expect(add({ space: MapSpace.gmfn_range, size: 2, idx: 0x50n, gpfn: 0xfefffn })).toBe(-Errno.EINVAL);
    expect(guest.domain.physmap.get(0x50)).toBeDefined();
  });

  it("knows neither a space beyond Xen's nor another domain's frames", () => {
    expect(add({ space: MapSpace.gmfn_foreign, idx: 0x40n, gpfn: 0x300n })).toBe(-Errno.ENOSYS);
    expect(add({ space: 9, idx: 0x40n, gpfn: 0x300n })).toBe(-Errno.ENOSYS);
  });
});

describe("add_to_physmap_batch", () => {
  const LISTS = { idxs: 0x6000n, gpfns: 0x6100n, errs: 0x6200n };
  const batch = (args: Partial<ReturnType<typeof memory.addToPhysmapBatch.read>>) => {
    put(memory.addToPhysmapBatch, { domid: DOMID_SELF, ...LISTS, ...args });
    return guest.call(Hypercall.memory_op, MemoryOp.add_to_physmap_batch, ARGS);
  };
  const list = (at: bigint, values: readonly bigint[]) => {
    for (const [i, value] of values.entries()) guest.ram.setBigUint64(Number(at) + 8 * i, value, true);
  };
  const errors = (count: number) => Array.from({ length: count }, (_, i) => guest.ram.getInt32(0x6200 + 4 * i, true));

  it("places each page and says of each how that went", () => {
    list(LISTS.idxs, [0n, 99n, 2n]);
    list(LISTS.gpfns, [0x300n, 0x301n, 0x302n]);
    expect(batch({ space: MapSpace.grant_table, size: 3 })).toBe(0);
    expect(errors(3)).toEqual([0, -Errno.EINVAL, 0]);
    const { grantTable } = guest.domain.plan;
    const places = [0x300, 0x301, 0x302].map((frame) => guest.domain.physmap.get(frame)?.offset);
    expect(places).toEqual([grantTable, undefined, grantTable + 2 * 4096]);
  });

  it("maps no other domain's frames, and takes no ranges", () => {
    const foreign = [OTHER, NOBODY, CALLER].map((foreignDomid) => {
      expect(batch({ space: MapSpace.gmfn_foreign, size: 1, foreignDomid })).toBe(0);
      return errors(1)[0];
    });
    expect(foreign).toEqual([-Errno.EPERM, -Errno.ESRCH, -Errno.EINVAL]);
    expect(batch({ space: MapSpace.gmfn_range, size: 1 })).toBe(-Errno.EOPNOTSUPP);
    expect(batch({ space: MapSpace.gmfn, size: 1, errs: 0x7000_0000n })).toBe(-Errno.EFAULT);
  });
});

describe("what has no meaning for such a domain", () => {
  it("exchange and virtual NUMA nodes are EOPNOTSUPP", () => {
    const { call } = fakeDomain();
    for (const op of [MemoryOp.exchange, MemoryOp.get_vnumainfo]) {
      expect(call(Hypercall.memory_op, op, ARGS)).toBe(-Errno.EOPNOTSUPP);
    }
  });

  it("Xen's command line is kept from it", () => {
    const { call, ram } = fakeDomain();
    expect(call(Hypercall.xen_version, VersionOp.commandline, ARGS)).toBe(0);
    const text = Buffer.from(ram.buffer, ram.byteOffset + ARGS, 9).toString("latin1");
    expect(text).toBe("<denied>\0");
  });
});

describe("shutdown_code", () => {
  const { shutdown_code, shutdown } = sched.SchedOp;
  it("counts more than how the guest then stops, and the first one stands", () => {
    for (const reason of [sched.ShutdownReason.crash, sched.ShutdownReason.reboot]) {
      put(sched.schedShutdown, { reason });
      expect(guest.call(Hypercall.sched_op, shutdown_code, ARGS)).toBe(0);
    }
    expect(guest.domain.shutdown).toBeUndefined();
    put(sched.schedShutdown, { reason: sched.ShutdownReason.poweroff });
    expect(guest.call(Hypercall.sched_op, shutdown, ARGS)).toBe(0);
    expect(guest.domain.shutdown?.reason).toBe("crash");
  });
});
