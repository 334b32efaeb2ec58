/** What the create dialog's fields mean to the lab. */
import { parseBytes } from "../../lib/format.ts";
import type { Parameters } from "../../lib/rpc/api.ts";
import { type DiskWish, diskConfigOf, newDiskOf } from "./devices/disk-wish.ts";
import { type VifWish, vifConfigOf } from "./devices/vif-wish.ts";

export interface Form {
  name: string;
  /** Empty: a kernel of the user's own. */
  image: string;
  memory: string | number;
  rootSize: string;
  /** "" as the lab's settings say. */
  rootServed: string;
  disks: DiskWish[];
  vifs: VifWish[];
  group: string;
  kernel: string;
  initrd: string;
  commandLine: string;
  extraArguments: string;
  notes: string;
  autostart: boolean;
  start: boolean;
}

type Wish = Parameters<"machineCreate">;
type Config = Extract<Wish["config"], { [key: string]: unknown }>;
type Disks = NonNullable<Wish["newDisks"]>;

/** What goes wrong by the field that it is about; a field is named as machineCheckConfig names it. */
export type Problems = Readonly<Record<string, string>>;

export interface Reading {
  readonly config: Config;
  readonly newDisks: Disks;
  readonly rest: Pick<Wish, "rootSize" | "rootPlacement">;
  readonly problems: Problems;
  /** Place in `form.disks` of each disk of the configuration. */
  readonly diskPlaces: readonly number[];
}

/** The configuration that the fields mean, and what is wrong before the lab has looked at it. */
export function readForm(form: Form, hasRootDisk: boolean): Reading {
  const problems: Record<string, string> = {};
  const rootSize = form.rootSize.trim() === "" ? undefined : parseBytes(form.rootSize);
  if (hasRootDisk && form.rootSize.trim() !== "" && !rootSize) {
    problems.rootSize = `${form.rootSize} is not a size; write 20G, say`;
  }
  const newDisks: Disks = [];
  const disks: Record<string, string>[] = [];
  const diskPlaces: number[] = [];
  for (const [index, wish] of form.disks.entries()) {
    if (wish.kind === "file") {
      diskPlaces.push(index);
      disks.push(diskConfigOf(wish));
      continue;
    }
    const disk = newDiskOf(wish);
    if (typeof disk === "string") problems[`wish.${index}`] = disk;
    else newDisks.push(disk);
  }
  const vifs = form.vifs.flatMap((wish, index) => {
    const vif = vifConfigOf(wish);
    if (typeof vif !== "string") return [vif];
    problems[`vifs.${index}.rate`] = vif;
    return [];
  });
  const texts = { kernel: form.kernel, initrd: form.initrd, commandLine: form.commandLine };
  const given = Object.entries(texts).filter(([, text]) => text.trim() !== "");
  const config = {
    name: form.name,
    image: form.image === "" ? null : form.image,
    memoryMiB: Number(form.memory),
    group: form.group,
    autostart: form.autostart,
    notes: form.notes,
    extraArguments: form.extraArguments,
    disks,
    vifs,
    ...Object.fromEntries(given.map(([key, text]) => [key, text.trim()])),
  };
  const { rootServed: served } = form;
  const rootPlacement = served === "driver-domain" || served === "hypervisor" ? served : undefined;
  const rest: Reading["rest"] = {
    ...(hasRootDisk && rootSize !== undefined && { rootSize }),
    ...(hasRootDisk && rootPlacement !== undefined && { rootPlacement }),
  };
  return { config: config as unknown as Config, newDisks, rest, problems, diskPlaces };
}

/** The lab's lines by the form's fields: disks by their place in the form. */
export function problemsByField(
  lines: readonly { readonly path: string; readonly line: string }[],
  diskPlaces: readonly number[],
): Problems {
  const problems: Record<string, string> = {};
  for (const { path, line } of lines) {
    const disk = /^disks\.(\d+)/.exec(path);
    const field = disk ? `wish.${diskPlaces[Number(disk[1])] ?? 0}` : path;
    problems[field] ??= line;
  }
  return problems;
}
