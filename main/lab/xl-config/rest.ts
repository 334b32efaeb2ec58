/**
 * What a machine has and xl has no words for, in a comment of an exported file: `# domlab: {…}`. It holds no more than
 * that, so that whoever edits the rest of the file is believed.
 */
import { z } from "zod";

const anything = z.record(z.string(), z.unknown());
const bootKeys = ["kernel", "ramdisk", "cmdline", "root", "extra"] as const;
/** xl's settings about what is started, as texts. */
export type BootSettings = { readonly [Key in (typeof bootKeys)[number]]?: string };

export const machineRest = z.strictObject({
  version: z.literal(1),
  /** Keys of the configuration. */
  keys: anything.default({}),
  /** What is started (`is`), as long as the file's own settings are those that were written (`of`). */
  boot: z
    .strictObject({
      of: z.strictObject({
        kernel: z.string().exactOptional(),
        ramdisk: z.string().exactOptional(),
        cmdline: z.string().exactOptional(),
        root: z.string().exactOptional(),
        extra: z.string().exactOptional(),
      }),
      is: anything,
    })
    .exactOptional(),
  /** More about disks in the file's list, by vdev. */
  disks: z.record(z.string(), anything).default({}),
  /** Disks that the list lacks, with their place among all. */
  moreDisks: z
    .array(z.strictObject({ at: z.int().nonnegative(), disk: anything }))
    .max(256)
    .default([]),
  /** More about interfaces, by their place in the list; believed while bridge and MAC address are those. */
  vifs: z
    .array(z.strictObject({ at: z.int().nonnegative(), mac: z.string().nullable(), bridge: z.string(), is: anything }))
    .max(64)
    .default([]),
});
export type MachineRest = z.infer<typeof machineRest>;

const MARK = /^ domlab: (\{.*\})\s*$/;

/** The comment's text behind "#". */
export function formatRest(rest: MachineRest): string {
  return ` domlab: ${JSON.stringify(rest)}`;
}

/** What a comment holds; undefined when it is none of ours, "broken" when it was one. */
export function parseRest(comment: string): MachineRest | "broken" | undefined {
  const [, json] = MARK.exec(comment) ?? [];
  if (json === undefined) return undefined;
  try {
    const result = machineRest.safeParse(JSON.parse(json));
    return result.success ? result.data : "broken";
  } catch {
    return "broken";
  }
}

export function sameBoot(left: BootSettings, right: BootSettings): boolean {
  return bootKeys.every((key) => left[key] === right[key]);
}

/** What `full` says otherwise than `base`; null for what it does not say. */
export function difference(full: object, base: object): Record<string, unknown> {
  const [left, right] = [
    new Map<string, unknown>(Object.entries(full)),
    new Map<string, unknown>(Object.entries(base)),
  ];
  const changed = [...left].filter(
    ([key, value]) => value !== undefined && JSON.stringify(value) !== JSON.stringify(right.get(key)),
  );
  const missing = [...right.keys()].filter((key) => right.get(key) !== undefined && left.get(key) === undefined);
  return Object.fromEntries([...changed, ...missing.map((key) => [key, null] as const)]);
}

/** The base with a difference applied. Only `image` may be null itself. */
export function applied(base: object, changes: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const entries = new Map<string, unknown>(Object.entries(base));
  for (const [key, value] of Object.entries(changes)) {
    if (value === null && key !== "image") entries.delete(key);
    else entries.set(key, value);
  }
  return Object.fromEntries(entries);
}
