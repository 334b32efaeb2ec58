/**
 * Snapshots of machines, stopped or running, one or all at one moment.
 *
 * Order of commits for running machines: (1) empty layers are made; (2) one commit makes them the active images and enters
 * the snapshots as pending; (3) the host swaps the stores of all guests at one moment and writes their memory; (4) one commit
 * completes the snapshots. A crash before the swap finds empty layers, which read as what lies below them; a crash after it
 * finds the layers with what was written; either way the disks are whole and the pending snapshot is dropped.
 */
import { randomBytes, randomUUID } from "node:crypto";
import { explain } from "../../failure.ts";
import { type MachineRecord, type MachineSnapshot, snapshotName } from "../store/schema.ts";
import type { MachineContext } from "./context.ts";
import {
  editable,
  frozenDisks,
  layeredDisks,
  makeLayers,
  type NewLayer,
  removeLayers,
  useLayers,
} from "./disk-layers.ts";
import { MachineError } from "./errors.ts";
import { vdevOf } from "./guest-config.ts";
import type { Machine } from "./machine.ts";
import type { SnapshotRequest, SnapshotResult } from "./machine-host.ts";
import type { OperationControl } from "./operations.ts";
import { wantSpace } from "./space.ts";

const MIB = 1 << 20;

/** Name for a new memory file of a machine. */
export const memoryFileName = (machine: string): string => `${machine}-${randomBytes(6).toString("hex")}.dsnap`;

export interface SnapshotWish {
  readonly name?: string | undefined;
  readonly note?: string | undefined;
  /** Leave the memory of running machines out. */
  readonly diskOnly?: boolean | undefined;
}

export interface TakenSnapshot {
  readonly machine: string;
  readonly id: string;
  readonly name: string;
  readonly kind: "disk" | "running";
  readonly pausedMs: number;
}

/** One machine's part of a snapshot. */
interface Part {
  readonly machine: Machine;
  readonly snapshot: MachineSnapshot;
  readonly layers: readonly NewLayer[];
  /** Number of its domain while it runs. */
  readonly domid: number | undefined;
  readonly wasPaused: boolean;
}

/** The first free name of the kind "snapshot 3". */
function freeName(record: MachineRecord | Machine["record"]): string {
  const taken = new Set(record.snapshots.map(({ name }) => name));
  for (let number = record.snapshots.length + 1; ; number++) {
    const name = `snapshot ${number}`;
    if (!taken.has(name)) return name;
  }
}

/** @throws MachineError for what no snapshot can be called */
export function wantSnapshotName(name: string): void {
  const checked = snapshotName.safeParse(name);
  if (checked.success) return;
  const remedy = "use 1 to 128 characters in one line";
  throw new MachineError("failed", `"${name.slice(0, 100)}" is no name for a snapshot`, remedy);
}

/** @throws MachineError for what no snapshot can be called, and when the machine has one of that name */
export function checkSnapshotName(machine: Machine, name: string): void {
  wantSnapshotName(name);
  if (!machine.record.snapshots.some((snapshot) => snapshot.name === name)) return;
  throw new MachineError("busy", `${machine.name} has a snapshot ${name} already`, "choose another name");
}

/** The snapshot that a user means by its name or id. @param called what messages call it @throws MachineError */
export function findSnapshot(machine: Machine, text: string, called = text): Machine["record"]["snapshots"][number] {
  const complete = machine.record.snapshots.filter(({ status }) => status === "complete");
  const found = complete.find(({ name }) => name === text) ?? complete.find(({ id }) => id === text);
  if (found !== undefined) return found;
  const names = complete.map(({ name }) => name).join(", ");
  const remedy = names === "" ? "it has none" : `it has: ${names}`;
  throw new MachineError("unknown-snapshot", `${machine.name} has no snapshot ${called}`, remedy);
}

/** Bytes that a running machine's memory file may take. */
export async function memoryNeed(machine: Machine): Promise<number> {
  const all = machine.record.config.memoryMiB * MIB;
  const { residentBytes = 0 } = (await machine.guest?.handle.statistics()) ?? {};
  return residentBytes === 0 ? all : Math.min(all, residentBytes);
}

async function preparePart(context: MachineContext, machine: Machine, wish: SnapshotWish): Promise<Part> {
  machine.want(["stopped", "running", "paused", "suspended", "crashed"], "snapshotted");
  const { record, state } = machine;
  const name = wish.name ?? freeName(record);
  if (wish.name !== undefined) checkSnapshotName(machine, wish.name);
  const bases = layeredDisks(machine.name, record.config.disks);
  const domid = state === "running" || state === "paused" ? machine.wantGuest("snapshotted").handle.id : undefined;
  const withMemory = wish.diskOnly !== true && (domid !== undefined || state === "suspended");
  if (withMemory && domid !== undefined) {
    await wantSpace(context.store.paths.memory, await memoryNeed(machine), `the snapshot of ${machine.name}`);
  }
  // A suspended machine's memory file becomes the snapshot's too: it belongs to whoever names it.
  const memory = domid === undefined ? record.memory : memoryFileName(machine.id);
  const owner = `snapshot of ${machine.id}`;
  try {
    await context.layers.claim(
      owner,
      bases.map(({ image }) => image),
    );
    const layers = await makeLayers(context, machine.name, bases);
    const snapshot: MachineSnapshot = {
      id: randomUUID(),
      name,
      note: wish.note ?? "",
      date: new Date().toISOString(),
      parent: record.currentSnapshot,
      kind: withMemory ? "running" : "disk",
      status: domid === undefined ? "complete" : "pending",
      disks: frozenDisks(layers),
      ...(withMemory && memory !== undefined && { memory }),
      config: editable(record.config),
      sizes: { memoryFile: 0, touchedMemory: 0, disks: await usedBytes(context, layers) },
    };
    return { machine, snapshot, layers, domid, wasPaused: state === "paused" };
  } finally {
    // From here on the layers' headers say who needs what; a running machine's own claim is kept up below.
    context.layers.release(owner);
  }
}

async function usedBytes({ images }: MachineContext, layers: readonly NewLayer[]): Promise<number> {
  let sum = 0;
  for (const { frozen } of layers) sum += (await images.facts(frozen)).used;
  return sum;
}

function recordOf(machines: MachineRecord[], { machine }: Part): MachineRecord {
  const record = machines.find(({ id }) => id === machine.id);
  if (record === undefined) throw new MachineError("unknown-machine", "the machine is gone", "see domlab list");
  return record;
}

async function requestOf(context: MachineContext, part: Part): Promise<SnapshotRequest> {
  const { machine, snapshot, layers, domid } = part;
  await context.layers.claim(
    machine.id,
    layers.map(({ path }) => ({ path, format: "qcow2" as const })),
  );
  const disks: SnapshotRequest["disks"][number][] = [];
  for (const { vdev, path } of layers) {
    const disk = machine.record.config.disks.find((each) => each.vdev === vdev);
    const options = { readOnly: false, discard: disk?.discard ?? true };
    disks.push({ vdev: vdevOf({ vdev }), store: await context.images.spec({ path, format: "qcow2" }, options) });
  }
  const file = snapshot.kind === "running" ? context.store.paths.memoryFile(snapshot.memory ?? "") : undefined;
  return { id: domid ?? 0, ...(file !== undefined && { file }), disks };
}

/** Takes snapshots that did not come to their end out of the records. Layers that guests write already stay. */
async function undo(context: MachineContext, parts: readonly Part[]): Promise<void> {
  const unused: NewLayer[] = [];
  await context.store.update((draft) => {
    for (const part of parts) {
      const record = recordOf(draft.machines, part);
      record.snapshots = record.snapshots.filter(({ id }) => id !== part.snapshot.id);
      for (const layer of part.layers) {
        if (isWritten(context, part, layer)) continue;
        const disk = record.config.disks.find(({ vdev, source }) => vdev === layer.vdev && source === layer.path);
        if (disk === undefined) continue;
        Object.assign(disk, { source: layer.frozen.path, format: layer.frozen.format });
        unused.push(layer);
      }
    }
  });
  await removeLayers(unused);
  const memory = parts.flatMap(({ snapshot, domid }) =>
    domid !== undefined && snapshot.memory !== undefined ? [context.store.paths.memoryFile(snapshot.memory)] : [],
  );
  await context.layers.discard({ memory });
}

/** Whether a guest may have written to a new layer: yes, unless its disk is known to be on the old one. */
function isWritten({ host }: MachineContext, { domid }: Part, layer: NewLayer): boolean {
  if (domid === undefined) return false;
  const served = host.vbds.list(domid).find(({ vdev }) => vdev === vdevOf(layer));
  return !(served !== undefined && "path" in served.store && served.store.path === layer.frozen.path);
}

/**
 * Takes snapshots of machines whose queues the caller holds: running ones at one moment.
 * @param onCommit adds to the last commit, which makes them complete
 * @throws what the user can mend; the machines are as they were then
 */
export async function takeSnapshots(
  context: MachineContext,
  machines: readonly Machine[],
  wish: SnapshotWish,
  control: OperationControl,
  onCommit: (
    draft: Parameters<Parameters<MachineContext["store"]["update"]>[0]>[0],
    taken: TakenSnapshot[],
  ) => void = () => {},
): Promise<TakenSnapshot[]> {
  control.step("freezing the disks");
  const parts: Part[] = [];
  try {
    for (const machine of machines) parts.push(await preparePart(context, machine, wish));
    control.commit();
  } catch (error) {
    for (const part of parts) await removeLayers(part.layers);
    throw error;
  }
  const running = parts.filter(({ domid }) => domid !== undefined);
  const taken = (results: readonly SnapshotResult[]): TakenSnapshot[] =>
    parts.map(({ machine, snapshot: { id, name, kind }, domid }) => {
      const pausedMs = results.find((result) => result.id === domid)?.pausedMs ?? 0;
      return { machine: machine.id, id, name, kind, pausedMs };
    });
  try {
    await context.store.update((draft) => {
      for (const part of parts) {
        const record = recordOf(draft.machines, part);
        const status = running.length > 0 ? "pending" : "complete";
        record.snapshots.push({ ...structuredClone(part.snapshot), status });
        useLayers(record.config.disks, part.layers);
        if (status === "complete") record.currentSnapshot = part.snapshot.id;
      }
      if (running.length === 0) onCommit(draft, taken([]));
    });
  } catch (error) {
    for (const part of parts) await removeLayers(part.layers);
    throw error;
  }
  if (running.length === 0) return finish(context, parts, taken([]));
  return finish(context, parts, await takeRunning(context, parts, running, control, taken, onCommit));
}

async function takeRunning(
  context: MachineContext,
  parts: readonly Part[],
  running: readonly Part[],
  control: OperationControl,
  taken: (results: readonly SnapshotResult[]) => TakenSnapshot[],
  onCommit: NonNullable<Parameters<typeof takeSnapshots>[4]>,
): Promise<TakenSnapshot[]> {
  for (const { machine } of running) machine.setPhase("saving");
  control.step("saving memory");
  try {
    const requests: SnapshotRequest[] = [];
    for (const part of running) requests.push(await requestOf(context, part));
    const results = await context.host.snapshot(requests);
    await context.store.update((draft) => {
      for (const part of parts) {
        const record = recordOf(draft.machines, part);
        const snapshot = record.snapshots.find(({ id }) => id === part.snapshot.id);
        if (snapshot === undefined) continue;
        const result = results.find(({ id }) => id === part.domid);
        snapshot.status = "complete";
        snapshot.sizes.memoryFile = result?.fileBytes ?? 0;
        snapshot.sizes.touchedMemory = result?.touchedBytes ?? 0;
        record.currentSnapshot = snapshot.id;
      }
      onCommit(draft, taken(results));
    });
    return taken(results);
  } catch (error) {
    await undo(context, parts).catch((failure: unknown) => context.log(explain(failure).line));
    throw error;
  } finally {
    for (const { machine, wasPaused } of running) {
      if (machine.guest !== undefined && machine.state === "saving") machine.setPhase(wasPaused ? "paused" : "running");
    }
  }
}

function finish(context: MachineContext, parts: readonly Part[], taken: TakenSnapshot[]): TakenSnapshot[] {
  for (const { machine } of parts) context.changed(machine.id);
  return taken;
}

/**
 * Drops the snapshots that a crash of the lab left pending. Their layers stay the active images: they hold what the guest
 * wrote after the swap, or nothing.
 * @returns a line for each
 */
export async function dropPending({ store }: Pick<MachineContext, "store">): Promise<string[]> {
  const isPending = ({ status }: { readonly status: string }) => status === "pending";
  const lines = store.data.machines.flatMap(({ config, snapshots }) =>
    snapshots
      .filter(isPending)
      .map(({ name }) => `the snapshot ${name} of ${config.name} was not finished; it is dropped`),
  );
  if (lines.length === 0) return lines;
  await store.update((draft) => {
    for (const record of draft.machines) record.snapshots = record.snapshots.filter((each) => !isPending(each));
  });
  return lines;
}
