/**
 * Live figures of machines: counters are read each second while somebody watches, and less often while machines run
 * unwatched, so that a window that opens has a past to show.
 */
import { cpus, freemem, loadavg, totalmem } from "node:os";
import type { DomainStatistics } from "../../../engine/domain/config.ts";
import { explain } from "../../failure.ts";
import type { AppFunctions } from "../control-api.ts";
import type { ControlHost } from "../host-control.ts";
import type { LabEvent } from "../machine-api.ts";
import type { Machine } from "../machines/machine.ts";
import type { Machines } from "../machines/machines.ts";
import { freeBytes } from "../machines/space.ts";
import { type HostSample, type MachineSample, type MetricsSeries, MOST_SAMPLES } from "../metrics-api.ts";

/** Between two samples, while somebody watches and while nobody does. */
const WATCHED_MS = 1000;
const UNWATCHED_MS = 5000;
/** Room on a disk changes slowly, and asking may have to wait for it. */
const DISK_EVERY_MS = 10_000;
const SECTOR = 512;

type MetricsHost = Pick<ControlHost, "vbdStatistics" | "network" | "vifs">;
type MetricsEvent = Extract<LabEvent, { kind: "metrics" }>;

/** What was counted of a guest since its start. */
export interface Counted {
  readonly domid: number;
  /** Milliseconds of a clock that does not jump. */
  readonly time: number;
  readonly instructions: number;
  readonly busySeconds: number;
  readonly readBytes: number;
  readonly writtenBytes: number;
  readonly requests: number;
  readonly receivedBytes: number;
  readonly sentBytes: number;
  readonly frames: number;
}

/** What came to a counter: one that was started anew has all it shows from since then. */
const grown = (before: number, now: number): number => (now >= before ? now - before : now);

/**
 * Rates between two counts of one machine; zeros for the first count of a guest.
 * @param residentBytes memory of its process now
 */
export function sampleBetween(
  id: string,
  before: Counted | undefined,
  now: Counted,
  residentBytes: number,
): MachineSample {
  const seconds = before === undefined || before.domid !== now.domid ? 0 : (now.time - before.time) / 1000;
  const rate = (key: Exclude<keyof Counted, "domid" | "time">): number =>
    before === undefined || seconds <= 0 ? 0 : Math.round((grown(before[key], now[key]) / seconds) * 1000) / 1000;
  return {
    id,
    cpu: Math.min(1, rate("busySeconds")),
    mips: Math.round(rate("instructions") / 1e4) / 100,
    residentBytes: Math.max(0, residentBytes),
    disk: { readBytes: rate("readBytes"), writtenBytes: rate("writtenBytes"), requests: rate("requests") },
    net: { receivedBytes: rate("receivedBytes"), sentBytes: rate("sentBytes"), frames: rate("frames") },
  };
}

interface Sums {
  readBytes: number;
  writtenBytes: number;
  requests: number;
  receivedBytes: number;
  sentBytes: number;
  frames: number;
}

/** The last samples of a machine, with their times. */
type Past = { readonly time: number; readonly sample: MachineSample }[];

function seriesOf(id: string, past: Past): MetricsSeries {
  const column = (value: (sample: MachineSample) => number) => past.map(({ sample }) => value(sample));
  return {
    id,
    time: past.map(({ time }) => time),
    cpu: column(({ cpu }) => cpu),
    mips: column(({ mips }) => mips),
    residentBytes: column(({ residentBytes }) => residentBytes),
    readBytes: column(({ disk }) => disk.readBytes),
    writtenBytes: column(({ disk }) => disk.writtenBytes),
    requests: column(({ disk }) => disk.requests),
    receivedBytes: column(({ net }) => net.receivedBytes),
    sentBytes: column(({ net }) => net.sentBytes),
    frames: column(({ net }) => net.frames),
  };
}

export interface MetricsOptions {
  readonly host: MetricsHost;
  readonly machines: Machines;
  /** Folder whose free space is told of. */
  readonly folder: string;
  readonly log: (line: string) => void;
  readonly emit: (event: MetricsEvent) => void;
  /** Whether somebody listens to what is emitted. */
  readonly watched: () => boolean;
}

export class Metrics {
  private readonly options: MetricsOptions;
  private readonly before = new Map<string, Counted>();
  private readonly past = new Map<string, Past>();
  private timer: NodeJS.Timeout | undefined;
  private sampling: Promise<unknown> | undefined;
  private disk = { time: Number.NEGATIVE_INFINITY, freeBytes: 0 };
  private closed = false;

  constructor(options: MetricsOptions) {
    this.options = options;
  }

  private get wanted(): boolean {
    const { machines, watched } = this.options;
    return !this.closed && (watched() || machines.all().some(({ guest }) => guest !== undefined));
  }

  /** To be called when somebody began or ceased to watch, and when machines changed. */
  reconsider(): void {
    if (!this.wanted) {
      clearTimeout(this.timer);
      this.timer = undefined;
    } else if (this.timer === undefined && this.sampling === undefined) this.schedule(0);
  }

  /** Somebody began to watch: the next sample is not to wait for the slow beat. */
  hurry(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.reconsider();
  }

  private schedule(ms: number): void {
    this.timer = setTimeout(() => {
      this.timer = undefined;
      void this.sample().then(() => {
        if (this.wanted && this.timer === undefined) this.schedule(this.options.watched() ? WATCHED_MS : UNWATCHED_MS);
      });
    }, ms);
    this.timer.unref();
  }

  /** Takes a sample of all machines that run, and tells whoever watches. Never rejects. */
  sample(): Promise<void> {
    this.sampling ??= this.sampleNow()
      .catch((error: unknown) => {
        if (!this.closed) this.options.log(`live figures: ${explain(error).line}`);
      })
      .then(() => {
        this.sampling = undefined;
      });
    return this.sampling as Promise<void>;
  }

  private async sampleNow(): Promise<void> {
    const { machines, emit } = this.options;
    const running = machines.all().filter(({ guest }) => guest !== undefined);
    const [sums, statistics] = await Promise.all([
      this.sums(),
      Promise.all(running.map(({ guest }) => guest?.handle.statistics().catch(() => undefined))),
    ]);
    if (this.closed) return;
    const time = Date.now();
    const samples = running.flatMap((machine, at) => {
      const sample = this.sampleOf(machine, statistics[at], sums);
      return sample === undefined ? [] : [sample];
    });
    for (const sample of samples) this.keep(time, sample);
    this.forget();
    const host = await this.hostSample();
    if (this.closed) return;
    emit({ kind: "metrics", date: new Date(time).toISOString(), machines: samples, host });
  }

  private sampleOf(
    machine: Machine,
    statistics: DomainStatistics | undefined,
    sums: ReadonlyMap<number, Sums>,
  ): MachineSample | undefined {
    const domid = machine.guest?.handle.id;
    if (domid === undefined || statistics === undefined) return undefined;
    const { instructions, busySeconds, residentBytes } = statistics;
    const none: Sums = { readBytes: 0, writtenBytes: 0, requests: 0, receivedBytes: 0, sentBytes: 0, frames: 0 };
    const now = { domid, time: performance.now(), instructions, busySeconds, ...(sums.get(domid) ?? none) };
    const sample = sampleBetween(machine.id, this.before.get(machine.id), now, residentBytes);
    this.before.set(machine.id, now);
    return sample;
  }

  /** What the devices of each guest have moved. */
  private async sums(): Promise<Map<number, Sums>> {
    const { host } = this.options;
    const sums = new Map<number, Sums>();
    const of = (domid: number): Sums => {
      const known = sums.get(domid);
      if (known !== undefined) return known;
      const fresh: Sums = { readBytes: 0, writtenBytes: 0, requests: 0, receivedBytes: 0, sentBytes: 0, frames: 0 };
      sums.set(domid, fresh);
      return fresh;
    };
    for (const { frontendId, counters } of host.vbdStatistics()) {
      const sum = of(frontendId);
      const count = (name: keyof typeof counters) => counters[name] ?? 0;
      sum.readBytes += count("rd_sect") * SECTOR;
      sum.writtenBytes += count("wr_sect") * SECTOR;
      sum.requests += count("rd_req") + count("wr_req") + count("f_req") + count("ds_req");
    }
    const vifs = new Map(host.vifs.list().map(({ name, frontendId }) => [name, frontendId]));
    // Without interfaces there may be no network domain, which must not be started for this.
    if (vifs.size === 0) return sums;
    for (const { ports } of await host.network.show()) {
      for (const { name, counters } of ports) {
        const domid = vifs.get(name);
        if (domid === undefined) continue;
        const sum = of(domid);
        // What enters the switch was sent by the guest.
        sum.sentBytes += counters.bytesIn ?? 0;
        sum.receivedBytes += counters.bytesOut ?? 0;
        sum.frames += (counters.framesIn ?? 0) + (counters.framesOut ?? 0);
      }
    }
    return sums;
  }

  private keep(time: number, sample: MachineSample): void {
    const past = this.past.get(sample.id) ?? [];
    this.past.set(sample.id, past);
    past.push({ time, sample });
    if (past.length > MOST_SAMPLES) past.shift();
  }

  /** Machines that are gone have no past. */
  private forget(): void {
    const ids = new Set(this.options.machines.all().map(({ id }) => id));
    for (const id of this.past.keys()) {
      if (ids.has(id)) continue;
      this.past.delete(id);
      this.before.delete(id);
    }
  }

  private async hostSample(): Promise<HostSample> {
    const now = performance.now();
    if (now - this.disk.time > DISK_EVERY_MS) {
      this.disk = { time: now, freeBytes: await freeBytes(this.options.folder).catch(() => 0) };
    }
    return {
      cpus: cpus().length,
      load1: loadavg()[0] ?? 0,
      freeBytes: freemem(),
      totalBytes: totalmem(),
      diskFreeBytes: this.disk.freeBytes,
    };
  }

  functions(): Pick<AppFunctions, "metricsHistory"> {
    return {
      metricsHistory: async ({ machine }) => {
        const wanted = machine === undefined ? undefined : this.options.machines.find(machine).id;
        const chosen = [...this.past].filter(([id]) => wanted === undefined || id === wanted);
        return { machines: chosen.map(([id, past]) => seriesOf(id, past)), host: await this.hostSample() };
      },
    };
  }

  /** Fulfilled when nothing of it runs. */
  async close(): Promise<void> {
    this.closed = true;
    clearTimeout(this.timer);
    await this.sampling;
  }
}
