/** The guests that are compared: one of ours with a disk of each placement, and one of QEMU's. */
import { writeFileSync } from "node:fs";
import path from "node:path";
import { type CpioEntry, writeCpio } from "../../../engine/builder/cpio.ts";
import type { DomainHandle } from "../../../engine/domain/guest.ts";
import { Host } from "../../../engine/domain/host.ts";
import type { GuestImage } from "../../../main/images/catalogue.ts";
import { diskLoadProgram } from "../guest-programs/disk-load.ts";
import { qemuMachine, startQemuShell } from "../qemu.ts";
import { Shell } from "../shell.ts";
import { VDEV, vbdOf } from "./image.ts";
import { type GuestRow, programOf, ROWS } from "./rows.ts";
import type { Module } from "./virtio-modules.ts";

/** A disk in a guest. */
export interface Contender {
  readonly name: string;
  /** As the guest calls it: "xvda". */
  readonly device: string;
  /** Work of the guest's CPU so far; undefined where that cannot be known. */
  readonly statistics?: () => ReturnType<DomainHandle["statistics"]>;
  readonly shell: Shell;
}

export interface RunningGuest {
  readonly contenders: readonly Contender[];
  end(): Promise<void>;
}

/** /bench: a load's program for each row and device, and modules. */
function benchArchive(devices: readonly string[], modules: readonly Module[]): Uint8Array {
  const programs = devices.flatMap((device) =>
    ROWS.flatMap((row: GuestRow): CpioEntry[] =>
      row.load === undefined
        ? []
        : [
            {
              kind: "file",
              path: programOf(row, device).slice(1),
              data: diskLoadProgram({ ...row.load, device: `/dev/${device}` }),
              mode: 0o755,
            },
          ],
    ),
  );
  const files = modules.map(({ file, data }): CpioEntry => ({ kind: "file", path: `bench/${file}`, data }));
  return writeCpio([{ kind: "directory", path: "bench" }, ...programs, ...files]);
}

/** Our guest: xvda is served by the driver domain, xvdb by the hypervisor. */
export async function startDomlab(
  image: GuestImage,
  memoryMiB: number,
  disks: [string, string],
): Promise<RunningGuest> {
  const host = new Host({ log: (line) => process.stderr.write(`${line}\n`) });
  try {
    const initrd = [
      { bytes: new Uint8Array(image.initramfs) },
      { bytes: new Uint8Array(benchArchive(["xvda", "xvdb"], [])) },
    ];
    const guest = await host.startGuest({
      name: "bench",
      memoryMiB,
      image: { kernel: { path: image.kernel }, initrd, commandLine: image.commandLine },
      disks: [vbdOf(disks[0], "driver-domain"), { ...vbdOf(disks[1], "hypervisor"), vdev: VDEV + 16 }],
    });
    const shell = new Shell(guest.console);
    await shell.ready();
    const statistics = () => guest.statistics();
    return {
      contenders: [
        { name: "driver-domain", device: "xvda", statistics, shell },
        { name: "hypervisor", device: "xvdb", statistics, shell },
      ],
      end: () => host.close(),
    };
  } catch (error) {
    await host.close();
    throw error;
  }
}

/** QEMU's arguments. */
export function qemuArguments(image: GuestImage, initrd: string, memoryMiB: number, disk: string): string[] {
  return [
    ...qemuMachine(image, initrd, memoryMiB),
    ...["-drive", `file=${disk},if=none,id=disk,format=raw,cache=writeback,aio=threads`],
    ...["-device", "virtio-blk-pci,drive=disk"],
  ];
}

export async function startQemu(
  image: GuestImage,
  modules: readonly Module[],
  memoryMiB: number,
  disk: string,
): Promise<RunningGuest> {
  const initrd = path.join(path.dirname(disk), "initrd");
  writeFileSync(initrd, Buffer.concat([image.initramfs, benchArchive(["vda"], modules)]));
  const { shell, end } = await startQemuShell(
    qemuArguments(image, initrd, memoryMiB, disk),
    modules,
    "test -b /dev/vda",
  );
  return { contenders: [{ name: "qemu", device: "vda", shell }], end };
}
