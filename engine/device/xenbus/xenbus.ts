/**
 * One half of a split device in XenStore: its own directory, its peer's, the two `state` nodes, and the error node.
 *
 * A driver gives `evaluate`, which looks at the store as it is now and takes one step; it runs after every change of the
 * directories it watches, one at a time (LevelTask). It never runs after close().
 */
import { messageOf } from "../../errors/message.ts";
import { XenstoreError } from "../../xenstore/client.ts";
import { LevelTask } from "./level-task.ts";
import { parseXenbusState, XenbusState } from "./state.ts";
import { inTurn, type StoreWatch, type XenbusStore } from "./store-access.ts";

export interface XenbusDeviceOptions {
  readonly store: XenbusStore;
  /** This half's directory, relative to its domain: "device/vbd/51712" or "backend/vbd/1/51712". */
  readonly directory: string;
  readonly evaluate: () => Promise<void>;
  /** One line. */
  readonly log: (message: string) => void;
}

/** The peer as this half's directory names it. */
export interface OtherEnd {
  readonly id: number;
  /** Its directory, absolute. */
  readonly directory: string;
}

const MAX_DOMAIN = 0x7fef;

export class XenbusDevice {
  readonly directory: string;
  private readonly store: XenbusStore;
  private readonly log: (message: string) => void;
  private readonly task: LevelTask;
  private readonly watches: StoreWatch[] = [];
  private closed = false;

  constructor(options: XenbusDeviceOptions) {
    this.store = options.store;
    this.directory = options.directory;
    this.log = options.log;
    this.task = new LevelTask(options.evaluate, (error) => {
      // The store ends with its domain, under a driver's feet: not a bug of the driver.
      if (!this.closed) options.log(`${options.directory}: ${messageOf(error)}`);
    });
  }

  /** Something may have changed: look again. */
  changed(): void {
    this.task.request();
  }

  /** Fulfilled when the device has caught up with every change it knows of. */
  idle(): Promise<void> {
    return this.task.idle();
  }

  /** Watches a node (and what is below it) for the life of this device. */
  async watch(path: string): Promise<void> {
    const watch = await this.store.watch(path, () => this.changed());
    if (this.closed) await watch.close();
    else this.watches.push(watch);
  }

  /**
   * Reads `<kind>` and `<kind>-id` ("frontend" or "backend").
   * @returns undefined when the toolstack has not written them, or written nonsense
   */
  async otherEnd(kind: "frontend" | "backend"): Promise<OtherEnd | undefined> {
    const directory = await this.store.read(`${this.directory}/${kind}`);
    const id = await this.store.read(`${this.directory}/${kind}-id`);
    if (directory === undefined || id === undefined || !/^\d{1,5}$/.test(id) || Number(id) > MAX_DOMAIN)
      return undefined;
    return /^\/[A-Za-z0-9/_@:-]+[^/]$/.test(directory) ? { id: Number(id), directory } : undefined;
  }

  /** This half's own state; Unknown when the directory is gone. */
  async state(): Promise<XenbusState> {
    return parseXenbusState(await this.store.read(`${this.directory}/state`));
  }

  /** The peer's state; Unknown when its directory is gone, or hidden from us (as the store of a domain that is gone is). */
  async peerState(peer: OtherEnd): Promise<XenbusState> {
    try {
      return parseXenbusState(await this.store.read(`${peer.directory}/state`));
    } catch (error) {
      if (error instanceof XenstoreError && error.code === "EACCES") return XenbusState.Unknown;
      throw error;
    }
  }

  /**
   * Writes this half's state, and in the same transaction the nodes that must be there when the peer sees it.
   *
   * @param from the state on which the decision was based
   * @returns false, with nothing written, when the state is another by now: the toolstack has asked for the device's
   *   removal, or has removed it (a write would bring the directory back as litter)
   */
  async switchState(
    from: XenbusState,
    to: XenbusState,
    nodes: Readonly<Record<string, string>> = {},
  ): Promise<boolean> {
    if (this.closed) return false;
    return await inTurn(this.store, async (transaction) => {
      const text = await transaction.read(`${this.directory}/state`);
      if (text === undefined || parseXenbusState(text) !== from) return false;
      for (const [key, value] of Object.entries(nodes)) await transaction.write(`${this.directory}/${key}`, value);
      await transaction.write(`${this.directory}/state`, String(to));
      return true;
    });
  }

  /** Leaves the reason in error/<directory>/error as Linux does: "<errno> <message>". */
  async error(errno: number, message: string): Promise<void> {
    this.log(`${this.directory}: ${message}`);
    if (!this.closed) await this.store.write(`error/${this.directory}/error`, `${errno} ${message}`);
  }

  /** Takes the error node away again, when the device works. */
  async clearError(): Promise<void> {
    await this.store.remove(`error/${this.directory}`);
  }

  /** Ends watches and evaluations. `evaluate` itself may call it, but must not wait for idle() then. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    this.task.stop();
    await Promise.allSettled(this.watches.splice(0).map((watch) => watch.close()));
  }
}
