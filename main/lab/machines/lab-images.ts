/** The image tools of engine/disk, as machines use them. */
import { rm } from "node:fs/promises";
import { chainSpec, followChain } from "../../../engine/disk/chain.ts";
import { recover } from "../../../engine/disk/image-tools/check.ts";
import { convertImage, copyImage } from "../../../engine/disk/image-tools/convert.ts";
import { createQcow2, createRaw } from "../../../engine/disk/image-tools/create.ts";
import type { Task } from "../../../engine/disk/image-tools/files.ts";
import { imageInfo } from "../../../engine/disk/image-tools/info.ts";
import { pullInto } from "../../../engine/disk/image-tools/merge.ts";
import { resizeImage } from "../../../engine/disk/image-tools/resize.ts";
import type { ImageFile, ImageTools, LongRun } from "./image-tools.ts";

/** A known format, or none: it is looked up then. */
const formatOf = ({ format }: ImageFile) => (format === "probe" ? {} : { format });

const taskOf = ({ signal, progress }: LongRun): Task => ({
  ...(signal && { signal }),
  ...(progress && { progress: ({ done, total }) => progress(done, total) }),
});

/** Copies an image with all behind it but its base, on which the copy lies too. */
async function copyAbove(source: string, target: string, run: LongRun, base: string): Promise<void> {
  try {
    await copyImage(source, target, taskOf(run));
    for (;;) {
      const [, next] = followChain(target, "qcow2");
      if (next === undefined || next.path === base) return;
      await pullInto(target, taskOf(run));
    }
  } catch (error) {
    await rm(target, { force: true });
    throw error;
  }
}

export const labImages: ImageTools = {
  async facts(image) {
    const [own, next] = imageInfo(image.path, formatOf(image).format);
    if (own === undefined) throw new Error("a chain has at least one image");
    return {
      format: own.format,
      virtualSize: own.virtualSize,
      used: own.diskSize,
      backing: next && { path: next.path, format: next.format },
      dirty: own.dirty ?? false,
    };
  },
  create: (path, format, size) => (format === "raw" ? createRaw(path, size) : createQcow2(path, { size })),
  async overlay(path, backing, size) {
    const format = backing.format === "probe" ? (await labImages.facts(backing)).format : backing.format;
    await createQcow2(path, { backing: { path: backing.path, format }, ...(size !== undefined && { size }) });
  },
  spec: async (image, { readOnly, discard }) =>
    chainSpec(image.path, { readOnly, ...formatOf(image), ...(!discard && { discard }) }),
  async copy(image, target, run, isBase = () => false) {
    const { format } = image;
    const bottom = followChain(image.path, formatOf(image).format).at(-1);
    if (bottom !== undefined && bottom.path !== image.path && isBase(bottom.path)) {
      await copyAbove(image.path, target, run, bottom.path);
      return;
    }
    await convertImage(image.path, target, "qcow2", {
      ...taskOf(run),
      ...(format !== "probe" && { sourceFormat: format }),
    });
  },
  async pull(child, run) {
    await pullInto(child, taskOf(run));
  },
  async grow(image, size) {
    await resizeImage(image.path, size, formatOf(image));
  },
  async recover(path, run = {}) {
    await recover(path, "qcow2", taskOf(run));
  },
};
