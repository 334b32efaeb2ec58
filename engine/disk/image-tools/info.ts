/** What an image is, as its headers say. */
import { closeSync, fstatSync } from "node:fs";
import { type ChainLayer, followChain, type ImageFormat } from "../chain.ts";
import { INCOMPATIBLE } from "../qcow2/header.ts";
import { openTarget } from "../target.ts";
import { ImageFile } from "./files.ts";
import { readSnapshots } from "./scan.ts";

/** A snapshot that lies within the image. */
export interface SnapshotInfo {
  readonly id: string;
  readonly name: string;
  /** ISO 8601. */
  readonly date: string;
  /** Bytes of a machine's memory saved with it. */
  readonly vmStateSize: number;
}

/** One image. Sizes in bytes. */
export interface ImageInfo {
  readonly path: string;
  readonly format: ImageFormat;
  readonly virtualSize: number;
  /** How long the file is, and how much of the host's storage it takes. */
  readonly fileSize: number;
  readonly diskSize: number;
  /** What follows is known of qcow2 images. */
  readonly version?: 2 | 3;
  readonly clusterSize?: number;
  readonly refcountBits?: number;
  readonly compression?: "deflate" | "zstd";
  /** As it stands in the header, and where that leads. */
  readonly backingFile?: string;
  readonly backingPath?: string;
  readonly backingFormat?: string;
  /** Its refcounts are to be counted again; its tables are damaged. */
  readonly dirty?: boolean;
  readonly corrupt?: boolean;
  readonly snapshots?: readonly SnapshotInfo[];
}

/**
 * Describes an image and all behind it, nearest first. Takes no lock that a running machine would object to: what it says of
 * an image in use is as of this moment.
 * @throws DiskError as followChain()
 */
export function imageInfo(path: string, format?: ImageFormat): ImageInfo[] {
  const layers = followChain(path, format);
  return layers.map((layer, index) => describe(layer, layers[index + 1]));
}

function describe(layer: ChainLayer, next: ChainLayer | undefined): ImageInfo {
  const { descriptor } = openTarget({ kind: "file", path: layer.path, readOnly: true, format: "raw" }, false);
  const file = new ImageFile(layer.path, descriptor);
  try {
    const stat = fstatSync(file.descriptor);
    const common = {
      path: layer.path,
      format: layer.format,
      virtualSize: layer.size,
      fileSize: stat.isFile() ? stat.size : layer.size,
      // st_blocks counts units of 512 bytes whatever the file system's blocks are.
      diskSize: stat.isFile() ? stat.blocks * 512 : layer.size,
    };
    const { header } = layer;
    if (header === undefined) return common;
    const snapshots = readSnapshots(file, header)?.snapshots ?? [];
    return {
      ...common,
      version: header.version,
      clusterSize: header.clusterSize,
      refcountBits: 2 ** header.refcountOrder,
      compression: header.compression,
      ...(header.backingFile !== undefined && { backingFile: header.backingFile }),
      ...(next && { backingPath: next.path }),
      ...(header.backingFormat !== undefined && { backingFormat: header.backingFormat }),
      dirty: (header.incompatible.low & INCOMPATIBLE.dirty) !== 0,
      corrupt: (header.incompatible.low & INCOMPATIBLE.corrupt) !== 0,
      snapshots: snapshots.map(({ id, name, date, vmStateSize }) => ({
        id,
        name,
        date: new Date(date * 1000).toISOString(),
        vmStateSize,
      })),
    };
  } finally {
    closeSync(descriptor);
  }
}
