/** The image files of a lab, and whose they are. */
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import type { MachineFunctions } from "../control-api.ts";
import type { MachineContext } from "../machines/context.ts";
import { isImage } from "../machines/guest-config.ts";
import type { ImageFile } from "../machines/image-tools.ts";
import type { Machines } from "../machines/machines.ts";

type ImageRow = Awaited<ReturnType<MachineFunctions["imageList"]>>[number];

/** What the records say of files. */
export interface ImageUse {
  /** Names of the machines that need a file, by its path; those of deleted ones too. */
  readonly users: ReadonlyMap<string, ReadonlySet<string>>;
  /** Formats of images, which are never looked up in what a guest has written. */
  readonly formats: ReadonlyMap<string, "raw" | "qcow2">;
}

/** An image with all behind it; one that cannot be read has only itself. */
async function chainOf({ layers }: MachineContext, image: ImageFile): Promise<ImageFile[]> {
  const chain: ImageFile[] = [];
  try {
    for (let next: ImageFile | undefined = image; next !== undefined; next = await layers.backingOf(next)) {
      const { path } = next;
      if (chain.some((each) => each.path === path)) break;
      chain.push(next);
    }
  } catch {
    // As far as it can be followed.
  }
  return chain;
}

export async function imageUse(context: MachineContext, machines: Machines): Promise<ImageUse> {
  const { paths, data } = context.store;
  const users = new Map<string, Set<string>>();
  const formats = new Map<string, "raw" | "qcow2">();
  const use = (path: string, user: string) => users.set(path, (users.get(path) ?? new Set()).add(user));
  for (const { id, config, snapshots, memory } of data.machines) {
    const user = machines.byId(id).name;
    const images = [
      ...config.disks.filter(isImage).map(({ source, format }) => ({ path: source, format })),
      ...snapshots.flatMap(({ disks }) => disks.map(({ image, format }) => ({ path: image, format }))),
    ];
    for (const image of images) {
      for (const { path, format } of await chainOf(context, image)) {
        use(path, user);
        if (format !== "probe") formats.set(path, format);
      }
    }
    for (const name of [memory, ...snapshots.map((snapshot) => snapshot.memory)]) {
      if (name !== undefined) use(paths.memoryFile(name), user);
    }
  }
  return { users, formats };
}

async function filesIn(folder: string): Promise<{ path: string; used: number; isFolder: boolean }[]> {
  const files: { path: string; used: number; isFolder: boolean }[] = [];
  for (const name of (await readdir(folder).catch(() => [])).sort()) {
    const path = join(folder, name);
    const file = await stat(path).catch(() => undefined);
    if (file?.isFile() || file?.isDirectory()) {
      files.push({ path, used: file.blocks * 512, isFolder: file.isDirectory() });
    }
  }
  return files;
}

/** The files of the lab: base images, its library, layers of disks, detached disks, memory of guests. */
export async function imageRows(context: MachineContext, machines: Machines): Promise<ImageRow[]> {
  const { store, library, images } = context;
  const { paths } = store;
  const { users, formats } = await imageUse(context, machines);
  const names = new Map((await library.list()).map((file) => [file.path, file]));
  const row = async (kind: ImageRow["kind"], path: string, used: number): Promise<ImageRow> => {
    const own = names.get(path);
    // A detached disk is its user's again, and no guest writes to it any more.
    const format = own?.format ?? formats.get(path) ?? (kind === "detached" ? "probe" : undefined);
    const facts = format && (await images.facts({ path, format }).catch(() => undefined));
    return {
      path,
      kind,
      size: used,
      usedBy: [...(users.get(path) ?? [])].sort(),
      ...(facts && { format: facts.format, virtualSize: facts.virtualSize }),
      ...(own && { managed: true, name: own.name }),
    };
  };
  const rows: ImageRow[] = [];
  const list = async (kind: ImageRow["kind"], folder: string): Promise<void> => {
    for (const { path, used, isFolder } of await filesIn(folder)) {
      // Base images have folders of their own, as the library has.
      if (isFolder && folder === paths.images && path !== library.trash) await list(kind, path);
      if (!isFolder) rows.push(await row(kind, path, used));
    }
  };
  await list("base", paths.images);
  await list("disk", paths.disks);
  await list("detached", join(paths.folder, "detached"));
  await list("memory", paths.memory);
  return rows;
}
