/** Hypercalls as real code makes them: both word sizes, both instructions, the page of stubs, level 3, bad pointers. */
import { describe, expect, it } from "vitest";
import { Errno } from "../../engine/abi/errors.ts";
import { EventChannelOp } from "../../engine/abi/event-channel.ts";
import { HvmOp } from "../../engine/abi/hvm.ts";
import { Hypercall } from "../../engine/abi/hypercalls.ts";
import { MapSpace, MemoryOp } from "../../engine/abi/memory-op.ts";
import { SchedOp } from "../../engine/abi/sched-op.ts";
import { VcpuOp } from "../../engine/abi/vcpu-op.ts";
import { VersionOp } from "../../engine/abi/version.ts";
import { DOMID_SELF } from "../../engine/abi/xen.ts";
import {
  ARGUMENTS,
  CODE,
  HYPERCALL_PAGE,
  Program32,
  Program64,
  READ_ONLY,
  runTiny,
  SHARED_INFO,
  UNMAPPED,
  VMCALL,
} from "./tiny-guest.ts";

const VERSION = 0x40011;
const { xen_version, memory_op, sched_op, vcpu_op, event_channel_op, hvm_op, console_io, grant_table_op } = Hypercall;
/** mov rax, page + 32 * number; call rax */
const throughPage = (number: number): number[] => {
  const address = HYPERCALL_PAGE + 32 * number;
  return [0xb8, ...[0, 8, 16, 24].map((shift) => (address >>> shift) & 0xff), 0xff, 0xd0];
};

describe("a 32-bit guest", () => {
  it("calls by vmmcall, vmcall and the page of stubs", async () => {
    const program = new Program32();
    program.call(xen_version, [VersionOp.version]).call(xen_version, [VersionOp.version], VMCALL);
    program.wrmsr(0x40000000, HYPERCALL_PAGE).call(0, [VersionOp.version], Program32.page(xen_version));
    program.call(77, []).call(xen_version, [VersionOp.extraversion, 0xe000_0000]);
    const { exit, results } = await runTiny(program.finish().kernel());
    expect(results).toEqual([VERSION, VERSION, VERSION, -Errno.ENOSYS, -Errno.EFAULT]);
    expect(exit).toEqual({ reason: "poweroff" });
  });

  it("maps shared_info and gets events in the 32-bit layout", async () => {
    const program = new Program32().wrmsr(0x40000000, HYPERCALL_PAGE);
    program
      .put(ARGUMENTS, DOMID_SELF)
      .put(ARGUMENTS + 4, MapSpace.shared_info)
      .put(ARGUMENTS + 12, SHARED_INFO >> 12);
    program.call(memory_op, [MemoryOp.add_to_physmap, ARGUMENTS]);
    program.put(ARGUMENTS + 64, 0).call(event_channel_op, [EventChannelOp.bind_ipi, ARGUMENTS + 64]);
    program.call(event_channel_op, [EventChannelOp.send, ARGUMENTS + 68]);
    program
      .show(ARGUMENTS + 68)
      .show(SHARED_INFO + 2048)
      .show(SHARED_INFO + 4)
      .show(SHARED_INFO);
    const { results } = await runTiny(program.finish().kernel());
    const [mapped, bound, sent, port = 0, pending = 0, selector, upcall = 0] = results;
    expect([mapped, bound, sent]).toEqual([0, 0, 0]);
    expect(pending & (1 << port)).not.toBe(0);
    expect([selector, upcall & 1]).toEqual([1, 1]);
  });
});

describe("a 64-bit guest", () => {
  it("calls by vmmcall, vmcall and the page of stubs", async () => {
    const program = new Program64();
    program.call(xen_version, [VersionOp.version]).call(xen_version, [VersionOp.version], VMCALL);
    program.wrmsr(0x40000000, HYPERCALL_PAGE).call(0, [VersionOp.version], throughPage(xen_version));
    program.call(0xabcd_0000_0000n | BigInt(xen_version), [VersionOp.version]);
    program.call(xen_version, [0xabcd_0000_0000n | BigInt(VersionOp.version)]);
    const { results } = await runTiny(program.finish().kernel());
    expect(results).toEqual([VERSION, VERSION, VERSION, -Errno.ENOSYS, VERSION]);
  });

  it("gets EPERM at level 3", async () => {
    const length = new Program64().beforeUser(0).user().call(xen_version, [0]).kernelAgain().here - CODE;
    const program = new Program64().beforeUser(CODE + length).user();
    program.call(xen_version, [VersionOp.version]).kernelAgain().call(xen_version, [VersionOp.version]);
    const { results } = await runTiny(program.finish().kernel());
    expect(results).toEqual([-Errno.EPERM, VERSION]);
  });

  it("gets EFAULT for every pointer that its page tables do not allow", async () => {
    const pointers = [UNMAPPED, READ_ONLY, 0x8000_0000_0000n, -4096n, 1n << 40n, UNMAPPED - 4];
    const program = new Program64();
    for (const pointer of pointers) program.call(xen_version, [VersionOp.extraversion, pointer]);
    for (const pointer of [UNMAPPED, UNMAPPED - 1]) {
      program.call(memory_op, [MemoryOp.add_to_physmap, pointer]).call(sched_op, [SchedOp.poll, pointer]);
      program.call(vcpu_op, [VcpuOp.register_vcpu_info, 0, pointer]).call(hvm_op, [HvmOp.set_param, pointer]);
      program.call(event_channel_op, [EventChannelOp.send, pointer]).call(grant_table_op, [6, pointer, 1]);
      program.call(console_io, [0, 16, pointer]);
    }
    const count = program.results;
    const { results } = await runTiny(program.finish().kernel());
    expect(results).toEqual(new Array(count).fill(-Errno.EFAULT));
  });

  it("sleeps in poll and block until its timer fires", async () => {
    const program = new Program64();
    // bind VIRQ_TIMER
    program.call(event_channel_op, [EventChannelOp.bind_virq, ARGUMENTS]);
    // poll without ports until domain time 1 ns, which has passed
    program.put(ARGUMENTS + 0x50, 1).call(sched_op, [SchedOp.poll, ARGUMENTS + 0x40]);
    // a singleshot timer in the past fires; with the flag "future" it says so instead
    program.put(ARGUMENTS + 0x80, 1).call(vcpu_op, [VcpuOp.set_singleshot_timer, 0, ARGUMENTS + 0x80]);
    program.call(sched_op, [SchedOp.block]);
    program.put(ARGUMENTS + 0x88, 1).call(vcpu_op, [VcpuOp.set_singleshot_timer, 0, ARGUMENTS + 0x80]);
    const { exit, results } = await runTiny(program.finish().kernel());
    expect(results).toEqual([0, 0, 0, 0, -Errno.ETIME]);
    expect(exit).toEqual({ reason: "poweroff" });
  });

  it("cannot flood the log or the memory of its host", async () => {
    const program = new Program64();
    program.emit(0xbd, 0x00, 0x08, 0, 0); // mov ebp, 2048
    const loop = program.here;
    program.call(console_io, [0, 16384, CODE]).call(1000, []);
    program.results = 0;
    const back = loop - (program.here + 2 + 6);
    program.emit(0xff, 0xcd, 0x0f, 0x85, ...[0, 8, 16, 24].map((shift) => (back >>> shift) & 0xff)); // dec ebp; jnz
    const { exit, output } = await runTiny(program.finish().kernel());
    expect(exit).toEqual({ reason: "poweroff" });
    expect(output.length).toBe(2048 * 16384);
  });
});
