/** The settings of a machine that the form shows; keys are those of its configuration (main/lab/store/machine-config.ts). */

export type SettingKey =
  | "memoryMiB"
  | "group"
  | "autostart"
  | "protected"
  | "onPoweroff"
  | "onReboot"
  | "onCrash"
  | "startPriority"
  | "startDelaySeconds"
  | "shutdownTimeoutSeconds"
  | "extraArguments"
  | "notes";

export interface SettingField {
  readonly key: SettingKey;
  readonly label: string;
  readonly hint?: string;
  readonly kind: "text" | "number" | "check" | "choice" | "lines";
  readonly options?: readonly string[];
  /** Counts from the next start. */
  readonly restart?: boolean;
}

const ends = ["destroy", "restart", "preserve"];

export const settingFields: readonly SettingField[] = [
  { key: "memoryMiB", label: "Memory, MiB", kind: "number", restart: true },
  { key: "group", label: "Group", hint: "Machines with the same word stand together.", kind: "text" },
  { key: "onPoweroff", label: "When it powers off", kind: "choice", options: ends },
  { key: "onReboot", label: "When it reboots", kind: "choice", options: ends },
  {
    key: "onCrash",
    label: "When it crashes",
    hint: "preserve keeps what is left for a look.",
    kind: "choice",
    options: ends,
  },
  { key: "shutdownTimeoutSeconds", label: "Time to shut down, seconds", kind: "number" },
  { key: "startPriority", label: "Start order", hint: "Lower numbers start first.", kind: "number" },
  { key: "startDelaySeconds", label: "Wait before the next machine, seconds", kind: "number" },
  { key: "autostart", label: "Start with the lab", kind: "check" },
  { key: "protected", label: "Protect from deletion", kind: "check" },
  { key: "extraArguments", label: "More kernel arguments", kind: "text", restart: true },
  { key: "notes", label: "Notes", kind: "lines" },
];
