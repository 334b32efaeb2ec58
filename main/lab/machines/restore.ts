/** Going back to a snapshot, and letting go of one. */
import { access, constants, realpath } from "node:fs/promises";
import type { DeepReadonly, LabData, MachineConfig, MachineSnapshot } from "../store/schema.ts";
import type { MachineContext } from "./context.ts";
import { editable, makeLayers, type NewLayer, removeLayers, useLayers } from "./disk-layers.ts";
import { MachineError } from "./errors.ts";
import { imageOf, isLayered } from "./guest-config.ts";
import type { Machine } from "./machine.ts";
import type { OperationControl } from "./operations.ts";
import { findSnapshot } from "./snapshots.ts";

type Snapshot = DeepReadonly<MachineSnapshot>;
type Config = DeepReadonly<MachineConfig>;

/** What belongs to the machine and not to a moment of it. */
function identity(config: Config): Partial<MachineConfig> {
  const { name, group, notes, autostart, startPriority, startDelaySeconds, shutdownTimeoutSeconds } = config;
  return {
    name,
    group,
    notes,
    autostart,
    startPriority,
    startDelaySeconds,
    shutdownTimeoutSeconds,
    protected: config.protected,
  };
}

/**
 * The configuration after a restore: that of the snapshot, with the machine's own name and the like, and with disks that came
 * later, which a restore must not throw away.
 * @throws MachineError when a memory image would meet a disk that it does not know
 */
function restoredConfig(machine: Machine, snapshot: Snapshot): MachineConfig {
  const now = machine.record.config;
  const later = now.disks.filter(({ vdev }) => !snapshot.config.disks.some((disk) => disk.vdev === vdev));
  const [stranger] = later;
  if (stranger !== undefined && snapshot.kind === "running") {
    throw new MachineError(
      "wrong-state",
      `${machine.name} has a disk ${stranger.vdev} that the guest of the snapshot ${snapshot.name} does not know`,
      `detach it first: domlab disk detach ${machine.name} ${stranger.vdev}`,
    );
  }
  const config = editable(snapshot.config);
  Object.assign(config, identity(now));
  config.disks.push(...structuredClone(later as MachineConfig["disks"]));
  return config;
}

/** Everything that the snapshot needs is there. @throws MachineError, DiskError */
async function checkParts(context: MachineContext, machine: Machine, snapshot: Snapshot): Promise<void> {
  if (snapshot.memory === undefined) return;
  const file = context.store.paths.memoryFile(snapshot.memory);
  try {
    await access(file, constants.R_OK);
  } catch (error) {
    const what = `the memory file ${file} of the snapshot ${snapshot.name} of ${machine.name} cannot be read`;
    throw new MachineError("failed", what, "put it back, or delete the snapshot; nothing was changed", error);
  }
}

/**
 * Makes a machine whose queue the caller holds what it was. A snapshot with memory leaves it suspended: resuming it is the
 * caller's next step.
 * @throws what the user can mend; nothing has changed then
 */
export async function restoreNow(
  context: MachineContext,
  machine: Machine,
  snapshot: Snapshot,
  control: OperationControl,
): Promise<void> {
  machine.want(["stopped", "suspended", "crashed"], "restored");
  const { layers, store } = context;
  const config = restoredConfig(machine, snapshot);
  await checkParts(context, machine, snapshot);
  control.step("making layers");
  const owner = `restore of ${machine.id}`;
  let made: NewLayer[] = [];
  const bases = snapshot.disks.map(({ vdev, image, format }) => ({ vdev, image: { path: image, format } }));
  const { record } = machine;
  try {
    await layers.claim(
      owner,
      bases.map(({ image }) => image),
    );
    made = await makeLayers(context, machine.name, bases);
    useLayers(config.disks, made);
    control.commit();
    await machine.commit((draft) => {
      draft.config = config;
      draft.currentSnapshot = snapshot.id;
      delete draft.memory;
      draft.state = snapshot.memory === undefined ? "stopped" : "suspended";
      if (snapshot.memory !== undefined) draft.memory = snapshot.memory;
    });
  } catch (error) {
    await removeLayers(made);
    throw error;
  } finally {
    layers.release(owner);
  }
  machine.message = undefined;
  machine.setPhase(undefined);
  await layers.discard({
    images: record.config.disks.filter(isLayered).map(imageOf),
    memory: record.memory === undefined ? [] : [store.paths.memoryFile(record.memory)],
  });
}

/** Ends a running guest before a restore when the user wants that. @throws MachineError otherwise */
export async function makeWay(machine: Machine, force: boolean): Promise<string[]> {
  if (machine.guest === undefined) return [];
  if (!force) {
    const what = `${machine.name} is ${machine.state}: restoring would throw away what it has not saved`;
    const remedy = `shut it down first, or say --force: it is destroyed then`;
    throw new MachineError("wrong-state", what, remedy);
  }
  await machine.destroy();
  return [`${machine.name} was destroyed: what it had not written to its disks is lost`];
}

/** Takes a snapshot out of the records of a draft; those that descend from it get its parent. */
export function forgetSnapshot(draft: LabData, machine: string, id: string): void {
  const record = draft.machines.find((each) => each.id === machine);
  const gone = record?.snapshots.find((each) => each.id === id);
  if (record === undefined || gone === undefined) return;
  record.snapshots = record.snapshots.filter((each) => each.id !== id);
  for (const each of record.snapshots) if (each.parent === id) each.parent = gone.parent;
  if (record.currentSnapshot === id) record.currentSnapshot = gone.parent;
  for (const lab of draft.labSnapshots) {
    lab.members = lab.members.filter((member) => member.machine !== machine || member.snapshot !== id);
  }
  draft.labSnapshots = draft.labSnapshots.filter(({ members }) => members.length > 0);
}

/**
 * Lets go of a snapshot. Its layers are merged into the one image that needs them, or stay nameless while several do.
 * @returns whether merging waits until a machine stops
 * @throws MachineError "unknown-snapshot"
 */
export async function deleteSnapshot(
  context: MachineContext,
  machine: Machine,
  text: string,
  control: OperationControl,
): Promise<boolean> {
  const snapshot = await machine.queue.run(async () => {
    const found = findSnapshot(machine, text);
    await context.store.update((draft) => forgetSnapshot(draft, machine.id, found.id));
    return found;
  });
  context.changed(machine.id);
  await context.layers.discard({
    images: snapshot.disks.map(({ image, format }) => ({ path: image, format })),
    memory: snapshot.memory === undefined ? [] : [context.store.paths.memoryFile(snapshot.memory)],
  });
  control.step("merging layers");
  const progress = (done: number, total: number) => control.step("merging layers", done, total);
  const { deferred, failures } = await context.layers.tidy({ signal: control.signal, progress });
  // Layers of other machines may be waiting since long before.
  const own = await Promise.all(snapshot.disks.map(({ image }) => realpath(image).catch(() => image)));
  return failures.length > 0 || own.some((layer) => deferred.includes(layer));
}
