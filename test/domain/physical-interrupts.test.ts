import { closeSync, readSync, writeSync } from "node:fs";
import koffi from "koffi";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Errno } from "../../engine/abi/errors.ts";
import { PhysicalInterruptController } from "../../engine/domain/physical-interrupts.ts";
import { createPipe, type Pipe } from "../../engine/domain/poll.ts";
import { takePending } from "../../engine/hypervisor/event-scan.ts";
import { type DomainView, Lab, viewDomain } from "../hypervisor/mapped-domains.ts";

const BYTE = Uint8Array.of(1);
const AF_UNIX = 1;
const SOCK_STREAM = 1;

describe.runIf(process.platform === "linux")("host descriptors as physical interrupts", () => {
  let lab: Lab;
  let view: DomainView;
  let controller: PhysicalInterruptController;
  let pipes: Pipe[];

  beforeEach(() => {
    lab = new Lab();
    lab.add(1);
    controller = new PhysicalInterruptController(lab.input(1).memory);
    view = viewDomain(lab.input(1), controller);
    pipes = [];
  });

  afterEach(async () => {
    await controller.close();
    for (const pipe of pipes) pipe.close();
    lab.close();
  });

  function pipe(): Pipe {
    const made = createPipe();
    pipes.push(made);
    return made;
  }

  function connect(descriptor: number): { readonly pirq: number; readonly port: number } {
    const pirq = controller.register(descriptor);
    const port = view.events.bindPirq(pirq);
    expect(port).toBeGreaterThan(0);
    return { pirq, port };
  }

  /** Blocks this thread, event loop and all, until there are events; they come nevertheless. */
  function next(): number[] {
    const ports: number[] = [];
    const { delivery, mapping } = view;
    for (let tries = 0; tries < 100 && ports.length === 0; tries++) {
      delivery.sleep(0, 1e8, () => delivery.upcallPending(0));
      takePending(mapping, delivery, 0, (port) => ports.push(port));
    }
    return ports;
  }

  /** Whether a source stays silent: an event of one that is ready afterwards arrives alone. */
  function onlyProbe(): void {
    const probe = pipe();
    const { pirq, port } = connect(probe.read);
    writeSync(probe.write, BYTE);
    expect(next()).toEqual([port]);
    view.events.close(port);
    controller.unregister(pirq);
  }

  it("tells that a pipe is readable once, and again after the end of the interrupt while it still is", () => {
    const source = pipe();
    const { pirq, port } = connect(source.read);
    onlyProbe();
    writeSync(source.write, BYTE);
    expect(next()).toEqual([port]);
    writeSync(source.write, BYTE);
    onlyProbe();
    controller.eoi(pirq);
    expect(next()).toEqual([port]);
    readSync(source.read, new Uint8Array(2));
    controller.eoi(pirq);
    onlyProbe();
    writeSync(source.write, BYTE);
    expect(next()).toEqual([port]);
  });

  it("tells that the other side of a socket has hung up", () => {
    const ends = new Int32Array(2);
    const socketpair = koffi.load(null).func("socketpair", "int", ["int", "int", "int", "void *"]);
    expect(socketpair(AF_UNIX, SOCK_STREAM, 0, ends)).toBe(0);
    const [near = -1, far = -1] = ends;
    const { pirq, port } = connect(near);
    onlyProbe();
    closeSync(far);
    expect(next()).toEqual([port]);
    controller.eoi(pirq);
    expect(next()).toEqual([port]);
    controller.unregister(pirq);
    closeSync(near);
  });

  it("serves many descriptors at once", () => {
    const sources = Array.from({ length: 200 }, () => pipe());
    const ports = sources.map(({ read }) => connect(read).port);
    for (const { write } of sources) writeSync(write, BYTE);
    const seen: number[] = [];
    while (seen.length < ports.length) {
      const more = next();
      expect(more.length).toBeGreaterThan(0);
      seen.push(...more);
    }
    expect(seen.sort((a, b) => a - b)).toEqual(ports);
  });

  it("is silent after its channel was closed or it was unregistered, and its number is used again", () => {
    const source = pipe();
    const { pirq, port } = connect(source.read);
    expect(view.events.close(port)).toBe(0);
    writeSync(source.write, BYTE);
    onlyProbe();
    const bound = view.events.bindPirq(pirq);
    expect(next()).toEqual([bound]);
    controller.unregister(pirq);
    controller.eoi(pirq);
    onlyProbe();
    expect(controller.register(pipe().read)).toBe(pirq);
  });

  it("refuses what is no source, and a second channel for one", () => {
    const { pirq } = connect(pipe().read);
    expect(view.events.bindPirq(pirq)).toBe(-Errno.EEXIST);
    for (const bad of [pirq + 1, 4095, 4096]) expect(view.events.bindPirq(bad)).toBe(-Errno.EINVAL);
    for (const bad of [-1, 1.5, 4096, Number.NaN]) {
      expect(controller.bind(bad, 1)).toBe(-Errno.EINVAL);
      controller.eoi(bad);
      controller.unbind(bad);
      controller.unregister(bad);
    }
    expect(view.events.get(2).kind).toBe(0);
  });

  it("closes more than once, with sources armed", async () => {
    connect(pipe().read);
    await Promise.all([controller.close(), controller.close()]);
    await controller.close();
  });
});
