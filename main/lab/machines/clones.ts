/** New machines from old ones: copies, and linked ones that share the layers of the original. */
import { sep } from "node:path";
import { formatMac, randomMac } from "../../../engine/network/address.ts";
import { checkName } from "../store/names.ts";
import type { DeepReadonly, MachineConfig, MachineRecord } from "../store/schema.ts";
import { newMachine } from "../store/store.ts";
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
  const clone = editable(config);
  clone.name = name;
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
  const { store, layers } = context;
  return source.queue.run(async () => {
    const { state, name } = source;
    if (state !== "stopped" && state !== "crashed") {
      const remedy = `stop it, or clone a snapshot of it (domlab snapshot take ${name}, domlab snapshot clone)`;
      throw new MachineError("wrong-state", `${name} is ${state}: it cannot be cloned`, remedy);
    }
    checkName(wish.name, store.data);
    const record = newMachine(cloneConfig(source.record.config, wish.name));
    const bases = layeredDisks(name, source.record.config.disks);
    const owner = `clone ${record.id}`;
    let made: NewLayer[] = [];
    let own: NewLayer[] = [];
    try {
      await layers.claim(
        owner,
        bases.map(({ image }) => image),
      );
      made = wish.linked
        ? await makeLayers(context, wish.name, bases)
        : await copyImages(context, wish.name, bases, control);
      if (wish.linked) own = await makeLayers(context, name, bases);
      useLayers(record.config.disks, made);
      control.commit();
      await store.update((draft) => {
        checkName(wish.name, draft);
        const original = draft.machines.find(({ id }) => id === source.id);
        if (original === undefined) throw new MachineError("unknown-machine", "the machine is gone", "see domlab list");
        useLayers(original.config.disks, own);
        draft.machines.push(record);
      });
      return record.id;
    } catch (error) {
      await removeLayers([...made, ...own]);
      throw error;
    } finally {
      layers.release(owner);
    }
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
  const { store, layers } = context;
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
    const owner = `clone ${record.id}`;
    let made: NewLayer[] = [];
    try {
      await layers.claim(
        owner,
        bases.map(({ image }) => image),
      );
      made = wish.linked
        ? await makeLayers(context, wish.name, bases)
        : await copyImages(context, wish.name, bases, control);
      useLayers(record.config.disks, made);
      control.commit();
      await store.update((draft) => {
        checkName(wish.name, draft);
        draft.machines.push(record);
      });
      return record.id;
    } catch (error) {
      await removeLayers(made);
      throw error;
    } finally {
      layers.release(owner);
    }
  });
}
