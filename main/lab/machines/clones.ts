/** New machines from old ones: copies, and linked ones that share the layers of the original. */
import { sep } from "node:path";
import { formatMac, randomMac } from "../../../engine/network/address.ts";
import { checkName } from "../store/names.ts";
import type { DeepReadonly, LabData, MachineConfig, MachineRecord } from "../store/schema.ts";
import { newMachine } from "../store/store.ts";
import { copyBootFiles, withHostName } from "./boot-folder.ts";
import type { MachineContext } from "./context.ts";
import {
  editable,
  type LayerBase,
  layeredDisks,
  makeLayers,
  type NewLayer,
  removeLayers,
  useLayers,
} from "./disk-layers.ts";
import { MachineError } from "./errors.ts";
import type { Machine } from "./machine.ts";
import type { OperationControl } from "./operations.ts";
import { findSnapshot } from "./snapshots.ts";
import { wantSpace } from "./space.ts";

/** A configuration for another machine: new name and addresses, no ports of the host, which only one can have. */
function cloneConfig(config: DeepReadonly<MachineConfig>, name: string): MachineConfig {
  const clone = { ...editable(config), ...withHostName(config, name), name };
  clone.vifs = clone.vifs.map((vif) => ({ ...vif, mac: formatMac(randomMac()) }));
  clone.forwards = [];
  clone.autostart = false;
  clone.protected = false;
  return clone;
}

/** Copies images into new ones in disks/. @throws DiskError; none is left then */
async function copyImages(
  context: MachineContext,
  name: string,
  bases: readonly LayerBase[],
  control: OperationControl,
): Promise<NewLayer[]> {
  const { images, layers, store } = context;
  const made: NewLayer[] = [];
  try {
    for (const { vdev, image } of bases) {
      const { format, used, virtualSize, backing } = await images.facts(image);
      // With images behind it nobody knows how much it holds without reading it all; it cannot be more than its size.
      const chain = backing === undefined ? used : virtualSize;
      await wantSpace(store.paths.disks, Math.min(chain, virtualSize), `the copy of ${image.path}`);
      const path = layers.newPath(name, vdev);
      const step = `copying ${vdev}`;
      control.step(step);
      const progress = (done: number, total: number) => control.step(step, done, total);
      const isBase = (file: string) => file.startsWith(store.paths.images + sep);
      await images.copy(image, path, { signal: control.signal, progress }, isBase);
      made.push({ vdev, frozen: { path: image.path, format }, path });
    }
    return made;
  } catch (error) {
    await removeLayers(made);
    throw error;
  }
}

/**
 * Makes a clone's images and enters its record.
 * @param also makes more layers for the commit, and says what the commit does besides
 * @throws what the user can mend; nothing has changed then
 */
async function enterClone(
  context: MachineContext,
  record: MachineRecord,
  bases: readonly LayerBase[],
  linked: boolean,
  control: OperationControl,
  also?: { readonly layers: () => Promise<NewLayer[]>; readonly commit: (draft: LabData, made: NewLayer[]) => void },
): Promise<string> {
  const { store, layers } = context;
  const { name } = record.config;
  const owner = `clone ${record.id}`;
  const made: NewLayer[] = [];
  let removeBootFiles = async () => {};
  try {
    await layers.claim(
      owner,
      bases.map(({ image }) => image),
    );
    made.push(...(linked ? await makeLayers(context, name, bases) : await copyImages(context, name, bases, control)));
    useLayers(record.config.disks, made);
    const more = (await also?.layers()) ?? [];
    made.push(...more);
    removeBootFiles = await copyBootFiles(store.paths, record);
    control.commit();
    await store.update((draft) => {
      checkName(name, draft);
      also?.commit(draft, more);
      draft.machines.push(record);
    });
    return record.id;
  } catch (error) {
    await removeLayers(made);
    await removeBootFiles();
    throw error;
  } finally {
    layers.release(owner);
  }
}

/**
 * A copy of a machine that is off. A linked one shares what is on the disks now: original and clone both go on in new layers.
 * @returns id of the clone
 * @throws what the user can mend; nothing has changed then
 */
export function cloneMachine(
  context: MachineContext,
  source: Machine,
  wish: { readonly name: string; readonly linked: boolean },
  control: OperationControl,
): Promise<string> {
  const { store } = context;
  return source.queue.run(async () => {
    const { state, name } = source;
    if (state !== "stopped" && state !== "crashed") {
      const remedy = `stop it, or clone a snapshot of it (domlab snapshot take ${name}, domlab snapshot clone)`;
      throw new MachineError("wrong-state", `${name} is ${state}: it cannot be cloned`, remedy);
    }
    checkName(wish.name, store.data);
    const record = newMachine(cloneConfig(source.record.config, wish.name));
    const bases = layeredDisks(name, source.record.config.disks);
    if (!wish.linked) return await enterClone(context, record, bases, false, control);
    return await enterClone(context, record, bases, true, control, {
      layers: () => makeLayers(context, name, bases),
      commit: (draft, own) => {
        const original = draft.machines.find(({ id }) => id === source.id);
        if (original === undefined) throw new MachineError("unknown-machine", "the machine is gone", "see domlab list");
        useLayers(original.config.disks, own);
      },
    });
  });
}

export interface SnapshotCloneWish {
  readonly name: string;
  readonly linked: boolean;
  /** Switch for all its interfaces. */
  readonly bridge: string | undefined;
}

/**
 * The clone of a memory image keeps the addresses that its guest knows, so it cannot be on a switch with the original.
 * @throws MachineError
 */
function keepAddresses(source: Machine, record: MachineRecord, bridge: string | undefined): void {
  const { config } = record;
  const original = source.record.config.vifs;
  config.vifs = config.vifs.map((vif) => (bridge === undefined ? vif : { ...vif, bridge }));
  const shared = config.vifs.find((vif) => original.some((each) => each.bridge === vif.bridge && each.mac === vif.mac));
  if (shared === undefined) return;
  throw new MachineError(
    "unsupported",
    `a clone with memory keeps the address ${shared.mac}, which ${source.name} has on the switch ${shared.bridge}`,
    "name another switch (--bridge), or take a snapshot of the disks only and clone that",
  );
}

/**
 * A new machine from a snapshot; one with memory is suspended and goes on from there when it is started.
 * @returns id of the clone
 * @throws what the user can mend; nothing has changed then
 */
export function cloneSnapshot(
  context: MachineContext,
  source: Machine,
  text: string,
  wish: SnapshotCloneWish,
  control: OperationControl,
): Promise<string> {
  const { store } = context;
  return source.queue.run(async () => {
    const snapshot = findSnapshot(source, text);
    checkName(wish.name, store.data);
    const record = newMachine(cloneConfig(snapshot.config, wish.name));
    if (snapshot.memory !== undefined) {
      record.config.vifs = editable(snapshot.config).vifs;
      keepAddresses(source, record, wish.bridge);
      Object.assign(record, { state: "suspended", memory: snapshot.memory });
    } else if (wish.bridge !== undefined) {
      const { bridge } = wish;
      record.config.vifs = record.config.vifs.map((vif) => ({ ...vif, bridge }));
    }
    const bases = snapshot.disks.map(({ vdev, image, format }) => ({ vdev, image: { path: image, format } }));
    return await enterClone(context, record, bases, wish.linked, control);
  });
}
