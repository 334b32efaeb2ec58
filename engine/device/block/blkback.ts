/**
 * The block backend of a domain, its XenStore side: a device for every directory under backend/vbd, which the toolstack
 * makes and removes. The rings are served by whoever implements VbdService.
 */

import { readFlag } from "../xenbus/keys.ts";
import { LevelTask } from "../xenbus/level-task.ts";
import { parseXenbusState, XenbusState } from "../xenbus/state.ts";
import type { StoreWatch, XenbusStore } from "../xenbus/store-access.ts";
import { BlkbackDevice, type BlkbackLimits } from "./blkback-device.ts";
import type { VbdIdentity, VbdService } from "./channel.ts";

export interface BlkbackOptions {
  readonly store: XenbusStore;
  readonly service: VbdService;
  /** One line. */
  readonly log: (message: string) => void;
  readonly limits?: Partial<BlkbackLimits>;
  /** Serves this frontend only; others have a backend of their own in the same domain. */
  readonly frontend?: number;
}

const DEFAULT_LIMITS: BlkbackLimits = { ringPageOrder: 4, queues: 4, indirectSegments: 256 };
const DIRECTORY = "backend/vbd";

export class Blkback {
  private readonly options: BlkbackOptions;
  private readonly limits: BlkbackLimits;
  private readonly devices = new Map<string, BlkbackDevice>();
  private readonly scanning: LevelTask;
  private watch: StoreWatch | undefined;
  private closed = false;

  constructor(options: BlkbackOptions) {
    this.options = options;
    this.limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.scanning = new LevelTask(
      () => this.scan(),
      (error) => options.log(`${DIRECTORY}: ${error instanceof Error ? error.message : String(error)}`),
    );
  }

  /**
   * Looks for devices now and from now on. Fulfilled when every device that existed before has been looked at once (after
   * a restart of the domain: connected ones are attached again).
   * @returns the devices found, so that the owner can release what an earlier life left for others
   */
  async start(): Promise<VbdIdentity[]> {
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

  /** The devices that are attached to a frontend. */
  connected(): VbdIdentity[] {
    return [...this.devices.values()].filter((device) => device.connected).map((device) => device.identity);
  }

  /** The image of a device has another size now, in bytes. Unknown keys are ignored: the device may have just gone. */
  resized(key: string, size: number): void {
    this.devices.get(key)?.resized(size);
  }

  /** Stops looking at XenStore. Rings stay attached; the domain's end takes them along. */
  async close(): Promise<void> {
    this.closed = true;
    await this.watch?.close();
    await this.scanning.close();
    await Promise.all([...this.devices.values()].map((device) => device.close()));
  }

  private changed(path: string): void {
    const match = /backend\/vbd\/(\d+)\/(\d+)(?:\/|$)/.exec(path);
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
      if (this.options.frontend !== undefined && frontend !== String(this.options.frontend)) continue;
      for (const vdev of (await store.directory(`${DIRECTORY}/${frontend}`)) ?? []) {
        if (!/^\d{1,5}$/.test(frontend) || !/^\d{1,9}$/.test(vdev)) continue;
        await this.found(Number(frontend), Number(vdev));
      }
    }
  }

  private async found(frontendId: number, vdev: number): Promise<void> {
    const { store, service, log } = this.options;
    const key = keyOf(frontendId, vdev);
    if (this.devices.has(key)) return;
    const directory = `${DIRECTORY}/${frontendId}/${vdev}`;
    const state = parseXenbusState(await store.read(`${directory}/state`));
    // Half written, or over and waiting for the toolstack to clear it away.
    if (state === XenbusState.Unknown) return;
    if (state === XenbusState.Closed && !(await readFlag(store, directory, "online"))) return;
    if (this.closed) return;
    const device = new BlkbackDevice({
      store,
      service,
      log,
      limits: this.limits,
      identity: { key, frontendId, vdev },
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

function keyOf(frontendId: number, vdev: number): string {
  return `vbd/${frontendId}/${vdev}`;
}
