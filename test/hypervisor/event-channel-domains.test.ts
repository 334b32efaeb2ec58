import { spawn } from "node:child_process";
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Errno } from "../../engine/abi/errors.ts";
import { ChannelStatus } from "../../engine/abi/event-channel.ts";
import { Virq } from "../../engine/abi/xen.ts";
import { compiledPath } from "../../engine/domain/entry.ts";
import { takePending } from "../../engine/hypervisor/event-scan.ts";
import { encodePort, PortKind, PortTable } from "../../engine/hypervisor/port-table.ts";
import { domId } from "../../engine/memory/types.ts";
import type { StressInput } from "./channel-worker.ts";
import { type DomainView, Lab, viewDomain } from "./mapped-domains.ts";

let lab: Lab;
let a: DomainView;
let b: DomainView;

function connect(from: DomainView, to: DomainView): { readonly near: number; readonly far: number } {
  const near = from.events.allocUnbound(to.id);
  const far = to.events.bindInterdomain(from.id, near);
  return { near, far };
}

function taken({ mapping, delivery }: DomainView, vcpu = 0): number[] {
  const ports: number[] = [];
  takePending(mapping, delivery, vcpu, (port) => ports.push(port));
  return ports;
}

describe.runIf(process.platform === "linux")("event channels between domains", () => {
  beforeEach(() => {
    lab = new Lab();
    a = lab.add(1);
    b = lab.add(2);
  });
  afterEach(() => lab.close());

  it("binds to an offered port, and tells both ends who the other is", () => {
    const spare = b.events.allocUnbound(1);
    const { near, far } = connect(a, b);
    expect(far).not.toBe(spare);
    const interdomain = { status: ChannelStatus.interdomain, vcpu: 0 };
    expect(a.events.status(near)).toEqual({ ...interdomain, detail: 2, remotePort: far });
    expect(b.events.status(far)).toEqual({ ...interdomain, detail: 1, remotePort: near });
    expect(b.events.status(spare)).toEqual({ status: ChannelStatus.unbound, vcpu: 0, detail: 1, remotePort: 0 });
    expect(taken(b)).toEqual([far]);
    expect(taken(a)).toEqual([]);
  });

  it("sends either way, and once until the peer has looked", () => {
    const { near, far } = connect(a, b);
    taken(b);
    expect([a.events.send(near), a.events.send(near)]).toEqual([0, 0]);
    expect(taken(b)).toEqual([far]);
    expect(taken(b)).toEqual([]);
    b.events.send(far);
    expect(taken(a)).toEqual([near]);
  });

  it("lets only the named domain bind, and only once", () => {
    const c = lab.add(3);
    const port = a.events.allocUnbound(2);
    expect(c.events.bindInterdomain(1, port)).toBe(-Errno.EINVAL);
    expect(a.events.bindInterdomain(1, port)).toBe(-Errno.EINVAL);
    expect(b.events.bindInterdomain(1, port)).toBe(1);
    expect(b.events.bindInterdomain(1, port)).toBe(-Errno.EINVAL);
    for (const bad of [0, port + 1, 4095, 4096, 0xffffffff]) {
      expect(b.events.bindInterdomain(1, bad)).toBe(-Errno.EINVAL);
    }
    expect(b.events.bindInterdomain(9, 1)).toBe(-Errno.ESRCH);
    expect(b.events.get(2).kind).toBe(PortKind.free);
  });

  it("a failing bind leaves everything as it was", () => {
    connect(a, b);
    const c = lab.add(3);
    a.events.allocUnbound(3);
    const snapshot = () => [a, b].map(({ events }) => Array.from({ length: 8 }, (_, port) => events.get(port)));
    const before = snapshot();
    while (c.events.bindIpi(0) > 0);
    expect(c.events.bindInterdomain(1, 2)).toBe(-Errno.ENOSPC);
    expect(b.events.bindInterdomain(1, 2)).toBe(-Errno.EINVAL);
    expect(snapshot()).toEqual(before);
  });

  it("a domain connects two ports of its own", () => {
    const first = a.events.allocUnbound(1);
    const second = a.events.bindInterdomain(1, first);
    expect(second).not.toBe(first);
    taken(a);
    a.events.send(first);
    expect(taken(a)).toEqual([second]);
    expect(a.events.close(first)).toBe(0);
    expect(a.events.get(second).kind).toBe(PortKind.unbound);
  });

  it("puts the other end on offer again when one closes", () => {
    const { near, far } = connect(a, b);
    taken(b);
    expect(b.events.close(far)).toBe(0);
    expect(a.events.get(near)).toMatchObject({ kind: PortKind.unbound, domain: 2 });
    expect(a.events.send(near)).toBe(0);
    expect(taken(b)).toEqual([]);
    expect(b.events.close(far)).toBe(-Errno.EINVAL);
    expect(b.events.bindInterdomain(1, near)).toBe(far);
    expect(a.events.reset()).toBe(0);
    expect(b.events.get(far)).toMatchObject({ kind: PortKind.unbound, domain: 1 });
  });

  it("a domain that is gone hears nothing, and neither does the next of its number", () => {
    const { near, far } = connect(a, b);
    lab.directory.remove(domId(2));
    expect(a.events.send(near)).toBe(0);
    expect(a.events.bindInterdomain(2, far)).toBe(-Errno.ESRCH);
    expect(a.peers.mapping(2)).toBeUndefined();
    const next = lab.add(2);
    while (next.events.allocUnbound(1) < far);
    expect(a.events.send(near)).toBe(0);
    expect(taken(next)).toEqual([]);
    // The number is what a port is offered to, as in Xen: its next bearer may bind anew.
    const again = next.events.bindInterdomain(1, near);
    expect(a.events.get(near)).toMatchObject({ kind: PortKind.interdomain, domain: 2, number: again });
    taken(next);
    a.events.send(near);
    expect(taken(next)).toEqual([again]);
    expect(next.events.get(far)).toMatchObject({ kind: PortKind.unbound, domain: 1 });
  });

  it("destroy leaves the peers' ends unbound", () => {
    const { near, far } = connect(a, b);
    b.events.destroy();
    expect(b.events.get(far).kind).toBe(PortKind.free);
    expect(a.events.get(near).kind).toBe(PortKind.unbound);
  });

  it("gives back what a process had reserved when it died, and its half-bound peer can be bound anew", () => {
    const table = new PortTable(b.mapping);
    const near = a.events.allocUnbound(2);
    const lost = table.reserve(64);
    new PortTable(a.mapping).store(near, encodePort(PortKind.interdomain, 2, lost));
    table.bindVirq(Virq.timer, table.reserve(64));
    expect(b.events.close(lost)).toBe(-Errno.EINVAL);
    expect(b.events.bindInterdomain(1, near)).toBe(-Errno.EINVAL);
    expect(b.events.bindVirq(Virq.timer, 0)).toBe(-Errno.EEXIST);
    b.events.recover();
    expect(b.events.bindVirq(Virq.timer, 0)).toBeGreaterThan(0);
    const far = b.events.bindInterdomain(1, near);
    expect(a.events.get(near)).toMatchObject({ kind: PortKind.interdomain, domain: 2, number: far });
  });

  it("moves a port to another vCPU", () => {
    const { near, far } = connect(a, b);
    taken(b);
    expect(b.events.bindVcpu(far, 4)).toBe(-Errno.ENOENT);
    expect(b.events.bindVcpu(far, 3)).toBe(0);
    a.events.send(near);
    expect(taken(b)).toEqual([]);
    expect(taken(b, 3)).toEqual([far]);
    const timer = b.events.bindVirq(Virq.timer, 2);
    expect(b.events.bindVcpu(timer, 1)).toBe(-Errno.EINVAL);
    expect(b.events.bindVcpu(b.events.bindIpi(1), 0)).toBe(-Errno.EINVAL);
    b.events.raiseVirq(2, Virq.timer);
    expect(taken(b, 2)).toEqual([timer]);
  });

  it("keeps work and memory bounded under a storm of events at a domain that does not listen", () => {
    const { near, far } = connect(a, b);
    taken(b);
    let wakes = 0;
    const counted = {
      wake(): void {
        wakes++;
      },
    };
    // The storm comes through a's mapping of b; what it costs b's side shows in the doorbell.
    const seen = b.delivery.doorbell(0);
    Object.assign(a.peers.mapping(2) ?? {}, counted);
    const heap = process.memoryUsage().heapTotal;
    for (let n = 0; n < 1_000_000; n++) a.events.send(near);
    expect(wakes).toBe(0);
    expect(b.delivery.doorbell(0) - seen).toBe(1);
    expect(process.memoryUsage().heapTotal - heap).toBeLessThan(64 << 20);
    expect(taken(b)).toEqual([far]);
  });

  it("wakes a process that sleeps on its doorbell", async () => {
    const near = a.events.allocUnbound(2);
    const { memory, directory } = lab.input(2);
    if (memory.kind !== "mapped") throw new Error("mapped memory expected");
    const rounds = 50;
    const args = [compiledPath(import.meta.url, "echo-process.js"), "2", memory.path, directory, "1", `${near}`];
    const child = spawn(process.execPath, [...args, `${rounds}`], { stdio: ["ignore", "pipe", "inherit"] });
    const exit = once(child, "exit");
    try {
      const [line] = await once(child.stdout, "data");
      expect(Number(line)).toBeGreaterThan(0);
      for (let round = 0; round < rounds; round++) {
        expect(a.events.send(near)).toBe(0);
        while (!a.delivery.upcallPending(0)) a.delivery.sleep(0, 10e9, () => a.delivery.upcallPending(0));
        expect(taken(a)).toEqual([near]);
      }
      expect(await exit).toEqual([0, null]);
    } finally {
      child.kill("SIGKILL");
    }
  });

  it("two threads of either domain that bind and close against each other leave the tables consistent", async () => {
    const ready = new SharedArrayBuffer(4);
    const workers = [1, 2, 1, 2].map((id, n) => {
      const start = { ready, threads: 4, rounds: 50_000, seed: 77 + n };
      const workerData: StressInput = { view: lab.input(id), peer: 3 - id, ...start };
      return new Worker(compiledPath(import.meta.url, "channel-worker.js"), { workerData });
    });
    const counts = await Promise.all(workers.map(async (worker) => (await once(worker, "message"))[0]));
    expect(counts.reduce((sum, { bound }) => sum + bound, 0)).toBeGreaterThan(1000);
    const ends = [a, b] as const;
    for (const [n, { events }] of ends.entries()) {
      const other = ends[1 - n];
      for (let port = 1; port < 4096; port++) {
        const { kind, number } = events.get(port);
        expect(kind).not.toBe(PortKind.reserved);
        if (kind !== PortKind.interdomain) continue;
        expect(other?.events.get(number)).toMatchObject({ kind, domain: n + 1, number: port });
      }
    }
  });
});

type Action = readonly ["alloc" | "bind" | "close" | "send" | "look" | "mask" | "unmask", number, number, number];
interface ModelPort {
  remote: number;
  port: number | undefined;
  pending: boolean;
}

/** What the ABI promises, on plain maps: domain → port → what it is. */
class Model {
  readonly ports = new Map([1, 2, 3].map((id) => [id, new Map<number, ModelPort>()]));
  /** Mask bits belong to the domain, not to the channel. */
  readonly masks = new Set<string>();

  of(id: number): Map<number, ModelPort> {
    return this.ports.get(id) ?? new Map();
  }

  add(id: number, remote: number, port?: number): number {
    let free = 1;
    while (this.of(id).has(free)) free++;
    this.of(id).set(free, { remote, port, pending: port !== undefined });
    return free;
  }

  bind(id: number, remote: number, remotePort: number): number {
    const offered = this.of(remote).get(remotePort);
    if (offered === undefined || offered.port !== undefined || offered.remote !== id) return -Errno.EINVAL;
    offered.port = this.add(id, remote, remotePort);
    return offered.port;
  }

  close(id: number, port: number): number {
    const was = this.of(id).get(port);
    if (was === undefined) return -Errno.EINVAL;
    const peer = was.port === undefined ? undefined : this.of(was.remote).get(was.port);
    if (peer) peer.port = undefined;
    this.of(id).delete(port);
    return 0;
  }

  send(id: number, port: number): number {
    const entry = this.of(id).get(port);
    if (entry === undefined) return -Errno.EINVAL;
    const peer = entry.port === undefined ? undefined : this.of(entry.remote).get(entry.port);
    if (peer) peer.pending = true;
    return 0;
  }

  look(id: number): number[] {
    const seen = [...this.of(id)].filter(([port, { pending }]) => pending && !this.masks.has(`${id}:${port}`));
    for (const [, entry] of seen) entry.pending = false;
    return seen.map(([port]) => port).sort((x, y) => x - y);
  }
}

function perform(model: Model, views: readonly DomainView[], [what, id, remote, port]: Action): void {
  const view = views[id - 1];
  if (view === undefined) throw new Error(`no domain ${id}`);
  const key = `${id}:${port}`;
  switch (what) {
    case "alloc":
      expect(view.events.allocUnbound(remote)).toBe(model.add(id, remote));
      break;
    case "bind":
      expect(view.events.bindInterdomain(remote, port)).toBe(model.bind(id, remote, port));
      break;
    case "close":
      expect(view.events.close(port)).toBe(model.close(id, port));
      break;
    case "send":
      expect(view.events.send(port)).toBe(model.send(id, port));
      break;
    case "look":
      expect(taken(view)).toEqual(model.look(id));
      break;
    case "mask":
      model.masks.add(key);
      view.delivery.setMask(port);
      break;
    default:
      model.masks.delete(key);
      expect(view.events.unmask(port)).toBe(0);
  }
}

describe.runIf(process.platform === "linux")("the whole interface against a model", () => {
  it("agrees in every sequence of operations by three domains", () => {
    const domain = fc.integer({ min: 1, max: 3 });
    const kind = fc.constantFrom<Action[0]>(
      "alloc",
      "alloc",
      "bind",
      "bind",
      "close",
      "send",
      "look",
      "mask",
      "unmask",
    );
    const action = fc.tuple(kind, domain, domain, fc.integer({ min: 1, max: 5 }));
    const shared = new Lab();
    const views = [1, 2, 3].map((id) => shared.add(id));
    try {
      fc.assert(
        fc.property(fc.array(action, { minLength: 20, maxLength: 80 }), (actions) => {
          for (const { events, mapping, delivery } of views) {
            events.destroy();
            takePending(mapping, delivery, 0, () => {});
            for (let port = 1; port <= 5; port++) delivery.unmask(port);
          }
          const model = new Model();
          for (const step of actions) perform(model, views, step);
          for (const { id, events } of views) {
            for (const [port, { remote, port: bound }] of model.of(id)) {
              const kind = bound === undefined ? PortKind.unbound : PortKind.interdomain;
              expect(events.get(port)).toMatchObject({ kind, domain: remote, number: bound ?? 0 });
            }
          }
        }),
        { numRuns: 200 },
      );
    } finally {
      shared.close();
    }
  });
});

describe.runIf(process.platform === "linux")("physical interrupts", () => {
  it("are bound through the controller of the domain, and freed when that refuses", () => {
    const local = new Lab();
    local.add(1);
    const calls: string[] = [];
    const { events } = viewDomain(local.input(1), {
      bind: (pirq, port) => {
        calls.push(`bind ${pirq} ${port}`);
        return pirq === 5 ? 0 : -Errno.EEXIST;
      },
      unbind: (pirq) => calls.push(`unbind ${pirq}`),
    });
    expect(events.bindPirq(5)).toBe(1);
    expect(events.status(1)).toMatchObject({ status: ChannelStatus.pirq, detail: 5 });
    expect(events.bindPirq(6)).toBe(-Errno.EEXIST);
    expect(events.bindPirq(4096)).toBe(-Errno.EINVAL);
    expect(events.get(2).kind).toBe(PortKind.free);
    expect(events.close(1)).toBe(0);
    expect(calls).toEqual(["bind 5 1", "bind 6 2", "unbind 5"]);
    local.close();
  });
});
