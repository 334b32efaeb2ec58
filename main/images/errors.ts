/** Errors of getting a guest image; the same one-line family as the builder's. */

import { errnoOf } from "../../engine/builder/errors.ts";
import { InputError, oneLine } from "../../engine/errors/input-error.ts";
import { messageOf } from "../../engine/errors/message.ts";

export type ImageErrorCode =
  | "unknown-image"
  | "no-apt"
  | "no-package"
  | "no-network"
  | "no-space"
  | "unusable-cache"
  | "fetch-failed"
  | "damaged-package"
  | "no-sources"
  | "no-tool"
  | "build-failed"
  | "cancelled";

/** A guest image that cannot be had. */
export class ImageError extends InputError<ImageErrorCode> {}

/** Turns a failed operation on the cache directory into an ImageError; an ImageError passes unchanged. */
export function cacheFailure(error: unknown, directory: string): ImageError {
  if (error instanceof ImageError) return error;
  const code = errnoOf(error);
  if (code === "ENOSPC" || code === "EDQUOT") return noSpace(directory, error);
  const reason = messageOf(error);
  return new ImageError(
    "unusable-cache",
    `the image cache ${directory} cannot be used: ${oneLine(reason)}`,
    "set DOMLAB_CACHE to a directory you can write to",
    error,
  );
}

export function noSpace(directory: string, cause?: unknown, needed?: number): ImageError {
  const amount = needed === undefined ? "" : `, ${Math.ceil(needed / (1024 * 1024))} MiB are needed`;
  const what = `no space left for the image cache ${directory}${amount}`;
  return new ImageError("no-space", what, "free some space or set DOMLAB_CACHE to another disk", cause);
}

export function cancelled(): ImageError {
  return new ImageError("cancelled", "getting the guest image was cancelled", "start again to get it");
}
