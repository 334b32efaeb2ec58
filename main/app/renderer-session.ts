/**
 * One renderer: a browser's tab or a window of Electron. Calls to the lab are passed on over a connection of its own, so that
 * subscriptions and attached consoles end with it; the app's own rows (app-api.ts) are answered here.
 */
import { randomUUID } from "node:crypto";
import { hostname } from "node:os";
import { z } from "zod";
import { BadInput, EXIT_BAD_INPUT, explain } from "../failure.ts";
import {
  type ControlAnswer,
  type ControlMethod,
  type ControlWire,
  type EventWire,
  isControlMethod,
} from "../lab/control-api.ts";
import type { LabEvent } from "../lab/machine-api.ts";
import { type AppEvent, type AppFunctions, type AppMethod, appApi, type FileFilter, isAppMethod } from "./app-api.ts";
import { readConfig } from "./config-text.ts";
import { HostShells, type StartShell } from "./host-shell.ts";
import { type LabAccess, LabLink } from "./lab-link.ts";
import { type Transport, transportChannel } from "./transport.ts";

/** Most calls of one renderer that are under way; the lab has the same limit for a connection. */
const MOST_CALLS = 256;

/** What the shell around the renderer is and can do. */
export interface AppHost {
  readonly shell: "electron" | "served";
  readonly version: string;
  /** Folder of the lab. */
  readonly home: string;
  /** Largest upload, bytes; 0 where there is none. */
  readonly mostUploadBytes: number;
  readonly lab: LabAccess;
  readonly startShell: StartShell;
  /** Dialog for a file; absent where there is none. */
  readonly pickFile?: (title: string, filters: readonly FileFilter[]) => Promise<string | null>;
  /** Shows a page in the user's browser; absent where the renderer is in it. */
  readonly openExternal?: (url: string) => Promise<void>;
  /** Keeper of files that renderers have sent; absent where they send none. */
  readonly uploads?: UploadKeeper;
  /** Takes a line about what went wrong and is no answer to a call. */
  readonly say: (line: string) => void;
}

/** Told of the calls by which the lab takes files over (`move`). */
export interface UploadKeeper {
  handedOver(path: string): void;
  /** Such a call was not done while the renderer was there. */
  refused(path: string): void;
}

export interface RendererSession {
  /** What it is called in uploads. */
  readonly page: string;
  /** Sends an event; after the end it does nothing. */
  send(event: AppEvent | LabEvent): void;
  /** Ends it. The lab goes on. */
  close(): void;
}

const refusal = (line: string): ControlAnswer => ({ ok: false, line, status: EXIT_BAD_INPUT });

/** The parameters of calls by which the lab takes a file over. */
const takingOver = z.object({ path: z.string(), move: z.literal(true) });

function appFunctions(host: AppHost, page: string, link: LabLink, shells: HostShells): AppFunctions {
  return {
    appInfo: () => ({
      page,
      shell: host.shell,
      version: host.version,
      home: host.home,
      hostname: hostname(),
      platform: process.platform,
      canPickFiles: host.pickFile !== undefined,
      mostUploadBytes: host.mostUploadBytes,
    }),
    labStart: () => {
      link.start();
      return {};
    },
    shellOpen: async ({ columns, rows }) => ({ shell: await shells.open(columns, rows) }),
    shellWrite: ({ shell, data }) => {
      shells.write(shell, Buffer.from(data, "base64"));
      return {};
    },
    shellAcknowledge: ({ shell, bytes }) => {
      shells.acknowledge(shell, bytes);
      return {};
    },
    shellResize: ({ shell, columns, rows }) => {
      shells.resize(shell, columns, rows);
      return {};
    },
    shellClose: ({ shell }) => {
      shells.close(shell);
      return {};
    },
    pickFile: async ({ title, filters = [] }) => {
      if (host.pickFile === undefined) {
        throw new BadInput("bad-option", "a browser shows no files of the host", "upload the file, or type its path");
      }
      return { path: await host.pickFile(title, filters) };
    },
    readConfig: async ({ path }) => ({ text: await readConfig(path) }),
    openExternal: async ({ url }) => {
      if (host.openExternal === undefined) {
        throw new BadInput("bad-option", "this is the browser already", "open the page in another tab");
      }
      await host.openExternal(url);
      return {};
    },
  };
}

/** Answers a row of the app's own. @throws whatever the function throws */
async function perform<Method extends AppMethod>(
  functions: AppFunctions,
  method: Method,
  parameters: unknown,
): Promise<ControlAnswer> {
  const row = appApi[method];
  const checked = row.parameters.safeParse(parameters);
  if (!checked.success) return refusal(`the app does not understand this ${method}; load the page again`);
  // The schema and the function are those of one row; the compiler does not see that rows match across two tables.
  const action = functions[method] as (given: unknown) => unknown;
  return { ok: true, result: row.result.parse(await action(checked.data)) };
}

/** Serves one renderer until its connection ends. */
export function serveRenderer(transport: Transport, host: AppHost): RendererSession {
  let open = true;
  let calls = 0;
  const send = (event: AppEvent | LabEvent) => {
    // Rejects only when the channel was closed at the same moment.
    if (open) rpc.event.asEvent(event)?.catch(() => {});
  };
  const link = new LabLink(host.lab, {
    event: send,
    state: (state) => {
      if (state.state === "up") return send({ kind: "lab", state: "up" });
      const { line, ended } = state;
      send({ kind: "lab", state: "down", line, ...(ended && { ended }) });
    },
  });
  const shells = new HostShells(host.startShell, send);
  const page = randomUUID();
  const functions = appFunctions(host, page, link, shells);
  const pass = async (method: ControlMethod, parameters: unknown): Promise<ControlAnswer> => {
    const taken = takingOver.safeParse(parameters);
    if (taken.success) host.uploads?.handedOver(taken.data.path);
    const answer = await link.call(method, parameters);
    // After the end of the connection nobody knows what the lab does with it.
    if (taken.success && !answer.ok && open) host.uploads?.refused(taken.data.path);
    return answer;
  };
  const answer = async (method: unknown, parameters: unknown): Promise<ControlAnswer> => {
    if (typeof method !== "string") return refusal("a call without a name; load the page again");
    if (isControlMethod(method)) return await pass(method, parameters);
    if (isAppMethod(method)) return await perform(functions, method, parameters);
    return refusal(`the app knows no ${method.slice(0, 64)}; load the page again`);
  };
  const wire: ControlWire = {
    async call(method, parameters) {
      if (calls >= MOST_CALLS) return refusal(`more than ${MOST_CALLS} calls at once; wait for answers`);
      calls++;
      try {
        return await answer(method, parameters);
      } catch (error) {
        const { line, status, stack } = explain(error);
        if (stack !== undefined) host.say(line);
        return { ok: false, line, status };
      } finally {
        calls--;
      }
    },
  };
  const rpc = transportChannel<EventWire, ControlWire>(transport, wire);
  transport.onClose(() => {
    open = false;
    link.close();
    shells.dispose();
  });
  link.start();
  return { page, send, close: () => transport.close() };
}
