/** Guests of 32 bits: register convention, structure layouts (as Xen's public headers have them on i386), shared_info. */
import { describe, expect, it } from "vitest";
import { Errno } from "../../engine/abi/errors.ts";
import * as evtchn from "../../engine/abi/event-channel.ts";
import * as grant from "../../engine/abi/grant-table.ts";
import * as hvm from "../../engine/abi/hvm.ts";
import { Hypercall } from "../../engine/abi/hypercalls.ts";
import * as memory from "../../engine/abi/memory-op.ts";
import * as sched from "../../engine/abi/sched-op.ts";
import type { Fields, Struct } from "../../engine/abi/struct.ts";
import * as vcpuAbi from "../../engine/abi/vcpu-op.ts";
import { VersionOp } from "../../engine/abi/version.ts";
import { DOMID_SELF, multicallEntry, sharedInfo, sharedInfoCompat, vcpuInfo } from "../../engine/abi/xen.ts";
import { hypercall } from "../../engine/hypervisor/hypercall.ts";
import { writeMsr } from "../../engine/hypervisor/msr.ts";
import { type FakeDomain, fakeDomain } from "./fake-domain.ts";

const ARGS = 0x5000;
const EBX_ECX_EDX_ESI_EDI = [3, 1, 2, 6, 7];

/** A fake domain whose calls come from 32-bit code, the upper halves of all registers full of rubbish. */
function narrowDomain(): FakeDomain {
  const fake = fakeDomain();
  fake.cpu.longMode = false;
  const rubbish = 0xdeadbeefn << 32n;
  return {
    ...fake,
    call(number, ...args) {
      fake.cpu.registers.fill(rubbish);
      fake.cpu.setRegister(0, rubbish | BigInt(number));
      for (const [i, arg] of args.entries()) {
        fake.cpu.setRegister(EBX_ECX_EDX_ESI_EDI[i] ?? 9, rubbish | BigInt.asUintN(32, BigInt(arg)));
      }
      hypercall(fake.vcpu);
      return Number(BigInt.asIntN(32, fake.cpu.getRegister(0)));
    },
  };
}

describe("32-bit structure layouts", () => {
  // Sizes and offsets that a C compiler gives for -m64 and -m32.
  it.each<[string, Struct<Fields>, number, number, Readonly<Record<string, readonly [number, number]>>]>([
    ["xen_memory_reservation", memory.memoryReservation, 32, 20, { nrExtents: [8, 4], domid: [24, 16] }],
    ["xen_add_to_physmap", memory.addToPhysmap, 24, 16, { idx: [8, 8], gpfn: [16, 12] }],
    ["xen_remove_from_physmap", memory.removeFromPhysmap, 16, 8, { gpfn: [8, 4] }],
    ["xen_memory_map", memory.memoryMap, 16, 8, { buffer: [8, 4] }],
    ["gnttab_map_grant_ref", grant.mapGrantRef, 32, 32, { status: [18, 18], devBusAddr: [24, 24] }],
    ["gnttab_unmap_grant_ref", grant.unmapGrantRef, 24, 24, { status: [20, 20] }],
    ["gnttab_setup_table", grant.setupTable, 24, 16, { status: [8, 8], frameList: [16, 12] }],
    ["gnttab_transfer", grant.transferGrant, 24, 16, { status: [16, 12] }],
    ["gnttab_copy", grant.grantCopy, 40, 24, { destRef: [16, 8], status: [36, 20] }],
    ["gnttab_query_size", grant.querySize, 16, 16, { status: [12, 12] }],
    ["gnttab_get_version", grant.getVersion, 8, 8, { version: [4, 4] }],
    ["evtchn_status", evtchn.channelStatus, 24, 24, { detail: [16, 16] }],
    ["evtchn_bind_interdomain", evtchn.bindInterdomain, 12, 12, { localPort: [8, 8] }],
    ["sched_poll", sched.schedPoll, 24, 16, { timeout: [16, 8] }],
    ["vcpu_runstate_info", vcpuAbi.runstateInfo, 48, 44, { stateEntryTime: [8, 4], time: [16, 12] }],
    ["vcpu_register_vcpu_info", vcpuAbi.registerVcpuInfo, 16, 16, { offset: [8, 8] }],
    ["vcpu_set_singleshot_timer", vcpuAbi.setSingleshotTimer, 16, 12, { flags: [8, 8] }],
    ["vcpu_info", vcpuInfo, 64, 48, { pendingSelector: [8, 4] }],
    ["multicall_entry", multicallEntry, 64, 32, { result: [8, 4], args: [16, 8] }],
    ["xen_hvm_param", hvm.hvmParam, 16, 16, { value: [8, 8] }],
    ["xen_hvm_get_mem_type", hvm.hvmGetMemType, 16, 16, { pfn: [8, 8] }],
  ])("%s", (_name, struct, wide, narrow, offsets) => {
    expect(struct.size).toBe(wide);
    if (struct !== vcpuInfo) expect(struct.compat.size).toBe(narrow);
    for (const [field, [long, short]] of Object.entries(offsets)) {
      expect([struct.offsets[field], struct.compat.offsets[field]]).toEqual([long, short]);
    }
  });

  it("shared_info", () => {
    const { evtchnPending, evtchnMask, wcVersion, wcSecHi } = sharedInfo.offsets;
    expect([evtchnPending, evtchnMask, wcVersion, wcSecHi]).toEqual([2048, 2560, 3072, 3084]);
    const compat = sharedInfoCompat.offsets;
    expect([compat.evtchnPending, compat.evtchnMask, compat.wcVersion, compat.wcSecHi]).toEqual([
      2048, 2176, 2304, 2340,
    ]);
  });
});

describe("hypercalls from 32-bit code", () => {
  it("ignore the upper halves of registers", () => {
    const { call } = narrowDomain();
    expect(call(Hypercall.xen_version, VersionOp.version)).toBe(0x40011);
    expect(call(Hypercall.vcpu_op, vcpuAbi.VcpuOp.is_up, 0)).toBe(1);
  });

  it("read pointers of 4 bytes inside structures", () => {
    const { call, ram, domain } = narrowDomain();
    memory.memoryReservation.compat.write(ram, ARGS, { extentStart: 0x6000n, nrExtents: 2n, domid: DOMID_SELF });
    ram.setUint32(0x6000, 0x80, true);
    ram.setUint32(0x6004, 0x81, true);
    expect(call(Hypercall.memory_op, memory.MemoryOp.decrease_reservation, ARGS)).toBe(2);
    expect(domain.physmap.get(0x80) ?? domain.physmap.get(0x81)).toBeUndefined();
    expect(call(Hypercall.memory_op, memory.MemoryOp.populate_physmap, ARGS)).toBe(2);
    expect(domain.physmap.get(0x81)).toBeDefined();
  });

  it("run a multicall of short entries", () => {
    const { call, ram } = narrowDomain();
    multicallEntry.compat.write(ram, ARGS, { op: BigInt(Hypercall.xen_version), args: [0n] });
    multicallEntry.compat.write(ram, ARGS + 32, { op: 77n });
    expect(call(Hypercall.multicall, ARGS, 2)).toBe(0);
    expect(multicallEntry.compat.read(ram, ARGS).result).toBe(0x40011n);
    expect(multicallEntry.compat.read(ram, ARGS + 32).result).toBe(BigInt(-Errno.ENOSYS));
  });

  it("list grant frames as 4-byte frame numbers", () => {
    const { call, ram } = narrowDomain();
    memory.addToPhysmap.compat.write(ram, ARGS, {
      domid: DOMID_SELF,
      space: memory.MapSpace.grant_table,
      gpfn: 0x10000n,
    });
    expect(call(Hypercall.memory_op, memory.MemoryOp.add_to_physmap, ARGS)).toBe(0);
    grant.setupTable.compat.write(ram, ARGS, { dom: DOMID_SELF, nrFrames: 2, frameList: 0x6000n });
    ram.setUint32(0x6008, 0x55555555, true);
    expect(call(Hypercall.grant_table_op, grant.GrantTableOp.setup_table, ARGS, 1)).toBe(0);
    expect([0x6000, 0x6004, 0x6008].map((at) => ram.getUint32(at, true))).toEqual([0x10000, 0xffffffff, 0x55555555]);
  });

  it("pass the time of set_timer_op in two halves", () => {
    const { call, vcpu } = narrowDomain();
    expect(call(Hypercall.set_timer_op, 5, 2)).toBe(0);
    expect(vcpu.timers.next).toBe(2 * 2 ** 32 + 5);
  });

  it("write the run state in its short layout, to the end of the registration", () => {
    const { call, ram, cpu, vcpu, time } = narrowDomain();
    ram.setUint32(0x6000 + 44, 0x55555555, true);
    vcpuAbi.registerMemoryArea.compat.write(ram, ARGS, { address: 0x6000n });
    expect(call(Hypercall.vcpu_op, vcpuAbi.VcpuOp.register_runstate_memory_area, 0, ARGS)).toBe(0);
    cpu.longMode = true;
    time.now = 3000;
    vcpu.enter("blocked");
    expect(vcpuAbi.runstateInfo.compat.read(ram, 0x6000)).toMatchObject({ state: 2, stateEntryTime: 3000n });
    expect(ram.getUint32(0x6000 + 44, true)).toBe(0x55555555);
  });
});

describe("shared_info of a 32-bit guest", () => {
  it("takes its layout from the code that writes the hypercall page, wall clock included", () => {
    const { domain, vcpu, cpu } = narrowDomain();
    expect(writeMsr(vcpu, 0x40000000, 0x9000n)).toBe(true);
    expect(domain.delivery.narrow).toBe(true);
    const view = new DataView(cpu.memory.buffer, domain.mapping.base + domain.plan.sharedInfo, 4096);
    expect(sharedInfoCompat.read(view)).toMatchObject({ wcSec: 1_700_000_000, wcNsec: 123_456_789 });
  });

  it("has 1024 channels, 32 a selector bit, and follows the callback of a 64-bit kernel booted later", () => {
    const { domain, call, ram, cpu } = narrowDomain();
    domain.latchLayout(true);
    const ports = Array.from({ length: 1100 }, () => domain.events.bindIpi(0)).filter((port) => port > 0);
    expect(Math.max(...ports)).toBe(1023);
    expect(domain.events.bindIpi(0)).toBe(-Errno.ENOSPC);
    evtchn.portOnly.write(ram, ARGS, { port: 70 });
    expect(call(Hypercall.event_channel_op, evtchn.EventChannelOp.send, ARGS)).toBe(0);
    const info = new DataView(cpu.memory.buffer, domain.mapping.base + domain.plan.sharedInfo, 4096);
    expect(info.getUint32(2048 + 8, true)).toBe(1 << 6);
    expect(info.getUint32(vcpuInfo.compat.offsets.pendingSelector, true)).toBe(1 << 2);
    expect(info.getUint8(0)).toBe(1);
    evtchn.portOnly.write(ram, ARGS, { port: 1024 });
    expect(call(Hypercall.event_channel_op, evtchn.EventChannelOp.unmask, ARGS)).toBe(-Errno.EINVAL);
    cpu.longMode = true;
    cpu.registers.fill(0n);
    hvm.hvmParam.write(ram, ARGS, { domid: DOMID_SELF, index: hvm.HvmParam.callback_irq, value: (2n << 56n) | 0xf3n });
    cpu.setRegister(0, BigInt(Hypercall.hvm_op));
    cpu.setRegister(7, BigInt(hvm.HvmOp.set_param));
    cpu.setRegister(6, BigInt(ARGS));
    hypercall(domain.vcpus[0] ?? expect.fail());
    expect(domain.delivery.narrow).toBe(false);
  });
});
