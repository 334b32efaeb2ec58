/** What snapshots are called, and what is said about them: pure, so that it can be tested. */
import type { LabSnapshotRow, MachineSummary, SnapshotRow } from "../../../main/lab/machine-api.ts";
import { bytes, plural } from "../../lib/format.ts";

/** Most characters of a snapshot's name; control-api takes no more. */
export const MOST_NAME = 128;
/** Most characters of a note. */
export const MOST_NOTE = 16_384;

/** `wish`, or with a number behind it when there is one of that name; never longer than the lab takes. */
export function freeSnapshotName(wish: string, taken: readonly { readonly name: string }[]): string {
  const names = new Set(taken.map(({ name }) => name));
  let name = wish.slice(0, MOST_NAME);
  for (let number = 2; names.has(name); number++) {
    const end = ` ${number}`;
    name = wish.slice(0, MOST_NAME - end.length) + end;
  }
  return name;
}

/** "before clean install": the name of what is kept before going back. */
export function safetyName(target: string, taken: readonly { readonly name: string }[]): string {
  return freeSnapshotName(target.startsWith("before ") ? target : `before ${target}`, taken);
}

/** "disks and memory" */
export function kindText(kind: SnapshotRow["kind"]): string {
  return kind === "running" ? "disks and memory" : "disks";
}

/** "web: snapshot 3 was taken (disks and memory; the guest stood still for 12 ms)." */
export function takenText(
  machine: string,
  taken: { readonly name: string; readonly kind: SnapshotRow["kind"]; readonly pausedMs: number },
): string {
  const stood = taken.pausedMs > 0 ? `; the guest stood still for ${milliseconds(taken.pausedMs)}` : "";
  return `${machine}: ${taken.name} was taken (${kindText(taken.kind)}${stood}).`;
}

/** "lab 1 was taken of 3 machines; those that run stood still for 20 ms at most." */
export function labTakenText(name: string, members: readonly { readonly pausedMs: number }[]): string {
  const most = Math.max(0, ...members.map(({ pausedMs }) => pausedMs));
  const stood = most > 0 ? `; those that run stood still for ${milliseconds(most)} at most` : "";
  return `${name} was taken of ${plural(members.length, "machine")}${stood}.`;
}

/** "12 ms", "1.4 s" */
export function milliseconds(value: number): string {
  return value < 1000 ? `${Math.max(1, Math.round(value))} ms` : `${(value / 1000).toFixed(1)} s`;
}

/** Whether the guest is there: a restore destroys it first. */
export const isOn = ({ domid }: Pick<MachineSummary, "domid">): boolean => domid !== undefined;

/** What the snapshot of a machine in this state can have. */
export function keeps(machine: Pick<MachineSummary, "state">): "memory" | "suspended" | "disks" {
  if (machine.state === "running" || machine.state === "paused") return "memory";
  return machine.state === "suspended" ? "suspended" : "disks";
}

/** What the machine does once it is back there. */
export function afterRestore(snapshot: Pick<SnapshotRow, "kind">, start: boolean): string {
  if (snapshot.kind === "disk") return "It is off then.";
  return start ? "It goes on running from that moment." : "It is suspended then, and goes on when it is started.";
}

/** What is lost with the present state when nothing keeps it. */
export function lossText(machine: Pick<MachineSummary, "name">, current: SnapshotRow | undefined): string {
  if (current === undefined) return `Everything that ${machine.name} wrote to its disks since it was made is lost.`;
  return `Everything that ${machine.name} did since it was at “${current.name}” is lost.`;
}

/** What a snapshot keeps and how many bytes each part takes on the host, 0 where that is not known. */
export function keptParts(
  snapshot: Pick<SnapshotRow, "kind" | "memoryBytes" | "diskBytes">,
): { readonly what: string; readonly bytes: number }[] {
  const disks = { what: "disks", bytes: snapshot.diskBytes };
  return snapshot.kind === "running" ? [{ what: "memory", bytes: snapshot.memoryBytes }, disks] : [disks];
}

/** "2 MiB memory, 3 KiB disks"; a dash when nothing is known. */
export function sizeText({ memoryBytes, diskBytes }: Pick<SnapshotRow, "memoryBytes" | "diskBytes">): string {
  const parts = [
    ...(memoryBytes > 0 ? [`${bytes(memoryBytes)} memory`] : []),
    ...(diskBytes > 0 ? [`${bytes(diskBytes)} disks`] : []),
  ];
  return parts.join(", ") || "–";
}

/** A member of a lab snapshot as the window knows it now. */
export interface Member {
  readonly id: string;
  readonly name: string;
  readonly snapshot: string;
  /** The machine, when it is there and its snapshot too: only then can it go back. */
  readonly machine: MachineSummary | undefined;
}

/** The members by name, as people sort them. */
export function membersOf(
  row: Pick<LabSnapshotRow, "members">,
  machineOf: (id: string) => MachineSummary | undefined,
): Member[] {
  return row.members
    .map(({ machine: id, name, snapshot, present }) => {
      const machine = present ? machineOf(id) : undefined;
      return { id, name: machineOf(id)?.name ?? name, snapshot, machine };
    })
    .sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
}

/** "a, b and 3 more" */
export function someNames(names: readonly string[], most: number): string {
  if (names.length <= most) return names.join(", ");
  return `${names.slice(0, most - 1).join(", ")} and ${names.length - most + 1} more`;
}

/** "lab snapshot friday and 1 more", for a machine's snapshot of that name. */
export function labsText(name: string, labs: readonly { readonly name: string }[]): string {
  const [first] = labs;
  if (first === undefined) return "";
  const which = first.name === name ? "" : ` ${first.name}`;
  return `lab snapshot${which}${labs.length > 1 ? ` and ${labs.length - 1} more` : ""}`;
}

/** Lab snapshots that a machine's snapshot is a part of. */
export function labsWith(snapshot: string, labs: readonly LabSnapshotRow[]): LabSnapshotRow[] {
  return labs.filter(({ members }) => members.some((member) => member.snapshot === snapshot));
}
