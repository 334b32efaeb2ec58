/**
 * Snapshots of a running guest and going back to them: as a user has it, through the lab; through the host, set up as the lab
 * sets it up; and through a host that has no process ready, as where a restore follows at once upon a start.
 */
import { mkdirSync, mkdtempSync, realpathSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { DomainHandle } from "../../engine/domain/guest.ts";
import { Host } from "../../engine/domain/host.ts";
import { type GuestImage, openImage } from "../../main/images/catalogue.ts";
import type { ControlClient } from "../../main/lab/control-client.ts";
import { labPaths } from "../../main/lab/store/paths.ts";
import { LabFolder } from "../crash/inspect.ts";
import { LabProcess } from "../crash/lab-process.ts";
import { Shell, type Terminal } from "./shell.ts";
import { median, rounded } from "./statistics.ts";

/** Bytes of guest memory in use when a snapshot is taken. */
const TOUCHED = 100e6;
const FILLINGS = 4;
const LIMITS = { pausedMs: 100, seconds: 1.5, restoreMs: 300, filePercent: 60 } as const;
/** Between two measurements: the next guest's process is made in advance meanwhile, as in a lab that is left alone. */
const REST_MS = 3000;
const ANSWER_MS = 30_000;
const MACHINE = "bench";
const SNAPSHOT = "live";

/** One snapshot and the way back to it. */
interface Sample {
  readonly pausedMs: number;
  readonly seconds: number;
  readonly fileBytes: number;
  readonly touchedBytes: number;
  readonly filePercent: number;
  /** From the call until the answer to a typed command arrived. */
  readonly restoreMs: number;
}

/** Types a command and waits for its answer, which its echo does not contain. */
async function answers(terminal: Terminal): Promise<void> {
  let text = "";
  const answered = new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no answer; the console says: ${text.slice(-500)}`)), ANSWER_MS);
    terminal.onOutput((bytes) => {
      text += Buffer.from(bytes).toString("latin1");
      if (!text.includes("answer 42")) return;
      clearTimeout(timer);
      resolve();
    });
  });
  await terminal.write(Buffer.from("echo answer $((6 * 7))\n"));
  await answered;
}

/**
 * Fills memory with the kernel's list of symbols (lines of hexadecimal addresses and words): a file in the guest's root, which
 * is memory. Random data would measure nothing, as nothing compresses it.
 */
async function fill(shell: Shell, bytes: number): Promise<void> {
  const size = Math.max(0, Math.round(bytes));
  const symbols = "[ -e /symbols ] || cat /proc/kallsyms >/symbols";
  await shell.run(`${symbols}; (while cat /symbols; do :; done) 2>/dev/null | head -c ${size} >>/filling`);
}

/** Bytes that the guest's memory takes in a snapshot. */
async function touched(host: Host, id: number, file: string): Promise<number> {
  const [taken] = await host.snapshot([{ id, file, disks: [] }]);
  rmSync(file);
  return taken?.touchedBytes ?? 0;
}

interface HostRun {
  readonly rounds: number;
  readonly memoryMiB: number;
  readonly image: GuestImage;
  readonly folder: string;
  /** Whether the host keeps the next guest's process ready, as the lab's does. */
  readonly spareProcess: boolean;
}

async function sample(host: Host, handle: DomainHandle, memoryMiB: number, file: string) {
  const [taken] = await host.snapshot([{ id: handle.id, file, disks: [] }]);
  if (taken === undefined) throw new Error("no snapshot was taken");
  await delay(REST_MS);
  await handle.kill();
  const begin = performance.now();
  const restored = await host.restoreGuest({ name: MACHINE, memoryMiB }, file);
  await answers(restored.console);
  const restoreMs = performance.now() - begin;
  rmSync(file);
  const { pausedMs, seconds, fileBytes, touchedBytes } = taken;
  return { restored, result: row({ pausedMs, seconds, fileBytes, touchedBytes, restoreMs }) };
}

function row(given: Omit<Sample, "filePercent">): Sample {
  return {
    ...given,
    pausedMs: rounded(given.pausedMs),
    seconds: rounded(given.seconds),
    restoreMs: rounded(given.restoreMs),
    filePercent: rounded((100 * given.fileBytes) / given.touchedBytes),
  };
}

/** @param filling bytes to fill, where that is known; without it, as many as bring the guest to TOUCHED */
async function throughHost(
  { rounds, memoryMiB, image, folder, spareProcess }: HostRun,
  filling?: number,
): Promise<{ filled: number; samples: Sample[] }> {
  const host = new Host({ log: () => {}, spareProcess });
  try {
    let handle = await host.startGuest({
      name: MACHINE,
      memoryMiB,
      image: {
        kernel: { path: image.kernel },
        initrd: [{ bytes: new Uint8Array(image.initramfs) }],
        commandLine: image.commandLine,
      },
    });
    const shell = new Shell(handle.console);
    await shell.ready();
    const file = path.join(folder, "memory");
    let filled = filling ?? 0;
    if (filling !== undefined) await fill(shell, filling);
    // Some of what is written lands in pages that were in use before.
    for (let tries = 0; tries < FILLINGS && filling === undefined; tries++) {
      const missing = TOUCHED - (await touched(host, handle.id, file));
      if (missing <= 0) break;
      await fill(shell, missing);
      filled += missing;
    }
    const samples: Sample[] = [];
    for (let round = 0; round < rounds; round++) {
      await delay(REST_MS);
      const { restored, result } = await sample(host, handle, memoryMiB, file);
      handle = restored;
      samples.push(result);
      process.stderr.write(`host${spareProcess ? "" : " without spare"}: ${JSON.stringify(result)}\n`);
    }
    return { filled, samples };
  } finally {
    await host.close();
  }
}

/** A machine's console through the lab. */
async function labTerminal(lab: ControlClient): Promise<Terminal> {
  const { attachment } = await lab.call("consoleAttach", { machine: MACHINE, offset: -1 });
  const write = async (bytes: Uint8Array) => {
    const data = Buffer.from(bytes).toString("base64");
    await lab.call("consoleWrite", { machine: MACHINE, data });
  };
  const onOutput = (listener: (bytes: Uint8Array) => void) => {
    lab.onEvent((event) => {
      if (event.kind !== "console" || event.attachment !== attachment) return;
      const bytes = Buffer.from(event.data, "base64");
      // The connection may end with the lab while this is on its way.
      lab.call("consoleAcknowledge", { attachment, offset: event.offset + bytes.length }).catch(() => {});
      listener(bytes);
    });
  };
  return { write, onOutput };
}

async function labSample(lab: ControlClient, terminal: Terminal, home: string): Promise<Sample> {
  const start = performance.now();
  const { pausedMs } = await lab.call("snapshotTake", { machine: MACHINE, name: SNAPSHOT });
  const seconds = (performance.now() - start) / 1000;
  const [snapshot] = new LabFolder(labPaths(home).folder, home).records().machines[0]?.snapshots ?? [];
  const { memoryFile = 0, touchedMemory = 0 } = snapshot?.sizes ?? {};
  await delay(REST_MS);
  await lab.call("machineDestroy", { machine: MACHINE });
  const begin = performance.now();
  await lab.call("snapshotRestore", { machine: MACHINE, snapshot: SNAPSHOT });
  await answers(terminal);
  const restoreMs = performance.now() - begin;
  await lab.call("snapshotDelete", { machine: MACHINE, snapshot: SNAPSHOT });
  return row({ pausedMs, seconds, fileBytes: memoryFile, touchedBytes: touchedMemory, restoreMs });
}

async function throughLab(rounds: number, memoryMiB: number, filled: number, folder: string): Promise<Sample[]> {
  const home = path.join(folder, "lab");
  mkdirSync(home, { mode: 0o700 });
  const server = new LabProcess(home, folder);
  try {
    const lab = await server.ready();
    await lab.call("machineCreate", { config: { name: MACHINE, image: "debian-shell", memoryMiB } });
    await lab.call("machineStart", { machine: MACHINE });
    const until = { kind: "answering" } as const;
    await lab.call("machineWait", { machine: MACHINE, until, timeoutSeconds: 120 });
    const terminal = await labTerminal(lab);
    await fill(new Shell(terminal), filled);
    const samples: Sample[] = [];
    for (let round = 0; round < rounds; round++) {
      await delay(REST_MS);
      samples.push(await labSample(lab, terminal, home));
      process.stderr.write(`lab: ${JSON.stringify(samples.at(-1))}\n`);
    }
    return samples;
  } finally {
    await server.kill();
  }
}

const FIGURES = ["pausedMs", "seconds", "restoreMs", "filePercent"] as const;

function medians(samples: readonly Sample[]) {
  return Object.fromEntries(FIGURES.map((key) => [key, rounded(median(samples.map((each) => each[key])))]));
}

/**
 * Live snapshots of a guest with 100 MB in use, and restores of it until its console answers; `rounds` of each on each way. The
 * limits are kept if the lab's medians and the host's keep them; the way without a spare process is told beside them.
 */
export async function benchSnapshot(rounds: number, memoryMiB: number): Promise<object> {
  const image = await openImage("debian-shell", { progress: (text) => process.stderr.write(`${text}\n`) });
  const folder = realpathSync(mkdtempSync(path.join(os.tmpdir(), "domlab-bench-")));
  try {
    const run = { rounds, memoryMiB, image, folder };
    const { filled, samples: host } = await throughHost({ ...run, spareProcess: true });
    const lab = await throughLab(rounds, memoryMiB, filled, folder);
    const { samples: unprepared } = await throughHost({ ...run, spareProcess: false }, filled);
    const ways = { lab: medians(lab), host: medians(host), hostWithoutSpareProcess: medians(unprepared) };
    const kept = [ways.lab, ways.host].every((way) =>
      Object.entries(LIMITS).every(([key, limit]) => (way[key] ?? Number.NaN) <= limit),
    );
    return {
      bench: "snapshot",
      kernel: image.kernelRelease,
      memoryMiB,
      touched: "what a booted guest has, and a file of copies of /proc/kallsyms, together about 100 MB",
      filledBytes: filled,
      samples: { lab, host, hostWithoutSpareProcess: unprepared },
      medians: ways,
      limits: LIMITS,
      kept,
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
