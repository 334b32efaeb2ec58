/** What a running program offers to tools: its XenStore and its control functions, each on a socket. */
import { rmSync } from "node:fs";
import { errnoOf } from "../../engine/builder/errors.ts";
import type { Xenstored } from "../../engine/xenstore/daemon.ts";
import { serveXenstoreSocket } from "../../engine/xenstore/socket-server.ts";
import { BadInput } from "../failure.ts";
import type { ControlFunctions } from "./control-api.ts";
import { serveControl } from "./control-server.ts";
import { connectLab, isTaken } from "./find-lab.ts";
import { allLabSockets, type LabSockets, labSockets, openRuntimeFolder } from "./runtime-folder.ts";

/** Labs of one name at the same time; far more than a host can carry. */
const MOST_TWINS = 1000;

export interface ServedLab {
  /** The name wanted, or that with a number while another lab has it. */
  readonly name: string;
  readonly sockets: LabSockets;
  /** Ends all connections and removes the sockets. */
  close(): Promise<void>;
}

function removeFiles(sockets: LabSockets): void {
  for (const file of [sockets.control, sockets.xenstore]) rmSync(file, { force: true });
}

/** Removes the sockets of labs that died without doing so. */
async function sweep(root: string): Promise<void> {
  for (const sockets of allLabSockets(root)) {
    const client = await connectLab(sockets);
    if (client === undefined) removeFiles(sockets);
    client?.close();
  }
}

/** Serves both sockets; undefined when another program took the name at the same moment. */
async function serve(
  xenstore: Xenstored,
  functions: ControlFunctions,
  sockets: LabSockets,
  onClients: ((clients: number) => void) | undefined,
): Promise<(() => Promise<void>) | undefined> {
  try {
    const control = await serveControl(functions, sockets.control, onClients);
    try {
      const store = await serveXenstoreSocket(xenstore, sockets.xenstore);
      return async () => {
        await Promise.all([control.close(), store.close()]);
      };
    } catch (error) {
      await control.close();
      throw error;
    }
  } catch (error) {
    const code = errnoOf(error);
    if (code === "EADDRINUSE") return undefined;
    throw new BadInput(
      "bad-folder",
      `${sockets.control} cannot be made (${code ?? "unknown error"})`,
      "set XDG_RUNTIME_DIR to a folder of your own with mode 0700",
      error,
    );
  }
}

/**
 * Makes a lab reachable as `name`, or `name-2` and so on while others of that name run.
 * @param functions what it offers, given the name it got
 * @param onClients called when the number of control connections has changed
 * @throws BadInput for a runtime folder that cannot be used
 */
export async function serveLab(
  root: string,
  name: string,
  xenstore: Xenstored,
  functions: (name: string) => ControlFunctions,
  onClients?: (clients: number) => void,
): Promise<ServedLab> {
  openRuntimeFolder(root);
  await sweep(root);
  for (let twin = 1; twin <= MOST_TWINS; twin++) {
    const own = twin === 1 ? name : `${name}-${twin}`;
    if (await isTaken(root, own)) continue;
    const sockets = labSockets(root, own);
    const stop = await serve(xenstore, functions(own), sockets, onClients);
    if (stop === undefined) continue;
    // A process that leaves in a hurry removes its files all the same.
    const onExit = () => removeFiles(sockets);
    process.on("exit", onExit);
    return {
      name: own,
      sockets,
      async close() {
        process.removeListener("exit", onExit);
        await stop();
      },
    };
  }
  throw new Error(`${MOST_TWINS} labs called ${name} are running`);
}
