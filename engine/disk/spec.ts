/** What a store is made of, as plain JSON: it crosses process borders and is kept in machine files. */
import { z } from "zod";

const bytes = z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER);

/** A regular file or a block device of the host, or a byte range of one. */
export const fileSpecSchema = z.strictObject({
  kind: z.literal("file"),
  /** Absolute path; also the name in messages. */
  path: z.string().min(1),
  /** "raw": the bytes as they are, whatever they look like. "probe": refused when they are an image format's. */
  format: z.enum(["raw", "probe"]).exactOptional(),
  readOnly: z.boolean(),
  /** First byte served; a multiple of 512. */
  offset: bytes.multipleOf(512).exactOptional(),
  /** Bytes served; a multiple of 512. Without it: to the end. */
  length: bytes.multipleOf(512).exactOptional(),
  /** Opened in place of `path`: a descriptor of another process (/proc/<pid>/fd/<n>), which survives renames. */
  openPath: z.string().min(1).exactOptional(),
  /** False: the guest is not offered discard. */
  discard: z.boolean().exactOptional(),
});

/** Paths of PEM files; without `ca` the host's certificate authorities count. */
export const tlsSpecSchema = z.strictObject({
  ca: z.string().min(1).exactOptional(),
  certificate: z.string().min(1).exactOptional(),
  key: z.string().min(1).exactOptional(),
  /** Name that the server's certificate must carry when it is not the host's. */
  serverName: z.string().min(1).exactOptional(),
  /** False: the certificate is not checked (encrypted, but to whomever). */
  verify: z.boolean().exactOptional(),
});

/** An export of an NBD server. */
export const nbdSpecSchema = z.strictObject({
  kind: z.literal("nbd"),
  address: z.union([
    z.strictObject({ host: z.string().min(1), port: z.number().int().min(1).max(65535) }),
    z.strictObject({ socket: z.string().min(1) }),
  ]),
  /** Name of the export; empty: the server's default one. */
  export: z.string().max(4096),
  readOnly: z.boolean(),
  tls: tlsSpecSchema.exactOptional(),
  discard: z.boolean().exactOptional(),
  /** Seconds that a request waits for a server that is gone before it fails with EIO. */
  deadlineSeconds: z.number().positive().max(86_400).exactOptional(),
});

/** One file of a chain of images. */
const layerSchema = z.strictObject({
  /** Absolute path; also the name in messages. */
  path: z.string().min(1),
  /** Opened in place of `path`, as FileSpec.openPath. */
  openPath: z.string().min(1).exactOptional(),
  format: z.enum(["raw", "qcow2"]),
});

/**
 * A qcow2 image with the images behind it. Whoever makes the spec has followed the backing file names in the headers
 * (disk/chain.ts): the store opens these files and no others.
 */
export const qcow2SpecSchema = z.strictObject({
  kind: z.literal("qcow2"),
  path: z.string().min(1),
  openPath: z.string().min(1).exactOptional(),
  readOnly: z.boolean(),
  /** False: the guest is not offered discard. */
  discard: z.boolean().exactOptional(),
  /** Nearest first; only the last may be raw. */
  backing: z.array(layerSchema).max(200),
});

export const storeSpecSchema = z.discriminatedUnion("kind", [fileSpecSchema, qcow2SpecSchema, nbdSpecSchema]);

export type ImageLayer = z.infer<typeof layerSchema>;
export type Qcow2Spec = z.infer<typeof qcow2SpecSchema>;
export type FileSpec = z.infer<typeof fileSpecSchema>;
export type NbdSpec = z.infer<typeof nbdSpecSchema>;
export type TlsSpec = z.infer<typeof tlsSpecSchema>;
export type StoreSpec = z.infer<typeof storeSpecSchema>;
