/** Round trips between two idle guests, alone and while a third one floods the same switch. */
import type { TypescriptHandle } from "../../../engine/domain/typescript/handle.ts";
import { udpFloodProgram } from "../guest-programs/udp-flood.ts";
import { median, rounded } from "../statistics.ts";
import type { Job } from "./frontend-kernel.ts";
import type { DomlabLab, Guest } from "./guests.ts";
import { LAN } from "./lans.ts";
import { MACS } from "./load.ts";

const PINGS = 300;
const INTERVAL = 0.01;
const MEMORY_MIB = 32;
const FLOOD_BYTES = 1400;
const SINK = 9;

interface Sample {
  readonly answered: number;
  readonly medianMs: number;
  readonly p99Ms: number;
}

async function ping({ shell }: Guest): Promise<Sample> {
  const command = `ping -c ${PINGS} -i ${INTERVAL} ${LAN}.2 | sed -n 's/.*time=\\([0-9.]*\\) ms/\\1/p' | tr '\\n' ' '`;
  const times = (await shell.run(`${command}; echo`))
    .split(/\s+/)
    .map(Number)
    .filter((time) => time > 0);
  times.sort((a, b) => a - b);
  return {
    answered: times.length,
    medianMs: rounded(median(times)),
    p99Ms: rounded(times[Math.ceil(times.length * 0.99) - 1] ?? Number.NaN),
  };
}

/** Takes what the third guest sends and does nothing with it: the flood loads the switch, not the guests that ping. */
async function startSink({ host }: DomlabLab): Promise<TypescriptHandle> {
  const domain = await host.startTypescript({
    name: "bench-sink",
    memoryMiB: MEMORY_MIB,
    module: new URL("./frontend-kernel.js", import.meta.url).href,
    vifs: [{ bridge: "lab0", mac: MACS.receiver }],
  });
  const load = { size: 0, segmentSize: 0, window: 1, every: 1, milliseconds: 0 };
  const { pid } = await host.networkDomain();
  await domain.call("prepare", { role: "receiver", load, backendPid: pid } satisfies Job);
  return domain;
}

async function framesOut(lab: DomlabLab): Promise<number> {
  const ports = (await lab.host.network.show()).flatMap((each) => each.ports);
  return ports.reduce((sum, port) => sum + (port.counters.framesIn ?? 0), 0);
}

/** `rounds` samples of each, in turns. @param first pings LAN.2 */
export async function benchLatency(lab: DomlabLab, first: Guest, rounds: number): Promise<object> {
  const address = [...LAN.split(".").map(Number), SINK];
  const flood = { file: "flood", data: udpFloodProgram({ address, port: SINK, bytes: FLOOD_BYTES }) };
  await startSink(lab);
  const third = await lab.start(3, ["lab0"], [flood]);
  await third.shell.run(`arp -s ${LAN}.${SINK} ${MACS.receiver}`);
  const [idle, flooded]: [Sample[], (Sample & { floodFramesPerSecond: number })[]] = [[], []];
  await ping(first);
  for (let round = 0; round < rounds; round++) {
    idle.push(await ping(first));
    await third.shell.run("( /bench/flood & )");
    const [before, start] = [await framesOut(lab), performance.now()];
    const sample = await ping(first);
    const frames = (await framesOut(lab)) - before;
    await third.shell.run("killall flood");
    flooded.push({ ...sample, floodFramesPerSecond: Math.round((frames * 1000) / (performance.now() - start)) });
    process.stderr.write(`ping p99: ${idle.at(-1)?.p99Ms} ms idle, ${sample.p99Ms} ms beside a flood\n`);
  }
  const of = (samples: readonly Sample[], pick: (sample: Sample) => number) => rounded(median(samples.map(pick)));
  const [p99, p99Flooded] = [of(idle, (each) => each.p99Ms), of(flooded, (each) => each.p99Ms)];
  return {
    pings: PINGS,
    intervalSeconds: INTERVAL,
    limits: { p99Ratio: 4 },
    p99Ratio: rounded(p99Flooded / p99),
    idle: { medianMs: of(idle, (each) => each.medianMs), p99Ms: p99, samples: idle },
    flooded: { medianMs: of(flooded, (each) => each.medianMs), p99Ms: p99Flooded, samples: flooded },
  };
}
