/**
 * One app for a lab's folder. Who has the lock on app.lock is the one; others reach it over a Unix socket in the runtime
 * folder, where only the same user gets. app.json remembers the port for the next start.
 */
import { rm } from "node:fs/promises";
import { connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { z } from "zod";
import { errnoOf } from "../../engine/builder/errors.ts";
import { BadInput } from "../failure.ts";
import { lineChannel } from "../lab/line-channel.ts";
import { labSockets, openRuntimeFolder } from "../lab/runtime-folder.ts";
import { labName } from "../lab/server/server-file.ts";
import { replaceFile } from "../lab/store/durable-file.ts";
import { StoreError } from "../lab/store/errors.ts";
import { type LabLock, lockLab } from "../lab/store/lock.ts";
import { readAppFile } from "./app-file.ts";

/** How long one that has the lock may take until it can be reached or is gone, and between two looks, ms. */
const WAIT_MS = 10_000;
const LOOK_MS = 50;

const facts = z.object({ pid: z.int(), port: z.int() });

/** What a running app does for others. */
export interface InstanceFunctions {
  info(): z.infer<typeof facts>;
  /** A new one-time link. */
  link(): string;
  /** Ends the app; the lab and its machines go on. */
  stop(): void;
}

/** An app that runs in another process. */
export interface OtherApp {
  readonly pid: number;
  readonly port: number;
  link(): Promise<string>;
  /** Fulfilled when it has ended. */
  stop(): Promise<void>;
}

export interface InstancePlace {
  /** Folder of the lab, spelled in one way only. */
  readonly home: string;
  /** Folder for sockets. */
  readonly root: string;
}

function socketPath({ home, root }: InstancePlace): string {
  return labSockets(root, labName(home)).xenstore.replace(/\.xenstore$/, ".app");
}

function connected(path: string): Promise<Socket | undefined> {
  const socket = connect(path);
  return new Promise((resolve) => {
    socket.once("error", () => resolve(undefined));
    socket.once("connect", () => resolve(socket));
  });
}

type Wire = { readonly [Name in keyof InstanceFunctions]: () => Promise<unknown> };

/** Does something with the app that listens; undefined when none does, or it ends meanwhile. */
async function ask<Result>(path: string, action: (wire: Wire, ended: Promise<void>) => Promise<Result>) {
  const socket = await connected(path);
  if (socket === undefined) return undefined;
  const ended = new Promise<void>((resolve) => socket.once("close", () => resolve()));
  const wire = lineChannel<Wire, object>(socket, {});
  try {
    return await action(wire, ended);
  } catch {
    return undefined;
  } finally {
    socket.destroy();
  }
}

/** The app that runs for a lab's folder; undefined when none does. */
export async function findApp(place: InstancePlace): Promise<OtherApp | undefined> {
  const path = socketPath(place);
  const found = await ask(path, async (wire) => facts.parse(await wire.info()));
  if (found === undefined) return undefined;
  return {
    ...found,
    async link() {
      const link = await ask(path, async (wire) => z.string().parse(await wire.link()));
      if (link !== undefined) return link;
      throw new BadInput("bad-option", `the app in process ${found.pid} has just ended`, "start it: domlab serve");
    },
    async stop() {
      await ask(path, async (wire, ended) => {
        await wire.stop();
        await ended;
      });
    },
  };
}

async function listen(path: string, functions: InstanceFunctions): Promise<Server> {
  const wire: Wire = {
    info: async () => functions.info(),
    link: async () => functions.link(),
    stop: async () => functions.stop(),
  };
  const server = createServer((socket) => void lineChannel<object, Wire>(socket, wire));
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, () => resolve());
  });
  return server;
}

/** This process as the app of a lab's folder. */
export class Instance {
  private readonly place: InstancePlace;
  private readonly lock: LabLock;
  private server: Server | undefined;
  private readonly clients = new Set<Socket>();

  private constructor(place: InstancePlace, lock: LabLock) {
    this.place = place;
    this.lock = lock;
  }

  /** Becomes the app, or finds the one that is. @throws StoreError, BadInput; also when the other does not answer */
  static async claim(place: InstancePlace): Promise<Instance | OtherApp> {
    openRuntimeFolder(place.root);
    for (const end = Date.now() + WAIT_MS; ; await delay(LOOK_MS)) {
      try {
        return new Instance(place, await lockLab(join(place.home, "app.lock"), place.home));
      } catch (error) {
        if (!(error instanceof StoreError) || error.code !== "lab-in-use") throw error;
      }
      const other = await findApp(place);
      if (other !== undefined) return other;
      if (Date.now() < end) continue;
      const pid = (await readAppFile(place.home))?.pid;
      const who = pid === undefined ? "another process" : `process ${pid}`;
      throw new BadInput("bad-option", `the app for ${place.home} runs in ${who} and does not answer`, "end it first");
    }
  }

  /** Lets others reach this process, and remembers its port. @throws BadInput */
  async serve(functions: InstanceFunctions): Promise<void> {
    const path = socketPath(this.place);
    try {
      // Only one that died left it: we have the lock.
      await rm(path, { force: true });
      this.server = await listen(path, functions);
      this.server.on("connection", (socket) => {
        this.clients.add(socket);
        socket.once("close", () => this.clients.delete(socket));
      });
    } catch (error) {
      const remedy = "set XDG_RUNTIME_DIR to a folder of your own with mode 0700";
      throw new BadInput("bad-folder", `${path} cannot be made (${errnoOf(error) ?? "unknown error"})`, remedy, error);
    }
    const content = { pid: process.pid, port: functions.info().port, started: new Date().toISOString() };
    await replaceFile(join(this.place.home, "app.json"), `${JSON.stringify(content)}\n`);
  }

  /** Lets another process be the app. */
  async close(): Promise<void> {
    const { server } = this;
    // First, so that whoever sees the connection end can start the next one.
    const closed = server && new Promise<void>((resolve) => server.close(() => resolve()));
    await this.lock.release();
    for (const socket of this.clients) socket.destroy();
    await closed;
  }
}
