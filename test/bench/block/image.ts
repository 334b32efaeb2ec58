/** The disk image of the benchmark: a raw file that lies in the page cache. */
import { closeSync, fdatasyncSync, openSync, writeSync } from "node:fs";
import type { Placement, VbdConfig } from "../../../engine/domain/vbd-toolstack.ts";

const MIB = 1 << 20;
export const IMAGE_MIB = 1024;
/** xvda. */
export const VDEV = 51712;

/** Writes the image: no holes, nothing left to be written back. */
export function createImage(path: string): void {
  const descriptor = openSync(path, "wx");
  try {
    const chunk = Buffer.alloc(MIB);
    for (let word = 0; word < MIB; word += 4) chunk.writeUInt32LE(Math.imul(word, 2654435761) >>> 0, word);
    for (let mib = 0; mib < IMAGE_MIB; mib++) writeSync(descriptor, chunk);
    fdatasyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

/** The image as xvda. */
export function vbdOf(path: string, placement: Placement): VbdConfig {
  return {
    vdev: VDEV,
    store: { kind: "file", path, readOnly: false },
    readOnly: false,
    deviceType: "disk",
    target: path,
    placement,
    persistent: false,
  };
}
