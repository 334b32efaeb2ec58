/**
 * A connection to the lab that comes back: when the lab dies it is started again, with growing pauses; when it was ended on
 * purpose it stays down until somebody wants it back.
 */
import { setTimeout as delay } from "node:timers/promises";
import { explain } from "../failure.ts";
import type { ControlAnswer, ControlMethod } from "../lab/control-api.ts";
import type { ControlClient } from "../lab/control-client.ts";
import type { LabEvent } from "../lab/machine-api.ts";

/** Pauses between attempts, ms: the first is short, as most ends are crashes that a start heals. */
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 15_000;

export type LinkClient = Pick<ControlClient, "pass" | "onEvent" | "ended" | "close">;

/** How the lab is reached; the served form and Electron differ. */
export interface LabAccess {
  /** A connection to the lab, which is started when it does not run. @throws with the line for the user */
  open(): Promise<LinkClient>;
  /** After a connection has ended: whether the lab was ended on purpose, and did not crash. */
  wasEnded(): Promise<boolean>;
}

/** Where a link is: "ended" is down until start(). */
export type LinkState =
  | { readonly state: "up" }
  | { readonly state: "down"; readonly line: string; readonly ended: boolean };

export interface LinkListeners {
  /** After the first connection this is told of every change. */
  state(state: LinkState): void;
  event(event: LabEvent): void;
}

const ENDED_LINE = "the lab was ended; start it again to go on";

export class LabLink {
  private readonly access: LabAccess;
  private readonly listeners: LinkListeners;
  private client: LinkClient | undefined;
  private line = "";
  private ended = false;
  /** Whether the lab was up or down before: the first connection is no news. */
  private told = false;
  /** Fulfilled when the attempts that go on have led to something: a connection, or a failure that was told. */
  private settled: Promise<void> = Promise.resolve();
  private running = false;
  private readonly abort = new AbortController();

  constructor(access: LabAccess, listeners: LinkListeners) {
    this.access = access;
    this.listeners = listeners;
  }

  /** Connects, unless it is connected or about to be. */
  start(): void {
    if (this.running || this.client !== undefined || this.abort.signal.aborted) return;
    this.ended = false;
    this.running = true;
    this.settled = new Promise((resolve) => {
      void this.attempts(resolve).finally(() => {
        this.running = false;
        resolve();
      });
    });
  }

  /** Whether a call would reach the lab now. */
  get up(): boolean {
    return this.client !== undefined;
  }

  /** Passes a call on. Waits for a connection that is being made; while the lab is down the answer is why. */
  async call(method: ControlMethod, parameters: unknown): Promise<ControlAnswer> {
    await this.settled;
    const { client } = this;
    if (client === undefined) return { ok: false, line: this.line || "the lab is not reached any more", status: 2 };
    try {
      return await client.pass(method, parameters);
    } catch (error) {
      const { line, status } = explain(error);
      return { ok: false, line, status };
    }
  }

  /** Ends the connection for good; the lab goes on. */
  close(): void {
    this.abort.abort();
    const { client } = this;
    this.client = undefined;
    client?.close();
  }

  /** @param onFirst called after the first attempt, so that calls need not wait for further ones */
  private async attempts(onFirst: () => void): Promise<void> {
    const { signal } = this.abort;
    for (let pause = FIRST_PAUSE_MS; !signal.aborted; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
      try {
        const client = await this.access.open();
        if (signal.aborted) client.close();
        else this.connected(client);
        return;
      } catch (error) {
        this.goDown(explain(error).line, false);
        onFirst();
        await delay(pause, undefined, { signal, ref: false }).catch(() => {});
      }
    }
  }

  private connected(client: LinkClient): void {
    this.client = client;
    this.line = "";
    client.onEvent((event) => {
      if (this.client === client) this.listeners.event(event);
    });
    void client.ended.then(() => this.lost(client));
    if (this.told) this.listeners.state({ state: "up" });
    this.told = true;
  }

  private goDown(line: string, ended: boolean): void {
    const isNews = line !== this.line || ended !== this.ended;
    this.line = line;
    this.ended = ended;
    this.told = true;
    if (isNews && !this.abort.signal.aborted) this.listeners.state({ state: "down", line, ended });
  }

  private async lost(client: LinkClient): Promise<void> {
    if (this.client !== client) return;
    this.client = undefined;
    this.goDown("the lab has ended; it is being started again", false);
    const onPurpose = await this.access.wasEnded().catch(() => false);
    // Somebody may have asked for it meanwhile.
    if (this.running || this.client !== undefined || this.abort.signal.aborted) return;
    if (onPurpose) this.goDown(ENDED_LINE, true);
    else this.start();
  }
}
