import { mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import type { DomainHandle } from "../../engine/domain/guest.ts";
import { startDomain } from "../../engine/domain/host.ts";
import { openImage } from "../../main/images/catalogue.ts";
import { processMemory } from "./memory.ts";
import { Shell } from "./shell.ts";
import { median, rounded } from "./statistics.ts";

/** Shell commands that keep the guest's CPU busy for some seconds; their data is made before the clock starts. */
const LOADS: readonly (readonly [name: string, command: string])[] = [
  ["sha256sum", "sha256sum /tmp/data"],
  ["gzip", "gzip -c /tmp/text >/dev/null"],
  ["integer loop", "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done"],
];
/** 0.6 MB of text that gzip can do something with, and ten times as much for the hash. */
const PREPARE = "seq 1 100000 >/tmp/text; for i in 0 1 2 3 4 5 6 7 8 9; do cat /tmp/text; done >/tmp/data";

interface Sample {
  readonly instructions: number;
  readonly seconds: number;
  /** Seconds in which the guest's CPU ran, without its sleeps. */
  readonly busySeconds: number;
  readonly mips: number;
}

/** Speed of the guest's CPU while `action` runs. */
async function measure(
  guest: DomainHandle,
  action: () => Promise<unknown>,
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
    const shell = new Shell(guest.console);
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

/** Guest MIPS at boot and on three loads (`rounds` samples each), and the memory of the domain process. */
export async function benchCpu(rounds: number, memoryMiB: number): Promise<object> {
  const folder = mkdtempSync(path.join(os.tmpdir(), "domlab-bench-"));
  try {
    const result = await oneGuest(rounds, memoryMiB, path.join(folder, "console.log"));
    return { bench: "cpu", memoryMiB, ...result, limits: { bootMips: 120, overheadMiB: 300 } };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
