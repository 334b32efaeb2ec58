/**
 * A machine as its user describes it: what `domlab create -f`, `domlab set` and the desktop app edit, and what the
 * records keep. Every key has a default where one makes sense, so that `{"name": "web"}` is a whole description.
 */
import { isAbsolute } from "node:path";
import { z } from "zod";
import { MINIMUM_MEMORY_MIB } from "../../../engine/builder/build.ts";
import { parseVdev } from "../../../engine/device/block/vdev.ts";
import { isNbdAddress, parseNbdAddress } from "../../../engine/disk/nbd/uri.ts";
import { DEFAULT_SWITCH, forwardSchema, vifSchema } from "../../../engine/domain/network-config.ts";
import { MAX_RAM_MIB } from "../../../engine/memory/frame-plan.ts";
import { formatMac, randomMac } from "../../../engine/network/address.ts";

/** Image of a machine that names neither an image nor a kernel. */
export const DEFAULT_MACHINE_IMAGE = "debian-shell";
export const DEFAULT_MACHINE_MEMORY_MIB = 512;
export const DEFAULT_SHUTDOWN_SECONDS = 60;
const LONGEST_PATH = 4096;
const LONGEST_NOTES = 65_536;
const LONGEST_COMMAND_LINE = 4096;
const DAY_SECONDS = 86_400;
const MOST_DISKS = 256;

const noZeroByte = (text: string) => !text.includes("\0");

/** Letter or digit first, then letters, digits, dots, underscores and hyphens; 64 at most. */
export const MACHINE_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
export const MACHINE_NAME_RULE = "1 to 64 letters, digits, dots, hyphens and underscores, a letter or digit first";

export const machineName = z.string().regex(MACHINE_NAME, `not a name; use ${MACHINE_NAME_RULE}`);
/** Of a catalogue: also a file name. */
export const imageName = z
  .string()
  .regex(/^[a-z0-9][a-z0-9._-]{0,63}$/, "not the name of an image; use lower-case letters, digits, dots and hyphens");

export const absolutePath = z
  .string()
  .min(1)
  .max(LONGEST_PATH)
  .refine((path) => isAbsolute(path) && noZeroByte(path), "not an absolute path; begin it with /");

function isGoodNbdAddress(source: string): boolean {
  if (!isNbdAddress(source)) return false;
  try {
    parseNbdAddress(source);
    return true;
  } catch {
    return false;
  }
}

const line = (longest: number) =>
  z
    .string()
    .max(longest)
    .regex(/^[^\0\r\n]*$/, "holds a line break or a zero byte, which do not belong there");
const commandLine = line(LONGEST_COMMAND_LINE);
const byteRange = z.int().nonnegative().multipleOf(512).max(Number.MAX_SAFE_INTEGER);

/** Whether a disk's source is the address of an NBD export and not a path. */
export { isNbdAddress as isNbdSource };

/** A disk of a machine. */
export const diskConfig = z
  .strictObject({
    /** As xl's vdev: "xvda", "sdb1" … */
    vdev: z.string().refine((vdev) => parseVdev(vdev) !== undefined, "not a disk; use xvda, xvdb, sda, hda …"),
    /**
     * The active image: an absolute path, or the address of an NBD export (nbd://host/export). With `backend` it is a
     * path in that guest.
     */
    source: z
      .string()
      .min(1)
      .max(LONGEST_PATH)
      .refine(
        (source) => (isAbsolute(source) && noZeroByte(source)) || isGoodNbdAddress(source),
        "neither an absolute path nor the address of an NBD export; write /path/to/image or nbd://host/export",
      ),
    /** "raw": the bytes as they are. "probe": qcow2 where the image says so, refused where it is of another format. */
    format: z.enum(["raw", "qcow2", "probe"]).default("probe"),
    access: z.enum(["rw", "ro"]).default("rw"),
    deviceType: z.enum(["disk", "cdrom"]).default("disk"),
    placement: z.enum(["driver-domain", "hypervisor"]).default("driver-domain"),
    /** Whether the backend offers to keep grants mapped. */
    persistent: z.boolean().default(false),
    /** Name of the machine that serves the disk. */
    backend: line(255).min(1).exactOptional(),
    /** First byte served and bytes served, of a raw image; multiples of 512. */
    offset: byteRange.exactOptional(),
    length: byteRange.min(512).exactOptional(),
    /** False: the guest is not offered discard. */
    discard: z.boolean().default(true),
  })
  .check((context) => {
    const disk = context.value;
    const complain = (key: keyof typeof disk, message: string) =>
      context.issues.push({ code: "custom", path: [key], message, input: disk });
    const range = disk.offset !== undefined ? "offset" : disk.length !== undefined ? "length" : undefined;
    if (range && isNbdAddress(disk.source)) complain(range, "is for images; let the NBD server export the part");
    else if (range && disk.format === "qcow2")
      complain(range, "is for raw images; leave it out, a qcow2 image is served whole");
    if (isNbdAddress(disk.source) && disk.format === "qcow2")
      complain("format", "an NBD export is served as it is; leave the format out");
    if (disk.deviceType === "cdrom" && disk.access === "rw") complain("access", "a CD-ROM cannot be written; say ro");
    if (disk.placement === "hypervisor" && disk.backend !== undefined) {
      complain("backend", "placement hypervisor has no backend domain; leave one of the two out");
    }
  });
export type DiskConfig = z.infer<typeof diskConfig>;

/** A port of the host that leads to one of this machine, through a switch with the uplink `user`. */
export const machineForward = forwardSchema.extend({
  hostAddress: z.string().max(64).default("127.0.0.1"),
  /** Empty: the address of the machine's interface on that switch. */
  guestAddress: z.string().max(64).default(""),
  bridge: vifSchema.shape.bridge.default(DEFAULT_SWITCH),
});
export type MachineForward = z.infer<typeof machineForward>;

const endPolicy = z.enum(["destroy", "restart", "preserve"]);
export type EndPolicy = z.infer<typeof endPolicy>;

/** The keys of a machine's configuration, without the checks across keys. */
export const machineConfigShape = z.strictObject({
  name: machineName,
  /** Image of the catalogue, which provides what `kernel` and `initrd` do not; null: nothing but those. */
  image: imageName.nullable().default(DEFAULT_MACHINE_IMAGE),
  kernel: absolutePath.exactOptional(),
  initrd: absolutePath.exactOptional(),
  /** In place of the image's command line. */
  commandLine: commandLine.exactOptional(),
  /** Behind the command line. */
  extraArguments: commandLine.default(""),
  memoryMiB: z.int().min(1).max(MAX_RAM_MIB).default(DEFAULT_MACHINE_MEMORY_MIB),
  vcpus: z.literal(1, "a machine has one virtual CPU; say 1 or leave vcpus out").default(1),
  disks: z.array(diskConfig).max(MOST_DISKS).default([]),
  /** Interfaces; those without a MAC address get one when the machine is created, for good. */
  vifs: z.array(vifSchema).max(64).default([]),
  forwards: z.array(machineForward).max(256).default([]),
  onPoweroff: endPolicy.default("destroy"),
  onReboot: endPolicy.default("restart"),
  onCrash: endPolicy.default("destroy"),
  /** Whether the lab starts it when the lab starts. */
  autostart: z.boolean().default(false),
  /** Machines with lower numbers start first and are shut down last. */
  startPriority: z.int().min(-1000).max(1000).default(0),
  /** Seconds between its start and the next machine's. */
  startDelaySeconds: z.number().min(0).max(DAY_SECONDS).default(0),
  /** Whether it is suspended when the lab is left; without it the lab's setting counts. */
  suspendOnQuit: z.boolean().exactOptional(),
  /** Seconds that a graceful shutdown may take. */
  shutdownTimeoutSeconds: z.number().positive().max(DAY_SECONDS).default(DEFAULT_SHUTDOWN_SECONDS),
  /** Machines with the same word are shown together. */
  group: line(64).default(""),
  notes: z.string().max(LONGEST_NOTES).default(""),
  /** Whether `delete` is refused. */
  protected: z.boolean().default(false),
  /** Most percent of one host CPU that it may take. */
  cpuCap: z.int().min(1).max(100).exactOptional(),
});

/** The index of the first value that an earlier one equals; undefined ones equal nothing. */
function firstTwice(values: readonly (string | number | undefined)[]): number {
  return values.findIndex((value, index) => value !== undefined && values.indexOf(value) < index);
}

export const machineConfig = machineConfigShape.check((context) => {
  const config = context.value;
  const complain = (path: PropertyKey[], message: string) =>
    context.issues.push({ code: "custom", path, message, input: config });
  if (config.image === null && config.kernel === undefined) {
    complain(["kernel"], "is missing; name a kernel or an image");
  }
  const disk = firstTwice(config.disks.map(({ vdev }) => parseVdev(vdev)));
  if (disk >= 0)
    complain(["disks", disk, "vdev"], `two disks are called ${config.disks[disk]!.vdev}; give one another vdev`);
  const mac = firstTwice(config.vifs.map((vif) => vif.mac?.toLowerCase()));
  if (mac >= 0)
    complain(
      ["vifs", mac, "mac"],
      `two interfaces have the MAC address ${config.vifs[mac]!.mac}; choose another, or leave it out`,
    );
  const handle = firstTwice(config.vifs.map((vif) => vif.handle));
  if (handle >= 0)
    complain(["vifs", handle, "handle"], `two interfaces have the number ${config.vifs[handle]!.handle}; leave it out`);
  const port = firstTwice(config.forwards.map((each) => `${each.protocol}:${each.hostAddress}:${each.hostPort}`));
  if (port >= 0)
    complain(
      ["forwards", port, "hostPort"],
      `port ${config.forwards[port]!.hostPort} is forwarded twice; choose another port of the host`,
    );
});
export type MachineConfig = z.infer<typeof machineConfig>;

/**
 * A configuration as users and programs may enter it. Stricter than what records are read with: a rule that came later must
 * not make a whole lab unreadable.
 */
export const enteredConfig = machineConfig.check((context) => {
  const { memoryMiB } = context.value;
  if (memoryMiB >= MINIMUM_MEMORY_MIB) return;
  const message = `${memoryMiB} MiB are too little for a machine; give at least ${MINIMUM_MEMORY_MIB} MiB`;
  context.issues.push({ code: "custom", path: ["memoryMiB"], message, input: memoryMiB });
});

/** A machine as a caller describes it: what has a default may be missing. */
export type MachineConfigInput = z.input<typeof machineConfig>;

/** The same configuration with an address for every interface, so that the guest finds the same cards at each start. */
export function withFixedMacs(config: MachineConfig): MachineConfig {
  return { ...config, vifs: config.vifs.map((vif) => ({ ...vif, mac: vif.mac ?? formatMac(randomMac()) })) };
}
