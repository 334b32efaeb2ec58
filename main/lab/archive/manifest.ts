/**
 * What an archive of a machine says of itself: domlab.json, its first member. It names no path of a host: disks and boot files
 * are members of the archive, and what else belongs to a host (forwarded ports, autostart) is not in it.
 */
import { z } from "zod";
import { KERNEL_LIMIT } from "../../../engine/builder/bzimage.ts";
import { INITRD_LIMIT } from "../../../engine/builder/initrd.ts";
import { pathText } from "../store/errors.ts";
import { diskConfig, machineConfigShape } from "../store/machine-config.ts";
import { ArchiveError, badArchive } from "./errors.ts";

export const MANIFEST_NAME = "domlab.json";
/** Checksums of all other members, as sha256sum writes them; the last member. */
export const SUMS_NAME = "SHA256SUMS";
export const KERNEL_NAME = "boot/kernel";
export const INITRD_NAME = "boot/initrd";
export const ARCHIVE_FORMAT = "domlab-machine";
/** Version of what this program writes, and the latest that it reads. */
export const ARCHIVE_VERSION = 1;
/** Bytes. */
export const MANIFEST_LIMIT = 1 << 20;
export const SUMS_LIMIT = 1 << 17;

const MOST_DISKS = 256;
/** Largest disk, bytes: as large as a file system of the host may make its files. */
const LARGEST_DISK = 2 ** 46;
/** A qcow2 image may be so much larger than its disk: tables, and room for a header. */
const TABLES = { share: 1 / 64, bytes: 16 << 20 } as const;

/** Name of the member that holds a disk. */
export const diskName = (vdev: string): string => `disks/${vdev}.qcow2`;

const { vdev, access, deviceType, placement, persistent, discard } = diskConfig.shape;

const archivedDisk = z
  .strictObject({
    vdev,
    /** The member: a qcow2 image with nothing behind it. */
    file: z.string().regex(/^disks\/[A-Za-z0-9]{1,32}\.qcow2$/, "not a name for a disk's file"),
    /** Of the member. */
    bytes: z.int().positive(),
    /** Of the disk, bytes. */
    virtualSize: z.int().positive().multipleOf(512).max(LARGEST_DISK),
    ...{ access, deviceType, placement, persistent, discard },
  })
  .refine(
    ({ bytes, virtualSize }) => bytes <= virtualSize * (1 + TABLES.share) + TABLES.bytes,
    "is larger than an image of that disk can be",
  );
export type ArchivedDisk = z.infer<typeof archivedDisk>;

/** What the machine boots, when that is no image which every domlab can make. */
const archivedBoot = z.strictObject({
  kernel: z.strictObject({ file: z.literal(KERNEL_NAME), bytes: z.int().positive().max(KERNEL_LIMIT) }),
  initrd: z.strictObject({ file: z.literal(INITRD_NAME), bytes: z.int().positive().max(INITRD_LIMIT) }).exactOptional(),
  commandLine: z
    .string()
    .max(4096)
    .regex(/^[^\0\r\n]*$/, "holds a line break or a zero byte"),
  /** Whether the machine's name goes behind the command line as the host's name. */
  hostName: z.boolean(),
});
export type ArchivedBoot = z.infer<typeof archivedBoot>;

const archivedConfig = machineConfigShape
  .omit({ kernel: true, initrd: true, disks: true, forwards: true, autostart: true, protected: true })
  .check((context) => {
    const index = context.value.vifs.findIndex(({ backend }) => backend !== undefined);
    if (index < 0) return;
    const message = "names a machine that serves it, which is not in the archive";
    context.issues.push({ code: "custom", path: ["vifs", index, "backend"], message, input: context.value });
  });

export const manifestSchema = z
  .strictObject({
    format: z.literal(ARCHIVE_FORMAT),
    version: z.literal(ARCHIVE_VERSION),
    /** Version of the program that wrote it. */
    domlab: z.string().max(64),
    date: z.iso.datetime({ precision: 3 }),
    config: archivedConfig,
    disks: z.array(archivedDisk).max(MOST_DISKS),
    boot: archivedBoot.exactOptional(),
  })
  .check((context) => {
    const { config, boot, disks } = context.value;
    const complain = (path: PropertyKey[], message: string) =>
      context.issues.push({ code: "custom", path, message, input: context.value });
    if ((boot === undefined) === (config.image === null)) complain(["boot"], "belongs to a machine without an image");
    if (boot !== undefined && config.commandLine !== undefined) complain(["config", "commandLine"], "is said twice");
    const wrong = disks.findIndex(({ vdev: name, file }) => file !== diskName(name));
    if (wrong >= 0) complain(["disks", wrong, "file"], "is not called as its disk is");
    const twice = disks.findIndex(({ file }, index) => disks.findIndex((other) => other.file === file) < index);
    if (twice >= 0) complain(["disks", twice, "file"], "is there twice");
  });
export type ArchiveManifest = z.infer<typeof manifestSchema>;

const versioned = z.looseObject({ format: z.literal(ARCHIVE_FORMAT), version: z.int().positive() });

/**
 * @param path of the archive, for messages
 * @throws ArchiveError "bad-archive", "later-version"
 */
export function parseManifest(path: string, text: string): ArchiveManifest {
  let raw: unknown;
  try {
    raw = JSON.parse(text);
  } catch (error) {
    throw badArchive(path, `${MANIFEST_NAME} is no JSON`, error);
  }
  const start = versioned.safeParse(raw);
  if (!start.success) throw badArchive(path, `${MANIFEST_NAME} does not say that it is one`, start.error);
  const { version } = start.data;
  if (version > ARCHIVE_VERSION) {
    const what = `${path} was made by a later version of domlab (its version is ${version}, this one's ${ARCHIVE_VERSION})`;
    throw new ArchiveError("later-version", what, "update domlab");
  }
  const checked = manifestSchema.safeParse(raw);
  if (checked.success) return checked.data;
  const [issue] = checked.error.issues;
  const unknown = issue?.code === "unrecognized_keys" ? `unknown key ${issue.keys[0]}` : issue?.message.split("; ")[0];
  const where = pathText(issue?.path ?? []);
  throw badArchive(
    path,
    `${MANIFEST_NAME}: ${where === "" ? "" : `${where}: `}${unknown ?? "it is wrong"}`,
    checked.error,
  );
}

/** A member as the manifest declares it. */
export interface DeclaredMember {
  readonly name: string;
  readonly bytes: number;
}

/** All members but the manifest itself and the checksums. */
export function declaredMembers({ boot, disks }: ArchiveManifest): DeclaredMember[] {
  const files = [
    ...(boot === undefined ? [] : [boot.kernel]),
    ...(boot?.initrd === undefined ? [] : [boot.initrd]),
    ...disks,
  ];
  return files.map(({ file, bytes }) => ({ name: file, bytes }));
}
