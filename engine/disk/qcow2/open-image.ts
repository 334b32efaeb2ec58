/** Opens the images of a chain: headers and L1 tables read and checked, the writable one recovered if need be. */
import { DiskError, unreadable } from "../errors.ts";
import type { HostIo } from "../host-io.ts";
import type { FileSpec, ImageLayer, Qcow2Spec } from "../spec.ts";
import { openTarget } from "../target.ts";
import { ClusterMap, readL1 } from "./cluster-map.ts";
import { ClusterSet } from "./cluster-set.ts";
import { AUTOCLEAR, INCOMPATIBLE, type Qcow2Header, readHeader } from "./header.ts";
import { ImageFile } from "./image-file.ts";
import { readJournal } from "./journal.ts";
import { Layer } from "./layers.ts";
import { isDirty, readRefcountTable, recover } from "./recovery.ts";
import { Refcounts } from "./refcounts.ts";
import { WriteSession } from "./session.ts";
import { readSnapshotTables } from "./snapshots.ts";
import { entryOffset } from "./tables.ts";

function damaged(path: string, what: string): DiskError {
  return new DiskError(
    "unusable-image",
    `qcow2 image ${path} is damaged: ${what}`,
    "repair it with domlab image repair",
  );
}

function openFile(layer: ImageLayer, readOnly: boolean, io: HostIo): ImageFile {
  const spec: FileSpec = { kind: "file", path: layer.path, readOnly };
  const target = openTarget(layer.openPath === undefined ? spec : { ...spec, openPath: layer.openPath }, false);
  return new ImageFile(layer.path, target.descriptor, target.size, io);
}

function mapOf(file: ImageFile, header: Qcow2Header): ClusterMap {
  if (header.l1Offset + header.l1Size * 8 > file.end) throw damaged(file.path, "the L1 table is not within the file");
  const l1 = readL1(file, header);
  if (typeof l1 === "number") throw unreadable(file.path, -l1);
  return new ClusterMap(file, header, l1);
}

/** An image that is only read. What its last writer left in the journal counts. */
function openFrozen(spec: ImageLayer, io: HostIo): Layer {
  const file = openFile(spec, true, io);
  try {
    if (spec.format === "raw") return new Layer(file, undefined);
    const header = readHeader(file.descriptor, file.path);
    const map = mapOf(file, header);
    const records = isDirty(header) ? readJournal(file, header) : [];
    if (typeof records === "number") throw unreadable(file.path, -records);
    map.override(records);
    return new Layer(file, map);
  } catch (error) {
    file.close();
    throw error;
  }
}

/** The clusters of all tables. @throws DiskError when two of them overlap */
function metadataOf(map: ClusterMap): ClusterSet {
  const { file, header } = map;
  const { clusterSize } = header;
  const set = new ClusterSet();
  const add = (what: string, offset: number, length: number): void => {
    if (!set.add(offset / clusterSize, Math.ceil(length / clusterSize))) {
      throw damaged(file.path, `${what} overlaps another table`);
    }
  };
  const inFile = (offset: number): boolean => offset !== 0 && offset % clusterSize === 0 && offset < file.end;
  add("the header", 0, clusterSize);
  add("the refcount table", header.refcountTableOffset, header.refcountTableClusters * clusterSize);
  if (header.l1Size > 0) add("the L1 table", header.l1Offset, header.l1Size * 8);
  const table = readRefcountTable(file, header);
  for (let at = 0; at < header.refcountTableClusters * clusterSize; at += 8) {
    const offset = entryOffset(table.view.getUint32(at), table.view.getUint32(at + 4));
    // Entries that cannot be right fail when they are used.
    if (inFile(offset)) add("a refcount block", offset, clusterSize);
  }
  for (let i = 0; i < header.l1Size; i++) {
    const offset = map.tableOffset(i);
    if (offset > 0) add("an L2 table", offset, clusterSize);
  }
  const snapshots = readSnapshotTables(file, header);
  if (snapshots.length > 0) add("the snapshot table", header.snapshotsOffset, snapshots.length);
  for (const { offset, entries } of snapshots.tables) add("a snapshot's L1 table", offset, entries * 8);
  return set;
}

export interface OpenImage {
  /** The image itself first. */
  readonly layers: readonly Layer[];
  /** Of an image that may be written. */
  readonly session: WriteSession | undefined;
}

function openActive(spec: Qcow2Spec, io: HostIo, log: (line: string) => void): { layer: Layer; session: WriteSession } {
  const file = openFile({ ...spec, format: "qcow2" }, false, io);
  try {
    let header = readHeader(file.descriptor, file.path);
    if (header.incompatible.low & INCOMPATIBLE.corrupt) throw damaged(file.path, "it is marked so");
    let map = mapOf(file, header);
    if (isDirty(header)) {
      header = recover(file, header, map.l1);
      map = mapOf(file, header);
    }
    if (header.autoclear.low & AUTOCLEAR.bitmaps) log(`disk image ${file.path}: its dirty bitmaps are lost by writing`);
    const layer = new Layer(file, map);
    const metadata = metadataOf(map);
    const session = new WriteSession({
      file,
      map,
      metadata,
      header,
      log,
      refcounts: (move) => new Refcounts(file, header, readRefcountTable(file, header), metadata, move),
      forgetCompressed: () => layer.compressed?.clear(),
    });
    return { layer, session };
  } catch (error) {
    file.close();
    throw error;
  }
}

/**
 * Opens an image and the images behind it. Takes no lock.
 * @throws DiskError one line with cause and remedy
 */
export function openImage(spec: Qcow2Spec, io: HostIo, log: (line: string) => void): OpenImage {
  const layers: Layer[] = [];
  try {
    const active = spec.readOnly ? undefined : openActive(spec, io, log);
    layers.push(active ? active.layer : openFrozen({ ...spec, format: "qcow2" }, io));
    for (const layer of spec.backing) layers.push(openFrozen(layer, io));
    return { layers, session: active?.session };
  } catch (error) {
    for (const layer of layers) layer.file.close();
    throw error;
  }
}
