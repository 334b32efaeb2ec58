/** The file or device behind a disk: opened, measured, and refused in words when it cannot be one. */
import { closeSync, constants, fstatSync, openSync, readFileSync, readSync, type Stats } from "node:fs";
import { DiskError, errnoName, errnoOf, OR_AS_RAW, unreadable, unsupportedFormat } from "./errors.ts";
import { PROBE_LENGTH, recogniseFormat } from "./format.ts";
import { hostIo } from "./host-io.ts";
import type { FileSpec } from "./spec.ts";

const SECTOR = 512;
const PAGE = 4096;

/** linux/fs.h */
const BLKROGET = 0x125e;
const BLKSSZGET = 0x1268;
const BLKPBSZGET = 0x127b;
const BLKGETSIZE64 = 0x80081272;
/** sys/disk.h of macOS: _IOR('d', 24, uint32_t), _IOR('d', 25, uint64_t), _IOR('d', 29, uint32_t) */
const DKIOCGETBLOCKSIZE = 0x40046418;
const DKIOCGETBLOCKCOUNT = 0x40086419;
const DKIOCISWRITABLE = 0x4004641d;

/** An open file or device. Sizes in bytes. */
export interface Target {
  readonly descriptor: number;
  readonly device: boolean;
  /** Of the whole file or device. */
  readonly size: number;
  readonly sectorSize: number;
  readonly physicalSectorSize: number;
  readonly readOnly: boolean;
  /** Where sysfs describes a block device's queue (Linux); undefined for files. */
  readonly queue: string | undefined;
}

function openError(path: string, readOnly: boolean, error: unknown): DiskError {
  const name = errnoName(errnoOf(error));
  switch (name) {
    case "ENOENT":
    case "ENOTDIR":
    case "ENXIO":
    case "ENODEV":
      return new DiskError("missing-image", `disk image ${path} does not exist`, "check the path or create it", error);
    case "EISDIR":
      return new DiskError("not-a-disk", `${path} is a folder`, "name a disk image or a block device", error);
    case "EACCES":
    case "EPERM":
      return new DiskError(
        "no-permission",
        `disk image ${path} may not be ${readOnly ? "read" : "written"}`,
        readOnly ? "check its permissions" : "change its permissions or say access=ro",
        error,
      );
    case "EROFS":
      return new DiskError("read-only-image", `${path} lies on read-only storage`, "say access=ro", error);
    case "EBUSY":
      return new DiskError(
        "image-in-use",
        `block device ${path} is in use by the host`,
        "unmount it and take it out of any RAID or volume group, or say access=ro",
        error,
      );
    default:
      return new DiskError("unusable-image", `disk image ${path} cannot be opened (${name})`, "check the path", error);
  }
}

function deviceNumber(descriptor: number, request: number, bytes: 4 | 8): number {
  const value = new DataView(new ArrayBuffer(8));
  if (hostIo().ioctl(descriptor, request, value) < 0) return 0;
  return bytes === 4 ? value.getUint32(0, true) : Number(value.getBigUint64(0, true));
}

function measureDevice(descriptor: number, path: string, stat: Stats): Omit<Target, "descriptor"> {
  if (process.platform === "darwin") {
    const sectorSize = deviceNumber(descriptor, DKIOCGETBLOCKSIZE, 4);
    const size = deviceNumber(descriptor, DKIOCGETBLOCKCOUNT, 8) * sectorSize;
    const readOnly = deviceNumber(descriptor, DKIOCISWRITABLE, 4) === 0;
    return checkDevice(
      { device: true, size, sectorSize, physicalSectorSize: sectorSize, readOnly, queue: undefined },
      path,
    );
  }
  const sectorSize = deviceNumber(descriptor, BLKSSZGET, 4);
  // dev_t as the kernel packs it for user space: 12 bits of major around 20 bits of minor.
  const major = (stat.rdev >>> 8) & 0xfff;
  const minor = (stat.rdev & 0xff) | ((stat.rdev >>> 12) & 0xfff00);
  return checkDevice(
    {
      device: true,
      size: deviceNumber(descriptor, BLKGETSIZE64, 8),
      sectorSize,
      physicalSectorSize: Math.max(sectorSize, deviceNumber(descriptor, BLKPBSZGET, 4)),
      readOnly: deviceNumber(descriptor, BLKROGET, 4) !== 0,
      queue: `/sys/dev/block/${major}:${minor}`,
    },
    path,
  );
}

function checkDevice(device: Omit<Target, "descriptor">, path: string): Omit<Target, "descriptor"> {
  if (device.sectorSize === SECTOR || device.sectorSize === PAGE) return device;
  throw new DiskError(
    "unusable-image",
    `block device ${path} has sectors of ${device.sectorSize} bytes`,
    "use one with 512 or 4096",
  );
}

function measure(descriptor: number, path: string): Omit<Target, "descriptor"> {
  const stat = fstatSync(descriptor);
  if (stat.isBlockDevice()) return measureDevice(descriptor, path, stat);
  if (stat.isDirectory())
    throw new DiskError("not-a-disk", `${path} is a folder`, "name a disk image or a block device");
  if (!stat.isFile()) {
    throw new DiskError(
      "not-a-disk",
      `${path} is neither a file nor a block device`,
      "name a disk image or a block device",
    );
  }
  return {
    device: false,
    size: stat.size,
    sectorSize: SECTOR,
    // Files live in the page cache: smaller writes make the host read the rest of a page first.
    physicalSectorSize: PAGE,
    readOnly: false,
    queue: undefined,
  };
}

function refuse(spec: FileSpec, target: Target): DiskError | undefined {
  const { path } = spec;
  const start = spec.offset ?? 0;
  if (!spec.readOnly && target.readOnly) {
    return new DiskError("read-only-image", `block device ${path} is read-only`, "say access=ro");
  }
  if (target.size < SECTOR) {
    return new DiskError(
      "empty-image",
      target.size === 0 ? `disk image ${path} is empty` : `disk image ${path} is smaller than one sector`,
      "give it a size, for example with truncate -s 4G",
    );
  }
  if (start % target.sectorSize !== 0 || (spec.length ?? 0) % target.sectorSize !== 0) {
    return new DiskError(
      "bad-range",
      `offset and length of ${path} are not multiples of its sectors' ${target.sectorSize} bytes`,
      "round them",
    );
  }
  if (start + (spec.length ?? SECTOR) > target.size || spec.length === 0) {
    return new DiskError(
      "bad-range",
      `the range from ${start} on${spec.length === undefined ? "" : ` with ${spec.length} bytes`} is not within ${path}, which has ${target.size} bytes`,
      "correct offset or length",
    );
  }
  return spec.format === "probe" ? refuseFormat(spec, target.descriptor) : undefined;
}

function refuseFormat(spec: FileSpec, descriptor: number): DiskError | undefined {
  const head = new Uint8Array(PROBE_LENGTH);
  try {
    readSync(descriptor, head, 0, head.length, spec.offset ?? 0);
  } catch (error) {
    return unreadable(spec.path, errnoOf(error), error);
  }
  const format = recogniseFormat(head);
  if (format === "raw") return undefined;
  const part = spec.offset !== undefined || spec.length !== undefined;
  const what = part ? `the part named of ${spec.path} is a ${format} image` : `${spec.path} is a ${format} image`;
  if (format !== "qcow2") return unsupportedFormat(what, OR_AS_RAW, format);
  return new DiskError(
    "unsupported-format",
    what,
    part
      ? `leave offset and length out, ${OR_AS_RAW}`
      : "say format=qcow2, or make it raw with domlab image convert -O raw",
  );
}

/**
 * Opens what a spec names and checks that it can be served so.
 * @param exclusive for a block device to be written: also fail when the host has it mounted (O_EXCL)
 * @throws DiskError
 */
export function openTarget(spec: FileSpec, exclusive: boolean): Target {
  const access = spec.readOnly ? constants.O_RDONLY : constants.O_RDWR;
  let descriptor: number;
  try {
    // O_NONBLOCK: opening a named pipe would wait for its other end. It means nothing to files and disks.
    descriptor = openSync(spec.openPath ?? spec.path, access | (constants.O_NONBLOCK ?? 0));
  } catch (error) {
    throw openError(spec.path, spec.readOnly, error);
  }
  try {
    const target: Target = { descriptor, ...measure(descriptor, spec.path) };
    const refusal = refuse(spec, target);
    if (refusal) throw refusal;
    if (!exclusive || !target.device || spec.readOnly || process.platform !== "linux") return target;
    return { ...target, descriptor: reopenExclusively(spec, descriptor) };
  } catch (error) {
    closeSync(descriptor);
    throw error;
  }
}

/** O_EXCL without O_CREAT claims a block device on Linux: EBUSY while it is mounted or claimed otherwise. */
function reopenExclusively(spec: FileSpec, plain: number): number {
  let claimed: number;
  try {
    claimed = openSync(spec.openPath ?? spec.path, constants.O_RDWR | constants.O_EXCL);
  } catch (error) {
    throw openError(spec.path, false, error);
  }
  closeSync(plain);
  return claimed;
}

/** A number of a block device's sysfs entry; 0 when there is none. Partitions find it at their disk. */
export function queueNumber(target: Target, name: string): number {
  if (target.queue === undefined) return 0;
  for (const folder of [`${target.queue}/queue`, `${target.queue}/../queue`]) {
    try {
      return Number(readFileSync(`${folder}/${name}`, "utf8")) || 0;
    } catch {
      // The other folder has it, or this kernel does not.
    }
  }
  return 0;
}
