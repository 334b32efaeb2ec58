/** What a lab must hold after a crash: the machines as answered calls have left them, disk contents included. */

/** Bytes that are written at once, half a cluster: layers must take the other half from what lies below. */
export const BLOCK = 32_768;

export interface ModelDisk {
  readonly vdev: string;
  readonly format: "qcow2" | "raw";
  /** What each byte of each block is; the length is the disk's. */
  blocks: number[];
}

export interface ModelSnapshot {
  readonly name: string;
  parent: string | null;
  readonly kind: "disk" | "running";
  readonly memoryMiB: number;
  readonly notes: string;
  readonly disks: ModelDisk[];
}

export interface ModelMachine {
  name: string;
  state: "stopped" | "running" | "suspended" | "deleted";
  /** Whether a deleted machine was suspended. */
  hasMemory: boolean;
  memoryMiB: number;
  notes: string;
  disks: ModelDisk[];
  snapshots: ModelSnapshot[];
  current: string | null;
}

export interface ModelLabSnapshot {
  readonly name: string;
  members: { machine: string; readonly snapshot: string }[];
}

/** A machine in one file. */
export interface ModelArchive {
  /** Of the file. */
  readonly name: string;
  readonly memoryMiB: number;
  readonly notes: string;
  readonly disks: ModelDisk[];
}

export interface Model {
  machines: ModelMachine[];
  labSnapshots: ModelLabSnapshot[];
  archives: ModelArchive[];
}

export function machineOf(model: Model, name: string): ModelMachine {
  const found = model.machines.find((machine) => machine.name === name);
  if (found === undefined) throw new Error(`the model has no machine ${name}`);
  return found;
}

export function snapshotOf(machine: ModelMachine, name: string): ModelSnapshot {
  const found = machine.snapshots.find((snapshot) => snapshot.name === name);
  if (found === undefined) throw new Error(`the model's ${machine.name} has no snapshot ${name}`);
  return found;
}

/** Disks of the same content in images of their own: layers are qcow2 whatever they lie on. */
export function layeredCopy(disks: readonly ModelDisk[]): ModelDisk[] {
  return disks.map(({ vdev, blocks }) => ({ vdev, format: "qcow2", blocks: [...blocks] }));
}

export function addSnapshot(machine: ModelMachine, name: string): void {
  machine.snapshots.push({
    name,
    parent: machine.current,
    kind: machine.state === "stopped" ? "disk" : "running",
    memoryMiB: machine.memoryMiB,
    notes: machine.notes,
    disks: structuredClone(machine.disks),
  });
  machine.disks = layeredCopy(machine.disks);
  machine.current = name;
}

export function forgetSnapshot(model: Model, machine: ModelMachine, name: string): void {
  const { parent } = snapshotOf(machine, name);
  machine.snapshots = machine.snapshots.filter((snapshot) => snapshot.name !== name);
  for (const snapshot of machine.snapshots) if (snapshot.parent === name) snapshot.parent = parent;
  if (machine.current === name) machine.current = parent;
  forgetMembers(model, (member) => member.machine === machine.name && member.snapshot === name);
}

/** Takes members out of the lab's snapshots, and those that have none left. */
export function forgetMembers(model: Model, gone: (member: ModelLabSnapshot["members"][number]) => boolean): void {
  for (const snapshot of model.labSnapshots) snapshot.members = snapshot.members.filter((each) => !gone(each));
  model.labSnapshots = model.labSnapshots.filter(({ members }) => members.length > 0);
}

/**
 * The model as lines that can be compared, one for each thing. A machine that ran when the lab died is stopped. The format of
 * an active image is left out: a linked clone and an unfinished snapshot turn raw into qcow2 without changing what is on it.
 */
export function description(model: Model): string[] {
  const disks = (list: readonly ModelDisk[]) =>
    [...list].map(({ vdev, blocks }) => `${vdev}=${blocks.join(".")}`).sort();
  const machines = model.machines.flatMap((machine) => [
    `${machine.name}: ${machine.state === "running" ? "stopped" : machine.state}, memory ${machine.hasMemory}, ` +
      `${machine.memoryMiB} MiB, notes ${machine.notes}, at ${machine.current}`,
    ...disks(machine.disks).map((disk) => `${machine.name}: ${disk}`),
    ...machine.snapshots.flatMap((snapshot) => {
      const title = `${machine.name} @ ${snapshot.name}`;
      return [
        `${title}: ${snapshot.kind} of ${snapshot.parent}, ${snapshot.memoryMiB} MiB, notes ${snapshot.notes}`,
        ...disks(snapshot.disks).map((disk) => `${title}: ${disk}`),
      ];
    }),
  ]);
  const labs = model.labSnapshots.map(({ name, members }) => {
    const all = members.map(({ machine, snapshot }) => `${machine} @ ${snapshot}`).sort();
    return `lab ${name}: ${all.join(", ")}`;
  });
  const archives = model.archives.map((archive) => {
    const { name, memoryMiB, notes } = archive;
    return `archive ${name}: ${memoryMiB} MiB, notes ${notes}, ${disks(archive.disks).join(", ")}`;
  });
  return [...machines, ...labs, ...archives].sort();
}
