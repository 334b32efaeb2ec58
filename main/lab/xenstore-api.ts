/** The rows of the control table that are about XenStore (control-api.ts), and the event of a watch. */
import { z } from "zod";

const nothing = z.strictObject({});
const path = z.string().min(1).max(3072);
/** What a node holds: text as it is, other bytes as base64. */
const content = { value: z.string(), encoding: z.enum(["text", "base64"]) };
/** As SET_PERMS takes them ("n0", "r7"), the owner's first. */
const permissions = z.array(z.string());

const node = z.object({ ...content, name: z.string(), permissions, hasChildren: z.boolean() });
export type XenstoreNode = z.infer<typeof node>;

export const xenstoreApi = {
  /** The children of a node, in the order of their names. */
  xenstoreList: { parameters: z.strictObject({ path }), result: z.object({ children: z.array(node) }) },
  xenstoreRead: {
    parameters: z.strictObject({ path }),
    result: z.object({ ...content, permissions, children: z.int() }),
  },
  /** Makes the node and its ancestors where they are missing. */
  xenstoreWrite: {
    parameters: z.strictObject({
      path,
      value: z.string().max(8192),
      encoding: z.enum(["text", "base64"]).default("text"),
    }),
    result: nothing,
  },
  /** With all that is below. */
  xenstoreRemove: { parameters: z.strictObject({ path }), result: nothing },
  xenstoreSetPermissions: {
    parameters: z.strictObject({ path, permissions: z.array(z.string().max(16)).min(1).max(64) }),
    result: nothing,
  },
  /** Events come to this connection until it ends or xenstoreUnwatch() is called; the first one at once. */
  xenstoreWatch: { parameters: z.strictObject({ path }), result: z.object({ watch: z.int() }) },
  xenstoreUnwatch: { parameters: z.strictObject({ watch: z.int() }), result: nothing },
} as const;

/**
 * Something at or below `path` has changed. Changes that come together are told as one, with the path that they have
 * in common; at most 20 events a second come of a watch.
 */
export const xenstoreEvent = z.object({ kind: z.literal("xenstore"), watch: z.int(), path: z.string() });
