/**
 * A running guest's way into a snapshot, in its own process: its memory is copied while it runs, then it stands still for as
 * long as it takes to copy the rest, and the file is written while it goes on.
 */
import type { ConsoleBackend } from "../device/console/backend.ts";
import type { Unsaveable } from "../hypervisor/saved-domain.ts";
import type { GuestMemory, Mapping } from "../memory/guest-memory.ts";
import { MemoryCapture } from "../snapshot/capture.ts";
import type { WrittenSnapshot } from "../snapshot/file-writer.ts";
import type { GuestStateJson } from "../snapshot/guest-state.ts";
import type { RingRelay, SavedRing } from "../xenstore/relay.ts";
import { captureCalls } from "./capture-calls.ts";
import type { KernelCalls } from "./typescript/kernel.ts";
import type { VcpuRequests } from "./vcpu-requests.ts";

/** Rounds of copying while the guest runs; each copies what was written during the one before. */
const ROUNDS = 2;

export interface GuestCaptureOptions {
  readonly memory: GuestMemory;
  readonly mapping: Mapping;
  readonly requests: VcpuRequests;
  readonly console: ConsoleBackend;
  readonly xenstore: RingRelay;
}

/** What this process knows of a guest that stands still. */
interface Still {
  readonly guest: GuestStateJson;
  readonly ring: SavedRing;
}

export class GuestCapture {
  private readonly options: GuestCaptureOptions;
  private capture: MemoryCapture | undefined;
  private still: Still | undefined;
  private stopped = false;

  constructor(options: GuestCaptureOptions) {
    this.options = options;
  }

  /** Copies the guest's memory while it runs. @throws SnapshotError, SystemCallError */
  async prepare(): Promise<void> {
    const { memory, mapping, requests } = this.options;
    this.drop();
    const capture = new MemoryCapture(memory, mapping);
    this.capture = capture;
    for (let round = 0; round < ROUNDS; round++) {
      capture.prepare();
      await requests.call({ op: "flush-translations" });
      await capture.precopy();
    }
  }

  /**
   * Stops the vCPU and brings console and XenStore to rest; its disks have been brought to rest before.
   * @param drivers numbers of the domains that serve devices
   */
  async stop(drivers: readonly number[]): Promise<Unsaveable | undefined> {
    const { requests, console, xenstore } = this.options;
    this.stopped = true;
    await requests.call({ op: "pause", offline: false });
    console.hold();
    await xenstore.quiesce();
    const guest = (await requests.call({ op: "save", drivers })) as GuestStateJson | Unsaveable;
    if ("problem" in guest) return guest;
    this.still = { guest, ring: xenstore.save() };
    return undefined;
  }

  /** Copies the rest. The guest stands still. @returns bytes copied */
  finish(): number {
    return this.capture?.finish().bytes ?? 0;
  }

  /** Lets the guest go on, however far the capture has come. */
  async goOn(): Promise<void> {
    if (!this.stopped) return;
    this.stopped = false;
    const { requests, console, xenstore } = this.options;
    xenstore.resume();
    console.release();
    await requests.call({ op: "unpause", after: "snapshot" });
  }

  /**
   * Writes the snapshot file and lets go of the copy.
   * @param header what others know of the guest
   * @throws SnapshotError
   */
  async write(path: string, header: object): Promise<WrittenSnapshot> {
    const { capture, still } = this;
    if (capture === undefined || still === undefined) throw new Error("nothing was captured");
    this.capture = undefined;
    this.still = undefined;
    return await capture.write(path, { ...header, ...still });
  }

  /** Gives up what was captured. */
  drop(): void {
    this.capture?.close();
    this.capture = undefined;
    this.still = undefined;
  }

  /** The calls as the host makes them, each argument checked. */
  calls(): KernelCalls {
    const { stop, write } = captureCalls;
    return {
      prepare: async () => {
        await this.prepare();
        return null;
      },
      stop: async (argument) => (await this.stop(stop.argument.parse(argument).drivers)) ?? {},
      finish: () => ({ bytes: this.finish() }),
      goOn: async () => {
        await this.goOn();
        return null;
      },
      write: async (argument) => {
        const { path, header } = write.argument.parse(argument);
        const { fileBytes, touchedBytes } = await this.write(path, header);
        return { fileBytes, touchedBytes };
      },
      drop: () => {
        this.drop();
        return null;
      },
    };
  }
}
