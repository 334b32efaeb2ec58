/**
 * The rows of the control table that are about images (control-api.ts): the catalogue of guest images, and the lab's
 * library of disk images that machines can be made from.
 *
 * `path` is a file that imageList shows, or the name of an image of the library.
 */
import { z } from "zod";

const nothing = z.strictObject({});
const bytes = z.int().nonnegative();
const operation = z.string().min(1).max(64).optional();
const path = z.string().min(1).max(4096);
const format = z.enum(["qcow2", "raw"]);

/** Of a library: also a file name. */
export const LIBRARY_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;
const libraryName = z.string().min(1).max(128);

const libraryImage = z.object({ name: z.string(), path: z.string(), format, virtualSize: bytes });
export type LibraryImage = z.infer<typeof libraryImage>;

const catalogueRow = z.object({
  /** What a machine's configuration names. */
  name: z.string(),
  title: z.string(),
  description: z.string(),
  minimumMemoryMiB: z.int(),
  defaultMemoryMiB: z.int(),
  /** Whether machines made from it get a root disk; `rootBytes` is its size unless they ask for more. */
  hasDisk: z.boolean(),
  rootBytes: bytes.optional(),
  /** "absent": it is fetched when the first machine needs it, or by imageFetch. */
  state: z.enum(["ready", "absent"]),
  /** Bytes on this disk. */
  sizeBytes: bytes.optional(),
  /** Whether the user added it to the lab. */
  own: z.boolean(),
});
export type CatalogueRow = z.infer<typeof catalogueRow>;

const problem = z.object({ kind: z.string(), text: z.string() });
const checkReport = z.object({
  path: z.string(),
  /** "leaks": space that nothing uses; harmless. */
  state: z.enum(["clean", "leaks", "errors"]),
  leaks: z.int(),
  errors: z.int(),
  /** The first of them. */
  problems: z.array(problem),
  allocatedClusters: z.number(),
  totalClusters: z.number(),
  /** It was not closed; its tables are marked as damaged. */
  dirty: z.boolean(),
  corrupt: z.boolean(),
  /** What a repair did: the rest is as after it. */
  repaired: z.object({ leaks: z.int(), errors: z.int(), dropped: z.int() }).optional(),
});
export type ImageCheckReport = z.infer<typeof checkReport>;

const imageFacts = z.object({
  path: z.string(),
  format,
  virtualSize: bytes,
  fileSize: bytes,
  diskSize: bytes,
  clusterSize: z.int().optional(),
  dirty: z.boolean().optional(),
  corrupt: z.boolean().optional(),
  /** Snapshots within the file, which another program made. */
  innerSnapshots: z.int().optional(),
});
export type ImageFactsRow = z.infer<typeof imageFacts>;

export const imageApi = {
  /** Guest images that machines can boot. */
  imageCatalogue: { parameters: nothing, result: z.array(catalogueRow) },
  /** Gets an image of the catalogue ahead of the first machine; at once when it is there. */
  imageFetch: { parameters: z.strictObject({ name: z.string().min(1).max(128), operation }), result: nothing },
  /**
   * Takes a disk image into the library: by its name there, which is the file's unless it is said. With `move` the
   * file itself is taken where it can be; one that was uploaded is gone however it ends. The format is looked up unless
   * it is said; a VHD becomes a qcow2 image.
   */
  imageImport: {
    parameters: z.strictObject({
      path,
      name: libraryName.optional(),
      move: z.boolean(),
      format: z.enum(["qcow2", "raw", "vhd"]).optional(),
      operation,
    }),
    result: libraryImage,
  },
  /** An empty image in the library. */
  imageCreate: {
    parameters: z.strictObject({ name: libraryName, size: bytes, format: format.default("qcow2") }),
    result: libraryImage,
  },
  /** An image and those behind it, nearest first. */
  imageInfo: { parameters: z.strictObject({ path }), result: z.array(imageFacts) },
  /** With shrink a smaller size is accepted, as long as only zeros are cut off. */
  imageResize: {
    parameters: z.strictObject({ path, size: bytes, shrink: z.boolean().optional(), operation }),
    result: z.object({ size: bytes }),
  },
  /** Another name for an unused image of the library. */
  imageRename: { parameters: z.strictObject({ path, name: libraryName }), result: libraryImage },
  /** A copy with what a guest sees, as a new image `to` of the library. */
  imageConvert: {
    parameters: z.strictObject({ path, format: format.default("qcow2"), to: libraryName, operation }),
    result: libraryImage,
  },
  /**
   * Compares the tables of a qcow2 image, and mends them: only leaks, errors too, or "all" with what leads nowhere
   * dropped.
   */
  imageCheck: {
    parameters: z.strictObject({ path, repair: z.enum(["leaks", "errors", "all"]).optional(), operation }),
    result: checkReport,
  },
  /** Takes an unused image out of the library; imageUndelete() brings it back until it is purged. */
  imageDelete: {
    parameters: z.strictObject({ path }),
    result: z.object({ deleted: z.string(), purgeAfter: z.string() }),
  },
  /** Under another name when its own is taken. */
  imageUndelete: { parameters: z.strictObject({ deleted: z.string().max(256) }), result: libraryImage },
  /** Removes a deleted image for good. */
  imagePurge: { parameters: z.strictObject({ deleted: z.string().max(256) }), result: nothing },
  imageDeleted: {
    parameters: nothing,
    result: z.array(
      z.object({ deleted: z.string(), name: z.string(), date: z.string(), purgeAfter: z.string(), size: bytes }),
    ),
  },
} as const;
