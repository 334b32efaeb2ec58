/** Disks of guests and unikernels, as tests attach them. */
import type { VbdConfig } from "../engine/domain/vbd-toolstack.ts";

/** First minor of xvda: vdev numbers go up in sixteens, one for each partition. */
const XVDA = 202 << 8;

/** vdev of xvda (0), xvdb (1), … */
export function xvd(index: number): number {
  return XVDA + 16 * index;
}

/** A disk from an image file, xvda unless said. */
export function imageDisk(file: string, more: Partial<VbdConfig> = {}): VbdConfig {
  const readOnly = more.readOnly ?? false;
  return {
    vdev: xvd(0),
    store: { kind: "file", path: file, readOnly },
    readOnly,
    deviceType: "disk",
    target: file,
    placement: "driver-domain",
    persistent: false,
    ...more,
  };
}
