/**
 * What the app process answers by itself, beside all that it passes on to the lab (main/lab/control-api.ts): the same kind of
 * table, and the events that it sends unasked. Byte strings travel as base64.
 */
import { z } from "zod";

const nothing = z.strictObject({});
const shell = z.int().positive();
const columns = z.int().min(1).max(10_000);
const rows = z.int().min(1).max(10_000);

/** Bytes of a host shell's output that are sent before any of them is acknowledged. */
export const SHELL_WINDOW = 256 * 1024;

/** Largest configuration that readConfig() reads. */
export const MOST_CONFIG_BYTES = 1 << 20;

/** Files that a dialog shows, by the ends of their names, without dots. */
const fileFilter = z.strictObject({
  name: z.string().min(1).max(64),
  extensions: z
    .array(z.string().regex(/^[A-Za-z0-9]{1,16}$/))
    .min(1)
    .max(32),
});
export type FileFilter = z.infer<typeof fileFilter>;

export const appApi = {
  appInfo: {
    parameters: nothing,
    result: z.object({
      /** The window of Electron, or a browser that `domlab serve` serves. */
      shell: z.enum(["electron", "served"]),
      version: z.string(),
      /** What this connection is called in uploads: what it has sent and not imported goes when it ends. */
      page: z.string(),
      /** Folder of the lab. */
      home: z.string(),
      hostname: z.string(),
      /** As Node names it: "linux", "darwin", "win32". */
      platform: z.string(),
      /** Whether pickFile() can be asked; without it files are uploaded, or named by path. */
      canPickFiles: z.boolean(),
      /** Largest file that the upload takes; 0 where there is none. */
      mostUploadBytes: z.int().nonnegative(),
    }),
  },
  /** Starts the lab again that was ended on purpose (event "lab" with `ended`). */
  labStart: { parameters: nothing, result: nothing },
  /** A shell of the user's on the host. Its output comes as "shell" events, its end as "shell-end". */
  shellOpen: { parameters: z.strictObject({ columns, rows }), result: z.object({ shell }) },
  shellWrite: { parameters: z.strictObject({ shell, data: z.base64().max(1 << 20) }), result: nothing },
  /** So many more bytes of output were dealt with; more is sent while less than SHELL_WINDOW is unacknowledged. */
  shellAcknowledge: { parameters: z.strictObject({ shell, bytes: z.int().nonnegative() }), result: nothing },
  shellResize: { parameters: z.strictObject({ shell, columns, rows }), result: nothing },
  /** Ends it, as closing a terminal's window does. */
  shellClose: { parameters: z.strictObject({ shell }), result: nothing },
  /**
   * The system's dialog for a file; null when the user left it. The first filter is the one that is set at first; files of
   * every kind can be chosen as well.
   */
  pickFile: {
    parameters: z.strictObject({ title: z.string().max(256), filters: z.array(fileFilter).max(8).optional() }),
    result: z.object({ path: z.string().nullable() }),
  },
  /** The text of a configuration of xl's on the host: a plain file whose name ends in .cfg, of at most MOST_CONFIG_BYTES. */
  readConfig: {
    parameters: z.strictObject({ path: z.string().min(1).max(8192) }),
    result: z.object({ text: z.string() }),
  },
  /** Shows a page in the user's browser; http and https only. */
  openExternal: { parameters: z.strictObject({ url: z.url({ protocol: /^https?$/ }).max(8192) }), result: nothing },
} as const;

export type AppMethod = keyof typeof appApi;
export type AppParameters<Method extends AppMethod> = z.infer<(typeof appApi)[Method]["parameters"]>;
export type AppResult<Method extends AppMethod> = z.infer<(typeof appApi)[Method]["result"]>;
export type AppFunctions = {
  readonly [Method in AppMethod]: (parameters: AppParameters<Method>) => AppResult<Method> | Promise<AppResult<Method>>;
};

/** What the app process sends to the renderer, beside the lab's events (labEvent). */
export const appEvent = z.discriminatedUnion("kind", [
  /**
   * The lab went away, or is there again: what was subscribed and attached is gone and must be asked for anew. While it is
   * down `line` says why; with `ended` it was ended on purpose and is started by labStart() only.
   */
  z.object({
    kind: z.literal("lab"),
    state: z.enum(["up", "down"]),
    line: z.string().optional(),
    ended: z.boolean().optional(),
  }),
  z.object({ kind: z.literal("shell"), shell, data: z.base64() }),
  /** Exit status; 128 and the signal's number after a signal. */
  z.object({ kind: z.literal("shell-end"), shell, status: z.int() }),
  /** A file that the user opened with the app. */
  z.object({ kind: z.literal("open-file"), path: z.string() }),
]);
export type AppEvent = z.infer<typeof appEvent>;

export function isAppMethod(name: string): name is AppMethod {
  return Object.hasOwn(appApi, name);
}
