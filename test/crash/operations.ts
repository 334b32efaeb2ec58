/** Random operations of a lab: what is asked of it, and what it does to the model. */
import path from "node:path";
import type { ControlClient } from "../../main/lab/control-client.ts";
import {
  addSnapshot,
  BLOCK,
  forgetMembers,
  forgetSnapshot,
  layeredCopy,
  type Model,
  type ModelDisk,
  type ModelMachine,
  machineOf,
  snapshotOf,
} from "./model.ts";
import type { Random } from "./random.ts";

const MOST_MACHINES = 6;
const MOST_DELETED = 3;
const MOST_SNAPSHOTS = 4;
const MOST_LAB_SNAPSHOTS = 3;
const MOST_RUNNING = 2;
const MOST_ARCHIVES = 3;
/** Blocks of a new disk, and how many it may have after resizing. */
const NEW_BLOCKS = { low: 8, high: 40 } as const;
const MOST_BLOCKS = 64;
export const GUEST_MIB = 64;

export interface Operation {
  readonly what: string;
  /** Machines and archives that nothing else is asked of meanwhile. */
  readonly machines: readonly string[];
  readonly call: (lab: ControlClient) => Promise<unknown>;
  readonly apply: (model: Model) => void;
}

/** What operations are chosen from. */
export interface Choice {
  readonly random: Random;
  readonly model: Model;
  /** Machines and archives that are busy. */
  readonly busy: ReadonlySet<string>;
  /** Path of the kernel that guests boot. */
  readonly kernel: string;
  /** Path of the folder of archives. */
  readonly archives: string;
  /** A word that was never used before. */
  readonly newName: (kind: string) => string;
}

type Maker = (choice: Choice) => Operation | undefined;

const pickMachine = (
  { random, model, busy }: Choice,
  states: readonly ModelMachine["state"][],
  fits: (machine: ModelMachine) => boolean = () => true,
) => random.pick(model.machines.filter((each) => states.includes(each.state) && !busy.has(each.name) && fits(each)));

const hasRoom = ({ model }: Choice) => model.machines.filter(({ state }) => state !== "deleted").length < MOST_MACHINES;

function newMachine(name: string, disks: ModelDisk[], memoryMiB: number): ModelMachine {
  return { name, state: "stopped", hasMemory: false, memoryMiB, notes: "", disks, snapshots: [], current: null };
}

const create: Maker = (choice) => {
  if (!hasRoom(choice)) return undefined;
  const { random, kernel, newName } = choice;
  const name = newName("machine");
  const disks = ["xvda", "xvdb"].slice(0, random.between(1, 2)).map((vdev): ModelDisk => {
    const blocks = Array<number>(2 * random.between(NEW_BLOCKS.low / 2, NEW_BLOCKS.high / 2)).fill(0);
    return { vdev, format: random.chance(0.2) ? "raw" : "qcow2", blocks };
  });
  const newDisks = disks.map(({ vdev, format, blocks }) => ({ vdev, format, size: blocks.length * BLOCK }));
  const config = { name, image: null, kernel, memoryMiB: GUEST_MIB };
  return {
    what: `create ${name}`,
    machines: [name],
    call: (lab) => lab.call("machineCreate", { config, newDisks }),
    apply: (model) => void model.machines.push(newMachine(name, disks, GUEST_MIB)),
  };
};

const clone: Maker = (choice) => {
  const source = hasRoom(choice) ? pickMachine(choice, ["stopped"]) : undefined;
  if (source === undefined) return undefined;
  const machine = source.name;
  const name = choice.newName("clone");
  const linked = choice.random.chance(0.6);
  return {
    what: `${linked ? "linked" : "full"} clone ${name} of ${machine}`,
    machines: [machine, name],
    call: (lab) => lab.call("machineClone", { machine, name, linked }),
    apply: (model) => {
      const { disks, memoryMiB, notes } = machineOf(model, machine);
      model.machines.push({ ...newMachine(name, layeredCopy(disks), memoryMiB), notes });
      if (linked) machineOf(model, machine).disks = layeredCopy(disks);
    },
  };
};

const takeSnapshot: Maker = (choice) => {
  const states = ["stopped", "running", "suspended"] as const;
  const machine = pickMachine(choice, states, ({ snapshots }) => snapshots.length < MOST_SNAPSHOTS);
  if (machine === undefined) return undefined;
  const name = choice.newName("snapshot");
  return {
    what: `snapshot ${name} of ${machine.name}, which is ${machine.state}`,
    machines: [machine.name],
    call: (lab) => lab.call("snapshotTake", { machine: machine.name, name }),
    apply: (model) => addSnapshot(machineOf(model, machine.name), name),
  };
};

const takeLabSnapshot: Maker = (choice) => {
  const { model, busy, random, newName } = choice;
  const free = model.machines.filter(
    ({ name, state, snapshots }) => state !== "deleted" && !busy.has(name) && snapshots.length < MOST_SNAPSHOTS,
  );
  const machines = free.slice(0, random.between(1, 3)).map((machine) => machine.name);
  if (machines.length === 0 || model.labSnapshots.length >= MOST_LAB_SNAPSHOTS) return undefined;
  const name = newName("lab");
  return {
    what: `snapshot ${name} of ${machines.join(", ")} at one moment`,
    machines,
    call: (lab) => lab.call("labSnapshotTake", { name, machines }),
    apply: (draft) => {
      for (const machine of machines) addSnapshot(machineOf(draft, machine), name);
      draft.labSnapshots.push({ name, members: machines.map((machine) => ({ machine, snapshot: name })) });
    },
  };
};

const forgetLabSnapshot: Maker = ({ random, model, busy }) => {
  const snapshot = model.labSnapshots.length < MOST_LAB_SNAPSHOTS ? undefined : random.pick(model.labSnapshots);
  // It goes by itself with the last of its members.
  const machines = snapshot?.members.map(({ machine }) => machine) ?? [];
  if (snapshot === undefined || machines.some((machine) => busy.has(machine))) return undefined;
  const { name } = snapshot;
  return {
    what: `forget the lab's snapshot ${name}`,
    machines,
    call: (lab) => lab.call("labSnapshotDelete", { snapshot: name }),
    apply: (draft) => {
      draft.labSnapshots = draft.labSnapshots.filter((each) => each.name !== name);
    },
  };
};

/** A machine with one of its snapshots. */
function pickSnapshot(choice: Choice, states: readonly ModelMachine["state"][]) {
  const machine = pickMachine(choice, states, ({ snapshots }) => snapshots.length > 0);
  const snapshot = choice.random.pick(machine?.snapshots ?? []);
  return machine && snapshot && { machine: machine.name, snapshot: snapshot.name };
}

const restore: Maker = (choice) => {
  const picked = pickSnapshot(choice, ["stopped", "suspended"]);
  if (picked === undefined) return undefined;
  return {
    what: `restore ${picked.machine} to ${picked.snapshot}`,
    machines: [picked.machine],
    call: (lab) => lab.call("snapshotRestore", { ...picked, start: false }),
    apply: (model) => {
      const machine = machineOf(model, picked.machine);
      const { kind, memoryMiB, disks } = snapshotOf(machine, picked.snapshot);
      const hasMemory = kind === "running";
      Object.assign(machine, {
        state: hasMemory ? "suspended" : "stopped",
        ...{ hasMemory, memoryMiB, disks: layeredCopy(disks), current: picked.snapshot },
      });
    },
  };
};

const deleteSnapshot: Maker = (choice) => {
  const picked = pickSnapshot(choice, ["stopped", "running", "suspended"]);
  if (picked === undefined) return undefined;
  return {
    what: `delete ${picked.snapshot} of ${picked.machine}`,
    machines: [picked.machine],
    call: (lab) => lab.call("snapshotDelete", picked),
    apply: (model) => forgetSnapshot(model, machineOf(model, picked.machine), picked.snapshot),
  };
};

const cloneSnapshot: Maker = (choice) => {
  const picked = hasRoom(choice) ? pickSnapshot(choice, ["stopped", "running", "suspended"]) : undefined;
  if (picked === undefined) return undefined;
  const name = choice.newName("clone");
  const linked = choice.random.chance(0.6);
  return {
    what: `${linked ? "linked" : "full"} clone ${name} of ${picked.machine} @ ${picked.snapshot}`,
    machines: [picked.machine, name],
    call: (lab) => lab.call("snapshotClone", { ...picked, name, linked }),
    apply: (model) => {
      const source = machineOf(model, picked.machine);
      const { kind, memoryMiB, notes, disks } = snapshotOf(source, picked.snapshot);
      const hasMemory = kind === "running";
      const made = newMachine(name, layeredCopy(disks), memoryMiB);
      model.machines.push({ ...made, notes, hasMemory, state: hasMemory ? "suspended" : "stopped" });
    },
  };
};

const resize: Maker = (choice) => {
  const machine = pickMachine(choice, ["stopped", "running"], ({ disks }) =>
    disks.some(({ blocks }) => blocks.length < MOST_BLOCKS),
  );
  const disk = machine?.disks.find(({ blocks }) => blocks.length < MOST_BLOCKS);
  if (machine === undefined || disk === undefined) return undefined;
  const { vdev } = disk;
  const blocks = choice.random.between(disk.blocks.length + 1, MOST_BLOCKS);
  return {
    what: `resize ${vdev} of ${machine.name}, which is ${machine.state}, to ${blocks} blocks`,
    machines: [machine.name],
    call: (lab) => lab.call("diskResize", { machine: machine.name, vdev, size: blocks * BLOCK }),
    apply: (model) => {
      const found = machineOf(model, machine.name).disks.find((each) => each.vdev === vdev);
      while (found !== undefined && found.blocks.length < blocks) found.blocks.push(0);
    },
  };
};

const rename: Maker = (choice) => {
  const machine = pickMachine(choice, ["stopped", "suspended", "running"]);
  if (machine === undefined) return undefined;
  const old = machine.name;
  const name = choice.newName("renamed");
  return {
    what: `rename ${old} to ${name}`,
    machines: [old, name],
    call: (lab) => lab.call("machineRename", { machine: old, name }),
    apply: (model) => {
      machineOf(model, old).name = name;
      const members = model.labSnapshots.flatMap((snapshot) => snapshot.members);
      for (const member of members) if (member.machine === old) member.machine = name;
    },
  };
};

const set: Maker = (choice) => {
  const machine = pickMachine(choice, ["stopped"]);
  if (machine === undefined) return undefined;
  const memoryMiB = choice.random.between(GUEST_MIB, GUEST_MIB + 8);
  const notes = choice.newName("note");
  return {
    what: `set ${machine.name} to ${memoryMiB} MiB and ${notes}`,
    machines: [machine.name],
    call: (lab) =>
      lab.call("machineSet", { machine: machine.name, settings: [`memoryMiB=${memoryMiB}`, `notes=${notes}`] }),
    apply: (model) => void Object.assign(machineOf(model, machine.name), { memoryMiB, notes }),
  };
};

const remove: Maker = (choice) => {
  if (choice.model.machines.filter(({ state }) => state === "deleted").length >= MOST_DELETED) return undefined;
  const machine = pickMachine(choice, ["stopped", "suspended"]);
  return (
    machine && {
      what: `remove ${machine.name}`,
      machines: [machine.name],
      call: (lab) => lab.call("machineDelete", { machine: machine.name }),
      apply: (model) => {
        machineOf(model, machine.name).state = "deleted";
      },
    }
  );
};

const undelete: Maker = (choice) => {
  const machine = hasRoom(choice) ? pickMachine(choice, ["deleted"]) : undefined;
  return (
    machine && {
      what: `undelete ${machine.name}`,
      machines: [machine.name],
      call: (lab) => lab.call("machineUndelete", { machine: machine.name }),
      apply: (model) => {
        const found = machineOf(model, machine.name);
        found.state = found.hasMemory ? "suspended" : "stopped";
      },
    }
  );
};

const purge: Maker = (choice) => {
  const machine = pickMachine(choice, ["deleted"]);
  return (
    machine && {
      what: `purge ${machine.name}`,
      machines: [machine.name],
      call: (lab) => lab.call("machinePurge", { machine: machine.name }),
      apply: (model) => {
        model.machines = model.machines.filter(({ name }) => name !== machine.name);
        forgetMembers(model, (member) => member.machine === machine.name);
      },
    }
  );
};

const start: Maker = (choice) => {
  const { model } = choice;
  if (model.machines.filter(({ state }) => state === "running").length >= MOST_RUNNING) return undefined;
  const machine = pickMachine(choice, ["stopped", "suspended"]);
  return (
    machine && {
      what: `start ${machine.name}, which is ${machine.state}`,
      machines: [machine.name],
      call: (lab) => lab.call("machineStart", { machine: machine.name }),
      apply: (draft) => void Object.assign(machineOf(draft, machine.name), { state: "running", hasMemory: false }),
    }
  );
};

const suspend: Maker = (choice) => {
  const machine = pickMachine(choice, ["running"]);
  return (
    machine && {
      what: `suspend ${machine.name}`,
      machines: [machine.name],
      call: (lab) => lab.call("machineSuspend", { machine: machine.name }),
      apply: (model) => void Object.assign(machineOf(model, machine.name), { state: "suspended", hasMemory: true }),
    }
  );
};

const destroy: Maker = (choice) => {
  const machine = pickMachine(choice, ["running", "suspended"]);
  return (
    machine && {
      what: `destroy ${machine.name}, which is ${machine.state}`,
      machines: [machine.name],
      call: (lab) => lab.call("machineDestroy", { machine: machine.name, discard: true }),
      apply: (model) => void Object.assign(machineOf(model, machine.name), { state: "stopped", hasMemory: false }),
    }
  );
};

/** Into a file of its own, or over another archive. */
const exportMachine: Maker = (choice) => {
  const { model, busy, random, newName, archives } = choice;
  const machine = pickMachine(choice, ["stopped"]);
  const force = model.archives.length >= MOST_ARCHIVES || random.chance(0.2);
  const free = model.archives.filter(({ name }) => !busy.has(name));
  const name = force ? random.pick(free)?.name : `${newName("archive")}.domlab`;
  if (machine === undefined || name === undefined) return undefined;
  return {
    what: `export ${machine.name} to ${name}${force ? ", which is there" : ""}`,
    machines: [machine.name, name],
    call: (lab) => lab.call("machineExport", { machine: machine.name, path: path.join(archives, name), force }),
    apply: (draft) => {
      const { memoryMiB, notes, disks } = machineOf(draft, machine.name);
      draft.archives = draft.archives.filter((each) => each.name !== name);
      draft.archives.push({ name, memoryMiB, notes, disks: layeredCopy(disks) });
    },
  };
};

const importMachine: Maker = (choice) => {
  const { model, busy, random, newName, archives } = choice;
  const archive = random.pick(model.archives.filter(({ name }) => !busy.has(name)));
  if (archive === undefined || !hasRoom(choice)) return undefined;
  const name = newName("imported");
  return {
    what: `import ${name} from ${archive.name}`,
    machines: [name, archive.name],
    call: (lab) => lab.call("machineImport", { path: path.join(archives, archive.name), name }),
    apply: (draft) => {
      const { memoryMiB, notes, disks } = archive;
      draft.machines.push({ ...newMachine(name, layeredCopy(disks), memoryMiB), notes });
    },
  };
};

/** Each with how often it is tried beside the others. */
const MAKERS: readonly (readonly [Maker, number])[] = [
  [create, 3],
  [clone, 3],
  [exportMachine, 3],
  [importMachine, 3],
  [takeSnapshot, 6],
  [takeLabSnapshot, 2],
  [forgetLabSnapshot, 1],
  [restore, 3],
  [deleteSnapshot, 5],
  [cloneSnapshot, 2],
  [resize, 3],
  [rename, 1],
  [set, 1],
  [remove, 3],
  [undelete, 1],
  [purge, 2],
  [start, 3],
  [suspend, 2],
  [destroy, 1],
];
const POOL: readonly Maker[] = MAKERS.flatMap(([maker, weight]) => Array<Maker>(weight).fill(maker));

/** An operation that the lab must carry out as things are; undefined while everything is busy. */
export function chooseOperation(choice: Choice): Operation | undefined {
  for (let tries = 0; tries < 50; tries++) {
    const made = choice.random.pick(POOL)?.(choice);
    if (made !== undefined) return made;
  }
  return undefined;
}
