/**
 * The network backend of a domain, its XenStore side: a device for every directory under backend/vif, which the toolstack
 * makes and removes. The rings are served by whoever implements VifService.
 */
import { readFlag } from "../xenbus/keys.ts";
import { LevelTask } from "../xenbus/level-task.ts";
import { parseXenbusState, XenbusState } from "../xenbus/state.ts";
import type { StoreWatch, XenbusStore } from "../xenbus/store-access.ts";
import type { VifIdentity, VifService } from "./channel.ts";
import { NetbackDevice } from "./netback-device.ts";
import type { NetTransportLimits } from "./transport-parameters.ts";

export interface NetbackOptions {
  readonly store: XenbusStore;
  readonly service: VifService;
  /** One line. */
  readonly log: (message: string) => void;
  readonly limits?: Partial<NetTransportLimits>;
}

const DEFAULT_LIMITS: NetTransportLimits = { queues: 4, split: true };
const DIRECTORY = "backend/vif";

export class Netback {
  private readonly options: NetbackOptions;
  private readonly limits: NetTransportLimits;
  private readonly devices = new Map<string, NetbackDevice>();
  private readonly scanning: LevelTask;
  private watch: StoreWatch | undefined;
  private closed = false;

  constructor(options: NetbackOptions) {
    this.options = options;
    this.limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.scanning = new LevelTask(
      () => this.scan(),
      (error) => options.log(`${DIRECTORY}: ${error instanceof Error ? error.message : String(error)}`),
    );
  }

  /**
   * Looks for interfaces now and from now on. Fulfilled when every one that existed before has been looked at once (after a
   * restart of the domain: connected ones are attached again).
   * @returns the interfaces found, so that the owner can release what an earlier life left for others
   */
  async start(): Promise<VifIdentity[]> {
    this.watch = await this.options.store.watch(DIRECTORY, (path) => this.changed(path));
    this.scanning.request();
    await this.idle();
    return [...this.devices.values()].map((device) => device.identity);
  }

  /** Fulfilled when nothing is left to do for any change known so far. */
  async idle(): Promise<void> {
    await this.scanning.idle();
    await Promise.all([...this.devices.values()].map((device) => device.idle()));
  }

  /** The interfaces that are attached to a frontend. */
  connected(): VifIdentity[] {
    return [...this.devices.values()].filter((device) => device.connected).map((device) => device.identity);
  }

  /** Stops looking at XenStore. Rings stay attached; the domain's end takes them along. */
  async close(): Promise<void> {
    this.closed = true;
    await this.watch?.close();
    await this.scanning.close();
    await Promise.all([...this.devices.values()].map((device) => device.close()));
  }

  private changed(path: string): void {
    const match = /backend\/vif\/(\d+)\/(\d+)(?:\/|$)/.exec(path);
    const device = match ? this.devices.get(keyOf(Number(match[1]), Number(match[2]))) : undefined;
    if (device) {
      device.changed();
      return;
    }
    // The directory as a whole has changed, or something in it that is not known yet.
    this.scanning.request();
    if (!match) for (const known of this.devices.values()) known.changed();
  }

  private async scan(): Promise<void> {
    const { store } = this.options;
    for (const frontend of (await store.directory(DIRECTORY)) ?? []) {
      for (const handle of (await store.directory(`${DIRECTORY}/${frontend}`)) ?? []) {
        if (!/^\d{1,5}$/.test(frontend) || !/^\d{1,5}$/.test(handle)) continue;
        await this.found(Number(frontend), Number(handle));
      }
    }
  }

  private async found(frontendId: number, handle: number): Promise<void> {
    const { store, service, log } = this.options;
    const key = keyOf(frontendId, handle);
    if (this.devices.has(key)) return;
    const directory = `${DIRECTORY}/${frontendId}/${handle}`;
    const state = parseXenbusState(await store.read(`${directory}/state`));
    // Half written, or over and waiting for the toolstack to clear it away.
    if (state === XenbusState.Unknown) return;
    if (state === XenbusState.Closed && !(await readFlag(store, directory, "online"))) return;
    if (this.closed) return;
    const device = new NetbackDevice({
      store,
      service,
      log,
      limits: this.limits,
      identity: { key, frontendId, handle },
      ended: () => {
        this.devices.delete(key);
        // The toolstack may have made it anew while the old one was letting go.
        this.scanning.request();
      },
    });
    this.devices.set(key, device);
    device.changed();
  }
}

function keyOf(frontendId: number, handle: number): string {
  return `vif/${frontendId}/${handle}`;
}
