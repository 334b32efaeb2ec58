/** The rows of the control table that are about the lab as a whole. */
import type { MachineFunctions } from "../control-api.ts";
import type { MachineContext } from "../machines/context.ts";
import { imageOf, isImage } from "../machines/guest-config.ts";
import type { EndOfMachines } from "../machines/lab-life.ts";
import { deleteLabSnapshot, labSnapshotRows, restoreLabSnapshot, takeLabSnapshot } from "../machines/lab-snapshots.ts";
import type { Machines } from "../machines/machines.ts";
import { freeBytes } from "../machines/space.ts";
import { issueText, StoreError } from "../store/errors.ts";
import { type DeepReadonly, labSettings, type MachineConfig } from "../store/schema.ts";
import { exportXlConfig, type XlBootFiles } from "../xl-config/export.ts";
import { importXlConfig } from "../xl-config/import.ts";
import type { EventHub } from "./events.ts";

type LabRows = Extract<keyof MachineFunctions, `lab${string}` | `config${string}` | `operation${string}` | "subscribe">;

/** What the server knows of itself. */
export interface LabFacts {
  readonly name: string;
  readonly version: string;
  readonly started: string;
  readonly clients: () => number;
  readonly warnings: () => Promise<string[]>;
  /** Ends the machines; the server ends when this has been answered. */
  readonly quit: (how: EndOfMachines | undefined) => Promise<string[]>;
}

/** Files of a machine's image that a Xen host could start; undefined when there are none yet. */
async function imageFiles({ boot, layers }: MachineContext, config: DeepReadonly<MachineConfig>) {
  const root = config.disks.find(isImage);
  // A disk that is missing keeps nobody from writing down what the machine is.
  const chain = root === undefined ? [] : await layers.chainOf(imageOf(root)).catch(() => []);
  return await boot.bootFiles(config, chain);
}

/** What whoever starts the file's machine on a Xen host must know. */
function bootNotes({ image, kernel, initrd }: DeepReadonly<MachineConfig>, files: XlBootFiles | undefined): string[] {
  if (image === null || (kernel !== undefined && initrd !== undefined)) return [];
  if (kernel === undefined && files === undefined) {
    return [`the image ${image} has not been fetched here: a Xen host needs kernel= and ramdisk= of its own`];
  }
  const known = kernel === undefined ? [`kernel= is that of the image ${image} on this host: take the file along`] : [];
  if (initrd !== undefined || files?.ramdisk !== undefined) return known;
  return [
    ...known,
    `the image ${image} has its initial RAM disk made at each start: a Xen host needs ramdisk= of its own`,
  ];
}

export function labControl(
  context: MachineContext,
  machines: Machines,
  hub: EventHub,
  facts: LabFacts,
): Pick<MachineFunctions, LabRows> {
  const { store, operations } = context;
  const named = (names: readonly string[] | undefined) => names?.map((name) => machines.find(name));
  return {
    labInfo: async () => ({
      name: facts.name,
      pid: process.pid,
      home: store.paths.folder,
      started: facts.started,
      version: facts.version,
      machines: machines.all().length,
      running: machines.all().filter(({ guest }) => guest !== undefined).length,
      clients: facts.clients(),
      warnings: await facts.warnings(),
      freeBytes: await freeBytes(store.paths.folder),
    }),
    labSettings: async ({ change }) => {
      if (change !== undefined) {
        const checked = labSettings.safeParse({ ...store.data.settings, ...change });
        if (!checked.success) {
          const known = Object.keys(labSettings.shape).join(", ");
          const stray = Object.keys(change).find((key) => !(key in labSettings.shape));
          const what = stray === undefined ? issueText(checked.error) : `the lab has no setting ${stray}`;
          throw new StoreError(
            "bad-config",
            what,
            stray === undefined ? "give it another value" : `there are: ${known}`,
          );
        }
        await store.update((draft) => {
          draft.settings = checked.data;
        });
        // The dates until which deleted ones are kept.
        if (change.purgeDays !== undefined) for (const { id } of machines.deleted()) context.changed(id);
      }
      return { ...store.data.settings };
    },
    labQuit: async ({ machines: how }) => ({ notes: await facts.quit(how) }),
    labSnapshotTake: ({ name, note, machines: wanted, operation }) => {
      const chosen = named(wanted) ?? machines.all();
      return operations.run({ id: operation, what: "snapshot of the lab" }, async (control) => {
        const taken = await takeLabSnapshot(context, { name, note, machines: chosen }, control);
        const members = taken.members.map(({ machine, id, pausedMs }) => ({ machine, snapshot: id, pausedMs }));
        return { ...taken, members };
      });
    },
    labSnapshotList: () => labSnapshotRows(context),
    labSnapshotRestore: ({ snapshot, machines: wanted, force = false, operation }) =>
      operations.run({ id: operation, what: `restoring the lab's snapshot ${snapshot}` }, async (control) => {
        const wish = { snapshot, machines: named(wanted), force };
        const { restored, notes } = await restoreLabSnapshot(context, machines, wish, control);
        return { restored: restored.map(({ name }) => name), notes };
      }),
    labSnapshotDelete: ({ snapshot, members = false, operation }) =>
      operations.run({ id: operation, what: `deleting the lab's snapshot ${snapshot}` }, async (control) => {
        await deleteLabSnapshot(context, machines, snapshot, members, control);
        return {};
      }),
    configExport: async ({ machine }) => {
      const { config } = machines.find(machine).record;
      const files = await imageFiles(context, config);
      return { text: exportXlConfig(config, files), notes: bootNotes(config, files) };
    },
    configImport: async ({ text, name, cwd, operation }) => {
      const { config, notes } = importXlConfig(text, { file: "xl.cfg", cwd });
      const wanted = name === undefined ? config : { ...config, name };
      const id = await operations.run({ id: operation, what: `making ${wanted.name}` }, (control) =>
        machines.create({ config: wanted }, control),
      );
      return { id, name: wanted.name, notes: [...notes] };
    },
    operationList: () => operations.list(),
    operationCancel: ({ operation }) => ({ cancelled: operations.cancel(operation) }),
    subscribe: ({ topics }, session) => {
      hub.subscribe(session, topics);
      return {};
    },
  };
}
