import { describe, expect, it } from "vitest";
import { Errno } from "../../engine/abi/errors.ts";
import * as abi from "../../engine/abi/event-channel.ts";
import { EventChannelOp } from "../../engine/abi/event-channel.ts";
import { Hypercall } from "../../engine/abi/hypercalls.ts";
import { Virq } from "../../engine/abi/xen.ts";
import { PortKind } from "../../engine/hypervisor/port-table.ts";
import { type FakeDomain, fakeDomain } from "./fake-domain.ts";

const ARGS = 0x5000;

function op({ call }: FakeDomain, operation: number): number {
  return call(Hypercall.event_channel_op, operation, ARGS);
}

function bindTimer(fake: FakeDomain): number {
  abi.bindVirq.write(fake.ram, ARGS, { virq: Virq.timer, vcpu: 0 });
  expect(op(fake, EventChannelOp.bind_virq)).toBe(0);
  return abi.bindVirq.read(fake.ram, ARGS).port;
}

describe("event channels", () => {
  it("binds a VIRQ once, and delivers it to vcpu_info", () => {
    const fake = fakeDomain();
    const port = bindTimer(fake);
    expect(port).toBe(3);
    expect(op(fake, EventChannelOp.bind_virq)).toBe(-Errno.EEXIST);
    expect(fake.domain.delivery.upcallPending(0)).toBe(false);
    fake.domain.events.raiseVirq(0, Virq.timer);
    expect(fake.domain.delivery.isPending(port)).toBe(true);
    expect(fake.domain.delivery.upcallPending(0)).toBe(true);
  });

  it("keeps a masked event back until it is unmasked", () => {
    const fake = fakeDomain();
    const port = bindTimer(fake);
    fake.domain.delivery.setMask(port);
    fake.domain.events.raiseVirq(0, Virq.timer);
    expect(fake.domain.delivery.upcallPending(0)).toBe(false);
    abi.portOnly.write(fake.ram, ARGS, { port });
    expect(op(fake, EventChannelOp.unmask)).toBe(0);
    expect(fake.domain.delivery.upcallPending(0)).toBe(true);
  });

  it("sends to the host once until the host has looked", () => {
    const fake = fakeDomain();
    abi.portOnly.write(fake.ram, ARGS, { port: fake.domain.consolePort });
    expect(op(fake, EventChannelOp.send)).toBe(0);
    expect(op(fake, EventChannelOp.send)).toBe(0);
    expect(fake.hostEvents).toEqual([fake.domain.consolePort]);
    expect(fake.domain.delivery.takeHostPending()).toEqual([fake.domain.consolePort]);
    expect(op(fake, EventChannelOp.send)).toBe(0);
    expect(fake.hostEvents).toHaveLength(2);
  });

  it("leaves a port that the host does not want to hear now, which then wakes nobody", () => {
    const fake = fakeDomain();
    const { delivery, consolePort, xenstorePort } = fake.domain;
    abi.portOnly.write(fake.ram, ARGS, { port: consolePort });
    expect(op(fake, EventChannelOp.send)).toBe(0);
    delivery.setHostPending(xenstorePort);
    expect(delivery.takeHostPending(consolePort)).toEqual([xenstorePort]);
    expect(op(fake, EventChannelOp.send)).toBe(0);
    expect(fake.hostEvents).toEqual([consolePort]);
    expect(delivery.takeHostPending(consolePort)).toEqual([]);
    expect(delivery.takeHostPending()).toEqual([consolePort]);
  });

  it("offers a port to the host, which binds and unbinds it", () => {
    const fake = fakeDomain();
    abi.allocUnbound.write(fake.ram, ARGS, { dom: 0x7ff0, remoteDom: 0 });
    expect(op(fake, EventChannelOp.alloc_unbound)).toBe(0);
    const { port } = abi.allocUnbound.read(fake.ram, ARGS);
    expect(fake.domain.events.bindFromHost(port)).toBe(true);
    expect(fake.domain.events.bindFromHost(port)).toBe(false);
    abi.channelStatus.write(fake.ram, ARGS, { dom: 0x7ff0, port });
    expect(op(fake, EventChannelOp.status)).toBe(0);
    expect(abi.channelStatus.read(fake.ram, ARGS)).toMatchObject({ status: abi.ChannelStatus.interdomain, detail: 0 });
    fake.domain.events.unbindFromHost(port);
    expect(fake.domain.events.get(port)).toEqual({ kind: PortKind.unbound, domain: 0, number: 0, toolstack: false });
  });

  it.each([
    ["FIFO", EventChannelOp.init_control, -Errno.ENOSYS],
    ["physical interrupts", EventChannelOp.bind_pirq, -Errno.EINVAL],
    ["closing port 0", EventChannelOp.close, -Errno.EINVAL],
    ["sending on port 0", EventChannelOp.send, -Errno.EINVAL],
  ])("refuses %s", (_what, operation, result) => {
    expect(op(fakeDomain(), operation)).toBe(result);
  });

  it("refuses a VIRQ or IPI of a vCPU that is not there", () => {
    const fake = fakeDomain();
    abi.bindVirq.write(fake.ram, ARGS, { virq: 0, vcpu: 1 });
    expect(op(fake, EventChannelOp.bind_virq)).toBe(-Errno.ENOENT);
    abi.bindVirq.write(fake.ram, ARGS, { virq: 24, vcpu: 0 });
    expect(op(fake, EventChannelOp.bind_virq)).toBe(-Errno.EINVAL);
    abi.bindIpi.write(fake.ram, ARGS, { vcpu: 0xffffffff });
    expect(op(fake, EventChannelOp.bind_ipi)).toBe(-Errno.ENOENT);
  });

  it("runs out of ports, and reset gives them back but the toolstack's", () => {
    const fake = fakeDomain();
    abi.bindIpi.write(fake.ram, ARGS, { vcpu: 0 });
    let bound = 0;
    while (op(fake, EventChannelOp.bind_ipi) === 0) bound++;
    expect(bound).toBe(4096 - 3);
    expect(op(fake, EventChannelOp.bind_ipi)).toBe(-Errno.ENOSPC);
    abi.resetChannels.write(fake.ram, ARGS, { dom: 0x7ff0 });
    expect(op(fake, EventChannelOp.reset)).toBe(0);
    const { consolePort } = fake.domain;
    const console = { kind: PortKind.interdomain, domain: 0, number: consolePort, toolstack: true };
    expect(fake.domain.events.get(consolePort)).toEqual(console);
    abi.bindIpi.write(fake.ram, ARGS, { vcpu: 0 });
    expect(op(fake, EventChannelOp.bind_ipi)).toBe(0);
  });

  it("leaves no port behind when its answer cannot be written", () => {
    const fake = fakeDomain();
    fake.domain.physmap.map(5 as never, 0x5000 as never, true);
    abi.bindIpi.write(fake.ram, ARGS, { vcpu: 0 });
    expect(op(fake, EventChannelOp.bind_ipi)).toBe(-Errno.EFAULT);
    expect(fake.domain.events.get(3).kind).toBe(PortKind.free);
  });
});
