/** A unikernel that tries out what a TypeScript domain is given: grants, event channels, vCPUs, interrupts, blocking, its end. */
import { readSync, writeSync } from "node:fs";
import { createPipe, type Pipe } from "../../../engine/domain/poll.ts";
import type { IoVcpu, Kernel, PhysicalInterrupt, TypescriptDomain } from "../../../engine/domain/typescript/kernel.ts";
import { entryWord, framePins, grantPins } from "../../../engine/hypervisor/grant-pins.ts";
import { eventPort } from "../../../engine/memory/types.ts";
import { obey } from "./agent.ts";

const PAGE = 4096;
const COURT = "data/pong";

/** A page on offer, and what there is to know of it. */
interface Offer {
  readonly page: number;
  readonly ref: number;
  readonly port: number;
}

/** Ping-pong's two sides: whoever offers the page answers odd numbers, whoever maps it answers even ones. */
function pingPong(domain: TypescriptDomain) {
  const { grants, events, store } = domain;
  let offer: Offer | undefined;

  return {
    /** Offers a page and a port to a peer, by way of XenStore. */
    async serve({ peer }: { peer: number }): Promise<number> {
      const page = grants.allocatePage();
      const ref = page === undefined ? undefined : grants.grantAccess(peer, page, false);
      const port = events.allocUnbound(peer);
      if (page === undefined || ref === undefined || port < 0) throw new Error("nothing to offer");
      offer = { page, ref, port };
      const { words } = grants.memory;
      domain.onEvent(port, () => {
        const seen = Atomics.load(words, page / 4);
        if (seen % 2 === 0) return;
        Atomics.store(words, page / 4, seen + 1);
        events.notify(eventPort(port));
      });
      // What another peer was allowed to read.
      await store.remove(COURT);
      await store.mkdir(COURT);
      await store.setPermissions(COURT, [`n${domain.id}`, `r${peer}`]);
      await store.write(`${COURT}/ring-ref`, String(ref));
      await store.write(`${COURT}/event-channel`, String(port));
      return ref;
    },

    /** Finds the peer's offer in XenStore and plays; the page stays mapped if `keep`. */
    async play({ peer, rounds, keep }: { peer: number; rounds: number; keep?: boolean }): Promise<unknown> {
      const court = `/local/domain/${peer}/${COURT}`;
      const remote = await new Promise<number>((resolve) => {
        void store.watch(court, async () => {
          const port = await store.read(`${court}/event-channel`).catch(() => undefined);
          if (port !== undefined) resolve(Number(port));
        });
      });
      const ref = Number(await store.read(`${court}/ring-ref`));
      const mapper = domain.grantMapper(peer);
      if (mapper === undefined) throw new Error("the peer is no domain");
      const handle = mapper.map(ref, false);
      if (handle < 0) throw new Error(`cannot map: ${handle}`);
      const word = mapper.address(handle) / 4;
      const { words } = mapper.memory;
      const port = events.bindInterdomain(peer, remote);
      if (port < 0) throw new Error(`cannot bind: ${port}`);
      const score = await new Promise<number>((resolve) => {
        domain.onEvent(port, () => {
          const seen = Atomics.load(words, word);
          if (seen % 2 === 1) return;
          if (seen >= 2 * rounds) return resolve(seen);
          Atomics.store(words, word, seen + 1);
          events.notify(eventPort(port));
        });
      });
      domain.offEvent(port);
      if (keep) return { score };
      events.close(eventPort(port));
      return { score, unmapped: mapper.unmap(handle), again: mapper.unmap(handle) };
    },

    /** Tries to map and bind what may be somebody else's. */
    trespass({ peer, ref, port }: { peer: number; ref: number; port: number }): unknown {
      const mapper = domain.grantMapper(peer);
      return { map: mapper?.map(ref, true) ?? 0, bind: events.bindInterdomain(peer, port) };
    },

    /** How often the offered page is mapped, the in-use bits of its entry, and whether the grant can be taken back now. */
    pins(): unknown {
      if (offer === undefined) throw new Error("no offer");
      const { mapping } = domain.thread;
      const pins = {
        grant: grantPins(mapping, offer.ref),
        frame: framePins(mapping, (offer.page - mapping.base) / PAGE),
        inUse: Atomics.load(mapping.words, entryWord(mapping, offer.ref)) & 0x18,
      };
      return { ...pins, port: offer.port, ended: grants.endAccess(offer.ref) };
    },
  };
}

/** Pages that a later process of the domain finds again. */
function memory(domain: TypescriptDomain) {
  const { grants } = domain;
  return {
    /** Fills pages with bytes that tell them apart. @returns their addresses */
    remember({ pages, seed }: { pages: number; seed: number }): number[] {
      return Array.from({ length: pages }, (_, i) => {
        const page = grants.allocatePage();
        if (page === undefined) throw new Error("no memory");
        grants.memory.bytes.fill(seed + i, page, page + PAGE);
        return page - domain.thread.mapping.base;
      });
    },
    /** The byte that fills each page, or -1 where not all of them are the same. */
    recall({ pages }: { pages: number[] }): number[] {
      return pages.map((offset) => {
        const page = offset + domain.thread.mapping.base;
        const [first = -1] = grants.memory.bytes.subarray(page, page + 1);
        return grants.memory.bytes.subarray(page, page + PAGE).every((byte) => byte === first) ? first : -1;
      });
    },
    allocate: () => (grants.allocatePage() ?? Number.NaN) - domain.thread.mapping.base,
    state: () => ({ restarted: domain.restarted, id: domain.id, name: domain.name, parameters: domain.parameters }),
  };
}

/** A pipe of this process as an interrupt. */
function interrupts(domain: TypescriptDomain) {
  let pipe: Pipe | undefined;
  let interrupt: PhysicalInterrupt | undefined;
  let fired = 0;
  const open = (): { pipe: Pipe; interrupt: PhysicalInterrupt } => {
    if (pipe === undefined || interrupt === undefined) throw new Error("no interrupt");
    return { pipe, interrupt };
  };
  return {
    plug(): number {
      pipe = createPipe();
      interrupt = domain.onInterrupt(pipe.read, () => void fired++);
      return interrupt.port;
    },
    poke: () => writeSync(open().pipe.write, Uint8Array.of(1)),
    drain: () => readSync(open().pipe.read, new Uint8Array(64)),
    eoi: () => open().interrupt.eoi(),
    unplug: () => open().interrupt.close(),
    fired: () => fired,
  };
}

/** Ports that are served by vCPUs of their own, and what sleeping on vCPU 0 does. */
function vcpus(domain: TypescriptDomain) {
  const { events } = domain;
  const started: IoVcpu[] = [];
  /** Own ports of channels that ring() has bound, by the peer's. */
  const bound = new Map<string, number>();
  return {
    /** Starts vCPUs, each with a port of its own for `peer`. @returns the ports */
    async counters({ peer, count }: { peer: number; count: number }): Promise<number[]> {
      const module = new URL("./counting-vcpu.js", import.meta.url).href;
      const ports: number[] = [];
      for (let i = 0; i < count; i++) {
        const port = events.allocUnbound(peer);
        const vcpu = domain.startVcpu(module);
        started.push(vcpu);
        await vcpu.call({ listen: port });
        ports.push(port);
      }
      return ports;
    },
    counted: () => Promise.all(started.map((vcpu) => vcpu.call({ report: true }))),
    refuse: () => started[0]?.call({ fail: "not today" }),
    /** Ends a vCPU's thread with an error, and so the domain. */
    breakVcpu: () => void started[0]?.call({ die: true }),
    /** Sends so many events to each port of a peer; the first time it binds them. */
    async ring({ peer, ports, times }: { peer: number; ports: number[]; times: number }): Promise<void> {
      const own = ports.map((port) => bound.get(`${peer}:${port}`) ?? events.bindInterdomain(peer, port));
      if (own.some((port) => port < 0)) throw new Error(`cannot bind: ${own}`);
      for (const [i, port] of ports.entries()) bound.set(`${peer}:${port}`, own[i] ?? -1);
      for (let n = 0; n < times; n++) {
        for (const port of own) events.notify(eventPort(port));
        await new Promise((resolve) => setImmediate(resolve));
      }
    },
    /** A port for block(). */
    await: ({ peer }: { peer: number }) => events.allocUnbound(peer),
    /**
     * Sleeps in block() until the port's event has come. Nothing else of this thread may run meanwhile.
     * @returns whether the event was handled in block(), and whether the event loop has run before that
     */
    async block({ port, limit }: { port: number; limit: number }): Promise<unknown> {
      let handled = -1;
      let loops = 0;
      domain.onEvent(port, () => void handled++);
      setImmediate(() => void loops++);
      await Promise.resolve();
      const start = performance.now();
      while (handled === 0 && performance.now() - start < limit) domain.block(5e9);
      const result = { handled, loops };
      domain.offEvent(port);
      return result;
    },
    /** block() without any event comes back by itself. */
    nap: ({ ns }: { ns: number }) => domain.block(ns),
  };
}

const kernel: Kernel = async (domain) => {
  const { fail } = (domain.parameters ?? {}) as { readonly fail?: string };
  if (fail !== undefined) throw new Error(fail);
  let finish: (error?: Error) => void = () => {};
  const end = new Promise<void>((resolve, reject) => {
    finish = (error) => (error ? reject(error) : resolve());
  });
  const commands = {
    ...pingPong(domain),
    ...memory(domain),
    ...interrupts(domain),
    ...vcpus(domain),
    finish: ({ error }: { error?: string }) => {
      const cause = error === undefined ? undefined : new Error(error);
      setTimeout(() => finish(cause), 20);
    },
    throwLater: ({ error }: { error: string }) => {
      setTimeout(() => {
        throw new Error(error);
      });
    },
  };
  await Promise.race([obey(domain, commands), end]);
};

export default kernel;
