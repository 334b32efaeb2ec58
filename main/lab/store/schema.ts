/**
 * The lab's records, as lab.json keeps them: machines with their snapshots, switches, snapshots of the whole lab,
 * settings. Whether a machine runs is the lab server's knowledge and not here; what outlives the server is.
 */
import { z } from "zod";
import {
  forwardSchema,
  NO_SETTINGS,
  switchSchema,
  targetSettingsSchema,
} from "../../../engine/domain/network-config.ts";
import { absolutePath, imageName, machineConfig } from "./machine-config.ts";

export * from "./machine-config.ts";

/** Version of the records that this program writes; how older ones become it is in migrations.ts. */
export const LAB_VERSION = 1;
const LONGEST_NOTE = 65_536;

const date = z.iso.datetime({ precision: 3 });
const uuid = z.uuid();
const bytes = z.int().nonnegative();
/** A file in the lab's memory/ folder: a plain name, so that no record leads elsewhere. */
export const memoryFileName = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$/, "not a file name");
export const snapshotName = z
  .string()
  .min(1)
  .max(128)
  .regex(/^[^\0\r\n]*$/, "holds a line break or a zero byte");

/** The image that held a disk's content when the snapshot was taken; nobody writes to it any more. */
export const snapshotDisk = z.strictObject({
  vdev: z.string().min(1).max(32),
  image: absolutePath,
  format: z.enum(["raw", "qcow2"]),
});

export const machineSnapshot = z
  .strictObject({
    id: uuid,
    name: snapshotName,
    note: z.string().max(LONGEST_NOTE).default(""),
    date,
    /** Snapshot that the machine's state descended from when this one was taken. */
    parent: uuid.nullable(),
    /** "running": with memory, so that the machine goes on where it was. */
    kind: z.enum(["disk", "running"]),
    /** "pending": begun and not finished. What it froze must stay as long as the record is there. */
    status: z.enum(["pending", "complete"]),
    disks: z.array(snapshotDisk).max(256),
    memory: memoryFileName.exactOptional(),
    /** The machine's configuration at that time. */
    config: machineConfig,
    /** Bytes: the memory file, the guest memory that was in use, and what the frozen layers take. */
    sizes: z
      .strictObject({ memoryFile: bytes.default(0), touchedMemory: bytes.default(0), disks: bytes.default(0) })
      .prefault({}),
  })
  .check((context) => {
    const { kind, status, memory } = context.value;
    if (kind === "running" && status === "complete" && memory === undefined) {
      context.issues.push({ code: "custom", path: ["memory"], message: "is missing", input: context.value });
    }
  });
export type MachineSnapshot = z.infer<typeof machineSnapshot>;

/** Whether the parents of all snapshots are there and lead to a root. */
function snapshotTreeIssue(snapshots: readonly MachineSnapshot[]): string | undefined {
  const parents = new Map(snapshots.map(({ id, parent }) => [id, parent]));
  if (parents.size < snapshots.length) return "two snapshots have the same id";
  const rooted = new Set<string>();
  for (const { id } of snapshots) {
    const way = new Set<string>();
    for (let at: string | null = id; at !== null && !rooted.has(at); at = parents.get(at) ?? null) {
      if (!parents.has(at)) return `the parent of a snapshot is unknown: ${at}`;
      if (way.has(at)) return `the snapshot ${at} descends from itself`;
      way.add(at);
    }
    for (const each of way) rooted.add(each);
  }
  return undefined;
}

export const machineRecord = z
  .strictObject({
    id: uuid,
    config: machineConfig,
    created: date,
    changed: date,
    /** Number of the lab's commit that last changed this record: the later of two copies counts. */
    revision: z.int().nonnegative().default(0),
    /** "suspended": it goes on from `memory`. "deleted": kept for undelete until it is purged. */
    state: z.enum(["stopped", "suspended", "deleted"]),
    /** File of a suspended machine's memory; a deleted machine was suspended when it has one. */
    memory: memoryFileName.exactOptional(),
    deletedAt: date.exactOptional(),
    /** Whether it ran (or was about to) when this was written: after a crash of the lab it is what tells. */
    wasRunning: z.boolean().default(false),
    snapshots: z.array(machineSnapshot).max(10_000).default([]),
    /** Snapshot that the present state descends from. */
    currentSnapshot: uuid.nullable().default(null),
    /** Firewall, classes and impairments of its interfaces, by MAC address. */
    vifSettings: z.record(z.string().max(17), targetSettingsSchema).default({}),
  })
  .check((context) => {
    const record = context.value;
    const complain = (key: keyof typeof record, message: string) =>
      context.issues.push({ code: "custom", path: [key], message, input: record });
    if (record.state === "suspended" && record.memory === undefined) complain("memory", "is missing");
    if (record.state === "stopped" && record.memory !== undefined) complain("memory", "belongs to no stopped machine");
    if ((record.state === "deleted") !== (record.deletedAt !== undefined)) {
      complain("deletedAt", "is for deleted machines, and needed there");
    }
    const tree = snapshotTreeIssue(record.snapshots);
    if (tree !== undefined) complain("snapshots", tree);
    const { currentSnapshot } = record;
    if (currentSnapshot !== null && !record.snapshots.some(({ id }) => id === currentSnapshot)) {
      complain("currentSnapshot", "names no snapshot of the machine");
    }
  });
export type MachineRecord = z.infer<typeof machineRecord>;

/** A switch of the lab with what is set for it; made again whenever the lab starts. */
export const labNetwork = switchSchema.extend({
  forwards: z.array(forwardSchema).max(256).default([]),
  settings: targetSettingsSchema.default(NO_SETTINGS),
});
export type LabNetwork = z.infer<typeof labNetwork>;

/** Snapshots that were taken at one moment. */
export const labSnapshot = z.strictObject({
  id: uuid,
  name: snapshotName,
  note: z.string().max(LONGEST_NOTE).default(""),
  date,
  members: z.array(z.strictObject({ machine: uuid, snapshot: uuid })).max(4096),
});
export type LabSnapshot = z.infer<typeof labSnapshot>;

export const labSettings = z.strictObject({
  /** Whether leaving the lab suspends its machines; otherwise they are shut down. */
  suspendOnQuit: z.boolean().default(true),
  /** Where disks are served unless the user says otherwise. */
  defaultPlacement: z.enum(["driver-domain", "hypervisor"]).default("driver-domain"),
  /** Days after which a deleted machine is purged. */
  purgeDays: z.number().min(0).max(36_500).default(7),
});
export type LabSettings = z.infer<typeof labSettings>;

const DAY_MS = 86_400_000;

/** When what was deleted then may be purged: until then, at least, it can be taken back. @returns an ISO date */
export function purgeDate(deletedAt: string | Date, { purgeDays }: Pick<LabSettings, "purgeDays">): string {
  return new Date(new Date(deletedAt).getTime() + purgeDays * DAY_MS).toISOString();
}

/** An image of the user's own that machines can name. */
export const ownImage = z.strictObject({
  name: imageName,
  kernel: absolutePath,
  initrd: absolutePath.exactOptional(),
  commandLine: z.string().max(4096).default(""),
  note: z.string().max(LONGEST_NOTE).default(""),
});
export type OwnImage = z.infer<typeof ownImage>;

export const labData = z
  .strictObject({
    version: z.literal(LAB_VERSION),
    id: uuid,
    /** Counts commits. */
    revision: z.int().nonnegative().default(0),
    /** When the records were last put together from copies because lab.json was not readable; no file is swept then. */
    recoveredAt: date.nullable().default(null),
    machines: z.array(machineRecord).default([]),
    networks: z.array(labNetwork).default([]),
    labSnapshots: z.array(labSnapshot).default([]),
    settings: labSettings.prefault({}),
    images: z.array(ownImage).default([]),
  })
  .check((context) => {
    const lab = context.value;
    const unique = (key: "machines" | "networks" | "labSnapshots" | "images", what: string, names: string[]) => {
      const twice = names.find((name, index) => names.indexOf(name) < index);
      if (twice === undefined) return;
      context.issues.push({ code: "custom", path: [key], message: `two ${what} ${twice}`, input: lab });
    };
    const present = lab.machines.filter(({ state }) => state !== "deleted");
    unique(
      "machines",
      "records have the id",
      lab.machines.map(({ id }) => id),
    );
    unique(
      "machines",
      "machines are called",
      present.map(({ config }) => config.name.toLowerCase()),
    );
    unique(
      "networks",
      "switches are called",
      lab.networks.map(({ name }) => name),
    );
    unique(
      "labSnapshots",
      "records have the id",
      lab.labSnapshots.map(({ id }) => id),
    );
    unique(
      "images",
      "images are called",
      lab.images.map(({ name }) => name),
    );
  });
export type LabData = z.infer<typeof labData>;

/** T, of which nothing may be changed. */
export type DeepReadonly<T> = T extends (infer Item)[]
  ? readonly DeepReadonly<Item>[]
  : T extends object
    ? { readonly [Key in keyof T]: DeepReadonly<T[Key]> }
    : T;

/** What machines/<id>/machine.json holds: a copy of the record, from which the machine can be taken up again. */
export const machineFile = z.strictObject({
  version: z.literal(LAB_VERSION),
  /** Lab that wrote it. */
  lab: uuid,
  machine: machineRecord,
});
export type MachineFile = z.infer<typeof machineFile>;
