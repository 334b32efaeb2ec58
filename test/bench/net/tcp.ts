/** TCP of stock Linux guests: to each other, to the host and from it, by our network and by QEMU's, in turns. */
import { median, rounded } from "../statistics.ts";
import type { Pair } from "./guests.ts";
import { programNames, type Servers, SIZES } from "./programs.ts";

const MIB = 1 << 20;
/** What a sample should take at least, if the sizes allow; which one that is is found by trying. */
const WANTED_SECONDS = 1.5;
/** Our guests' hot blocks are compiled meanwhile; the other machine gets as long. */
const WARM_UP_MS = 6000;

export type Direction =
  | "guest to guest"
  | "guest to host"
  | "host to guest"
  | "guest to host, tap"
  | "host to guest, tap";

interface Sample {
  readonly megabytesPerSecond: number;
  readonly mib: number;
  readonly seconds: number;
  /** CPU seconds per second: of the network's process, and of our guests' CPUs. */
  readonly cpu?: { readonly network: number; readonly guests: readonly number[] };
}

async function guestToGuest({ guests }: Pair, mib: number): Promise<void> {
  const [one, two] = guests;
  const got = async () => Number(await two.shell.run("cat /sys/class/net/eth0/statistics/rx_bytes"));
  const before = await got();
  await two.shell.run(`( ${programNames.listen} & ) ; sleep 0.3`);
  timed.begin();
  await one.shell.run(programNames.send("lan", mib));
  timed.end();
  const came = (await got()) - before;
  if (came < mib * MIB) throw new Error(`${came} bytes came of ${mib} MiB`);
}

/** The clock of the transfer at hand: without what is done before and after. */
const timed = {
  seconds: 0,
  started: 0n,
  begin(): void {
    this.started = process.hrtime.bigint();
  },
  end(): void {
    this.seconds = Number(process.hrtime.bigint() - this.started) / 1e9;
  },
};

async function withHost(pair: Pair, direction: Direction, mib: number, servers: Servers): Promise<void> {
  const target = direction.endsWith("tap") ? "tap" : "user";
  const server = target === "tap" ? servers.tap?.[pair.name] : servers.user;
  if (server === undefined) throw new Error("there are no taps");
  const toHost = direction.startsWith("guest");
  server.received = 0;
  server.bytes = mib * MIB;
  const [{ shell }] = pair.guests;
  timed.begin();
  await shell.run(toHost ? programNames.send(target, mib) : programNames.take(target));
  timed.end();
  if (toHost && server.received !== mib * MIB) throw new Error(`${server.received} bytes came of ${mib} MiB`);
}

async function transfer(pair: Pair, direction: Direction, mib: number, servers: Servers): Promise<Sample> {
  const busy = () => Promise.all(pair.guests.map(async ({ statistics }) => (await statistics?.())?.busySeconds ?? 0));
  const [guestsBefore, networkBefore] = [await busy(), pair.networkCpu?.() ?? 0];
  if (direction === "guest to guest") await guestToGuest(pair, mib);
  else await withHost(pair, direction, mib, servers);
  const { seconds } = timed;
  const network = (pair.networkCpu?.() ?? 0) - networkBefore;
  const guests = (await busy()).map((after, n) => rounded((after - (guestsBefore[n] ?? 0)) / seconds));
  return {
    megabytesPerSecond: rounded((mib * MIB) / seconds / 1e6),
    mib,
    seconds: rounded(seconds),
    ...(pair.networkCpu !== undefined && { cpu: { network: rounded(network / seconds), guests } }),
  };
}

interface Track {
  readonly samples: Sample[];
  mib: number;
  failure?: string;
}

/** The least size that takes long enough at that speed. */
function sized({ megabytesPerSecond }: Sample): number {
  const wanted = (megabytesPerSecond * 1e6 * WANTED_SECONDS) / MIB;
  return SIZES.find((size) => size >= wanted) ?? (SIZES.at(-1) as number);
}

/** Transfers until compilers and windows have settled. @returns MiB of a sample */
async function warmUp(pair: Pair, direction: Direction, servers: Servers): Promise<number> {
  let mib: number = SIZES[0];
  for (const end = Date.now() + WARM_UP_MS; Date.now() < end; ) {
    mib = sized(await transfer(pair, direction, mib, servers));
  }
  return mib;
}

async function takeSample(pair: Pair, direction: Direction, track: Track, servers: Servers): Promise<void> {
  if (track.failure !== undefined) return;
  try {
    if (track.mib === 0) track.mib = await warmUp(pair, direction, servers);
    const sample = await transfer(pair, direction, track.mib, servers);
    track.samples.push(sample);
    process.stderr.write(`${direction}, ${pair.name}: ${sample.megabytesPerSecond} MB/s\n`);
  } catch (error) {
    track.failure = error instanceof Error ? error.message : String(error);
    process.stderr.write(`${direction}, ${pair.name}: ${track.failure}\n`);
  }
}

const speed = (track: Track | undefined) => median((track?.samples ?? []).map((each) => each.megabytesPerSecond));

/** `rounds` samples of each direction, the pairs in turns. */
export async function benchTcp(pairs: readonly Pair[], rounds: number, servers: Servers): Promise<object[]> {
  const directions: Direction[] = ["guest to guest", "guest to host", "host to guest"];
  if (servers.tap !== undefined) directions.push("guest to host, tap", "host to guest, tap");
  const rows = directions.map((direction) => ({
    direction,
    tracks: new Map(pairs.map(({ name }): [Pair["name"], Track] => [name, { samples: [], mib: 0 }])),
  }));
  for (let round = 0; round < rounds; round++) {
    for (const { direction, tracks } of rows) {
      for (const pair of pairs) await takeSample(pair, direction, tracks.get(pair.name) as Track, servers);
    }
  }
  return rows.map(({ direction, tracks }) => ({
    name: `TCP ${direction}`,
    limits: { ratio: 1 },
    ratio: rounded(speed(tracks.get("domlab")) / speed(tracks.get("qemu"))),
    ...Object.fromEntries(
      [...tracks].map(([name, { mib: _, ...track }]) => [
        name,
        { megabytesPerSecond: speed(track as Track), ...track },
      ]),
    ),
  }));
}
