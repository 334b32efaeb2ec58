/** The app served to browsers: from the claim on the lab's folder to the end. */
import { existsSync } from "node:fs";
import { mkdir, realpath } from "node:fs/promises";
import { dirname, join } from "node:path";
import { compiledPath } from "../../engine/domain/entry.ts";
import { homeLab } from "../app/home-lab.ts";
import { userShell } from "../app/host-shell.ts";
import type { AppHost } from "../app/renderer-session.ts";
import { BadInput } from "../failure.ts";
import { readAppFile } from "./app-file.ts";
import { AppServer } from "./app-server.ts";
import { hasDisplay, showLink } from "./browser.ts";
import { findApp, Instance, type InstancePlace } from "./instance.ts";
import { listenSomewhere } from "./ports.ts";
import { sessionKey } from "./session-cookies.ts";

export interface ServePlace {
  /** Folder of the lab; made when it does not exist. */
  readonly home: string;
  /** Folder for sockets. */
  readonly root: string;
}

export interface ServeOptions extends ServePlace {
  readonly version: string;
  readonly port?: number;
  /** Address to bind in place of loopback. */
  readonly address?: string;
  readonly mostUploadBytes: number;
  /** Whether to show the link in the host's browser, where there is a screen. */
  readonly open: boolean;
  readonly json: boolean;
  /** Takes what belongs on standard output: the link. */
  readonly print: (text: string) => void;
  /** Takes a line for standard error. */
  readonly say: (line: string) => void;
}

/** One spelling of the lab's folder, so that its lock, its socket and its cookie are always the same. */
async function place({ home, root }: ServePlace): Promise<InstancePlace> {
  await mkdir(home, { recursive: true, mode: 0o700 });
  return { home: await realpath(home), root };
}

/** Folder of a clone's `domlab` command; undefined elsewhere. */
function programFolder(): string | undefined {
  const folder = join(dirname(compiledPath(import.meta.url, "../..")), "node_modules", ".bin");
  return existsSync(join(folder, "domlab")) ? folder : undefined;
}

async function announce(
  { json, print, say, open }: ServeOptions,
  facts: { readonly url: string; readonly port: number; readonly pid: number; readonly home: string },
  before: boolean,
): Promise<void> {
  print(json ? `${JSON.stringify({ ...facts, running: before })}\n` : `${facts.url}\n`);
  if (before) say(`the interface is served already, by process ${facts.pid}; this new link is good for one browser`);
  else {
    say("open the link in a browser, within ten minutes; another one is had with: domlab serve --link");
    say("Ctrl-C ends the interface; the lab and its machines go on (domlab lab quit ends those)");
  }
  if (open && hasDisplay() && !(await showLink(facts.url, facts.home)))
    say("no browser could be opened; open the link yourself");
}

/** Until a signal, or a call of the returned `stop`. */
function untilStopped(): { readonly stopped: Promise<void>; readonly stop: () => void } {
  let stop: () => void = () => {};
  const stopped = new Promise<void>((resolve) => {
    stop = resolve;
  });
  const signals = ["SIGINT", "SIGTERM"] as const;
  for (const signal of signals) process.on(signal, stop);
  void stopped.then(() => {
    // The next one ends the process as it would any other.
    for (const signal of signals) process.off(signal, stop);
  });
  return { stopped, stop };
}

/**
 * Serves the interface until Ctrl-C, or tells where it is served already.
 * @returns the exit status
 * @throws BadInput, StoreError: one line with cause and remedy
 */
export async function serve(options: ServeOptions): Promise<number> {
  const { version, mostUploadBytes, address, port, say } = options;
  const where = await place(options);
  const { home } = where;
  const instance = await Instance.claim(where);
  if (!(instance instanceof Instance)) {
    if (port !== undefined && port !== instance.port) say(`--port ${port} is not looked at: it runs already`);
    await announce(options, { url: await instance.link(), port: instance.port, pid: instance.pid, home }, true);
    return 0;
  }
  const { stopped, stop } = untilStopped();
  try {
    const [key, remembered] = await Promise.all([sessionKey(join(home, "app.key")), readAppFile(home)]);
    const programs = programFolder();
    const host: AppHost = {
      shell: "served",
      version,
      home,
      mostUploadBytes,
      lab: homeLab(home, version),
      startShell: userShell({ home, ...(programs !== undefined && { programs }) }),
      say,
    };
    const renderer = compiledPath(import.meta.url, "../../renderer");
    const listen = (candidate: number) =>
      AppServer.listen({ host, renderer, key, ...(address !== undefined && { address }) }, candidate);
    const wish = { ...(port !== undefined && { port }), ...(remembered && { remembered: remembered.port }) };
    const server = await listenSomewhere(wish, listen, say);
    try {
      const info = () => ({ pid: process.pid, port: server.port });
      await instance.serve({ info, link: () => server.link(), stop });
      await announce(options, { url: server.link(), ...info(), home }, false);
      await stopped;
    } finally {
      await server.close();
    }
  } finally {
    await instance.close();
  }
  return 0;
}

/** A new link of the app that runs. @throws BadInput when none does */
export async function linkOfRunning(where: ServePlace): Promise<{ url: string; port: number; pid: number }> {
  const other = await findApp(await place(where));
  if (other === undefined) {
    throw new BadInput("bad-option", "the interface is not being served", "start it: domlab serve");
  }
  return { url: await other.link(), port: other.port, pid: other.pid };
}

/** Ends the app that runs. @returns its process; undefined when none did */
export async function stopRunning(where: ServePlace): Promise<number | undefined> {
  const other = await findApp(await place(where));
  await other?.stop();
  return other?.pid;
}
