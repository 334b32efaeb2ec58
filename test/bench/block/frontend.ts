/** Rows of a TypeScript frontend and the storage driver domain, two processes on one page-cached file. */
import type { BlockCounterName } from "../../../engine/device/block/counters.ts";
import { Host } from "../../../engine/domain/host.ts";
import { median, rounded } from "../statistics.ts";
import { VDEV, vbdOf } from "./image.ts";
import { type Form, type FrontendJob, type Load, type Measured, RESULT_MARK } from "./load.ts";

const MEMORY_MIB = 64;
const MILLISECONDS = 1000;
const LIMIT_MS = 60_000;
const KIB = 1024;
const MIB = 1024 * KIB;

/** A load and what the issue asks of it: requests or bytes a second at least, notifications per request at most. */
interface Row {
  readonly name: string;
  readonly operation: "read" | "write";
  readonly bytes: number;
  readonly depth: number;
  readonly limits?: Readonly<Record<string, number>>;
}

const ROWS: readonly Row[] = [
  { name: "read 4 KiB, depth 1", operation: "read", bytes: 4 * KIB, depth: 1, limits: { requestsPerSecond: 10_000 } },
  {
    name: "read 4 KiB, depth 32",
    operation: "read",
    bytes: 4 * KIB,
    depth: 32,
    limits: { requestsPerSecond: 45_000, notificationsPerRequest: 0.2 },
  },
  { name: "read 1 MiB indirect, depth 4", operation: "read", bytes: MIB, depth: 4, limits: { gigabytesPerSecond: 3 } },
  { name: "write 4 KiB, depth 1", operation: "write", bytes: 4 * KIB, depth: 1 },
  { name: "write 4 KiB, depth 32", operation: "write", bytes: 4 * KIB, depth: 32 },
  { name: "write 1 MiB indirect, depth 4", operation: "write", bytes: MIB, depth: 4 },
];

const FORMS: readonly Form[] = ["event-loop", "blocking"];

interface Sample {
  readonly requestsPerSecond: number;
  readonly gigabytesPerSecond: number;
  /** Events sent per request: by the frontend, by the backend, and both together. */
  readonly notifications: { readonly front: number; readonly back: number };
  readonly notificationsPerRequest: number;
  /** CPU seconds per second of the two processes. */
  readonly cpu: { readonly front: number; readonly back: number };
}

/** Runs loads, one domain each. */
class FrontendHost {
  readonly host: Host;
  private receive: (measured: Measured) => void = () => {};

  constructor() {
    this.host = new Host({ log: (line) => this.hear(line) });
  }

  private hear(line: string): void {
    if (!line.startsWith(RESULT_MARK)) process.stderr.write(`${line}\n`);
    else this.receive(JSON.parse(line.slice(RESULT_MARK.length)) as Measured);
  }

  async run(image: string, load: Load, form: Form): Promise<Sample> {
    const { host } = this;
    const storage = await host.storageDomain();
    const parameters: FrontendJob = { vdev: VDEV, load, form, backendPid: storage.pid };
    const answered = new Promise<Measured>((resolve) => {
      this.receive = resolve;
    });
    const domain = await host.startTypescript({
      name: "frontend",
      memoryMiB: MEMORY_MIB,
      module: new URL("./frontend-kernel.js", import.meta.url).href,
      parameters,
      disks: [vbdOf(image, "driver-domain")],
    });
    let timer: NodeJS.Timeout | undefined;
    try {
      const failed = domain.exited.then((end) => {
        throw new Error(`the frontend's domain ended: ${"cause" in end ? end.cause : end.reason}`);
      });
      const late = new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new Error("the frontend gives no answer")), LIMIT_MS);
      });
      const measured = await Promise.race([answered, failed, late]);
      if (measured.failure !== undefined) throw new Error(measured.failure);
      return sampleOf(load, measured, host.vbdStatistics(domain.id)[0]?.counters);
    } finally {
      clearTimeout(timer);
      // The image is locked as long as the device exists.
      await host.detachDisk(domain.id, VDEV, true).catch(() => {});
      await domain.kill();
    }
  }
}

function sampleOf(load: Load, measured: Measured, counters?: Record<BlockCounterName, number>): Sample {
  const perSecond = measured.requests / measured.seconds;
  const front = measured.notifications / measured.allRequests;
  const back = (counters?.notifications_sent ?? Number.NaN) / measured.allRequests;
  return {
    requestsPerSecond: Math.round(perSecond),
    gigabytesPerSecond: rounded((perSecond * load.bytes) / 1e9),
    notifications: { front: rounded(front), back: rounded(back) },
    notificationsPerRequest: rounded(front + back),
    cpu: {
      front: rounded(measured.frontendCpu / measured.seconds),
      back: rounded(measured.backendCpu / measured.seconds),
    },
  };
}

interface FormSamples {
  readonly samples: Sample[];
  failure?: string;
}

function medians(samples: readonly Sample[]) {
  const of = (pick: (sample: Sample) => number) => rounded(median(samples.map(pick)));
  return {
    requestsPerSecond: of((sample) => sample.requestsPerSecond),
    gigabytesPerSecond: of((sample) => sample.gigabytesPerSecond),
    notificationsPerRequest: of((sample) => sample.notificationsPerRequest),
  };
}

/** The faster form's medians are the row's figures. */
function resultOf(row: Row, forms: Record<Form, FormSamples>) {
  const results = FORMS.map((form) => ({ form, ...medians(forms[form].samples), ...forms[form] }));
  const best = results.reduce((a, b) => (b.requestsPerSecond > a.requestsPerSecond ? b : a));
  const { samples: _, failure: __, ...figures } = best;
  return { ...row, ...figures, forms: results };
}

/** Each row in turns of the two forms, `rounds` times. */
export async function benchFrontend(image: string, rounds: number): Promise<object[]> {
  const bench = new FrontendHost();
  const measured = ROWS.map((row) => ({
    row,
    forms: { "event-loop": { samples: [] }, blocking: { samples: [] } } as Record<Form, FormSamples>,
  }));
  try {
    for (let round = 0; round < rounds; round++) {
      for (const { row, forms } of measured) {
        const load: Load = { ...row, milliseconds: MILLISECONDS };
        for (const form of FORMS) await sample(bench, image, load, form, forms[form], row.name);
      }
    }
  } finally {
    await bench.host.close();
  }
  return measured.map(({ row, forms }) => resultOf(row, forms));
}

async function sample(bench: FrontendHost, image: string, load: Load, form: Form, into: FormSamples, name: string) {
  if (into.failure !== undefined) return;
  try {
    const measured = await bench.run(image, load, form);
    into.samples.push(measured);
    process.stderr.write(`${name}, ${form}: ${measured.requestsPerSecond}/s\n`);
  } catch (error) {
    into.failure = error instanceof Error ? error.message : String(error);
    process.stderr.write(`${name}, ${form}: ${into.failure}\n`);
  }
}
