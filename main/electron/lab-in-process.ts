/**
 * The lab of the window: the one that runs already, of the command line or of a served app, else one in this process, which
 * has the machines' processes made by Electron. Renderers reach either over its socket.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { ProcessStarter } from "../../engine/domain/process-starter.ts";
import { homeLab } from "../app/home-lab.ts";
import type { LabAccess, LinkClient } from "../app/lab-link.ts";
import { connectHome } from "../lab/server/ensure-lab.ts";
import { LabServer, type LabServerOptions } from "../lab/server/lab-server.ts";
import { StoreError } from "../lab/store/errors.ts";

/** How long a lab may hold the folder without being reached: it is ending, or about to serve. */
const IN_USE_WAIT_MS = 10_000;
const IN_USE_LOOK_MS = 100;

/** What is used of LabServer; a test has a smaller one. */
export type OwnLab = Pick<LabServer, "quit" | "ended">;

export interface LabSettings {
  readonly home: string;
  readonly version: string;
  readonly startProcess: ProcessStarter;
  /** In place of LabServer.open, for tests. */
  readonly open?: (options: LabServerOptions) => Promise<OwnLab>;
}

export class LabInProcess implements LabAccess {
  private readonly settings: LabSettings;
  private own: OwnLab | undefined;
  /** One attempt at a time: windows that come meanwhile find the lab running. */
  private last: Promise<unknown> = Promise.resolve();
  private quitting: Promise<string[]> | undefined;

  constructor(settings: LabSettings) {
    this.settings = settings;
  }

  /** @throws StoreError, BadInput: one line with cause and remedy */
  open(): Promise<LinkClient> {
    const opened = this.last.then(() => this.openNow());
    this.last = opened.catch(() => {});
    return opened;
  }

  private async openNow(): Promise<LinkClient> {
    const { home } = this.settings;
    for (const end = Date.now() + IN_USE_WAIT_MS; ; await delay(IN_USE_LOOK_MS)) {
      const running = await connectHome(home);
      if (running !== undefined) return running;
      if (this.quitting !== undefined) throw new Error("the app is being ended");
      try {
        await this.start();
      } catch (error) {
        const isInUse = error instanceof StoreError && error.code === "lab-in-use" && Date.now() < end;
        if (!isInUse) throw error;
      }
    }
  }

  private async start(): Promise<void> {
    const { home, version, startProcess, open = LabServer.open } = this.settings;
    const own = await open({ home, version, startProcess });
    this.own = own;
    void own.ended.then(() => {
      if (this.own === own) this.own = undefined;
    });
  }

  wasEnded(): Promise<boolean> {
    return homeLab(this.settings.home, this.settings.version).wasEnded();
  }

  /** Whether quit() has machines to take care of. */
  get isOwn(): boolean {
    return this.own !== undefined;
  }

  /**
   * Ends the lab if it is this process's own: machines are suspended, or what they are set to.
   * @returns notes for the user, when all has ended
   */
  quit(): Promise<string[]> {
    this.quitting ??= this.last.then(async () => {
      const { own } = this;
      const notes = (await own?.quit(undefined)) ?? [];
      await own?.ended;
      return notes;
    });
    return this.quitting;
  }
}
