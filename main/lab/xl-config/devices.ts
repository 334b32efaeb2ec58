/** Disks and interfaces between a machine's configuration and xl's words for them. */
import { z } from "zod";
import { parseVdev, vdevName } from "../../../engine/device/block/vdev.ts";
import { isNbdAddress } from "../../../engine/disk/nbd/uri.ts";
import type { StoreSpec } from "../../../engine/disk/spec.ts";
import { parseRate } from "../../../engine/network/policy/rate.ts";
import { parseDisk } from "../../disk-option.ts";
import { BadInput } from "../../failure.ts";
import { parseVif } from "../../vif-option.ts";
import { firstIssue, issueText } from "../store/errors.ts";
import { type DiskConfig, diskConfig, type MachineConfig } from "../store/schema.ts";

type VifConfig = MachineConfig["vifs"][number];

/** Values that stand in xl's comma-separated lists as they are. */
const PLAIN = /^[\w.:/@+-]+$/;

function badDevice(kind: "disk" | "vif", text: string, error: z.ZodError): BadInput {
  return new BadInput("bad-option", `${kind} "${text}": ${issueText(error)}`, firstIssue(error).remedy, error);
}

/** Without a look at the file: an image whose format is not said stays "probe". */
function formatOf(store: StoreSpec): DiskConfig["format"] {
  if (store.kind === "qcow2") return "qcow2";
  return store.kind === "file" ? (store.format ?? "probe") : "probe";
}

/**
 * Reads a disk in xl's syntax (main/disk-option.ts) as a machine's.
 * @param cwd folder that a relative target belongs to
 * @throws BadInput, DiskError
 */
export function parseDiskConfig(text: string, cwd: string): DiskConfig {
  const option = parseDisk(text, cwd);
  const { store } = option;
  const checked = diskConfig.safeParse({
    vdev: option.name,
    source: store.kind === "nbd" ? option.target : store.path,
    format: formatOf(store),
    access: option.readOnly ? "ro" : "rw",
    deviceType: option.cdrom ? "cdrom" : "disk",
    placement: option.placement,
    persistent: option.persistent,
    discard: store.discard ?? true,
    ...(option.backend !== undefined && { backend: option.backend }),
    ...(store.kind === "file" && store.offset !== undefined && { offset: store.offset }),
    ...(store.kind === "file" && store.length !== undefined && { length: store.length }),
  });
  if (checked.success) return checked.data;
  throw badDevice("disk", text, checked.error);
}

/**
 * As parseDiskConfig, for a disk that somebody adds: one that does not say where it is served is served where it is usual.
 * An NBD export and what another guest serves have no such choice.
 * @throws BadInput, DiskError
 */
export function parseAddedDisk(text: string, cwd: string, usual: DiskConfig["placement"]): DiskConfig {
  const disk = parseDiskConfig(text, cwd);
  const isPlaced = /(^|,)\s*placement=/.test(text) || disk.backend !== undefined || isNbdAddress(disk.source);
  return isPlaced ? disk : { ...disk, placement: usual };
}

/** A disk in xl's syntax, as far as xl has words for it; undefined when it cannot be said at all. */
export function formatXlDisk(disk: DiskConfig): string | undefined {
  if (isNbdAddress(disk.source)) return undefined;
  const vdev = parseVdev(disk.vdev);
  const words = [
    ...(disk.format === "probe" ? [] : [`format=${disk.format}`]),
    `vdev=${(vdev === undefined ? undefined : vdevName(vdev)) ?? disk.vdev}`,
    `access=${disk.access}`,
    ...(disk.deviceType === "cdrom" ? ["devtype=cdrom"] : []),
    ...(disk.backend !== undefined && PLAIN.test(disk.backend) ? [`backend=${disk.backend}`] : []),
    ...(disk.discard ? [] : ["no-discard"]),
    // Last, because it takes the rest of the text: a path may hold commas.
    `target=${disk.source}`,
  ];
  return words.join(",");
}

/** xl writes bytes a second; credit and interval follow from them, rounded down. */
function formatRate({ bytes, intervalUs }: NonNullable<VifConfig["rate"]>): string | undefined {
  const text = `${Math.ceil((bytes * 1e6) / intervalUs)}B/s@${intervalUs}us`;
  return parseRate(text).ok ? text : undefined;
}

/** An interface in xl's syntax, as far as xl has words for it. */
export function formatXlVif(vif: VifConfig): string {
  const values = {
    mac: vif.mac,
    bridge: vif.bridge,
    ip: vif.ips.length === 0 ? undefined : vif.ips.join(" "),
    rate: vif.rate && formatRate(vif.rate),
    mtu: vif.mtu,
    backend: vif.backend,
    devid: vif.handle,
  };
  return Object.entries(values)
    .filter(([key, value]) => value !== undefined && (key === "ip" || PLAIN.test(String(value))))
    .map(([key, value]) => `${key}=${value}`)
    .join(",");
}

/** What reading the text again gives; undefined when it cannot be read. */
export function readBack<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}

/**
 * Reads an interface in xl's syntax (main/vif-option.ts).
 * @throws BadInput
 */
export function parseVifConfig(text: string): VifConfig {
  try {
    return parseVif(text);
  } catch (error) {
    throw error instanceof z.ZodError ? badDevice("vif", text, error) : error;
  }
}
