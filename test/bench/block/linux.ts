/** Rows of a stock Linux guest: both placements of the backend, and QEMU (TCG) with a virtio disk, in turns. */
import { copyFileSync } from "node:fs";
import path from "node:path";
import { openImage } from "../../../main/images/catalogue.ts";
import { median, rounded } from "../statistics.ts";
import { type Contender, qemuArguments, type RunningGuest, startDomlab, startQemu } from "./guests.ts";
import { commandOf, type GuestRow, preparation, ROWS, secondsSaid } from "./rows.ts";
import { virtioModules } from "./virtio-modules.ts";

interface Sample {
  /** By the guest's clock where the program tells, else by the host's. */
  readonly seconds: number;
  /** From the typing of the command to its end. */
  readonly hostSeconds: number;
  readonly requestsPerSecond: number;
  readonly megabytesPerSecond: number;
  /** Of our guest's CPU, with the command's start and end. */
  readonly instructionsPerRequest?: number;
  /** Part of the time in which the guest's CPU ran, and its speed then. */
  readonly busy?: number;
  readonly mips?: number;
}

interface Samples {
  readonly samples: Sample[];
  /** Requests a second of the samples before: the first ones of all (GuestRow.warmUp). */
  readonly warmUp: number[];
  failure?: string;
}

async function measure(row: GuestRow, contender: Contender): Promise<Sample> {
  const commands = preparation(row, contender.device);
  if (commands === undefined) return measureCommand(row, contender);
  await contender.shell.run(commands.before);
  const sample = await measureCommand(row, contender);
  await contender.shell.run(commands.after);
  return sample;
}

async function measureCommand(row: GuestRow, { device, shell, statistics }: Contender): Promise<Sample> {
  const before = await statistics?.();
  const start = process.hrtime.bigint();
  const printed = await shell.run(commandOf(row, device));
  const hostSeconds = Number(process.hrtime.bigint() - start) / 1e9;
  const after = await statistics?.();
  const seconds = secondsSaid(row, printed) ?? hostSeconds;
  const sample = {
    seconds: rounded(seconds),
    hostSeconds: rounded(hostSeconds),
    requestsPerSecond: Math.round(row.count / seconds),
    megabytesPerSecond: rounded((row.count * row.bytes) / seconds / 1e6),
  };
  if (before === undefined || after === undefined) return sample;
  const instructions = after.instructions - before.instructions;
  const busySeconds = after.busySeconds - before.busySeconds;
  return {
    ...sample,
    instructionsPerRequest: Math.round(instructions / row.count),
    busy: rounded(busySeconds / hostSeconds),
    mips: rounded(instructions / busySeconds / 1e6),
  };
}

async function takeSample(row: GuestRow, contender: Contender, into: Samples, warmUp = false): Promise<void> {
  if (into.failure !== undefined) return;
  try {
    const sample = await measure(row, contender);
    if (warmUp) into.warmUp.push(sample.requestsPerSecond);
    else into.samples.push(sample);
    const note = warmUp ? " (not counted)" : "";
    process.stderr.write(`${row.name}, ${contender.name}: ${sample.requestsPerSecond}/s${note}\n`);
  } catch (error) {
    into.failure = error instanceof Error ? error.message : String(error);
    process.stderr.write(`${row.name}, ${contender.name}: ${into.failure}\n`);
  }
}

const speed = (samples: readonly Sample[]) => median(samples.map((sample) => sample.requestsPerSecond));

function resultOf(row: GuestRow, measured: ReadonlyMap<string, Samples>) {
  const { key: _, load: __, warmUp: ___, turns: ____, ...description } = row;
  const qemu = speed(measured.get("qemu")?.samples ?? []);
  const contenders = [...measured].map(([name, { samples, warmUp, failure }]) => [
    name,
    {
      requestsPerSecond: speed(samples),
      megabytesPerSecond: rounded((speed(samples) * row.bytes) / 1e6),
      ...(name !== "qemu" && { ratio: rounded(speed(samples) / qemu) }),
      samples,
      ...(warmUp.length > 0 && { warmUp }),
      ...(failure !== undefined && { failure }),
    },
  ]);
  return { ...description, ...Object.fromEntries(contenders) };
}

/** A guest that does not come up takes no part; the others go on. */
async function started(start: () => Promise<RunningGuest>, names: readonly string[], failures: Map<string, string>) {
  try {
    return await start();
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    for (const name of names) failures.set(name, message);
    process.stderr.write(`${names.join(", ")}: ${message}\n`);
    return undefined;
  }
}

/**
 * `rounds` times the samples of each row (GuestRow.turns) on copies of the image, all of them in the page cache. The guests
 * run at the same time, but only one has something to do at any.
 */
export async function benchLinux(image: string, rounds: number, memoryMiB: number): Promise<object> {
  const guestImage = await openImage("debian-shell", { progress: (text) => process.stderr.write(`${text}\n`) });
  const copy = (name: string) => {
    const file = path.join(path.dirname(image), name);
    copyFileSync(image, file);
    return file;
  };
  const second = copy("second.img");
  const third = copy("third.img");
  const failures = new Map<string, string>();
  const ours = () => startDomlab(guestImage, memoryMiB, [image, second]);
  const theirs = async () => startQemu(guestImage, await virtioModules(guestImage.kernelRelease), memoryMiB, third);
  const guests = [
    await started(ours, ["driver-domain", "hypervisor"], failures),
    await started(theirs, ["qemu"], failures),
  ].filter((guest) => guest !== undefined);
  const contenders = guests.flatMap((guest) => guest.contenders);
  const none = () => new Map(contenders.map(({ name }): [string, Samples] => [name, { samples: [], warmUp: [] }]));
  const measured = new Map(ROWS.map((row) => [row, none()]));
  const takeTurns = async (row: GuestRow, warmUp: boolean) => {
    for (const contender of contenders) {
      await takeSample(row, contender, measured.get(row)?.get(contender.name) as Samples, warmUp);
    }
  };
  try {
    for (const row of ROWS) {
      for (let n = 0; n < (row.warmUp ?? 0); n++) await takeTurns(row, true);
    }
    for (let round = 0; round < rounds; round++) {
      for (const row of ROWS) {
        for (let n = 0; n < (row.turns ?? 1); n++) await takeTurns(row, false);
      }
    }
  } finally {
    for (const guest of guests) await guest.end();
  }
  return {
    kernel: guestImage.kernelRelease,
    memoryMiB,
    commandLine: guestImage.commandLine,
    qemuArguments: qemuArguments(guestImage, "initrd", memoryMiB, path.basename(third)),
    ...(failures.size > 0 && { failures: Object.fromEntries(failures) }),
    rows: [...measured].map(([row, samples]) => resultOf(row, samples)),
  };
}
