/**
 * The memory of a restored guest on its way from the snapshot file into the domain: first what others than its vCPU look at
 * without asking, then, while the guest runs already, the rest.
 */
import { Arrivals } from "../memory/arrival.ts";
import { type FramePlan, planFrames } from "../memory/frame-plan.ts";
import { openMappedPath } from "../memory/mapped.ts";
import { BackgroundLoader } from "../snapshot/background-loader.ts";
import type { GuestState } from "../snapshot/guest-state.ts";
import type { DomainStart } from "./config.ts";
import type { OpenGuest } from "./guest-restore.ts";

/** How long a guest that has come back has the processors, until the rest of its memory is loaded, ms. */
const CALM_MS = 250;
/** The same for one that does not come back, ms. */
const LONGEST_CALM_MS = 5000;

export class GuestLoad {
  /** Fulfilled when the guest may run: the file is verified, and what must be there is. Rejects with a SnapshotError. */
  readonly ready: Promise<void>;
  /** Fulfilled when all is loaded, or is about to be by the guest's own thread. Rejects as ready. */
  readonly finished: Promise<void>;
  /** How the guest's process opens the snapshot file. */
  readonly pages: NonNullable<DomainStart["pages"]>;
  private readonly abort = new AbortController();
  /** Ends the time in which only what is waited for is loaded. */
  private readonly calm = new AbortController();
  private readonly free: () => Promise<void>;
  private closed: Promise<void> | undefined;

  /**
   * @param saved its file is given away: close() closes it
   * @param memory path of the memory of a domain that nobody knows yet
   */
  constructor({ file, state }: OpenGuest, memory: string) {
    const plan = planFrames(file.ramBytes);
    this.pages = { path: file.lasting, name: file.path };
    // Of its own: the domain's descriptor is closed when the domain ends, and its number may be another file's then.
    const opened = openMappedPath(memory, plan);
    const mapping = opened.attach();
    const { token } = opened;
    const descriptor = token.kind === "mapped" ? token.descriptor : -1;
    const loader = new BackgroundLoader(file, mapping, descriptor);
    loader.begin();
    const { signal } = this.abort;
    const first = this.loadFirst(loader, plan, state);
    this.ready = Promise.all([first, file.verify({ signal })]).then(() => undefined);
    const until = AbortSignal.any([signal, this.calm.signal]);
    this.loadRestIn(LONGEST_CALM_MS);
    const rest = this.ready.then(() => loader.serveWishes(until)).then(() => loader.loadRest({ signal }));
    // Whoever waits for a page must not wait for ever, least of all a backend that serves other guests too.
    const arrivals = new Arrivals(mapping);
    this.finished = rest.catch((error: unknown) => {
      arrivals.abandon();
      throw error;
    });
    this.free = async () => {
      await Promise.allSettled([first, this.ready, this.finished]);
      // What the guest's thread was at when it ended stays away too.
      arrivals.abandon();
      mapping.release();
      opened.close();
      await file.close();
    };
    // Whoever waits for them hears of it.
    for (const each of [this.ready, this.finished]) each.catch(() => {});
  }

  /** The special frames, and the pages in which senders of events set bits. */
  private async loadFirst(loader: BackgroundLoader, plan: FramePlan, state: GuestState): Promise<void> {
    await loader.loadNow(plan.ramBytes, plan.control);
    for (const { infoOffset } of state.domain.vcpus) await loader.loadNow(infoOffset, infoOffset + 1);
  }

  /** The guest runs now: what it and others do not ask for comes a moment later. */
  resumed(): void {
    this.loadRestIn(CALM_MS);
  }

  /** With a timer that lives as long as this: one of AbortSignal.timeout() may be collected before it fires. */
  private loadRestIn(ms: number): void {
    const timer = setTimeout(() => this.calm.abort(), ms);
    this.abort.signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
  }

  /** Has the rest loaded now. */
  hurry(): void {
    this.calm.abort();
  }

  /** Waits for work of the guest that needs memory. @throws as ready when that does not come */
  async during(work: Promise<void>): Promise<void> {
    await Promise.race([work, this.finished.then(() => work)]);
  }

  /** Lets go of file and memory, once nothing uses them any more; what has not been loaded stays away. */
  close(): Promise<void> {
    this.abort.abort();
    this.closed ??= this.free();
    return this.closed;
  }
}
