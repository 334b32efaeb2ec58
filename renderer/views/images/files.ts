/** What the lab's image files are called, which of them are shown, and how much room they take. */
import type { FileFilter } from "../../../main/app/app-api.ts";
import type { ControlResult } from "../../../main/lab/control-api.ts";

/** What the system's dialog for a disk image offers. An image may be called anything: the dialog offers all files, too. */
export const diskImageFilters: FileFilter[] = [
  { name: "Disk images", extensions: ["qcow2", "img", "raw", "iso", "vhd", "bin"] },
];

export type ImageRow = ControlResult<"imageList">[number];
export type DeletedRow = ControlResult<"imageDeleted">[number];

/** Where a file belongs; "library" is a base image with a name of its user's. */
export type Place = "library" | "base" | "disk" | "detached" | "memory";

/** Every place in the order in which it is shown. */
export const places: Readonly<Record<Place, { readonly label: string; readonly hint: string }>> = {
  library: { label: "Library", hint: "Your own images, which machines can be made from" },
  base: { label: "Base", hint: "Root disks of the catalogue, shared by machines" },
  disk: { label: "Disk", hint: "What machines have written" },
  detached: { label: "Detached", hint: "Disks that were taken out of machines" },
  memory: { label: "Memory", hint: "Memory of suspended machines and of snapshots" },
};

export function placeOf({ kind, managed }: Pick<ImageRow, "kind" | "managed">): Place {
  return managed ? "library" : kind;
}

/** The last part of a path, of either kind of separator. */
export function fileName(path: string): string {
  return path.split(/[\\/]/).at(-1) || path;
}

/** What a row is called: its name in the library, else its file's. */
export function titleOf({ name, path }: Pick<ImageRow, "name" | "path">): string {
  return name ?? fileName(path);
}

export type SortKey = "name" | "place" | "virtualSize" | "size" | "usedBy";
export interface Order {
  readonly key: SortKey;
  readonly descending: boolean;
}

const placeOrder = Object.keys(places);

function compare(key: SortKey, a: ImageRow, b: ImageRow): number {
  switch (key) {
    case "name":
      return titleOf(a).localeCompare(titleOf(b), undefined, { numeric: true });
    case "place":
      return placeOrder.indexOf(placeOf(a)) - placeOrder.indexOf(placeOf(b));
    case "virtualSize":
      return (a.virtualSize ?? 0) - (b.virtualSize ?? 0);
    case "size":
      return a.size - b.size;
    case "usedBy":
      return a.usedBy.length - b.usedBy.length;
  }
}

/** Rows in that order; those that are equal in it by their names. */
export function sorted(rows: readonly ImageRow[], { key, descending }: Order): ImageRow[] {
  const sign = descending ? -1 : 1;
  return [...rows].sort((a, b) => sign * compare(key, a, b) || compare("name", a, b));
}

/** Whether all words of a search are in a row's name, path, place, format or users. */
export function matches(row: ImageRow, search: string): boolean {
  const text = [titleOf(row), row.path, places[placeOf(row)].label, row.format ?? "", ...row.usedBy]
    .join("\n")
    .toLowerCase();
  return search
    .toLowerCase()
    .split(/\s+/)
    .every((word) => text.includes(word));
}

export interface Share {
  readonly label: string;
  readonly hint: string;
  readonly bytes: number;
  readonly files: number;
}

/** What each place takes on the disk; places without files are left out, as are deleted images if there are none. */
export function shares(rows: readonly ImageRow[], deleted: readonly DeletedRow[]): Share[] {
  const of = (label: string, hint: string, sizes: readonly number[]): Share => ({
    label,
    hint,
    bytes: sizes.reduce((sum, size) => sum + size, 0),
    files: sizes.length,
  });
  return [
    ...placeOrder.map((place) => {
      const { label, hint } = places[place as Place];
      const own = rows.filter((row) => placeOf(row) === place);
      return of(
        label,
        hint,
        own.map(({ size }) => size),
      );
    }),
    of(
      "Deleted",
      "Deleted images, kept until they are purged",
      deleted.map(({ size }) => size),
    ),
  ].filter(({ files }) => files > 0);
}

const LETTERS = "abcdefghijklmnopqrstuvwxyz";

/** The first of xvda … xvdz that no disk has; xvdaa after those. */
export function freeVdev(taken: readonly string[]): string {
  const names = [...LETTERS].map((letter) => `xvd${letter}`);
  return names.find((name) => !taken.includes(name)) ?? "xvdaa";
}

/** A name that the library has not yet, made of the wish; capitals do not distinguish names. */
export function freeImageName(wish: string, rows: readonly ImageRow[]): string {
  const clean = wish.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+|[-.]+$/g, "") || "image";
  const taken = new Set(rows.map(({ name }) => name?.toLowerCase()));
  let name = clean;
  for (let number = 2; taken.has(name.toLowerCase()); number++) name = `${clean}-${number}`;
  return name;
}
