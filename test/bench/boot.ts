import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { openImage } from "../../main/images/catalogue.ts";
import { median, rounded } from "./statistics.ts";
import { secondsUntilPrompt } from "./until-prompt.ts";

const program = fileURLToPath(new URL("../../main/cli.js", import.meta.url));
const QEMU = "qemu-system-x86_64";

interface Contender {
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly samples: number[];
  /** Why it does not take part any more. */
  failure?: string;
}

/**
 * QEMU's arguments for the same kernel, initrd, memory and command line, but for the console. The machine microvm gets
 * its memory map from the boot parameters only (acpi=off): with ACPI it has no timer that Linux can calibrate without KVM.
 */
function qemuArguments(kernel: string, initrd: string, commandLine: string, memoryMiB: number): string[] {
  return [
    ...["-M", "microvm,acpi=off", "-accel", "tcg", "-m", String(memoryMiB), "-nodefaults", "-no-user-config"],
    ...["-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", kernel, "-initrd", initrd],
    ...["-append", commandLine.replaceAll("hvc0", "ttyS0")],
  ];
}

/** Boots in turns, A B A B, so that a change of the host's speed meets both. */
async function takeTurns(contenders: readonly Contender[], rounds: number): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    for (const contender of contenders) {
      if (contender.failure !== undefined) continue;
      try {
        const seconds = await secondsUntilPrompt(contender.command, contender.args);
        contender.samples.push(rounded(seconds));
        process.stderr.write(`${contender.name}: ${seconds.toFixed(2)} s\n`);
      } catch (error) {
        contender.failure = error instanceof Error ? error.message : String(error);
      }
    }
  }
}

/** Wall time from the start of the process to the guest's shell prompt, ours and QEMU's; `rounds` boots each. */
export async function benchBoot(rounds: number, memoryMiB: number): Promise<object> {
  const image = await openImage("debian-shell", { progress: (text) => process.stderr.write(`${text}\n`) });
  const folder = mkdtempSync(path.join(os.tmpdir(), "domlab-bench-"));
  try {
    const initrd = path.join(folder, "initrd");
    writeFileSync(initrd, image.initramfs);
    const ours = [program, "run", "--memory", String(memoryMiB)];
    const domlab: Contender = { name: "domlab", command: process.execPath, args: ours, samples: [] };
    const theirs = qemuArguments(image.kernel, initrd, image.commandLine, memoryMiB);
    const qemu: Contender = { name: "qemu", command: QEMU, args: theirs, samples: [] };
    await takeTurns([domlab, qemu], rounds);
    const result = ({ samples, failure }: Contender) => ({
      seconds: samples,
      median: rounded(median(samples)),
      ...(failure !== undefined && { failure }),
    });
    return {
      bench: "boot",
      kernel: image.kernelRelease,
      memoryMiB,
      commandLine: image.commandLine,
      domlab: result(domlab),
      qemu: { ...result(qemu), arguments: theirs },
      ratio: rounded(median(domlab.samples) / median(qemu.samples)),
      limit: 2.5,
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
