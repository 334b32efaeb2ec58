/**
 * Rounds of a lab that is killed: operations follow each other until the server gets SIGKILL at a moment that the seed chooses,
 * so that the kill always falls into one; then the lab is started again (sometimes killed in the middle of that, too) and must
 * be what the answered calls have made of it, give or take those that were not answered.
 */
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { PassedOn } from "../../main/failure.ts";
import type { ControlClient } from "../../main/lab/control-client.ts";
import { idle, tinyKernel } from "../cli/tiny-kernel.ts";
import { fillBlock, LabFolder } from "./inspect.ts";
import { LabProcess } from "./lab-process.ts";
import { description, type Model } from "./model.ts";
import { chooseOperation, type Operation } from "./operations.ts";
import { Random } from "./random.ts";

/** Operations that are under way at the same time. */
const WORKERS = 2;
/** Most milliseconds from the first operation to the kill unless it is said, and from a start to one in its middle. */
const KILL_MS = 300;
const KILL_START_MS = 400;
const KILL_START_CHANCE = 0.25;
/** Writes to disks between rounds. */
const MOST_WRITES = 4;
const TIDY_MS = 60_000;
const LOOK_MS = 25;

export interface RoundsOptions {
  readonly seed: number;
  readonly rounds: number;
  /** No round begins after that many milliseconds. */
  readonly limitMs?: number;
  /** Most milliseconds from the first operation to the kill: more on a busy host, where less is answered in that time. */
  readonly killMs?: number;
  readonly progress?: (line: string) => void;
}

export interface RoundsResult {
  readonly seed: number;
  readonly rounds: number;
  readonly seconds: number;
  /** Operations that were answered, and those that the kill cut off, of which so many had happened. */
  readonly answered: number;
  readonly cutOff: number;
  readonly cutOffDone: number;
  readonly killedStarts: number;
  /** Of each kind of operation: how many were cut off. */
  readonly kinds: Readonly<Record<string, number>>;
}

export class CrashRounds {
  private readonly folder = realpathSync(mkdtempSync(path.join(os.tmpdir(), "domlab-crash-")));
  private readonly home = path.join(this.folder, "lab");
  private readonly kernel = path.join(this.folder, "kernel");
  private readonly archives = path.join(this.folder, "archives");
  private readonly disk = new LabFolder(this.home, this.archives);
  private readonly random: Random;
  private readonly options: RoundsOptions;
  private readonly kinds: Record<string, number> = {};
  private readonly history: string[] = [];
  private lab: LabProcess | undefined;
  private model: Model = { machines: [], labSnapshots: [], archives: [] };
  private names = 0;
  private counts = { answered: 0, cutOff: 0, cutOffDone: 0, killedStarts: 0 };

  constructor(options: RoundsOptions) {
    this.options = options;
    this.random = new Random(options.seed);
    mkdirSync(this.home, { mode: 0o700 });
    mkdirSync(this.archives);
    writeFileSync(this.kernel, tinyKernel(idle));
  }

  /** @throws Error with the seed and what was done, when something was lost; the lab's folder stays then */
  async run(): Promise<RoundsResult> {
    const { seed, rounds, limitMs = Number.POSITIVE_INFINITY, progress } = this.options;
    const begin = Date.now();
    let done = 0;
    try {
      let client = await this.start();
      for (; done < rounds && Date.now() - begin < limitMs; done++) {
        this.write();
        const open = await this.work(client);
        client = await this.restart();
        await this.verify(client, open);
        progress?.(`round ${done + 1}: ${JSON.stringify(this.counts)}`);
      }
      await this.lab?.kill();
    } catch (error) {
      await this.lab?.kill().catch(() => {});
      appendFileSync(path.join(this.folder, "history"), `${this.history.join("\n")}\n`);
      const what = error instanceof Error ? error.message : String(error);
      const last = this.history.slice(-12).join("\n  ");
      throw new Error(`seed ${seed}, round ${done + 1}, in ${this.folder}: ${what}\n  ${last}`, { cause: error });
    }
    rmSync(this.folder, { recursive: true, force: true });
    const seconds = (Date.now() - begin) / 1000;
    return { seed, rounds: done, seconds, ...this.counts, kinds: this.kinds };
  }

  private note(line: string): void {
    this.history.push(`${new Date().toISOString()} ${line}`);
  }

  private start(): Promise<ControlClient> {
    const runtime = this.folder;
    this.lab = new LabProcess(this.home, runtime);
    return this.lab.ready();
  }

  private async kill(): Promise<void> {
    const left = (await this.lab?.kill()) ?? [];
    this.note("killed");
    if (left.length > 0) throw new Error(`processes outlived the lab that started them: ${left.join(", ")}`);
  }

  /** Gives some disks of machines that are off new content. The lab has tidied up, so nobody has them open. */
  private write(): void {
    const { random, disk, model } = this;
    const records = disk.records();
    for (let left = random.between(0, MOST_WRITES); left > 0; left--) {
      const machine = random.pick(model.machines.filter(({ state }) => state === "stopped"));
      const target = random.pick(machine?.disks ?? []);
      if (machine === undefined || target === undefined) return;
      const config = records.machines.find((each) => each.config.name === machine.name)?.config;
      const image = config?.disks.find(({ vdev }) => vdev === target.vdev);
      if (image === undefined) throw new Error(`the lab lacks ${machine.name}'s ${target.vdev}`);
      const block = random.between(0, target.blocks.length - 1);
      const byte = random.between(1, 255);
      fillBlock(image.source, image.format, block, byte);
      target.blocks[block] = byte;
    }
  }

  /** Operates the lab until it is killed. @returns operations that were not answered */
  private async work(lab: ControlClient): Promise<Operation[]> {
    const busy = new Set<string>();
    const open = new Set<Operation>();
    const state: { killed: boolean; failure?: unknown } = { killed: false };
    const worker = async () => {
      while (!state.killed && state.failure === undefined) {
        const { random, model, kernel, archives } = this;
        const newName = (kind: string) => `${kind}-${++this.names}`;
        const operation = chooseOperation({ random, model, busy, kernel, archives, newName });
        if (operation === undefined) return;
        for (const machine of operation.machines) busy.add(machine);
        open.add(operation);
        this.note(operation.what);
        try {
          await operation.call(lab);
        } catch (error) {
          if (!state.killed || error instanceof PassedOn) state.failure = error;
          return;
        }
        // What is answered after the kill was sent before it: it counts as well.
        operation.apply(this.model);
        open.delete(operation);
        for (const machine of operation.machines) busy.delete(machine);
        this.counts.answered++;
        this.note(`answered: ${operation.what}`);
      }
    };
    const moment = this.random.next() * (this.options.killMs ?? KILL_MS);
    const workers = Array.from({ length: WORKERS }, worker);
    await delay(moment);
    state.killed = true;
    await this.kill();
    await Promise.all(workers);
    if (state.failure !== undefined) throw state.failure;
    return [...open];
  }

  private async restart(): Promise<ControlClient> {
    while (this.random.chance(KILL_START_CHANCE)) {
      this.lab = new LabProcess(this.home, this.folder);
      await delay(this.random.next() * KILL_START_MS);
      this.note("killed while it starts");
      await this.kill();
      this.counts.killedStarts++;
    }
    return this.start();
  }

  /** The lab is in order, and what it must be. */
  private async verify(client: ControlClient, open: readonly Operation[]): Promise<void> {
    const end = Date.now() + TIDY_MS;
    let untidy = this.untidiness();
    for (; untidy.length > 0 && Date.now() < end; untidy = this.untidiness()) await delay(LOOK_MS);
    const problems = [...untidy, ...this.disk.damage()];
    const log = readFileSync(path.join(this.home, "lab.log"), "utf8");
    problems.push(...log.split("\n").filter((line) => line.includes("internal error")));
    problems.push(...readFileSync(path.join(this.home, "server.err"), "utf8").split("\n").filter(Boolean));
    if (problems.length > 0) throw new Error(problems.join("\n"));
    const seen = this.disk.model();
    this.adopt(seen, open);
    await this.compareLists(client);
  }

  /** While files are renamed and removed, looking at them may fail: then it is looked again. */
  private untidiness(): string[] {
    try {
      return this.disk.untidiness();
    } catch (error) {
      return [error instanceof Error ? error.message : String(error)];
    }
  }

  /** Takes what is there for the model, when it is what must be there; unanswered operations may have happened. */
  private adopt(seen: Model, open: readonly Operation[]): void {
    const found = description(seen);
    const wanted: string[][] = [];
    for (let which = 0; which < 2 ** open.length; which++) {
      const model = structuredClone(this.model);
      const happened = open.filter((_, index) => which & (1 << index));
      for (const operation of happened) operation.apply(model);
      const lines = description(model);
      wanted.push(lines);
      if (lines.join("\n") !== found.join("\n")) continue;
      for (const { what } of open) {
        const [kind = ""] = what.split(" ");
        this.kinds[kind] = (this.kinds[kind] ?? 0) + 1;
      }
      this.counts.cutOff += open.length;
      this.counts.cutOffDone += happened.length;
      this.note(`open: ${open.map(({ what }) => what).join("; ")}; happened: ${happened.length}`);
      this.model = seen;
      return;
    }
    const [before = []] = wanted;
    const missing = before.filter((line) => !found.includes(line));
    const strange = found.filter((line) => !before.includes(line));
    const operations = open.map(({ what }) => what).join("; ");
    throw new Error(`unanswered: ${operations}\nmissing:\n${missing.join("\n")}\nthere:\n${strange.join("\n")}`);
  }

  /** What the lab says it has is what its records have. */
  private async compareLists(client: ControlClient): Promise<void> {
    const rows = [...(await client.call("machineList", {})), ...(await client.call("machineList", { deleted: true }))];
    const present = rows.map(({ name }) => name).sort();
    const wanted = this.model.machines.map(({ name }) => name).sort();
    if (present.join() !== wanted.join()) throw new Error(`listed are ${present.join()} and not ${wanted.join()}`);
    const unavailable = rows.filter((row) => row.unavailable !== undefined);
    if (unavailable.length > 0) throw new Error(unavailable.map((row) => `${row.name}: ${row.unavailable}`).join("\n"));
    for (const machine of this.model.machines) {
      if (machine.state === "deleted") continue;
      const listed = await client.call("snapshotList", { machine: machine.name });
      const names = listed.map(({ name }) => name).sort();
      const expected = machine.snapshots.map(({ name }) => name).sort();
      if (names.join() !== expected.join()) throw new Error(`${machine.name} lists ${names.join()}, not ${expected}`);
    }
  }
}
