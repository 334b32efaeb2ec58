/** Machines as text: one a line for `list`, everything about one for `show`. */
import { oneLine } from "../../engine/errors/input-error.ts";
import { showSize } from "../image-commands.ts";
import type { MachineDetails, MachineSummary } from "../lab/machine-api.ts";
import { table } from "../table.ts";
import { diskTable } from "./disk-commands.ts";

/** A guest of a disposable run, which is no machine of the lab. */
export interface RunGuest {
  readonly lab: string;
  readonly name: string;
  readonly id: number;
  readonly pid: number;
  readonly memoryMiB: number;
  readonly disks: readonly string[];
}

/** What `list --long` knows besides. */
export type LongFacts = Pick<MachineDetails, "disks" | "config" | "statistics">;

const count = (value: unknown): number => (Array.isArray(value) ? value.length : 0);

/** Why a machine needs attention, or what its image is. */
const remark = (machine: MachineSummary): string =>
  machine.unavailable !== undefined ? `unavailable: ${machine.unavailable}` : (machine.message ?? "");

/**
 * The machines of the lab, then the guests of disposable runs under headings of their own.
 * @param long facts by the machine's id; without them the short table
 */
export function machineTable(
  machines: readonly MachineSummary[],
  runs: readonly RunGuest[],
  long?: ReadonlyMap<string, LongFacts>,
): string {
  const headings = ["Name", "State", "ID", "Mem", "Snapshots", "Image", "Group"];
  const more = long === undefined ? [] : ["Disks", "Vifs", "CPU(s)"];
  const hasDeleted = machines.some(({ purgeAfter }) => purgeAfter !== undefined);
  const rows = machines.map((machine) => {
    const facts = long?.get(machine.id);
    const busy = facts?.statistics?.busySeconds;
    return [
      machine.name,
      machine.state,
      machine.domid ?? "",
      machine.memoryMiB,
      machine.snapshots,
      machine.image ?? "",
      machine.group,
      ...(long === undefined ? [] : [facts?.disks.length ?? "", count(facts?.config.vifs), busy?.toFixed(1) ?? ""]),
      ...(hasDeleted ? [machine.purgeAfter === undefined ? "" : showDate(machine.purgeAfter)] : []),
      remark(machine),
    ];
  });
  const shown = table([[...headings, ...more, ...(hasDeleted ? ["Kept until"] : []), ""], ...rows]);
  if (runs.length === 0) return shown;
  const guests = runs.map(({ lab, name, id, pid, memoryMiB, disks }) => [
    lab,
    name,
    id,
    pid,
    memoryMiB,
    disks.join(","),
  ]);
  return `${shown}\n${table([["Run", "Guest", "ID", "PID", "Mem", "Disks"], ...guests])}`;
}

/** A date as people read it, in their own time zone, without fractions. */
export function showDate(iso: string): string {
  const date = new Date(iso);
  if (Number.isNaN(date.getTime())) return iso;
  const two = (value: number) => String(value).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

function field(name: string, value: string | number | undefined): string {
  return value === undefined || value === "" ? "" : `${`${name}:`.padEnd(12)} ${oneLine(String(value))}\n`;
}

/** Keys of a configuration that `show` has in words, or in tables of their own. */
const SHOWN = ["name", "memoryMiB", "image", "group", "autostart", "protected", "disks", "vifs", "notes"];

/** The other settings, where they are not empty. */
function otherSettings(config: MachineDetails["config"]): string {
  return Object.entries(config)
    .filter(([key, value]) => !SHOWN.includes(key) && value !== "" && count(value) === (Array.isArray(value) ? -1 : 0))
    .map(([key, value]) => `  ${oneLine(`${key}=${typeof value === "string" ? value : JSON.stringify(value)}`)}\n`)
    .join("");
}

function vifTable(config: MachineDetails["config"]): string {
  const vifs = Array.isArray(config.vifs) ? config.vifs : [];
  const text = (value: unknown): string => (Array.isArray(value) ? value.join(" ") : String(value ?? ""));
  const rows = vifs.map((vif, index) => {
    const values = (typeof vif === "object" && vif !== null ? vif : {}) as Readonly<Record<string, unknown>>;
    return [index, text(values.mac), text(values.bridge), text(values.ips)];
  });
  return rows.length === 0 ? "" : `\n${table([["Vif", "MAC", "Switch", "IP"], ...rows])}`;
}

/** Everything about a machine. */
export function machineText(machine: MachineDetails): string {
  const { config, statistics, disks } = machine;
  const flags = [machine.autostart ? "autostart" : "", machine.protected ? "protected" : ""].filter(
    (flag) => flag !== "",
  );
  const notes = typeof config.notes === "string" ? config.notes : "";
  const forwards = Array.isArray(config.forwards) ? config.forwards : [];
  const settings = otherSettings(config);
  return [
    field("Name", machine.name),
    field("Id", machine.id),
    field("State", machine.domid === undefined ? machine.state : `${machine.state}, domain ${machine.domid}`),
    field("Message", machine.message),
    field("Unavailable", machine.unavailable),
    field("Memory", `${machine.memoryMiB} MiB`),
    field("Image", machine.image),
    field("Group", machine.group),
    field("Set to", flags.join(", ")),
    field("Notes", notes),
    field("Created", showDate(machine.created)),
    field("Changed", showDate(machine.changed)),
    field("Snapshots", machine.snapshots),
    field("Processor", statistics && `busy for ${statistics.busySeconds.toFixed(1)} s`),
    field("Resident", statistics && showSize(statistics.residentBytes)),
    field("Folder", machine.folder),
    field("Console", machine.consoleLog),
    field("Crash", machine.crashReport),
    ...forwards.map((forward) => field("Forward", JSON.stringify(forward))),
    disks.length === 0 ? "" : `\n${diskTable(disks)}`,
    vifTable(config),
    settings === "" ? "" : `\nSettings:\n${settings}`,
  ].join("");
}
