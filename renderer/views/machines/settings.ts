/** The settings of a machine that the form shows; keys are those of its configuration (main/lab/store/machine-config.ts). */

export type SettingKey =
  | "image"
  | "kernel"
  | "initrd"
  | "commandLine"
  | "extraArguments"
  | "memoryMiB"
  | "vcpus"
  | "cpuCap"
  | "group"
  | "notes"
  | "protected"
  | "autostart"
  | "startPriority"
  | "startDelaySeconds"
  | "suspendOnQuit"
  | "shutdownTimeoutSeconds"
  | "onPoweroff"
  | "onReboot"
  | "onCrash";

export interface SettingField {
  readonly key: SettingKey;
  readonly label: string;
  readonly hint?: string;
  readonly kind: "text" | "number" | "check" | "choice" | "lines" | "image" | "fixed";
  /** What is stored, and what is shown for it; "" is what is not set. */
  readonly options?: readonly (readonly [string, string])[];
  /** Shown where nothing is set. */
  readonly empty?: string;
  /** Counts from the next start. */
  readonly restart?: boolean;
}

export interface SettingSection {
  readonly title: string;
  readonly fields: readonly SettingField[];
}

export type Value = string | number | boolean | undefined;

const ends = [
  ["destroy", "stays off"],
  ["restart", "starts again"],
  ["preserve", "is kept for a look"],
] as const;

export const settingSections: readonly SettingSection[] = [
  {
    title: "Machine",
    fields: [
      { key: "memoryMiB", label: "Memory, MiB", kind: "number", restart: true },
      { key: "vcpus", label: "Virtual CPUs", hint: "A machine has one.", kind: "fixed" },
      {
        key: "cpuCap",
        label: "CPU limit, percent",
        hint: "Of one CPU of the host.",
        empty: "no limit",
        kind: "number",
        restart: true,
      },
      { key: "group", label: "Group", hint: "Machines with the same word stand together.", kind: "text" },
      { key: "protected", label: "Protect from deletion", kind: "check" },
      { key: "notes", label: "Notes", kind: "lines" },
    ],
  },
  {
    title: "Boot",
    fields: [
      { key: "image", label: "Image", kind: "image", restart: true },
      {
        key: "kernel",
        label: "Kernel",
        hint: "In place of the image's.",
        empty: "the image's",
        kind: "text",
        restart: true,
      },
      { key: "initrd", label: "Initial RAM disk", empty: "the image's", kind: "text", restart: true },
      {
        key: "commandLine",
        label: "Command line",
        hint: "In place of the image's.",
        empty: "the image's",
        kind: "text",
        restart: true,
      },
      {
        key: "extraArguments",
        label: "More kernel arguments",
        hint: "Behind the command line.",
        kind: "text",
        restart: true,
      },
    ],
  },
  {
    title: "Start and end",
    fields: [
      { key: "onPoweroff", label: "When it powers off, it", kind: "choice", options: ends },
      { key: "onReboot", label: "When it reboots, it", kind: "choice", options: ends },
      { key: "onCrash", label: "When it crashes, it", kind: "choice", options: ends },
      { key: "shutdownTimeoutSeconds", label: "Time to shut down, seconds", kind: "number" },
      {
        key: "suspendOnQuit",
        label: "When the lab ends, it is",
        kind: "choice",
        options: [
          ["", "treated as the lab's settings say"],
          ["true", "suspended, and goes on where it was"],
          ["false", "shut down"],
        ],
      },
      { key: "autostart", label: "Start with the lab", kind: "check" },
      {
        key: "startPriority",
        label: "Start order",
        hint: "Lower numbers start first: a driver domain before its users.",
        kind: "number",
      },
      { key: "startDelaySeconds", label: "Wait before the next machine, seconds", kind: "number" },
    ],
  },
];

export const settingFields: readonly SettingField[] = settingSections.flatMap(({ fields }) => fields);

/** What a stored value is in its field; an image that is none is "". */
export const textOf = (value: unknown): string => (value === undefined || value === null ? "" : String(value));

/** The settings that make the edited values the stored ones, as machineSet takes them. */
export function changesOf(
  stored: Readonly<Record<string, unknown>>,
  edited: Readonly<Partial<Record<SettingKey, Value>>>,
): { readonly key: SettingKey; readonly setting: string }[] {
  return settingFields.flatMap(({ key, kind }) => {
    const value = edited[key];
    if (value === undefined || textOf(value) === textOf(stored[key])) return [];
    // An empty text would mean the usual image.
    const text = kind === "image" && value === "" ? "none" : textOf(value);
    return [{ key, setting: `${key}=${text}` }];
  });
}

/** The configuration as it would be after the changes, for the lab's check. */
export function editedConfig(
  stored: Readonly<Record<string, unknown>>,
  edited: Readonly<Partial<Record<SettingKey, Value>>>,
): Record<string, unknown> {
  const config: Record<string, unknown> = { ...stored };
  for (const { key, kind } of settingFields) {
    const value = edited[key];
    if (value === undefined || textOf(value) === textOf(stored[key])) continue;
    if (kind === "image") config[key] = value === "" ? null : value;
    else if (value === "") delete config[key];
    else if (kind === "number") config[key] = Number(value);
    else if (key === "suspendOnQuit") config[key] = value === "true";
    else config[key] = value;
  }
  return config;
}
