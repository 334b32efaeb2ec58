import { mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import type { DomainHandle } from "../../engine/domain/guest.ts";
import { startDomain } from "../../engine/domain/host.ts";
import { openImage } from "../../main/images/catalogue.ts";
import { PromptWatch } from "../../main/prompt-watch.ts";
import { processMemory } from "./memory.ts";
import { median, rounded } from "./statistics.ts";

/** Shell commands that keep the guest's CPU busy for some seconds; their data is made before the clock starts. */
const LOADS: readonly (readonly [name: string, command: string])[] = [
  ["sha256sum", "sha256sum /tmp/data"],
  ["gzip", "gzip -c /tmp/text >/dev/null"],
  ["integer loop", "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done"],
];
/** 0.6 MB of text that gzip can do something with, and ten times as much for the hash. */
const PREPARE = "seq 1 100000 >/tmp/text; for i in 0 1 2 3 4 5 6 7 8 9; do cat /tmp/text; done >/tmp/data";

const LIMIT_MS = 300_000;

interface Sample {
  readonly instructions: number;
  readonly seconds: number;
  /** Seconds in which the guest's CPU ran, without its sleeps. */
  readonly busySeconds: number;
  readonly mips: number;
}

/** A guest's shell, typed into by a program. */
class Shell {
  readonly #guest: DomainHandle;
  readonly #watch = new PromptWatch();
  #output = "";
  #wake: () => void = () => {};

  constructor(guest: DomainHandle) {
    this.#guest = guest;
    guest.console.onOutput((bytes) => {
      this.#watch.feed(bytes);
      this.#output = (this.#output + Buffer.from(bytes).toString("latin1")).slice(-4000);
      this.#wake();
    });
  }

  /** Waits for the prompt. */
  ready(): Promise<void> {
    return this.#until(() => this.#watch.waiting, "the prompt");
  }

  /** Types a command and waits until it has ended. The mark is spelt so that its echo does not count. */
  async run(command: string): Promise<void> {
    this.#output = "";
    await this.#guest.console.write(Buffer.from(`${command}; echo do''ne\n`));
    await this.#until(() => /^done\r?$/m.test(this.#output), command);
    await this.#until(() => this.#watch.waiting, "the prompt");
  }

  async #until(condition: () => boolean, what: string): Promise<void> {
    const end = Date.now() + LIMIT_MS;
    while (!condition()) {
      const left = end - Date.now();
      if (left <= 0) throw new Error(`waited in vain for ${what}; the console says: ${this.#output.slice(-500)}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
}

/** Speed of the guest's CPU while `action` runs. */
async function measure(
  guest: DomainHandle,
  action: () => Promise<void>,
  begin = { instructions: 0, busySeconds: 0 },
): Promise<Sample> {
  const start = process.hrtime.bigint();
  await action();
  const seconds = Number(process.hrtime.bigint() - start) / 1e9;
  const after = await guest.statistics();
  const instructions = after.instructions - begin.instructions;
  const busySeconds = after.busySeconds - begin.busySeconds;
  return {
    instructions,
    seconds: rounded(seconds),
    busySeconds: rounded(busySeconds),
    mips: rounded(instructions / busySeconds / 1e6),
  };
}

async function oneGuest(rounds: number, memoryMiB: number, consoleLog: string) {
  const { kernel, initramfs, commandLine } = await openImage("debian-shell");
  const image = { kernel: { path: kernel }, initrd: [{ bytes: new Uint8Array(initramfs) }], commandLine };
  const guest = await startDomain({ id: 1, name: "bench", memoryMiB, image, consoleLog });
  try {
    const shell = new Shell(guest);
    const boot = await measure(guest, () => shell.ready());
    const memoryAfterBoot = processMemory(guest.pid);
    await shell.run(PREPARE);
    const loads: Record<string, { samples: Sample[]; medianMips: number }> = {};
    for (const [name, command] of LOADS) {
      const samples: Sample[] = [];
      for (let round = 0; round < rounds; round++) {
        samples.push(await measure(guest, () => shell.run(command), await guest.statistics()));
        process.stderr.write(`${name}: ${samples.at(-1)?.mips} MIPS\n`);
      }
      loads[name] = { samples, medianMips: median(samples.map(({ mips }) => mips)) };
    }
    return { boot, loads, memoryAfterBoot, memoryAfterLoads: processMemory(guest.pid) };
  } finally {
    await guest.kill();
  }
}

/** DomainHandle MIPS at boot and on three loads (`rounds` samples each), and the memory of the domain process. */
export async function benchCpu(rounds: number, memoryMiB: number): Promise<object> {
  const folder = mkdtempSync(path.join(os.tmpdir(), "domlab-bench-"));
  try {
    const result = await oneGuest(rounds, memoryMiB, path.join(folder, "console.log"));
    return { bench: "cpu", memoryMiB, ...result, limits: { bootMips: 120, overheadMiB: 300 } };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
