/** What machines need of the tools for disk images (engine/disk); a test has simpler ones. */
import type { StoreSpec } from "../../../engine/disk/spec.ts";
import type { ImageFile } from "../store/sweep.ts";

export type { ImageFile } from "../store/sweep.ts";

export interface ImageFacts {
  readonly format: "raw" | "qcow2";
  /** Bytes that a guest sees. */
  readonly virtualSize: number;
  /** Bytes that the file takes on its disk. */
  readonly used: number;
  /** The image directly behind it, with an absolute path. */
  readonly backing: ImageFile | undefined;
  /** Whether its last writer did not close it: what it holds is right, its refcounts may be too high. */
  readonly dirty: boolean;
}

export interface LongRun {
  readonly signal?: AbortSignal | undefined;
  readonly progress?: ((done: number, total: number) => void) | undefined;
}

/**
 * Formats are always said: a raw image's content is its guest's, who could make it look like an image over any file of the
 * host. "probe" is for images that no guest of the lab has written yet.
 */
export interface ImageTools {
  /** Facts of one file. @throws DiskError */
  facts(image: ImageFile): Promise<ImageFacts>;
  /** A new empty image, durable when fulfilled; nothing is left of one that failed. @throws DiskError */
  create(path: string, format: "raw" | "qcow2", size: number): Promise<void>;
  /** A new empty qcow2 image over another one, of its size or a larger one; durable as create(). @throws DiskError */
  overlay(path: string, backing: ImageFile, size?: number): Promise<void>;
  /** What a backend opens: the image with all behind it. @throws DiskError naming the layer that is missing */
  spec(image: ImageFile, options: { readOnly: boolean; discard: boolean }): Promise<StoreSpec>;
  /**
   * A qcow2 image of its own with what a guest sees. A base image at the bottom of the chain (for which `isBase` says so)
   * stays behind the copy too. @throws DiskError; nothing is left of one that failed
   */
  copy(image: ImageFile, target: string, run: LongRun, isBase?: (path: string) => boolean): Promise<void>;
  /**
   * Copies what a qcow2 image lacks of its backing image into it and puts it on that one's own backing image. Its content is
   * the same wherever this ends. @throws DiskError
   */
  pull(child: string, run: LongRun): Promise<void>;
  /** Makes an image larger that nobody has open. @throws DiskError */
  grow(image: ImageFile, size: number): Promise<void>;
  /** Puts a qcow2 image in order that was not closed; broken off it is as before. @throws DiskError */
  recover(path: string, run?: LongRun): Promise<void>;
}
