/** What the Linux guests do with their disks. */
import type { DiskLoad } from "../guest-programs/disk-load.ts";
import { IMAGE_MIB } from "./image.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const IMAGE_BYTES = IMAGE_MIB * MIB;

export interface GuestRow {
  readonly key: string;
  readonly name: string;
  /** Requests of the program. */
  readonly count: number;
  readonly bytes: number;
  /** By the program of our own; undefined: by dd. */
  readonly load?: Omit<DiskLoad, "device">;
  /** I/O scheduler for the disk, the same in all guests. Our image chooses "none" by itself. */
  readonly scheduler: string;
  /** Throughput over QEMU's, at least. */
  readonly limit?: number;
  /**
   * Samples, of every contender, that only tell how it begins: until our CPU has compiled what 10 000 requests run
   * (engine/DESIGN.md, hot blocks).
   */
  readonly warmUp?: number;
  /** Samples in a round, where one would leave the median to the host's moods; 1 when left out. */
  readonly turns?: number;
}

type Pattern = Pick<DiskLoad, "operation" | "order" | "sync" | "bytes" | "count">;

function row(key: string, name: string, pattern: Pattern): GuestRow {
  const { bytes, count } = pattern;
  const load = { ...pattern, blocks: IMAGE_BYTES / bytes };
  return { key, name, bytes, count, load, scheduler: "none" };
}

export const ROWS: readonly GuestRow[] = [
  {
    key: "dd",
    name: "dd, direct reads of 1 MiB",
    bytes: MIB,
    count: 1024,
    scheduler: "none",
    limit: 1,
    warmUp: 14,
    turns: 7,
  },
  {
    ...row("rr4", "random reads of 4 KiB", {
      operation: "read",
      order: "random",
      sync: false,
      bytes: 4 * KIB,
      count: 8192,
    }),
    limit: 1,
    warmUp: 3,
    turns: 3,
  },
  {
    ...row("rr4s", "random reads of 4 KiB, with the I/O scheduler mq-deadline", {
      operation: "read",
      order: "random",
      sync: false,
      bytes: 4 * KIB,
      count: 8192,
    }),
    scheduler: "mq-deadline",
  },
  row("sr1", "sequential reads of 1 MiB", {
    operation: "read",
    order: "sequential",
    sync: false,
    bytes: MIB,
    count: 1024,
  }),
  row("sr128", "sequential reads of 128 KiB", {
    operation: "read",
    order: "sequential",
    sync: false,
    bytes: 128 * KIB,
    count: 4096,
  }),
  row("rw4", "random writes of 4 KiB", {
    operation: "write",
    order: "random",
    sync: false,
    bytes: 4 * KIB,
    count: 8192,
  }),
  row("sw1", "sequential writes of 1 MiB", {
    operation: "write",
    order: "sequential",
    sync: false,
    bytes: MIB,
    count: 512,
  }),
  row("fw4", "writes of 4 KiB, an fsync behind each", {
    operation: "write",
    order: "sequential",
    sync: true,
    bytes: 4 * KIB,
    count: 256,
  }),
];

/** Path of a row's program in the guest. */
export function programOf({ key }: GuestRow, device: string): string {
  return `/bench/${key}-${device}`;
}

/** What to type. */
export function commandOf(row: GuestRow, device: string): string {
  if (row.load !== undefined) return programOf(row, device);
  return `dd if=/dev/${device} of=/dev/null bs=${row.bytes} count=${row.count} iflag=direct`;
}

/** What to type before a row and after it. The shell's variable keeps the kernel's choice. */
export function preparation({ scheduler }: GuestRow, device: string): { before: string; after: string } {
  const file = `/sys/block/${device}/queue/scheduler`;
  return {
    before: `was=$(sed 's/.*\\[\\(.*\\)\\].*/\\1/' ${file}); echo ${scheduler} >${file}`,
    after: `echo $was >${file}`,
  };
}

/**
 * The seconds that a row's program says it took, by the guest's clock; undefined for dd, as busybox's does not say.
 * @throws Error for anything but a number
 */
export function secondsSaid(row: GuestRow, printed: string): number | undefined {
  if (row.load === undefined) return undefined;
  const seconds = Number(/^(\d+)$/m.exec(printed)?.[1]) / 1e9;
  if (!(seconds > 0)) throw new Error(`${row.name}: the guest says ${JSON.stringify(printed.slice(-200))}`);
  return seconds;
}
