/** A guest of QEMU's (TCG) beside ours: the same kernel and initramfs, its console a shell that a program types into. */
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import type { GuestImage } from "../../main/images/catalogue.ts";
import type { Module } from "./block/virtio-modules.ts";
import { Shell } from "./shell.ts";

const QEMU = "qemu-system-x86_64";

export interface QemuGuest {
  readonly shell: Shell;
  /** Process of QEMU. */
  readonly pid: number;
  end(): Promise<void>;
}

/**
 * Arguments without devices: the machine "pc", as this kernel's virtio devices are found on PCI only, and microvm has no
 * timer that Linux can calibrate when it has PCI.
 */
export function qemuMachine(image: GuestImage, initrd: string, memoryMiB: number, parameters = ""): string[] {
  return [
    ...["-M", "pc", "-accel", "tcg", "-m", String(memoryMiB), "-nodefaults", "-no-user-config"],
    ...["-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", image.kernel, "-initrd", initrd],
    ...["-append", `${image.commandLine.replaceAll("hvc0", "ttyS0")}${parameters}`],
  ];
}

function ended(child: ChildProcessWithoutNullStreams): Promise<void> {
  return new Promise((resolve) => child.once("close", () => resolve()));
}

/** Boots, and loads modules from /bench of the initramfs. @param check a command that must succeed then */
export async function startQemuShell(
  args: readonly string[],
  modules: readonly Module[],
  check: string,
): Promise<QemuGuest> {
  const child = spawn(QEMU, args);
  const gone = ended(child);
  const failed = new Promise<never>((_, reject) => {
    let said = "";
    child.stderr.on("data", (bytes: Buffer) => {
      said += bytes.toString("latin1");
    });
    child.once("error", reject);
    child.once("close", () => reject(new Error(`QEMU has ended; it said: ${said.slice(-500)}`)));
  });
  failed.catch(() => {});
  const end = async () => {
    child.kill("SIGKILL");
    if (child.pid !== undefined) await gone;
  };
  const shell = new Shell({
    onOutput: (listener) => void child.stdout.on("data", listener),
    write: (bytes) => new Promise((resolve) => child.stdin.write(bytes, () => resolve())),
  });
  try {
    await Promise.race([shell.ready(), failed]);
    for (const { file } of modules) await Promise.race([shell.run(`insmod /bench/${file}`), failed]);
    await Promise.race([shell.run(check), failed]);
  } catch (error) {
    await end();
    throw error;
  }
  return { shell, pid: child.pid ?? 0, end };
}
