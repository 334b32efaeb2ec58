/** The rows of the control table that are about machines and their snapshots. */
import { basename } from "node:path";
import type { MachineFunctions } from "../control-api.ts";
import type { MachineState } from "../machine-api.ts";
import { reboot, shutDown } from "../machines/asked-end.ts";
import { withHostName } from "../machines/boot-folder.ts";
import { cloneMachine, cloneSnapshot } from "../machines/clones.ts";
import type { MachineContext } from "../machines/context.ts";
import { holdMachines } from "../machines/lab-snapshots.ts";
import type { Machine } from "../machines/machine.ts";
import { attachDisk, createDisk, detachDisk, resizeDisk } from "../machines/machine-disks.ts";
import { detailsOf, snapshotRows, summaryOf } from "../machines/machine-rows.ts";
import { checkConfig, type Machines } from "../machines/machines.ts";
import type { OperationControl } from "../machines/operations.ts";
import { deleteSnapshot, makeWay, restoreNow } from "../machines/restore.ts";
import { checkSnapshotName, findSnapshot, takeSnapshots } from "../machines/snapshots.ts";
import { suspendNow } from "../machines/suspend.ts";
import { deadline } from "../machines/waiting.ts";
import { applySettings, parseMachineConfig } from "../store/config-file.ts";
import { checkName } from "../store/names.ts";
import { parseAddedDisk } from "../xl-config/devices.ts";
import { imageRows } from "./image-rows.ts";

type MachineRows = Exclude<
  Extract<keyof MachineFunctions, `machine${string}` | `snapshot${string}` | `disk${string}` | "imageList">,
  "machineExport" | "machineImport"
>;

/** What a guest prints when it waits for a user, when its image does not say it better. */
const LOGIN_PROMPT = "login: ";

async function waitFor(
  machine: Machine,
  until: Parameters<MachineFunctions["machineWait"]>[0]["until"],
  signal: AbortSignal,
) {
  if (until.kind === "state") return await machine.until(() => machine.state === until.state, signal);
  if (until.kind === "exit")
    return await machine.until(() => machine.guest === undefined && !machine.restarting, signal);
  const running = await machine.until(() => machine.guest !== undefined, signal);
  if (!running) return false;
  return await machine.console.waitForText(until.text ?? machine.guest?.prompt ?? LOGIN_PROMPT, signal);
}

export function machineControl(context: MachineContext, machines: Machines): Pick<MachineFunctions, MachineRows> {
  const { operations, store } = context;
  const find = (text: string) => machines.find(text);
  /** Work on a machine, under an operation. */
  const work = <Result>(
    machine: Machine,
    what: string,
    id: string | undefined,
    body: (control: OperationControl) => Promise<Result>,
  ): Promise<Result> => operations.run({ id, what: `${what} ${machine.name}`, machine: machine.id }, body);
  const nameOf = (id: string): string => machines.byId(id).name;
  const stateOf = (machine: Machine): MachineState => machine.state;

  return {
    machineList: ({ deleted = false }) =>
      (deleted ? machines.deleted() : machines.all()).map((machine) => summaryOf(machine, store.data.settings)),
    machineShow: ({ machine }) => detailsOf(context, find(machine)),
    machineCreate: async ({ config, newDisks, rootSize, rootPlacement, operation }) => {
      const isText = typeof config.text === "string" && typeof config.file === "string";
      const checked = isText
        ? parseMachineConfig(String(config.text), basename(String(config.file)))
        : checkConfig(config);
      const what = `making ${checked.name}`;
      const id = await operations.run({ id: operation, what }, (control) =>
        machines.create({ config: checked, ...(newDisks && { newDisks }), rootSize, rootPlacement }, control),
      );
      return { id, name: checked.name, notes: [] };
    },
    machineSet: async ({ machine, settings, config }) => ({
      notes: await machines.change(find(machine), (before) => {
        const base = config === undefined ? before : checkConfig(config);
        return settings === undefined ? checkConfig(base) : applySettings(base, settings);
      }),
    }),
    machineRename: async ({ machine, name }) => {
      const found = find(machine);
      checkName(name, store.data, found.id);
      // Under a guest that runs or is suspended only the name changes.
      const off = () => found.state === "stopped" || found.state === "crashed";
      const line = (before: Parameters<typeof withHostName>[0]) => (off() ? withHostName(before, name) : {});
      await machines.change(found, (before) => checkConfig({ ...before, ...line(before), name }));
      return {};
    },
    machineClone: async ({ machine, name, linked, operation }) => {
      const source = find(machine);
      const id = await work(source, "cloning", operation, (control) =>
        cloneMachine(context, source, { name, linked }, control),
      );
      context.changed(id);
      return { id, name: nameOf(id), notes: [] };
    },
    machineDelete: async ({ machine }) => ({ purgeAfter: await machines.delete(find(machine)) }),
    machineUndelete: async ({ machine }) => ({ name: await machines.undelete(machines.findDeleted(machine)) }),
    machinePurge: async ({ machine }) => {
      await machines.purge([machines.findDeleted(machine).id]);
      return {};
    },
    machinePurgeSpace: async ({ machines: names }) => ({
      bytes: await machines.purgeBytes(names.map((name) => machines.findDeleted(name).id)),
    }),
    machineUnknown: async () => {
      const { machines: found, damaged } = await store.unknownMachines();
      return [
        ...found.map(({ id, record }) => ({ id, name: record.config.name })),
        ...damaged.map(({ folder, reason }) => ({ id: basename(folder), name: folder, damaged: reason })),
      ];
    },
    machineAdopt: async ({ id }) => {
      const record = await store.adopt(id);
      context.changed(record.id);
      return { id: record.id, name: record.config.name, notes: [] };
    },
    machineStart: ({ machine, operation }) => {
      const found = find(machine);
      return work(found, "start of", operation, (control) => found.start(control));
    },
    machineShutdown: async ({ machine, timeoutSeconds, force = false, wait = true }) => {
      const found = find(machine);
      if (wait) {
        const forced = await shutDown(context, found, { seconds: timeoutSeconds, force });
        return { state: stateOf(found), forced };
      }
      await found.ask("poweroff");
      return { state: stateOf(found), forced: false };
    },
    machineReboot: ({ machine, timeoutSeconds, force = false }) =>
      reboot(context, find(machine), { seconds: timeoutSeconds, force }),
    machinePause: async ({ machine }) => {
      await find(machine).pause();
      return {};
    },
    machineUnpause: async ({ machine }) => {
      await find(machine).unpause();
      return {};
    },
    machineDestroy: async ({ machine, discard = false }) => {
      await find(machine).destroy(discard);
      return {};
    },
    machineSuspend: async ({ machine, operation }) => {
      const found = find(machine);
      const [memoryBytes = 0] = await work(found, "suspending", operation, async (control) => {
        const run = found.guest;
        const sizes = await holdMachines([found], () => suspendNow(context, [found], control));
        await run?.settled;
        return sizes;
      });
      return { memoryBytes };
    },
    machineResume: async ({ machine, operation }) => {
      const found = find(machine);
      return { domid: await work(found, "resuming", operation, (control) => found.resume(control)) };
    },
    machineWait: async ({ machine, until, timeoutSeconds }, session) => {
      const found = find(machine);
      const { signal, cancel } = deadline(timeoutSeconds);
      const gone = new AbortController();
      session.onEnd(() => gone.abort());
      try {
        const reached = await waitFor(found, until, AbortSignal.any([signal, gone.signal]));
        const { message } = found;
        return { reached, state: stateOf(found), ...(message !== undefined && { message }) };
      } finally {
        cancel();
      }
    },
    snapshotList: ({ machine }) => snapshotRows(find(machine)),
    snapshotTake: async ({ machine, name, note, diskOnly, operation }) => {
      const found = find(machine);
      const [taken] = await work(found, "snapshot of", operation, (control) =>
        holdMachines([found], () => takeSnapshots(context, [found], { name, note, diskOnly }, control)),
      );
      if (taken === undefined) throw new Error("a snapshot of one machine is one");
      return { id: taken.id, name: taken.name, kind: taken.kind, pausedMs: taken.pausedMs };
    },
    snapshotRestore: async ({ machine, snapshot, force = false, start = true, operation }) => {
      const found = find(machine);
      const wanted = findSnapshot(found, snapshot);
      const notes = await makeWay(found, force);
      await work(found, "restoring", operation, async (control) => {
        // Looked up again: it may have been deleted while this waited, and its layers with it.
        await found.queue.run(() => restoreNow(context, found, findSnapshot(found, wanted.id, snapshot), control));
        if (start && found.record.state === "suspended") await found.resume(control);
      });
      return { state: stateOf(found), notes };
    },
    snapshotDelete: async ({ machine, snapshot, operation }) => {
      const found = find(machine);
      const what = `deleting the snapshot ${snapshot} of`;
      return {
        deferred: await work(found, what, operation, (control) => deleteSnapshot(context, found, snapshot, control)),
      };
    },
    snapshotEdit: ({ machine, snapshot, name, note }) => {
      const found = find(machine);
      return found.queue.run(async () => {
        const { id, name: before } = findSnapshot(found, snapshot);
        if (name !== undefined && name !== before) checkSnapshotName(found, name);
        await found.commit((draft) => {
          const edited = draft.snapshots.find((each) => each.id === id);
          if (edited === undefined) return;
          if (name !== undefined) edited.name = name;
          if (note !== undefined) edited.note = note;
        });
        return {};
      });
    },
    snapshotClone: async ({ machine, snapshot, name, linked = true, bridge, operation }) => {
      const source = find(machine);
      const id = await work(source, "cloning", operation, (control) =>
        cloneSnapshot(context, source, snapshot, { name, linked, bridge }, control),
      );
      context.changed(id);
      return { id, name: nameOf(id), notes: [] };
    },
    diskAttach: async ({ machine, disk, cwd }) => {
      const given = parseAddedDisk(disk, cwd, store.data.settings.defaultPlacement);
      return { vdev: given.vdev, live: await attachDisk(context, find(machine), given) };
    },
    diskCreate: async ({ machine, disk }) => {
      const { disk: made, live } = await createDisk(context, find(machine), disk);
      return { vdev: made.vdev, path: made.source, live };
    },
    diskDetach: async ({ machine, vdev, force = false, operation }) => {
      const found = find(machine);
      const what = `detaching ${vdev} of`;
      return {
        source: await work(found, what, operation, (control) => detachDisk(context, found, vdev, force, control)),
      };
    },
    diskResize: async ({ machine, vdev, size, operation }) => {
      const found = find(machine);
      const live = await work(found, `resizing ${vdev} of`, operation, () => resizeDisk(context, found, vdev, size));
      return { size, live };
    },
    imageList: () => imageRows(context, machines),
  };
}
