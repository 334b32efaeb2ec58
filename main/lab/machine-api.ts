/**
 * What the lab of persistent machines can be asked: rows as in control-api.ts, and the events that it sends to whoever
 * subscribed. A machine is named by its name or its id. Byte strings travel as base64, sizes are bytes, times ISO dates.
 *
 * Calls that may take long accept an `operation`: any text that the caller made up. Progress comes under it (topic
 * "operations"), operationCancel() stops it, and the call itself is answered when all is done.
 */
import { z } from "zod";
import { metricsEvent } from "./metrics-api.ts";
import { xenstoreEvent } from "./xenstore-api.ts";

const nothing = z.strictObject({});
const name = z.string().min(1).max(128);
const note = z.string().max(16_384);
const folder = z.string().max(8192);
const bytes = z.int().nonnegative();
const domid = z.int().nonnegative();
const operation = z.string().min(1).max(64).optional();
/** A machine that is named, and nothing else. */
const machineOnly = z.strictObject({ machine: name });
const machineLong = z.strictObject({ machine: name, operation });
const snapshotOf = { machine: name, snapshot: name };

/** What a machine is doing. "crashed" is a guest that ended badly and is kept until destroy. */
export const machineStates = [
  "stopped",
  "starting",
  "running",
  "paused",
  "saving",
  "restoring",
  "suspended",
  "stopping",
  "crashed",
  "deleted",
] as const;
export const machineState = z.enum(machineStates);
export type MachineState = z.infer<typeof machineState>;

const machineDisk = z.object({
  vdev: z.string(),
  /** Path of the active image, or address of an NBD export. */
  source: z.string(),
  format: z.string(),
  access: z.enum(["rw", "ro"]),
  /** False: the machine cannot start, for this reason. */
  available: z.boolean(),
  reason: z.string().optional(),
  /** Size that the guest sees, and what the active image takes up; absent when it cannot be read. */
  size: bytes.optional(),
  used: bytes.optional(),
});

const machineSummary = z.object({
  id: z.string(),
  name: z.string(),
  state: machineState,
  /** What the machine's last end or failure was, in one line. */
  message: z.string().optional(),
  domid: domid.optional(),
  pid: z.int().optional(),
  memoryMiB: z.number(),
  image: z.string().optional(),
  group: z.string(),
  autostart: z.boolean(),
  protected: z.boolean(),
  created: z.string(),
  changed: z.string(),
  snapshots: z.int(),
  /** Why it cannot start: an image that is missing, say. */
  unavailable: z.string().optional(),
  /** Of a deleted one: until then it can be taken back; the first start of the lab after it purges it. */
  purgeAfter: z.string().optional(),
});
export type MachineSummary = z.infer<typeof machineSummary>;

const machineDetails = machineSummary.extend({
  /** machineConfig of store/schema.ts. */
  config: z.record(z.string(), z.json()),
  disks: z.array(machineDisk),
  currentSnapshot: z.string().nullable(),
  folder: z.string(),
  consoleLog: z.string(),
  hypervisorLog: z.string(),
  crashReport: z.string().optional(),
  statistics: z.object({ instructions: z.number(), busySeconds: z.number(), residentBytes: z.number() }).optional(),
});
export type MachineDetails = z.infer<typeof machineDetails>;

const snapshotRow = z.object({
  id: z.string(),
  name: z.string(),
  note: z.string(),
  date: z.string(),
  /** Snapshot that this one descends from. */
  parent: z.string().nullable(),
  kind: z.enum(["disk", "running"]),
  /** Whether the machine's present state descends from it directly. */
  current: z.boolean(),
  /** Bytes on disk: the memory file, and the frozen layers. */
  memoryBytes: bytes,
  diskBytes: bytes,
});
export type SnapshotRow = z.infer<typeof snapshotRow>;

const taken = z.object({
  id: z.string(),
  name: z.string(),
  kind: z.enum(["disk", "running"]),
  /** How long the guest stood still; 0 for a stopped machine. */
  pausedMs: z.number(),
});

const created = z.object({ id: z.string(), name: z.string(), notes: z.array(z.string()) });
const noted = z.object({ notes: z.array(z.string()) });

const newDisk = z
  .strictObject({
    vdev: z.string().max(64),
    /** Of the disk; that of the image when it is made from one. */
    size: bytes.optional(),
    format: z.enum(["qcow2", "raw"]).default("qcow2"),
    /** Name of an image of the library that it begins as: an overlay over it, or with `copy` a copy. */
    from: name.optional(),
    copy: z.boolean().optional(),
    /** Where it is served; without it as the lab's settings say. */
    placement: z.enum(["driver-domain", "hypervisor"]).optional(),
  })
  .refine(({ size, from }) => size !== undefined || from !== undefined, "a disk needs a size or an image");

const labSnapshotRow = z.object({
  id: z.string(),
  name: z.string(),
  note: z.string(),
  date: z.string(),
  members: z.array(z.object({ machine: z.string(), name: z.string(), snapshot: z.string(), present: z.boolean() })),
});
export type LabSnapshotRow = z.infer<typeof labSnapshotRow>;

const operationRow = z.object({
  id: z.string(),
  /** "snapshot of web" */
  what: z.string(),
  machine: z.string().optional(),
  /** Step that it is at, and how far: total 0 when that cannot be told. */
  step: z.string(),
  done: z.number(),
  total: z.number(),
  cancellable: z.boolean(),
});
export type OperationRow = z.infer<typeof operationRow>;

const machineRows = {
  machineList: {
    parameters: z.strictObject({ deleted: z.boolean().optional() }),
    result: z.array(machineSummary),
  },
  machineShow: { parameters: machineOnly, result: machineDetails },
  /**
   * A machine from a configuration (store/schema.ts), as an object or as the text of a file of that name, with new empty disks
   * beside those that it names.
   */
  machineCreate: {
    parameters: z.strictObject({
      config: z.union([
        z.record(z.string(), z.json()),
        z.strictObject({ text: z.string().max(1 << 20), file: z.string().max(8192) }),
      ]),
      newDisks: z.array(newDisk).max(64).optional(),
      /** Size of the root disk of an image that has one; its own when absent. */
      rootSize: bytes.optional(),
      /** Where that disk is served; without it as the lab's settings say. */
      rootPlacement: z.enum(["driver-domain", "hypervisor"]).optional(),
      operation,
    }),
    result: created,
  },
  /** Changes the configuration: settings as "memoryMiB=512" or "vifs.0.bridge=lan", or all of it by a new one. */
  machineSet: {
    parameters: z.strictObject({
      machine: name,
      settings: z.array(z.string().max(65_536)).max(256).optional(),
      config: z.record(z.string(), z.json()).optional(),
    }),
    /** What counts from the next start only. */
    result: noted,
  },
  machineRename: { parameters: z.strictObject({ machine: name, name }), result: nothing },
  machineClone: {
    parameters: z.strictObject({ machine: name, name, linked: z.boolean(), operation }),
    result: created,
  },
  machineDelete: { parameters: machineOnly, result: z.object({ purgeAfter: z.string() }) },
  machineUndelete: { parameters: machineOnly, result: z.object({ name: z.string() }) },
  machinePurge: { parameters: machineOnly, result: nothing },
  /** What purging deleted machines together makes free on disk: files that nothing else needs. */
  machinePurgeSpace: {
    parameters: z.strictObject({ machines: z.array(name).min(1).max(4096) }),
    result: z.object({ bytes }),
  },
  /** Machines found on disk that the lab does not know. */
  machineUnknown: {
    parameters: nothing,
    result: z.array(z.object({ id: z.string(), name: z.string(), damaged: z.string().optional() })),
  },
  machineAdopt: { parameters: z.strictObject({ id: name }), result: created },
  machineStart: { parameters: machineLong, result: z.object({ domid, resumed: z.boolean() }) },
  /** Asks the guest to power off, and waits. With force it is destroyed when the time is over. */
  machineShutdown: {
    parameters: z.strictObject({
      machine: name,
      timeoutSeconds: z.number().positive().max(86_400).optional(),
      force: z.boolean().optional(),
      /** False: only ask. */
      wait: z.boolean().optional(),
    }),
    result: z.object({ state: machineState, forced: z.boolean() }),
  },
  machineReboot: {
    parameters: z.strictObject({
      machine: name,
      timeoutSeconds: z.number().positive().max(86_400).optional(),
      force: z.boolean().optional(),
    }),
    result: z.object({ domid, forced: z.boolean() }),
  },
  machinePause: { parameters: machineOnly, result: nothing },
  machineUnpause: { parameters: machineOnly, result: nothing },
  /** With discard a suspended machine forgets its memory. */
  machineDestroy: { parameters: z.strictObject({ machine: name, discard: z.boolean().optional() }), result: nothing },
  machineSuspend: { parameters: machineLong, result: z.object({ memoryBytes: bytes }) },
  machineResume: { parameters: machineLong, result: z.object({ domid }) },
  /** Until the machine is in a state, has ended, or its console has printed the text; false when the time was over. */
  machineWait: {
    parameters: z.strictObject({
      machine: name,
      until: z.discriminatedUnion("kind", [
        z.strictObject({ kind: z.literal("state"), state: machineState }),
        z.strictObject({ kind: z.literal("exit") }),
        z.strictObject({ kind: z.literal("answering"), text: z.string().min(1).max(256).optional() }),
      ]),
      timeoutSeconds: z.number().positive().max(2_000_000),
    }),
    result: z.object({ reached: z.boolean(), state: machineState, message: z.string().optional() }),
  },
  configExport: { parameters: machineOnly, result: z.object({ text: z.string(), notes: z.array(z.string()) }) },
  /** A machine from the text of an xl.cfg. */
  configImport: {
    parameters: z.strictObject({ text: z.string().max(1 << 20), name: name.optional(), cwd: folder, operation }),
    result: created,
  },
  /** Writes a machine that is off into one file, which machineImport reads, here or on another host. */
  machineExport: {
    parameters: z.strictObject({
      machine: name,
      /** Absolute. */
      path: folder.min(1),
      /** Replaces a file that is there. */
      force: z.boolean().optional(),
      operation,
    }),
    /** Notes tell what is not in it. */
    result: z.object({ path: z.string(), bytes, notes: z.array(z.string()) }),
  },
  machineImport: {
    parameters: z.strictObject({
      /** Absolute. */
      path: folder.min(1),
      /** Refused when it is taken; without it the archive's, or a similar one that is free. */
      name: name.optional(),
      /** Removes the archive afterwards, however it ends, when it was uploaded: when it lies in the lab's tmp/. */
      move: z.boolean().optional(),
      operation,
    }),
    result: created,
  },
  diskAttach: {
    /** A disk in xl's syntax; it stays with the machine. */
    parameters: z.strictObject({ machine: name, disk: z.string().max(8192), cwd: folder }),
    result: z.object({ vdev: z.string(), live: z.boolean() }),
  },
  diskCreate: {
    parameters: z.strictObject({ machine: name, disk: newDisk }),
    result: z.object({ vdev: z.string(), path: z.string(), live: z.boolean() }),
  },
  /** An image of the lab's own is kept in the folder detached/. */
  diskDetach: {
    parameters: z.strictObject({ machine: name, vdev: z.string().max(64), force: z.boolean().optional(), operation }),
    result: z.object({ source: z.string() }),
  },
  diskResize: {
    parameters: z.strictObject({ machine: name, vdev: z.string().max(64), size: bytes, operation }),
    result: z.object({ size: bytes, live: z.boolean() }),
  },
} as const;

const snapshotRows = {
  snapshotList: { parameters: machineOnly, result: z.array(snapshotRow) },
  snapshotTake: {
    parameters: z.strictObject({
      machine: name,
      name: name.optional(),
      note: note.optional(),
      /** Only the disks of a running machine, as after a power cut. */
      diskOnly: z.boolean().optional(),
      operation,
    }),
    result: taken,
  },
  /** With force a running machine is destroyed first: what it has not saved is lost. */
  snapshotRestore: {
    parameters: z.strictObject({
      ...snapshotOf,
      force: z.boolean().optional(),
      /** False: leave a snapshot of a running machine suspended. */
      start: z.boolean().optional(),
      operation,
    }),
    result: z.object({ state: machineState, notes: z.array(z.string()) }),
  },
  snapshotDelete: {
    parameters: z.strictObject({ ...snapshotOf, operation }),
    /** True: layers are merged when the machine stops. */
    result: z.object({ deferred: z.boolean() }),
  },
  snapshotEdit: {
    parameters: z.strictObject({ ...snapshotOf, name: name.optional(), note: note.optional() }),
    result: nothing,
  },
  snapshotClone: {
    parameters: z.strictObject({
      ...snapshotOf,
      name,
      linked: z.boolean().optional(),
      /** Switch for the clone's interfaces: a memory image keeps its MAC addresses, so it cannot share one. */
      bridge: z.string().max(15).optional(),
      operation,
    }),
    result: created,
  },
  labSnapshotTake: {
    parameters: z.strictObject({
      name: name.optional(),
      note: note.optional(),
      machines: z.array(name).max(1000).optional(),
      operation,
    }),
    result: z.object({
      id: z.string(),
      name: z.string(),
      members: z.array(z.object({ machine: z.string(), snapshot: z.string(), pausedMs: z.number() })),
    }),
  },
  labSnapshotList: { parameters: nothing, result: z.array(labSnapshotRow) },
  /** All its machines, or those that are named. */
  labSnapshotRestore: {
    parameters: z.strictObject({
      snapshot: name,
      machines: z.array(name).max(1000).optional(),
      force: z.boolean().optional(),
      operation,
    }),
    result: z.object({ restored: z.array(z.string()), notes: z.array(z.string()) }),
  },
  labSnapshotDelete: {
    /** With members the machines' snapshots go too. */
    parameters: z.strictObject({ snapshot: name, members: z.boolean().optional(), operation }),
    result: nothing,
  },
} as const;

const labRows = {
  labInfo: {
    parameters: nothing,
    result: z.object({
      name: z.string(),
      pid: z.int(),
      home: z.string(),
      started: z.string(),
      version: z.string(),
      machines: z.int(),
      running: z.int(),
      clients: z.int(),
      /** Things the user should know: a damaged store, machines that could be adopted. */
      warnings: z.array(z.string()),
      freeBytes: bytes,
    }),
  },
  /** Settings after the change, if there is one. */
  labSettings: {
    parameters: z.strictObject({ change: z.record(z.string().max(64), z.json()).optional() }),
    result: z.record(z.string(), z.json()),
  },
  /** Ends the lab. Machines are suspended or shut down as each is set to, all in the given way when it is given. */
  labQuit: {
    parameters: z.strictObject({ machines: z.enum(["suspend", "shutdown", "destroy"]).optional() }),
    result: z.object({ notes: z.array(z.string()) }),
  },
  imageList: {
    parameters: nothing,
    result: z.array(
      z.object({
        path: z.string(),
        /** "base" of an image, "disk" of a machine or one "detached" from it, "memory" of a snapshot. */
        kind: z.enum(["base", "disk", "detached", "memory"]),
        size: bytes,
        usedBy: z.array(z.string()),
        format: z.enum(["qcow2", "raw"]).optional(),
        /** Size that a guest sees; absent for what is no disk or cannot be read. */
        virtualSize: bytes.optional(),
        /** Whether it is an image of the library, which can be resized and deleted; its name there. */
        managed: z.boolean().optional(),
        name: z.string().optional(),
      }),
    ),
  },
  operationList: { parameters: nothing, result: z.array(operationRow) },
  operationCancel: { parameters: z.strictObject({ operation: name }), result: z.object({ cancelled: z.boolean() }) },
  /** Replaces what this connection is told. */
  subscribe: {
    parameters: z.strictObject({ topics: z.array(z.enum(["machines", "operations", "log", "metrics"])) }),
    result: nothing,
  },
} as const;

const consoleRows = {
  /**
   * Output from `offset` on, as "console" events to this connection: from the start of what is kept when it is absent, from
   * now on when it is -1. Offsets count the bytes of output since the machine's console log began.
   */
  consoleAttach: {
    parameters: z.strictObject({ machine: name, offset: z.int().min(-1).optional() }),
    result: z.object({ attachment: z.int(), offset: bytes, end: bytes }),
  },
  consoleDetach: { parameters: z.strictObject({ attachment: z.int() }), result: nothing },
  /** Everything before `offset` was dealt with; more is sent while less than CONSOLE_WINDOW is unacknowledged. */
  consoleAcknowledge: { parameters: z.strictObject({ attachment: z.int(), offset: bytes }), result: nothing },
  consoleWrite: {
    parameters: z.strictObject({ machine: name, data: z.base64().max(1 << 20) }),
    result: nothing,
  },
  /** The size of the terminal that shows the console. */
  consoleResize: {
    parameters: z.strictObject({
      machine: name,
      columns: z.int().min(1).max(10_000),
      rows: z.int().min(1).max(10_000),
    }),
    result: nothing,
  },
  /** What was printed, watched or not: at most 1 MiB from `offset`, which may lie before what is kept. */
  consoleLog: {
    parameters: z.strictObject({
      machine: name,
      offset: bytes.optional(),
      bytes: z
        .int()
        .min(1)
        .max(1 << 20)
        .optional(),
    }),
    result: z.object({ offset: bytes, data: z.base64(), end: bytes }),
  },
} as const;

export const machineApi = { ...machineRows, ...snapshotRows, ...consoleRows, ...labRows } as const;

/** Bytes of console output that are sent to a client before it has acknowledged any of them. */
export const CONSOLE_WINDOW = 256 * 1024;

/** What the server sends unasked. */
export const labEvent = z.discriminatedUnion("kind", [
  /** A machine changed, came or (without `machine`) went. */
  z.object({ kind: z.literal("machine"), id: z.string(), machine: machineSummary.optional() }),
  z.object({
    kind: z.literal("operation"),
    operation: operationRow,
    /** Present at its end: how it ended. */
    ended: z.object({ ok: z.boolean(), line: z.string().optional() }).optional(),
  }),
  z.object({ kind: z.literal("log"), date: z.string(), line: z.string() }),
  /** `offset` of the first byte; more than expected when output was lost to this slow reader. */
  z.object({ kind: z.literal("console"), attachment: z.int(), offset: bytes, data: z.base64() }),
  /** The guest started or ended, at that place in the output. */
  z.object({ kind: z.literal("console-state"), attachment: z.int(), offset: bytes, state: machineState }),
  metricsEvent,
  xenstoreEvent,
]);
export type LabEvent = z.infer<typeof labEvent>;
export type LabTopic = "machines" | "operations" | "log" | "metrics";

export type MachineMethod = keyof typeof machineApi;
