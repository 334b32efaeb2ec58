/** A lab that can be killed, ended and started again, reached over a real control socket. */
import { mkdtempSync, realpathSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import type { LabAccess } from "../../../main/app/lab-link.ts";
import { BadInput } from "../../../main/failure.ts";
import type { ControlFunctions, ControlSession } from "../../../main/lab/control-api.ts";
import { ControlClient } from "../../../main/lab/control-client.ts";
import { type ControlServer, serveControl } from "../../../main/lab/control-server.ts";

export type Partly = { readonly [Method in keyof ControlFunctions]?: ControlFunctions[Method] };

export class FakeLab implements LabAccess {
  readonly folder = realpathSync(mkdtempSync(path.join(os.tmpdir(), "domlab-app-")));
  /** How often the lab was started. */
  starts = 0;
  /** Whether a start fails. */
  broken = false;
  /** Connections of now. */
  clients = 0;
  /** The session of the last call to `subscribe`. */
  session: ControlSession | undefined;
  private readonly functions: Partly;
  private server: ControlServer | undefined;
  private starting: Promise<void> | undefined;
  private endedOnPurpose = false;

  constructor(functions: Partly = {}) {
    this.functions = functions;
  }

  private get socket(): string {
    return path.join(this.folder, "control");
  }

  private async begin(): Promise<void> {
    this.starts++;
    const functions: Partly = {
      subscribe: (_, session) => {
        this.session = session;
        return {};
      },
      ...this.functions,
    };
    // Only the rows that a test asks for are there.
    this.server = await serveControl(functions as ControlFunctions, this.socket, (clients) => {
      this.clients = clients;
    });
  }

  async open(): Promise<ControlClient> {
    if (this.broken) throw new BadInput("bad-folder", "the lab's disk is full", "free some space");
    if (this.server === undefined) this.starting ??= this.begin().finally(() => (this.starting = undefined));
    await this.starting;
    return await ControlClient.connect(this.socket);
  }

  async wasEnded(): Promise<boolean> {
    return this.endedOnPurpose;
  }

  /** Ends the lab. @param onPurpose and not as by a crash */
  async end(onPurpose: boolean): Promise<void> {
    this.endedOnPurpose = onPurpose;
    const { server } = this;
    this.server = undefined;
    await server?.close();
  }

  async close(): Promise<void> {
    this.broken = true;
    await this.end(true);
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Waits until `condition` holds; throws with `what` when it does not within ten seconds. */
export async function until(what: string, condition: () => boolean): Promise<void> {
  const end = Date.now() + 10_000;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
