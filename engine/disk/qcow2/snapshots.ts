/** Internal snapshots of an image: only where their tables lie, so that those are left alone. */
import type { MemoryView } from "../../device/domain-interface.ts";
import { DiskError, unreadable } from "../errors.ts";
import { LIMITS, type Qcow2Header } from "./header.ts";
import { hostBuffer } from "./host-buffer.ts";
import type { ImageFile } from "./image-file.ts";

/** Bytes of an entry before its extra data, identity and name. */
const FIXED = 40;
/** Bytes of all entries of an image: QEMU's limit is a thousand bytes of extra data each. */
const LONGEST_TABLE = 64 << 20;

export interface SnapshotTables {
  /** Bytes of the snapshot table. */
  readonly length: number;
  /** The L1 tables that it names. */
  readonly tables: readonly { readonly offset: number; readonly entries: number; readonly l1: MemoryView }[];
}

function damaged(path: string): DiskError {
  return new DiskError(
    "unusable-image",
    `qcow2 image ${path} is damaged: its table of internal snapshots`,
    "repair it with qemu-img check -r all",
  );
}

function readL1At(file: ImageFile, header: Qcow2Header, offset: number, entries: number): MemoryView {
  const fits = offset % header.clusterSize === 0 && offset + entries * 8 <= file.end;
  if (entries * 8 > LIMITS.l1Table || !fits) throw damaged(file.path);
  const l1 = hostBuffer(Math.max(8, entries * 8));
  const status = file.readBytes(offset, l1, 0, entries * 8);
  if (status < 0) throw unreadable(file.path, -status);
  return l1;
}

/**
 * Reads the snapshot table and the L1 tables it names.
 * @throws DiskError "unusable-image" when they cannot be right, "unreadable-image" when they cannot be read
 */
export function readSnapshotTables(file: ImageFile, header: Qcow2Header): SnapshotTables {
  const tables: { offset: number; entries: number; l1: MemoryView }[] = [];
  const fixed = hostBuffer(FIXED);
  let at = 0;
  let total = 0;
  for (let i = 0; i < header.snapshotCount; i++) {
    const start = header.snapshotsOffset + at;
    if (start + FIXED > file.end || at > LONGEST_TABLE) throw damaged(file.path);
    const status = file.readBytes(start, fixed, 0, FIXED);
    if (status < 0) throw unreadable(file.path, -status);
    const { view } = fixed;
    const offset = view.getUint32(0) * 2 ** 32 + view.getUint32(4);
    const entries = view.getUint32(8);
    total += entries * 8;
    // Many entries may name the same large table: what all of them name together is bounded, too.
    if (total > 4 * LIMITS.l1Table) throw damaged(file.path);
    tables.push({ offset, entries, l1: readL1At(file, header, offset, entries) });
    const length = FIXED + view.getUint32(36) + view.getUint16(12) + view.getUint16(14);
    at += Math.ceil(length / 8) * 8;
  }
  return { length: at, tables };
}
