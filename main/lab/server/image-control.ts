/** The rows of the control table that are about images: the catalogue of guest images and the lab's library. */
import { existsSync } from "node:fs";
import { checkQcow2, repairQcow2 } from "../../../engine/disk/image-tools/check.ts";
import type { Task } from "../../../engine/disk/image-tools/files.ts";
import { imageInfo } from "../../../engine/disk/image-tools/info.ts";
import type { CheckReport } from "../../../engine/disk/image-tools/repair.ts";
import { resizeImage } from "../../../engine/disk/image-tools/resize.ts";
import { fetchImage, imageDescriptions, imageState } from "../../images/descriptions.ts";
import { ImageError } from "../../images/errors.ts";
import type { AppFunctions } from "../control-api.ts";
import type { ImageCheckReport } from "../image-api.ts";
import type { MachineContext } from "../machines/context.ts";
import { MachineError } from "../machines/errors.ts";
import { type LibraryFile, nameOfFile, type TrashFile } from "../machines/library.ts";
import type { Machines } from "../machines/machines.ts";
import { type OperationControl, tellProgress } from "../machines/operations.ts";
import { wantSpace } from "../machines/space.ts";
import { purgeDate } from "../store/schema.ts";
import { imageRows, imageUse } from "./image-rows.ts";

/** What machines of the user's own images get unless their user says otherwise. */
const OWN_MEMORY = { minimumMemoryMiB: 64, defaultMemoryMiB: 512 };
const SHOWN_PROBLEMS = 100;

/** Guest images as the lab gets them; a test has some without a network. */
export interface GuestCatalogue {
  state(name: string): ReturnType<typeof imageState>;
  /** @throws ImageError */
  fetch: typeof fetchImage;
}

export const guestCatalogue: GuestCatalogue = { state: (name) => imageState(name), fetch: fetchImage };

const taskOf = (control: OperationControl, what: string): Task => ({
  signal: control.signal,
  progress: ({ done, total }) => control.step(what, done, total),
});

function reportRow(report: CheckReport): ImageCheckReport {
  const { path, state, leaks, errors, allocatedClusters, totalClusters, dirty, corrupt } = report;
  const problems = report.problems.slice(0, SHOWN_PROBLEMS).map(({ kind, text }) => ({ kind, text }));
  return { path, state, leaks, errors, problems, allocatedClusters, totalClusters, dirty, corrupt };
}

type ImageRows = Extract<keyof AppFunctions, `image${string}`>;

export function imageControl(
  context: MachineContext,
  machines: Machines,
  catalogue: GuestCatalogue,
): Pick<AppFunctions, ImageRows> {
  const { store, library, operations } = context;
  const purgeAfter = (date: Date) => purgeDate(date, store.data.settings);

  /** An image that the lab knows, by its path or its name in the library. @throws MachineError */
  const known = async (path: string): Promise<{ path: string; format: "raw" | "qcow2"; usedBy: readonly string[] }> => {
    const rows = await imageRows(context, machines);
    const row = rows.find((each) => each.path === path) ?? rows.find((each) => each.managed && each.name === path);
    if (row === undefined) {
      throw new MachineError("failed", `the lab has no image ${path}`, "import it first; domlab image list shows them");
    }
    if (row.format === undefined) {
      throw new MachineError("unsupported", `${path} is no disk image that can be read`, "choose another one");
    }
    return { path: row.path, format: row.format, usedBy: row.usedBy };
  };
  /** Changes an image of the library that nobody uses. @throws MachineError with the users' names */
  const whileUnused = async <Result>(
    path: string,
    doing: string,
    change: (file: LibraryFile) => Promise<Result>,
  ): Promise<Result> => {
    const file = await library.find(path);
    return await library.alone(file, async () => {
      const { users } = await imageUse(context, machines);
      const names = [...(users.get(file.path) ?? [])].sort();
      if (names.length === 0) return await change(file);
      const what = `${file.name} is used by ${names.join(", ")}: it cannot be ${doing}`;
      throw new MachineError("busy", what, "purge those machines first, or convert it under another name");
    });
  };

  return {
    imageCatalogue: async () => {
      const own = store.data.images.map(({ name, note, kernel, initrd }) => ({
        name,
        title: name,
        description: note,
        ...OWN_MEMORY,
        hasDisk: false,
        state: [kernel, initrd].every((file) => file === undefined || existsSync(file))
          ? ("ready" as const)
          : ("absent" as const),
        own: true,
      }));
      const hidden = new Set(own.map(({ name }) => name));
      const all = imageDescriptions().filter(({ name }) => !hidden.has(name));
      const rows = await Promise.all(
        all.map(async (each) => ({
          ...each,
          ...(await catalogue.state(each.name)),
          hasDisk: each.rootBytes !== undefined,
          own: false,
        })),
      );
      return [...rows, ...own];
    },
    imageFetch: async ({ name, operation }) => {
      const names = imageDescriptions().map((each) => each.name);
      if (!names.includes(name)) {
        throw new ImageError("unknown-image", `there is no guest image ${name}`, `there are: ${names.join(", ")}`);
      }
      await operations.run({ id: operation, what: `getting the image ${name}` }, (control) =>
        catalogue.fetch(name, {
          signal: control.signal,
          progress: (text) => tellProgress(control, text),
        }),
      );
      return {};
    },
    imageImport: ({ path, name, move, format, operation }) =>
      operations.run({ id: operation, what: `importing ${nameOfFile(path)}` }, (control) =>
        library.import({ path, name, move, format }, control),
      ),
    imageCreate: ({ name, size, format }) => library.create(name, size, format),
    imageInfo: async ({ path }) => {
      const image = await known(path);
      return imageInfo(image.path, image.format).map(
        ({ snapshots, path: file, format, virtualSize, fileSize, diskSize, clusterSize, dirty, corrupt }) => ({
          path: file,
          format,
          virtualSize,
          fileSize,
          diskSize,
          ...(clusterSize !== undefined && { clusterSize }),
          ...(dirty !== undefined && { dirty }),
          ...(corrupt !== undefined && { corrupt }),
          ...(snapshots !== undefined && { innerSnapshots: snapshots.length }),
        }),
      );
    },
    imageResize: ({ path, size, shrink = false, operation }) =>
      whileUnused(path, "resized", (file) =>
        operations.run({ id: operation, what: `resizing ${file.name}` }, async (control) => {
          const task = taskOf(control, "resizing the image");
          return { size: (await resizeImage(file.path, size, { ...task, format: file.format, shrink })).after };
        }),
      ),
    imageRename: ({ path, name }) => whileUnused(path, "renamed", (file) => library.rename(file, name)),
    imageConvert: async ({ path, format, to, operation }) => {
      const image = await known(path);
      const owner = `conversion to ${to}`;
      return await operations.run({ id: operation, what: `converting ${nameOfFile(path)}` }, async (control) => {
        try {
          await context.layers.claim(owner, [image]);
          return await library.convert(image, to, format, control);
        } finally {
          context.layers.release(owner);
        }
      });
    },
    imageCheck: async ({ path, repair, operation }) => {
      const image = await known(path);
      if (image.format === "raw") {
        throw new MachineError("unsupported", `${path} is a raw image, which has no tables`, "nothing needs checking");
      }
      const what = `${repair === undefined ? "checking" : "repairing"} ${nameOfFile(path)}`;
      const owner = `check of ${image.path}`;
      return await operations.run({ id: operation, what }, async (control) => {
        try {
          await context.layers.claim(owner, [image]);
          if (repair === undefined) return reportRow(await checkQcow2(image.path, taskOf(control, "checking")));
          await wantSpace(store.paths.folder, 0, "the repair");
          const { before, after, dropped } = await repairQcow2(image.path, repair, taskOf(control, "repairing"));
          const mended = { leaks: before.leaks - after.leaks, errors: before.errors - after.errors, dropped };
          return { ...reportRow(after), repaired: mended };
        } finally {
          context.layers.release(owner);
        }
      });
    },
    imageDelete: async ({ path }) => {
      const { deleted, date } = await whileUnused(path, "deleted", (file) => library.delete(file));
      return { deleted, purgeAfter: purgeAfter(date) };
    },
    imageUndelete: ({ deleted }) => library.undelete(deleted),
    imagePurge: async ({ deleted }) => {
      await library.purgeOne(deleted);
      return {};
    },
    imageDeleted: async () => {
      const row = async (file: TrashFile) => {
        const facts = await context.images.facts(file).catch(() => undefined);
        const { deleted, name, date } = file;
        return { deleted, name, date: date.toISOString(), purgeAfter: purgeAfter(date), size: facts?.used ?? 0 };
      };
      return await Promise.all((await library.listDeleted()).map(row));
    },
  };
}
