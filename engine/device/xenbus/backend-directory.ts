/**
 * The devices of one kind that a backend domain serves: one for every directory under backend/<type>, which the toolstack
 * makes and removes.
 */
import { messageOf } from "../../errors/message.ts";
import type { BackendDevice, DeviceIdentity } from "./backend-device.ts";
import { readFlag } from "./keys.ts";
import { LevelTask } from "./level-task.ts";
import { parseXenbusState, XenbusState } from "./state.ts";
import type { StoreWatch, XenbusStore } from "./store-access.ts";

/** A directory that has no device yet. */
export interface FoundDevice extends DeviceIdentity {
  /** The device's number in the guest: the directory's name. */
  readonly number: number;
  /** To be called by the device when it has let go of everything and is of no more use. */
  readonly ended: () => void;
}

export interface BackendDirectoryOptions<Device> {
  readonly store: XenbusStore;
  /** One line. */
  readonly log: (message: string) => void;
  readonly type: "vbd" | "vif";
  /** Most digits of a device's number; a longer one is no device. */
  readonly digits: number;
  /** Serves this frontend only; others have a backend of their own in the same domain. */
  readonly frontend?: number | undefined;
  readonly make: (found: FoundDevice) => Device;
}

type AnyDevice = Pick<
  BackendDevice<DeviceIdentity>,
  "identity" | "connected" | "changed" | "idle" | "close" | "freeze" | "thaw"
>;

export class BackendDirectory<Device extends AnyDevice> {
  protected readonly devices = new Map<string, Device>();
  private readonly options: BackendDirectoryOptions<Device>;
  private readonly directory: string;
  private readonly pathOfDevice: RegExp;
  private readonly number: RegExp;
  private readonly scanning: LevelTask;
  private watch: StoreWatch | undefined;
  private closed = false;
  /** Frontends whose devices take no steps. */
  private readonly frozen = new Set<number>();

  constructor(options: BackendDirectoryOptions<Device>) {
    this.options = options;
    this.directory = `backend/${options.type}`;
    this.pathOfDevice = new RegExp(`${this.directory}/(\\d+)/(\\d+)(?:/|$)`);
    this.number = new RegExp(`^\\d{1,${options.digits}}$`);
    this.scanning = new LevelTask(
      () => this.scan(),
      (error) => options.log(`${this.directory}: ${messageOf(error)}`),
    );
  }

  /**
   * Looks for devices now and from now on. Fulfilled when every device that existed before has been looked at once (after
   * a restart of the domain: connected ones are attached again).
   * @returns the devices found, so that the owner can release what an earlier life left for others
   */
  async start(): Promise<Device["identity"][]> {
    this.watch = await this.options.store.watch(this.directory, (path) => this.changed(path));
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
  connected(): Device["identity"][] {
    return [...this.devices.values()].filter((device) => device.connected).map((device) => device.identity);
  }

  private devicesOf(frontendId: number): Device[] {
    return [...this.devices.values()].filter((device) => device.identity.frontendId === frontendId);
  }

  /** Devices of a frontend take no more steps, new ones none at all; fulfilled when none is under way. */
  async freeze(frontendId: number): Promise<void> {
    this.frozen.add(frontendId);
    await Promise.all(this.devicesOf(frontendId).map((device) => device.freeze()));
  }

  /** Ends freeze(). */
  thaw(frontendId: number): void {
    this.frozen.delete(frontendId);
    for (const device of this.devicesOf(frontendId)) device.thaw();
  }

  /** Stops looking at XenStore. Rings stay attached; the domain's end takes them along. */
  async close(): Promise<void> {
    this.closed = true;
    await this.watch?.close();
    await this.scanning.close();
    await Promise.all([...this.devices.values()].map((device) => device.close()));
  }

  private keyOf(frontendId: number, number: number): string {
    return `${this.options.type}/${frontendId}/${number}`;
  }

  private changed(path: string): void {
    const match = this.pathOfDevice.exec(path);
    const device = match ? this.devices.get(this.keyOf(Number(match[1]), Number(match[2]))) : undefined;
    if (device) {
      device.changed();
      return;
    }
    // The directory as a whole has changed, or something in it that is not known yet.
    this.scanning.request();
    if (!match) for (const known of this.devices.values()) known.changed();
  }

  private async scan(): Promise<void> {
    const { store, frontend: only } = this.options;
    for (const frontend of (await store.directory(this.directory)) ?? []) {
      if (only !== undefined && frontend !== String(only)) continue;
      for (const number of (await store.directory(`${this.directory}/${frontend}`)) ?? []) {
        if (!/^\d{1,5}$/.test(frontend) || !this.number.test(number)) continue;
        await this.found(Number(frontend), Number(number));
      }
    }
  }

  private async found(frontendId: number, number: number): Promise<void> {
    const { store, make } = this.options;
    const key = this.keyOf(frontendId, number);
    if (this.devices.has(key)) return;
    const directory = `backend/${key}`;
    const state = parseXenbusState(await store.read(`${directory}/state`));
    // Half written, or over and waiting for the toolstack to clear it away.
    if (state === XenbusState.Unknown) return;
    if (state === XenbusState.Closed && !(await readFlag(store, directory, "online"))) return;
    if (this.closed) return;
    const ended = (): void => {
      this.devices.delete(key);
      // The toolstack may have made it anew while the old one was letting go.
      this.scanning.request();
    };
    const device = make({ key, frontendId, number, ended });
    this.devices.set(key, device);
    if (this.frozen.has(frontendId)) void device.freeze();
    else device.changed();
  }
}
