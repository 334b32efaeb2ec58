/** Snapshots of several machines at one moment, and going back to one with all or some of them. */
import { randomUUID } from "node:crypto";
import type { LabSnapshotRow } from "../machine-api.ts";
import type { DeepReadonly, LabSnapshot } from "../store/schema.ts";
import type { MachineContext } from "./context.ts";
import { MachineError } from "./errors.ts";
import type { Machine } from "./machine.ts";
import type { Machines } from "./machines.ts";
import { holdAll } from "./operation-queue.ts";
import type { OperationControl } from "./operations.ts";
import { deleteSnapshot, makeWay, restoreNow } from "./restore.ts";
import { findSnapshot, type TakenSnapshot, takeSnapshots, wantSnapshotName } from "./snapshots.ts";

/** Machines in the one order in which several are held. */
const inOrder = (machines: readonly Machine[]): Machine[] => [...machines].sort((a, b) => (a.id < b.id ? -1 : 1));

/** Holds machines for what concerns them together. */
export function holdMachines<Result>(machines: readonly Machine[], body: () => Promise<Result>): Promise<Result> {
  return holdAll(
    inOrder(machines).map(({ queue }) => queue),
    body,
  );
}

export function labSnapshotRows({ store }: Pick<MachineContext, "store">): LabSnapshotRow[] {
  return store.data.labSnapshots.map(({ id, name, note, date, members }) => ({
    id,
    name,
    note,
    date,
    members: members.map(({ machine, snapshot }) => {
      const record = store.data.machines.find((each) => each.id === machine);
      const present = record?.snapshots.some((each) => each.id === snapshot) ?? false;
      return { machine, name: record?.config.name ?? machine, snapshot, present };
    }),
  }));
}

/** @throws MachineError */
export function findLabSnapshot({ store }: Pick<MachineContext, "store">, text: string): DeepReadonly<LabSnapshot> {
  const all = store.data.labSnapshots;
  const found = all.find(({ name }) => name === text) ?? all.find(({ id }) => id === text);
  if (found !== undefined) return found;
  const names = all.map(({ name }) => name).join(", ");
  const remedy = names === "" ? "there is none" : `there are: ${names}`;
  throw new MachineError("unknown-snapshot", `the lab has no snapshot ${text}`, remedy);
}

export interface LabSnapshotWish {
  readonly name?: string | undefined;
  readonly note?: string | undefined;
  readonly machines: readonly Machine[];
}

function freeLabName({ store }: Pick<MachineContext, "store">): string {
  const taken = new Set(store.data.labSnapshots.map(({ name }) => name));
  for (let number = taken.size + 1; ; number++) if (!taken.has(`lab ${number}`)) return `lab ${number}`;
}

/**
 * Takes a snapshot of machines, running ones at one moment.
 * @throws what the user can mend; all machines are as they were then
 */
export function takeLabSnapshot(
  context: MachineContext,
  wish: LabSnapshotWish,
  control: OperationControl,
): Promise<{ id: string; name: string; members: TakenSnapshot[] }> {
  const { store } = context;
  return holdMachines(wish.machines, async () => {
    const name = wish.name ?? freeLabName(context);
    wantSnapshotName(name);
    if (store.data.labSnapshots.some((each) => each.name === name)) {
      throw new MachineError("busy", `the lab has a snapshot ${name} already`, "choose another name");
    }
    if (wish.machines.length === 0) {
      throw new MachineError("failed", "there is no machine to take a snapshot of", "make one with domlab create");
    }
    const id = randomUUID();
    const date = new Date().toISOString();
    const note = wish.note ?? "";
    // A machine may have a snapshot of that name from before.
    const free = wish.machines.every(({ record }) => !record.snapshots.some((each) => each.name === name));
    const own = free ? name : `${name} (${date})`;
    const members = await takeSnapshots(
      context,
      inOrder(wish.machines),
      { name: own, note },
      control,
      (draft, taken) => {
        draft.labSnapshots.push({
          id,
          name,
          note,
          date,
          members: taken.map((each) => ({ machine: each.machine, snapshot: each.id })),
        });
      },
    );
    return { id, name, members };
  });
}

/**
 * Goes back to a snapshot of the lab with these machines: first all of them, and then those with memory go on.
 * @returns the machines, and notes for the user
 * @throws what the user can mend; which machines were restored by then is in the message
 */
export async function restoreLabSnapshot(
  context: MachineContext,
  machines: Machines,
  wish: { readonly snapshot: string; readonly machines: readonly Machine[] | undefined; readonly force: boolean },
  control: OperationControl,
): Promise<{ restored: Machine[]; notes: string[] }> {
  const { id, name, members } = findLabSnapshot(context, wish.snapshot);
  const stray = wish.machines?.find((machine) => !members.some((member) => member.machine === machine.id));
  if (stray !== undefined) {
    throw new MachineError("unknown-snapshot", `the lab's snapshot ${name} has no ${stray.name}`, "leave it out");
  }
  const all = machines.all();
  const chosen = (wish.machines ?? all).filter((machine) => members.some((member) => member.machine === machine.id));
  const notes = members
    .filter((member) => wish.machines === undefined && !all.some((machine) => machine.id === member.machine))
    .map((member) => `the machine ${member.machine} of the snapshot is gone or deleted`);
  // Said before the first one is touched.
  if (!wish.force) for (const machine of chosen) await makeWay(machine, false);
  for (const machine of chosen) notes.push(...(await makeWay(machine, wish.force)));
  await holdMachines(chosen, async () => {
    // One may have been deleted meanwhile: then nothing is restored.
    const parts = chosen.map((machine) => {
      const member = members.find((each) => each.machine === machine.id);
      return { machine, snapshot: findSnapshot(machine, member?.snapshot ?? id, name) };
    });
    for (const { machine, snapshot } of parts) await restoreNow(context, machine, snapshot, control);
  });
  for (const machine of chosen) {
    if (machine.record.state === "suspended") await machine.resume(control);
  }
  return { restored: chosen, notes };
}

/** Forgets a snapshot of the lab; with `members` its machines' snapshots too. */
export async function deleteLabSnapshot(
  context: MachineContext,
  machines: Machines,
  text: string,
  withMembers: boolean,
  control: OperationControl,
): Promise<void> {
  const { id, members } = findLabSnapshot(context, text);
  await context.store.update((draft) => {
    draft.labSnapshots = draft.labSnapshots.filter((each) => each.id !== id);
  });
  if (!withMembers) return;
  for (const { machine, snapshot } of members) {
    const found = machines.all().find((each) => each.id === machine);
    if (found?.record.snapshots.some((each) => each.id === snapshot)) {
      await deleteSnapshot(context, found, snapshot, control);
    }
  }
}
