import { mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { benchFrontend } from "./block/frontend.ts";
import { createImage, IMAGE_MIB } from "./block/image.ts";
import { benchLinux } from "./block/linux.ts";

/**
 * Block devices on one page-cached raw file: a TypeScript frontend against the driver domain, and a stock Linux guest with
 * each placement of the backend beside QEMU; `rounds` samples of each.
 */
export async function benchBlock(rounds: number, memoryMiB: number): Promise<object> {
  const folder = mkdtempSync(path.join(os.tmpdir(), "domlab-bench-"));
  try {
    const image = path.join(folder, "disk.img");
    createImage(image);
    const typescript = await benchFrontend(image, rounds);
    const linux = await benchLinux(image, rounds, memoryMiB);
    return { bench: "block", imageMiB: IMAGE_MIB, typescript, linux };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
