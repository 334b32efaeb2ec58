/** The machines of a lab: found, made, deleted and taken back; what concerns one that is there is in the files beside this. */
import { checkedConfig } from "../store/config-file.ts";
import { checkName, suggestName } from "../store/names.ts";
import { suggestion } from "../store/nearest.ts";
import {
  type DeepReadonly,
  type DiskConfig,
  diskConfig,
  type MachineConfig,
  type MachineRecord,
  purgeDate,
  withFixedMacs,
} from "../store/schema.ts";
import { newMachine } from "../store/store.ts";
import type { MachineContext } from "./context.ts";
import { editable, removeLayers } from "./disk-layers.ts";
import { MachineError } from "./errors.ts";
import { imageOf, isImage, vdevOf } from "./guest-config.ts";
import type { ImageFile } from "./image-tools.ts";
import { Machine } from "./machine.ts";
import { fixFormats, makeDisk, type NewDisk, pinBases } from "./machine-disks.ts";
import { type OperationControl, tellProgress } from "./operations.ts";
import { usedBytes } from "./space.ts";

/** Where an image that has a root disk is seen by its guest. */
const ROOT_VDEV = "xvda";

/** A configuration from what a client sent. @throws StoreError "bad-config" */
export function checkConfig(given: unknown): MachineConfig {
  return checkedConfig(given, () => "the configuration is wrong: ");
}

export interface NewMachineWish {
  readonly config: MachineConfig;
  readonly newDisks?: readonly NewDisk[];
  /** Size of the root disk of an image that has one. */
  readonly rootSize?: number | undefined;
  /** Where that disk is served; without it as the lab's settings say. */
  readonly rootPlacement?: DiskConfig["placement"] | undefined;
}

/** Keys that a running guest takes no notice of, so that a change needs no restart. */
const NO_RESTART: readonly (keyof MachineConfig)[] = [
  "name",
  "onPoweroff",
  "onReboot",
  "onCrash",
  "autostart",
  "startPriority",
  "startDelaySeconds",
  "suspendOnQuit",
  "shutdownTimeoutSeconds",
  "group",
  "notes",
  "protected",
];

/** What a running guest takes notice of only when it is started again. */
export function needsRestart(before: DeepReadonly<MachineConfig>, after: DeepReadonly<MachineConfig>): string[] {
  return (Object.keys(after) as (keyof MachineConfig)[])
    .filter((key) => JSON.stringify(after[key]) !== JSON.stringify(before[key]))
    .filter((key) => !NO_RESTART.includes(key));
}

/** Images and memory files (by name) that records name. */
function filesOf(records: readonly DeepReadonly<MachineRecord>[]): { images: ImageFile[]; memory: string[] } {
  return {
    images: records.flatMap(({ config, snapshots }) => [
      ...config.disks.filter(isImage).map(imageOf),
      ...snapshots.flatMap(({ disks }) => disks.map(({ image, format }) => ({ path: image, format }))),
    ]),
    memory: records
      .flatMap(({ memory, snapshots }) => [memory, ...snapshots.map((snapshot) => snapshot.memory)])
      .filter((name) => name !== undefined),
  };
}

export class Machines {
  private readonly context: MachineContext;
  private readonly known = new Map<string, Machine>();

  constructor(context: MachineContext) {
    this.context = context;
  }

  /** All that are not deleted, in the order of their making. */
  all(): Machine[] {
    return this.context.store.data.machines.filter(({ state }) => state !== "deleted").map(({ id }) => this.byId(id));
  }

  /** Deleted ones that can be taken back. */
  deleted(): Machine[] {
    return this.context.store.data.machines.filter(({ state }) => state === "deleted").map(({ id }) => this.byId(id));
  }

  /** The machine with that id, which must be in the records. */
  byId(id: string): Machine {
    const known = this.known.get(id);
    if (known !== undefined) return known;
    const machine = new Machine(this.context, id);
    this.known.set(id, machine);
    return machine;
  }

  /** The machine that a user means by its name or id. @throws MachineError "unknown-machine" */
  find(text: string): Machine {
    const record = this.context.store.machine(text);
    if (record !== undefined) return this.byId(record.id);
    const names = this.all().map(({ name }) => name);
    const deleted = this.findDeletedRecord(text) !== undefined;
    const remedy = deleted
      ? `it was deleted; take it back with domlab undelete ${text}`
      : names.length === 0
        ? "there is none yet; make one with domlab create"
        : `${suggestion(text, names)}`;
    throw new MachineError("unknown-machine", `there is no machine ${text}`, remedy);
  }

  private findDeletedRecord(text: string): DeepReadonly<MachineRecord> | undefined {
    const deleted = this.context.store.data.machines.filter(({ state }) => state === "deleted");
    const wanted = text.toLowerCase();
    const latest = [...deleted].sort((a, b) => ((a.deletedAt ?? "") < (b.deletedAt ?? "") ? 1 : -1));
    return latest.find(({ config, id }) => id === text || config.name.toLowerCase() === wanted);
  }

  /** The deleted machine that a user means: of several with a name the last one. @throws MachineError */
  findDeleted(text: string): Machine {
    const record = this.findDeletedRecord(text);
    if (record !== undefined) return this.byId(record.id);
    throw new MachineError(
      "unknown-machine",
      `there is no deleted machine ${text}`,
      "domlab list --deleted shows them",
    );
  }

  // ---- making ------------------------------------------------------------------------------------------------------

  /**
   * Makes a machine: its images first, then its record.
   * @returns its id
   * @throws what the user can mend; nothing is left then
   */
  async create(wish: NewMachineWish, control: OperationControl): Promise<string> {
    const { store, boot } = this.context;
    checkName(wish.config.name, store.data);
    boot.checkImage(wish.config);
    const config = withFixedMacs(editable(wish.config));
    config.disks = await fixFormats(this.context, config.disks);
    const made: string[] = [];
    const newDisks = wish.newDisks ?? [];
    const release = pinBases(this.context, newDisks);
    try {
      // One made from an image of the library takes the place of what the guest image would bring.
      const ownRoot = newDisks.some(({ vdev, from }) => vdev === ROOT_VDEV && from !== undefined);
      if (!ownRoot) await this.addRoot(config, wish, control, made);
      for (const disk of newDisks) {
        control.step(`making ${disk.vdev}`);
        const added = await makeDisk(this.context, config.name, disk, control);
        made.push(added.source);
        config.disks.push(added);
      }
      const record = newMachine(checkConfig(config));
      control.commit();
      await store.update((draft) => {
        checkName(config.name, draft);
        draft.machines.push(record);
      });
      this.context.changed(record.id);
      return record.id;
    } catch (error) {
      await removeLayers(made.map((path) => ({ vdev: "", path, frozen: { path: "", format: "raw" } })));
      throw error;
    } finally {
      release();
    }
  }

  /** A root disk over the image's, unless the user brings one. */
  private async addRoot(
    config: MachineConfig,
    { rootSize: size, rootPlacement }: Pick<NewMachineWish, "rootSize" | "rootPlacement">,
    control: OperationControl,
    made: string[],
  ): Promise<void> {
    const { boot, images, layers, store } = this.context;
    const own = config.disks.some((disk) => vdevOf(disk) === vdevOf({ vdev: ROOT_VDEV }));
    const root = own
      ? undefined
      : await boot.rootImage(config, { signal: control.signal, progress: (text) => tellProgress(control, text) });
    if (root === undefined) {
      if (size === undefined) return;
      const remedy = "leave the size out, or add a disk with a size of its own";
      throw new MachineError("unsupported", `${config.name} has no root disk made by its image`, remedy);
    }
    control.step("making the root disk");
    const path = layers.newPath(config.name, ROOT_VDEV);
    await images.overlay(path, root, size);
    made.push(path);
    const placement = rootPlacement ?? store.data.settings.defaultPlacement;
    config.disks.unshift(diskConfig.parse({ vdev: ROOT_VDEV, source: path, format: "qcow2", placement }));
  }

  // ---- changing ----------------------------------------------------------------------------------------------------

  /**
   * Gives a machine another configuration. Disks are compared by the caller's intent: what it names is what it gets.
   * @returns notes for the user
   * @throws StoreError, MachineError; nothing has changed then
   */
  change(machine: Machine, edit: (config: DeepReadonly<MachineConfig>) => MachineConfig): Promise<string[]> {
    return machine.queue.run(async () => {
      const before = machine.record.config;
      const edited = edit(before);
      // The name has rules of its own, and addresses are given once.
      if (edited.name !== before.name) checkName(edited.name, this.context.store.data, machine.id);
      // An image that went away later must not keep anything else from being changed.
      if (edited.image !== before.image) this.context.boot.checkImage(edited);
      const config = checkConfig(withFixedMacs({ ...edited, disks: await fixFormats(this.context, edited.disks) }));
      const lasting = needsRestart(before, config);
      if (machine.record.state === "suspended" && lasting.length > 0) {
        const what = `${machine.name} is suspended: ${lasting.join(", ")} cannot be changed under its guest`;
        throw new MachineError("wrong-state", what, `resume it and shut it down first`);
      }
      const lost = before.disks
        .filter(({ source }) => this.context.layers.isOwn(source))
        .filter(({ source }) => !config.disks.some((disk) => disk.source === source));
      if (lost.length > 0) {
        const [disk] = lost;
        const remedy = `use domlab disk detach ${machine.name} ${disk!.vdev}, which keeps the image`;
        throw new MachineError("unsupported", `the disk ${disk!.vdev} would be lost`, remedy);
      }
      await machine.commit((draft) => {
        draft.config = config;
      });
      const live = machine.guest !== undefined && lasting.length > 0;
      return live ? [`${lasting.join(", ")}: counts from the next start of ${machine.name}`] : [];
    });
  }

  // ---- end and return ----------------------------------------------------------------------------------------------

  /** Marks a machine as deleted; its files stay until it is purged. @returns when that may be */
  delete(machine: Machine): Promise<string> {
    return machine.queue.run(async () => {
      machine.want(["stopped", "suspended", "crashed"], "deleted");
      const { config } = machine.record;
      if (config.protected) {
        const remedy = `domlab set ${config.name} protected=off`;
        throw new MachineError("protected", `${config.name} is protected`, `take the protection away first: ${remedy}`);
      }
      machine.dispose();
      const deletedAt = new Date().toISOString();
      await machine.commit((draft) => {
        draft.state = "deleted";
        draft.deletedAt = deletedAt;
        draft.wasRunning = false;
      });
      machine.setPhase(undefined);
      return purgeDate(deletedAt, this.context.store.data.settings);
    });
  }

  /** Takes a deleted machine back, under another name when its own is taken. @returns its name */
  undelete(machine: Machine): Promise<string> {
    return machine.queue.run(async () => {
      machine.want(["deleted"], "taken back");
      const { store } = this.context;
      const name = suggestName(machine.record.config.name, store.data);
      await machine.commit((draft) => {
        draft.state = draft.memory === undefined ? "stopped" : "suspended";
        delete draft.deletedAt;
        draft.config.name = name;
      });
      return name;
    });
  }

  /** Removes deleted machines for good, with all files that nothing else needs. */
  async purge(ids: readonly string[]): Promise<void> {
    const { store, layers } = this.context;
    const records = store.data.machines.filter(({ id, state }) => ids.includes(id) && state === "deleted");
    if (records.length === 0) return;
    await store.purge(records.map(({ id }) => id));
    for (const { id } of records) {
      this.known.get(id)?.dispose();
      this.known.delete(id);
      this.context.changed(id);
    }
    const { images, memory } = filesOf(records);
    await layers.discard({ images, memory: memory.map((name) => store.paths.memoryFile(name)) });
    await layers.tidy();
  }

  /** Bytes on disk that become free when these deleted machines are purged together: what no other machine needs. */
  async purgeBytes(ids: readonly string[]): Promise<number> {
    const { store, layers } = this.context;
    const records = store.data.machines.filter(({ id, state }) => ids.includes(id) && state === "deleted");
    const gone = records.map(({ id }) => id);
    const files = await store.unreferenced(filesOf(records), layers.backingOfPath, gone);
    const used = await Promise.all([...files, ...gone.map((id) => store.paths.machineFolder(id))].map(usedBytes));
    return used.reduce((sum, bytes) => sum + bytes, 0);
  }
}
