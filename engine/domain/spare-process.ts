/** A guest's process that waits, loaded and idle, so that the next start or restore need not wait for it. */
import { DomainChild } from "./child.ts";
import type { DomainHostFunctions, DomainProcessFunctions } from "./config.ts";
import { compiledPath } from "./entry.ts";
import { forkProcess, type ProcessStarter } from "./process-starter.ts";

export type GuestChild = DomainChild<DomainProcessFunctions, DomainHostFunctions>;

/** How long after a guest's start the next spare is made: until then the guest needs the processors. */
const DELAY_MS = 1500;

export class SpareProcess {
  private readonly keep: boolean;
  private readonly start: ProcessStarter;
  private spare: GuestChild | undefined;
  private timer: NodeJS.Timeout | undefined;
  private closed = false;

  /** @param keep false: no spare is kept, every process is made when it is wanted */
  constructor(keep: boolean, start: ProcessStarter = forkProcess) {
    this.keep = keep;
    this.start = start;
    this.soon();
  }

  private soon(): void {
    if (!this.keep || this.closed) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.make(), DELAY_MS).unref();
  }

  private make(): void {
    if (this.spare !== undefined || this.closed) return;
    const child = this.fork();
    this.spare = child;
    void child.gone.then(() => {
      if (this.spare === child) this.spare = undefined;
    });
  }

  private fork(): GuestChild {
    return new DomainChild(compiledPath(import.meta.url, "process-main.js"), {}, this.start);
  }

  /** A process that has not been used, the spare one if there is one. */
  take(): GuestChild {
    const child = this.spare?.connected ? this.spare : this.fork();
    this.spare = undefined;
    this.soon();
    return child;
  }

  /** Ends the spare process. */
  async close(): Promise<void> {
    this.closed = true;
    clearTimeout(this.timer);
    await this.spare?.kill();
  }
}
