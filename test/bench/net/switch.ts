/** Rows of two TypeScript frontends and the network driver domain, three processes, on a switch without an uplink. */
import { setTimeout } from "node:timers/promises";
import { NET_COUNTER_NAMES, type NetCounterName, NetCounters } from "../../../engine/device/net/counters.ts";
import { RingRegistry } from "../../../engine/domain/driver/ring-registry.ts";
import { Host } from "../../../engine/domain/host.ts";
import type { TypescriptHandle } from "../../../engine/domain/typescript/handle.ts";
import { median, rounded } from "../statistics.ts";
import type { Job } from "./frontend-kernel.ts";
import { MACS, type NetLoad, type Side } from "./load.ts";

const MEMORY_MIB = 32;
const MILLISECONDS = 1000;
const LIMIT_MS = 20_000;
const SWITCH = "bench0";

interface Row extends Omit<NetLoad, "milliseconds"> {
  readonly name: string;
  /** What the issue asks for. */
  readonly limits?: Readonly<Partial<Record<"framesPerSecond" | "gigabytesPerSecond", number>>>;
}

const ROWS: readonly Row[] = [
  { name: "64 bytes", size: 64, segmentSize: 0, window: 384, every: 64, limits: { framesPerSecond: 300_000 } },
  { name: "1514 bytes", size: 1514, segmentSize: 0, window: 384, every: 64 },
  {
    name: "64 KiB, to be segmented",
    // A ring has 16 bits for it.
    size: 65_535,
    segmentSize: 1448,
    window: 12,
    every: 3,
    limits: { gigabytesPerSecond: 5 },
  },
];

interface Sample {
  readonly framesPerSecond: number;
  readonly gigabytesPerSecond: number;
  /** Events per frame: to the backend by each frontend, to the frontends by the backend, and all together. */
  readonly notifications: { readonly sender: number; readonly receiver: number; readonly backend: number };
  readonly notificationsPerFrame: number;
  /** CPU seconds per second of each process. */
  readonly cpu: { readonly sender: number; readonly backend: number; readonly receiver: number };
  readonly lost: number;
}

/** Sums of what the backend counts for all interfaces. */
function backendCounters(host: Host, id: number): Record<NetCounterName, number> {
  const sums = Object.fromEntries(NET_COUNTER_NAMES.map((name) => [name, 0])) as Record<NetCounterName, number>;
  const mapping = host.table.attach(id);
  if (mapping === undefined) return sums;
  const registry = new RingRegistry(mapping);
  for (const { slot } of registry.list()) {
    const counters = new NetCounters(mapping.bytes.buffer, registry.counters(slot)).read();
    for (const name of NET_COUNTER_NAMES) sums[name] += counters[name];
  }
  mapping.release();
  return sums;
}

/** @throws Error when it takes too long */
async function within<T>(what: Promise<T>): Promise<T> {
  const over = new AbortController();
  const late = setTimeout(LIMIT_MS, undefined, { signal: over.signal }).then(() => {
    throw new Error("the frontends give no answer");
  });
  late.catch(() => {});
  try {
    return await Promise.race([what, late]);
  } finally {
    over.abort();
  }
}

/** One load on two new domains. */
async function sample(host: Host, row: Row): Promise<Sample> {
  const network = await host.networkDomain();
  const load: NetLoad = { ...row, milliseconds: MILLISECONDS };
  const domains: TypescriptHandle[] = [];
  const start = async (role: Job["role"]) => {
    const domain = await host.startTypescript({
      name: `bench-${role}`,
      memoryMiB: MEMORY_MIB,
      module: new URL("./frontend-kernel.js", import.meta.url).href,
      vifs: [{ bridge: SWITCH, mac: MACS[role] }],
    });
    domains.push(domain);
    await within(domain.call("prepare", { role, load, backendPid: network.pid } satisfies Job));
    return domain;
  };
  try {
    const [receiver, sender] = [await start("receiver"), await start("sender")];
    const ends = Promise.all([receiver.call("run", null), sender.call("run", null)]);
    const [got, sent] = (await within(ends)) as [Side, Side];
    const counters = backendCounters(host, network.id);
    return sampleOf(row, got, sent, counters.notifications_sent / (counters.rx_frames || 1));
  } finally {
    for (const domain of domains) await domain.kill();
    // The next ones have the same addresses.
    for (const end = Date.now() + LIMIT_MS; host.vifs.list().length > 0 && Date.now() < end; ) await setTimeout(5);
  }
}

function sampleOf({ size }: Row, got: Side, sent: Side, backend: number): Sample {
  const perSecond = got.frames / got.seconds;
  const notifications = { sender: sent.sentEvents / sent.frames, receiver: got.sentEvents / got.frames, backend };
  const { sender, receiver } = notifications;
  return {
    framesPerSecond: Math.round(perSecond),
    gigabytesPerSecond: rounded((perSecond * size) / 1e9),
    notifications: { sender: rounded(sender), receiver: rounded(receiver), backend: rounded(backend) },
    notificationsPerFrame: rounded(sender + receiver + backend),
    cpu: {
      sender: rounded(sent.cpuSeconds / sent.seconds),
      backend: rounded(got.backendCpuSeconds / got.seconds),
      receiver: rounded(got.cpuSeconds / got.seconds),
    },
    lost: got.lost,
  };
}

function resultOf(row: Row, samples: readonly Sample[]) {
  const of = (pick: (sample: Sample) => number) => rounded(median(samples.map(pick)));
  return {
    ...row,
    framesPerSecond: of((each) => each.framesPerSecond),
    gigabytesPerSecond: of((each) => each.gigabytesPerSecond),
    notificationsPerFrame: of((each) => each.notificationsPerFrame),
    samples,
  };
}

/** Each row in turn, `rounds` times. */
export async function benchSwitch(rounds: number): Promise<object[]> {
  const host = new Host({ log: (line) => process.stderr.write(`${line}\n`) });
  const measured = ROWS.map((row) => ({ row, samples: [] as Sample[] }));
  try {
    await host.network.createSwitch({ name: SWITCH });
    for (let round = 0; round < rounds; round++) {
      for (const { row, samples } of measured) {
        const one = await sample(host, row);
        samples.push(one);
        process.stderr.write(`${row.name}: ${one.framesPerSecond}/s, ${one.gigabytesPerSecond} GB/s\n`);
      }
    }
  } finally {
    await host.close();
  }
  return measured.map(({ row, samples }) => resultOf(row, samples));
}
