/** The disks of a machine as its tab shows them: what is set, and what the running guest has. */
import type { LabDisk } from "../../../../main/lab/control-api.ts";
import type { MachineDetails } from "../../../../main/lab/machine-api.ts";

/** As the configuration has it (main/lab/store/machine-config.ts). */
export interface DiskConfig {
  readonly vdev: string;
  readonly deviceType: "disk" | "cdrom";
  readonly placement: "driver-domain" | "hypervisor";
  readonly persistent: boolean;
  readonly discard: boolean;
  readonly backend?: string;
}

type Row = MachineDetails["disks"][number];
export type ShownDisk = Row &
  DiskConfig & {
    /** Name of the domain that serves it now. */
    readonly servedNow: string | undefined;
    /** What the running guest will find otherwise at its next start; undefined: nothing. */
    readonly pending: string | undefined;
  };

/** Domain 0 is the hypervisor's own. */
const CONTROL_DOMAIN = 0;

function pendingOf(row: Row, config: DiskConfig, live: LabDisk | undefined): string | undefined {
  if (live === undefined) return "attached at the next start";
  if ((live.mode === "w") !== (row.access === "rw")) {
    return row.access === "rw" ? "writable from the next start" : "read-only from the next start";
  }
  const placed = live.backendId === CONTROL_DOMAIN ? "hypervisor" : "driver-domain";
  return config.backend === undefined && placed !== config.placement
    ? "served elsewhere from the next start"
    : undefined;
}

/** @param live disks of the machine's guest; undefined when it does not run */
export function shownDisks(
  rows: readonly Row[],
  configs: readonly DiskConfig[],
  live: readonly LabDisk[] | undefined,
): ShownDisk[] {
  return rows.flatMap((row) => {
    const config = configs.find(({ vdev }) => vdev === row.vdev);
    if (config === undefined) return [];
    const now = live?.find(({ name }) => name === row.vdev);
    return [{ ...row, ...config, servedNow: now?.backend, pending: live && pendingOf(row, config, now) }];
  });
}

/**
 * A disk that was taken out as diskAttach takes it back, with its settings and its format: that of an image which a guest has
 * written is never looked up again.
 * @param source where its image is now
 */
export function reattachText(disk: ShownDisk, source: string): string {
  const { vdev, access, deviceType, placement, backend, discard, persistent, format } = disk;
  const words = [
    ...(format === "raw" || format === "qcow2" ? [`format=${format}`] : []),
    `vdev=${vdev}`,
    `access=${access}`,
    ...(deviceType === "cdrom" ? ["devtype=cdrom"] : []),
    backend === undefined ? `placement=${placement}` : `backend=${backend}`,
    ...(discard ? [] : ["no-discard"]),
    ...(persistent ? ["persistent=on"] : []),
    `target=${source}`,
  ];
  return words.join(",");
}
