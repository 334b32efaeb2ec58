/** A disk that somebody wants for a machine: what the fields of a form mean to the lab. */
import { parseBytes } from "../../../lib/format.ts";
import type { Parameters } from "../../../lib/rpc/api.ts";

export type DiskKind = "new" | "library" | "file";

export interface DiskWish {
  kind: DiskKind;
  vdev: string;
  /** "20G"; for a disk from an image empty: as large as the image. */
  size: string;
  format: "qcow2" | "raw";
  /** Image of the library. */
  image: string;
  /** A copy, in place of an overlay over the image. */
  copy: boolean;
  /** A file of the host or the address of an NBD export. */
  path: string;
  access: "rw" | "ro";
  cdrom: boolean;
  /** "" as the lab's settings say, a placement, or "machine:<name>" for a guest that serves it. */
  served: string;
}

export type NewDisk = NonNullable<Parameters<"machineCreate">["newDisks"]>[number];
type Placement = "driver-domain" | "hypervisor";
const MACHINE = "machine:";

export function newWish(kind: DiskKind, vdev: string): DiskWish {
  return {
    kind,
    vdev,
    size: kind === "new" ? "10G" : "",
    format: "qcow2",
    image: "",
    copy: false,
    path: "",
    access: "rw",
    cdrom: false,
    served: "",
  };
}

/** The first of xvda, xvdb … that is not taken. */
export function freeVdev(taken: readonly string[]): string {
  for (const letter of "abcdefghijklmnopqrstuvwxyz") if (!taken.includes(`xvd${letter}`)) return `xvd${letter}`;
  return "xvdaa";
}

/** Name of the machine that shall serve it, if one shall. */
export function backendOf({ served }: Pick<DiskWish, "served">): string | undefined {
  return served.startsWith(MACHINE) ? served.slice(MACHINE.length) : undefined;
}

function placementOf({ served }: Pick<DiskWish, "served">): Placement | undefined {
  return served === "driver-domain" || served === "hypervisor" ? served : undefined;
}

/** A new image for diskCreate or machineCreate, or what is wrong in one line. */
export function newDiskOf(wish: DiskWish): NewDisk | string {
  const { kind, vdev, format, image, copy } = wish;
  const size = wish.size.trim() === "" ? undefined : parseBytes(wish.size);
  if (wish.size.trim() !== "" && !size) return `${wish.size} is not a size for ${vdev}; write 10G, say`;
  if (kind === "new" && size === undefined) return `${vdev} needs a size; write 10G, say`;
  if (kind === "library" && image === "") return `${vdev} needs an image; choose one of the library`;
  const placement = placementOf(wish);
  return {
    vdev,
    ...(size !== undefined && { size }),
    ...(kind === "new" ? { format } : { from: image, ...(copy && { copy }) }),
    ...(placement && { placement }),
  };
}

/** A file as a disk of a machine's configuration; the lab checks the path. */
export function diskConfigOf(wish: DiskWish): Record<string, string> {
  const { vdev, path, cdrom } = wish;
  const placement = placementOf(wish);
  const backend = backendOf(wish);
  return {
    vdev,
    source: path.trim(),
    access: cdrom ? "ro" : wish.access,
    deviceType: cdrom ? "cdrom" : "disk",
    ...(placement && { placement }),
    ...(backend && { backend }),
  };
}

/** A file as diskAttach takes it, in xl's syntax; the target comes last, as it takes the rest of the text. */
export function attachText(wish: DiskWish): string {
  const { vdev, source, access, deviceType, placement, backend } = diskConfigOf(wish);
  const words = [
    `vdev=${vdev}`,
    `access=${access}`,
    ...(deviceType === "cdrom" ? ["devtype=cdrom"] : []),
    ...(placement ? [`placement=${placement}`] : []),
    ...(backend ? [`backend=${backend}`] : []),
    `target=${source}`,
  ];
  return words.join(",");
}
