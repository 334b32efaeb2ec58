/**
 * What the store keeps of a saved domain, as plain JSON: part of a snapshot file, so it may come from anybody. The
 * schema bounds sizes and counts and knows what is well-formed; restoreDomain() checks the rest.
 */
import { z } from "zod";
import { XS_ABSOLUTE_PATH_MAX, XS_FEATURES, XS_PAYLOAD_MAX } from "../abi/xs-wire.ts";
import { InputError } from "../errors/input-error.ts";
import { FIRST_RESERVED_DOMAIN } from "./permissions.ts";
import { encodeValue, MESSAGE_MAX } from "./protocol.ts";
import { DEFAULT_QUOTAS, type QuotaName } from "./quota.ts";

/** A saved store that cannot be restored, or a domain that cannot be saved. */
export class StoreStateError extends InputError<"damaged" | "over-quota" | "too-large"> {}

/** Nodes that a saved domain may have; many times what the quota of a guest permits. */
const SAVED_NODES_MAX = 4096;
/** Characters of all their paths, which bounds the work too: more than a guest's quota lets it write. */
const SAVED_PATHS_MAX = 5 * 2 ** 19;
/** Replies, messages and events that may wait for it. */
const SAVED_REPLIES_MAX = 1024;
const SAVED_EVENTS_MAX = 1000;
const SAVED_WATCHES_MAX = 4096;
const SAVED_TRANSACTIONS_MAX = 1024;
/** Largest stamp that a file can make a store pass: far above any count of changes, far below the end of numbers. */
export const STAMP_MAX = 2 ** 48;

const base64 = (bytes: number) => z.base64().max(4 * Math.ceil(bytes / 3));
const uint32 = z.int().min(0).max(0xffff_ffff);
const domid = z.int().min(1).lt(FIRST_RESERVED_DOMAIN);

/** Latin-1 text without NUL, as paths and tokens are. */
const text = z
  .string()
  .max(XS_PAYLOAD_MAX)
  .refine((string) => [...string].every((character) => character > "\0" && character <= "\u00ff"));

/** UTF-8 text, or any bytes as base64. */
const value = z.union([
  z
    .string()
    .max(XS_PAYLOAD_MAX)
    .refine((string) => encodeValue(string).length <= XS_PAYLOAD_MAX),
  z.strictObject({ base64: base64(XS_PAYLOAD_MAX) }),
]);

const savedNodeSchema = z.strictObject({
  /** Below the domain's home, without a slash at the front. */
  path: z
    .string()
    .max(XS_ABSOLUTE_PATH_MAX)
    .regex(/^[A-Za-z0-9\-_@]+(\/[A-Za-z0-9\-_@]+)*$/),
  value,
  /** As SET_PERMS takes them: the owner's entry, then at most one of domain 0 and one of the saved domain. */
  permissions: z
    .array(z.string().regex(/^[rwbn][0-9]{1,5}$/))
    .min(1)
    .max(3),
});

const savedConnectionSchema = z.strictObject({
  /** Bytes of requests that are not performed: part of a message, or what waits for replies to be read. */
  input: base64(2 * MESSAGE_MAX),
  /** Messages that were sent and not reported as taken; their bytes are with the relay. */
  sent: z.array(z.strictObject({ length: z.int().min(1).max(MESSAGE_MAX), reply: z.boolean() })).max(SAVED_REPLIES_MAX),
  /** Whole messages that wait to be sent. */
  replies: z.array(base64(MESSAGE_MAX)).max(SAVED_REPLIES_MAX),
  events: z.array(z.strictObject({ path: text, token: text })).max(SAVED_EVENTS_MAX),
  /** As registered: a path may be relative or name an earlier number of the domain. */
  watches: z
    .array(z.strictObject({ path: text, token: text, depth: z.int().min(0).max(9999).exactOptional() }))
    .max(SAVED_WATCHES_MAX),
  transactions: z.array(uint32.min(1)).max(SAVED_TRANSACTIONS_MAX),
  nextTransaction: uint32,
});

const quotaNames = Object.keys(DEFAULT_QUOTAS) as [QuotaName, ...QuotaName[]];

export const savedStoreSchema = z.strictObject({
  /** Its number when it was saved. */
  domain: domid,
  /** Numbers that it had before, the first one first. */
  aliases: z.array(domid).max(FIRST_RESERVED_DOMAIN),
  /** Stamp of the store's latest change; the guest may remember some of them (DIRECTORY_PART). */
  generation: z.int().min(0),
  /** Parents before their children; the home itself is not among them. */
  nodes: z
    .array(savedNodeSchema)
    .max(SAVED_NODES_MAX)
    .refine((nodes) => nodes.reduce((sum, { path }) => sum + path.length, 0) <= SAVED_PATHS_MAX),
  /** Quotas that were not those of a new domain. */
  quotas: z.partialRecord(z.enum(quotaNames), z.int().min(0).max(999_999_999)),
  features: z.int().min(0).max(XS_FEATURES),
  /** Domain whose rights it had as well (SET_TARGET). */
  target: z.int().min(0).lt(FIRST_RESERVED_DOMAIN).exactOptional(),
  /** Left out: the connection was over. */
  connection: savedConnectionSchema.exactOptional(),
});

export type SavedNode = z.infer<typeof savedNodeSchema>;
export type SavedConnection = z.infer<typeof savedConnectionSchema>;
export type SavedStore = z.infer<typeof savedStoreSchema>;

export function damaged(what: string): StoreStateError {
  return new StoreStateError(
    "damaged",
    `the snapshot's XenStore data is damaged (${what})`,
    "restore from another snapshot",
  );
}

/** Reads what a file says. @throws StoreStateError */
export function parseSavedStore(saved: unknown): SavedStore {
  const parsed = savedStoreSchema.safeParse(saved);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw damaged(`${issue?.path.join(".") ?? ""}: ${issue?.message ?? ""}`.slice(0, 200));
}

/** A node's value as JSON keeps it. */
export function saveValue(bytes: Uint8Array): SavedNode["value"] {
  try {
    // A byte order mark is part of the value.
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return { base64: Buffer.from(bytes).toString("base64") };
  }
}

export function restoreValue(value: SavedNode["value"]): Uint8Array {
  return typeof value === "string" ? encodeValue(value) : Uint8Array.from(Buffer.from(value.base64, "base64"));
}
