/** Machines as the control API shows them. */
import { existsSync } from "node:fs";
import { messageOf } from "../../../engine/errors/message.ts";
import type { MachineDetails, MachineSummary, SnapshotRow } from "../machine-api.ts";
import { isNbdSource, type LabSettings, purgeDate } from "../store/schema.ts";
import type { MachineContext } from "./context.ts";
import { type Disk, imageOf, isImage } from "./guest-config.ts";
import type { Machine } from "./machine.ts";

/** Why a machine cannot start, from a look at the files alone. */
function unavailable(machine: Machine): string | undefined {
  const { disks, kernel, initrd } = machine.record.config;
  const files = [...disks.filter(isImage).map(({ source }) => source), kernel, initrd];
  const missing = files.find((file) => file !== undefined && !existsSync(file));
  return missing === undefined ? undefined : `${missing} is missing`;
}

/** @param settings for how long deleted machines are kept */
export function summaryOf(machine: Machine, settings: Pick<LabSettings, "purgeDays">): MachineSummary {
  const { record, guest, message } = machine;
  const { config } = record;
  const why = guest === undefined ? unavailable(machine) : undefined;
  return {
    id: machine.id,
    name: config.name,
    state: machine.state,
    ...(message !== undefined && { message }),
    ...(guest !== undefined && { domid: guest.handle.id, pid: guest.handle.pid }),
    memoryMiB: config.memoryMiB,
    ...(config.image !== null && { image: config.image }),
    group: config.group,
    autostart: config.autostart,
    protected: config.protected,
    created: record.created,
    changed: record.changed,
    snapshots: record.snapshots.filter(({ status }) => status === "complete").length,
    ...(why !== undefined && { unavailable: why }),
    ...(record.deletedAt !== undefined && { purgeAfter: purgeDate(record.deletedAt, settings) }),
  };
}

async function diskRow(context: MachineContext, disk: Disk): Promise<MachineDetails["disks"][number]> {
  const { vdev, source, format, access } = disk;
  const row = { vdev, source, format: isNbdSource(source) ? "nbd" : format, access };
  if (!isImage(disk)) return { ...row, available: true };
  try {
    const { virtualSize, used, format: found } = await context.images.facts(imageOf(disk));
    return { ...row, format: found, available: true, size: virtualSize, used };
  } catch (error) {
    return { ...row, available: false, reason: messageOf(error) };
  }
}

/** Everything about a machine; its images are looked at. */
export async function detailsOf(context: MachineContext, machine: Machine): Promise<MachineDetails> {
  const { record, logs, guest } = machine;
  const disks = await Promise.all(record.config.disks.map((disk) => diskRow(context, disk)));
  const statistics = await guest?.handle.statistics();
  const reason = disks.find(({ available }) => !available)?.reason;
  return {
    ...summaryOf(machine, context.store.data.settings),
    ...(reason !== undefined && { unavailable: reason }),
    // Through its text: the records' type is read-only, all the way down.
    config: JSON.parse(JSON.stringify(record.config)),
    disks,
    currentSnapshot: record.currentSnapshot,
    folder: machine.folder,
    consoleLog: logs.consoleLog,
    hypervisorLog: logs.hypervisorLog,
    ...(existsSync(logs.crashReport) && { crashReport: logs.crashReport }),
    ...(statistics && { statistics }),
  };
}

export function snapshotRows(machine: Machine): SnapshotRow[] {
  const { snapshots, currentSnapshot } = machine.record;
  return snapshots
    .filter(({ status }) => status === "complete")
    .map(({ id, name, note, date, parent, kind, sizes }) => ({
      id,
      name,
      note,
      date,
      parent,
      kind,
      current: id === currentSnapshot,
      memoryBytes: sizes.memoryFile,
      diskBytes: sizes.disks,
    }));
}
