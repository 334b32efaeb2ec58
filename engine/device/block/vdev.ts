/**
 * Virtual disk names and the numbers that name a disk's directories in XenStore (docs/man/xen-vbd-interface.7):
 *
 *   1 << 28 | disk << 8 | partition          xvd, disks from 16 or partitions from 16
 *   202 << 8 | disk << 4 | partition         xvd, disks 0…15, partitions 0…15
 *   8 << 8 | disk << 4 | partition           sd, disks 0…15, partitions 0…15
 *   3 << 8 | disk << 6 | partition           hd, disks 0 and 1, partitions 0…63
 *   22 << 8 | (disk − 2) << 6 | partition    hd, disks 2 and 3, partitions 0…63
 *
 * Partition 0 is the whole disk. Numbers from 2 << 28 on are reserved.
 */

/** A virtual disk, taken apart. */
export interface VirtualDevice {
  readonly family: "xvd" | "sd" | "hd";
  /** 0 for a, 25 for z, 26 for aa. */
  readonly disk: number;
  /** 0: the whole disk. */
  readonly partition: number;
}

const EXTENDED = 1 << 28;
const RESERVED = 2 << 28;
const XVD_MAJOR = 202;
const SD_MAJOR = 8;
const HD_MAJORS = [3, 22] as const;
const MAX_DISK = (1 << 20) - 1;
const MAX_PARTITION = 255;

const LIMITS = {
  xvd: { disk: MAX_DISK, partition: MAX_PARTITION },
  sd: { disk: 15, partition: 15 },
  hd: { disk: 3, partition: 63 },
} as const;

/** "a" → 0, "z" → 25, "aa" → 26 … */
function diskOfLetters(letters: string): number {
  let value = 0;
  for (const letter of letters) value = value * 26 + (letter.charCodeAt(0) - 96);
  return value - 1;
}

function lettersOfDisk(disk: number): string {
  let letters = "";
  for (let rest = disk + 1; rest > 0; rest = Math.floor((rest - 1) / 26)) {
    letters = String.fromCharCode(97 + ((rest - 1) % 26)) + letters;
  }
  return letters;
}

function inLimits(device: VirtualDevice): boolean {
  const limits = LIMITS[device.family];
  return device.disk <= limits.disk && device.partition <= limits.partition;
}

/** The number of a disk that is within its family's limits. */
export function vdevNumber(device: VirtualDevice): number {
  const { family, disk, partition } = device;
  switch (family) {
    case "sd":
      return (SD_MAJOR << 8) | (disk << 4) | partition;
    case "hd":
      return ((disk < 2 ? HD_MAJORS[0] : HD_MAJORS[1]) << 8) | ((disk & 1) << 6) | partition;
    case "xvd":
      return disk < 16 && partition < 16
        ? (XVD_MAJOR << 8) | (disk << 4) | partition
        : EXTENDED | (disk << 8) | partition;
  }
}

/** Takes a number apart; undefined when no disk name has it. */
export function decodeVdev(number: number): VirtualDevice | undefined {
  if (!Number.isInteger(number) || number < 0 || number >= RESERVED) return undefined;
  if (number >= EXTENDED) return { family: "xvd", disk: (number >> 8) & MAX_DISK, partition: number & 0xff };
  const minor = number & 0xff;
  switch (number >> 8) {
    case XVD_MAJOR:
      return { family: "xvd", disk: minor >> 4, partition: minor & 15 };
    case SD_MAJOR:
      return { family: "sd", disk: minor >> 4, partition: minor & 15 };
    case HD_MAJORS[0]:
    case HD_MAJORS[1]:
      return minor >> 7 !== 0
        ? undefined
        : { family: "hd", disk: (number >> 8 === HD_MAJORS[1] ? 2 : 0) + (minor >> 6), partition: minor & 63 };
    default:
      return undefined;
  }
}

/**
 * Reads a vdev as xl's disk syntax allows it: "xvda", "xvdb3", "xvdaa", "sda1", "hdc", "d3p2" (xvd by numbers), or a number
 * ("51712", "0xca00") that some name has.
 *
 * @returns the virtual-device number, or undefined when the text names no disk
 */
export function parseVdev(text: string): number | undefined {
  const named = /^(xvd|sd|hd)([a-z]{1,5})([1-9]\d{0,2})?$/.exec(text);
  if (named) {
    const [, family, letters = "", partition = "0"] = named;
    const device: VirtualDevice = {
      family: family === "sd" || family === "hd" ? family : "xvd",
      disk: diskOfLetters(letters),
      partition: Number(partition),
    };
    return inLimits(device) ? vdevNumber(device) : undefined;
  }
  const numbered = /^d(\d{1,7})(?:p(\d{1,3}))?$/.exec(text);
  if (numbered) {
    const device = { family: "xvd", disk: Number(numbered[1]), partition: Number(numbered[2] ?? "0") } as const;
    return inLimits(device) ? vdevNumber(device) : undefined;
  }
  if (!/^(0x[0-9a-f]{1,8}|\d{1,10})$/i.test(text)) return undefined;
  const number = Number(text);
  return decodeVdev(number) ? number : undefined;
}

/** The name of a vdev number ("xvda", "sdb1"); undefined when it has none. */
export function vdevName(number: number): string | undefined {
  const device = decodeVdev(number);
  if (!device) return undefined;
  return `${device.family}${lettersOfDisk(device.disk)}${device.partition === 0 ? "" : device.partition}`;
}
