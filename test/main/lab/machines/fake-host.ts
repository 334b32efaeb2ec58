/** A lab's host without processes: guests are records that a test can have print, power off and crash. */
import { writeFileSync } from "node:fs";
import type { DomainExit } from "../../../../engine/domain/config.ts";
import type { DomainHandle } from "../../../../engine/domain/guest.ts";
import type { GuestConfig } from "../../../../engine/domain/host.ts";
import type { SnapshotRequest, SnapshotResult } from "../../../../main/lab/machines/machine-host.ts";
import type { LabHost } from "../../../../main/lab/server/lab-server.ts";
import { TestHost } from "../test-host.ts";

/** Text that the fake's memory files hold, before what the guest's memory was. */
const MEMORY = "memory of ";

export class FakeGuest implements DomainHandle {
  readonly id: number;
  readonly pid = process.pid;
  readonly config: GuestConfig;
  readonly typed: string[] = [];
  readonly exited: Promise<DomainExit>;
  readonly console: DomainHandle["console"];
  paused = false;
  private end: (exit: DomainExit) => void = () => {};
  private readonly listeners: ((bytes: Uint8Array) => void | Promise<void>)[] = [];

  constructor(id: number, config: GuestConfig) {
    this.id = id;
    this.config = config;
    this.exited = new Promise((resolve) => {
      this.end = resolve;
    });
    this.console = {
      onOutput: (listener) => void this.listeners.push(listener),
      write: async (bytes) => void this.typed.push(Buffer.from(bytes).toString()),
    };
  }

  print(text: string): void {
    for (const listener of this.listeners) void listener(Buffer.from(text));
  }

  finish(exit: DomainExit): void {
    this.end(exit);
  }

  crash(): void {
    this.finish({ reason: "crash", cause: "triple fault", registers: { rip: "0x10" }, consoleTail: ["last words"] });
  }

  async pause(): Promise<void> {
    this.paused = true;
  }

  async unpause(): Promise<void> {
    this.paused = false;
  }

  async kill(): Promise<void> {
    this.finish({ reason: "killed", requested: true, cause: "SIGKILL" });
  }

  async statistics() {
    return { instructions: 1, busySeconds: 1, residentBytes: 1 << 20 };
  }
}

export class FakeHost extends TestHost implements LabHost {
  readonly guests: FakeGuest[] = [];
  /** Every domain that ever was. */
  readonly started: FakeGuest[] = [];
  /** Guests offer to power off when they are asked, and do so. */
  obedient = true;
  /** What the next call of that name fails with. */
  failNext: { call: "start" | "snapshot" | "restore" | "resize"; error: Error } | undefined;
  /** Called at the moments that a crash could come at. */
  moment: (what: string) => void = () => {};
  closed = false;
  private lastId = 2;

  private fail(call: NonNullable<FakeHost["failNext"]>["call"]): void {
    const { failNext } = this;
    if (failNext?.call !== call) return;
    this.failNext = undefined;
    throw failNext.error;
  }

  private make(config: GuestConfig): FakeGuest {
    const guest = new FakeGuest(++this.lastId, config);
    const { toolstack } = this.xenstore;
    const control = `/local/domain/${guest.id}/control`;
    toolstack.write(`/local/domain/${guest.id}/name`, config.name);
    toolstack.write(`${control}/shutdown`, "");
    this.guests.push(guest);
    this.started.push(guest);
    for (const disk of config.disks ?? []) this.disks.push({ ...disk, frontendId: guest.id, backendId: 1 });
    if (this.obedient) for (const wish of ["poweroff", "reboot"]) toolstack.write(`${control}/feature-${wish}`, "1");
    const stop = toolstack.watch(`${control}/shutdown`, () => {
      const wish = toolstack.read(`${control}/shutdown`);
      if (!this.obedient || (wish !== "poweroff" && wish !== "reboot")) return;
      // As a guest does: it takes the request up, and ends later.
      setImmediate(() => {
        toolstack.write(`${control}/shutdown`, "");
        guest.finish({ reason: wish });
      });
    });
    void guest.exited.then(() => {
      stop();
      this.guests.splice(this.guests.indexOf(guest), 1);
      for (let at = this.disks.length - 1; at >= 0; at--) {
        if (this.disks[at]?.frontendId === guest.id) this.disks.splice(at, 1);
      }
      toolstack.remove(`/local/domain/${guest.id}`);
    });
    return guest;
  }

  get(name: string): FakeGuest {
    const guest = this.guests.find(({ config }) => config.name === name);
    if (guest === undefined) throw new Error(`no guest ${name}`);
    return guest;
  }

  async startGuest(config: GuestConfig): Promise<DomainHandle> {
    this.moment("start");
    this.fail("start");
    return this.make(config);
  }

  async restoreGuest(config: GuestConfig, _file: string, beforeRun?: () => Promise<void>): Promise<DomainHandle> {
    this.moment("restore");
    const guest = this.make(config);
    try {
      await beforeRun?.();
      this.moment("restored");
      this.fail("restore");
    } catch (error) {
      await guest.kill();
      throw error;
    }
    return guest;
  }

  async pause(id: number): Promise<void> {
    for (const guest of this.guests) if (guest.id === id) guest.paused = true;
  }

  async unpause(id: number): Promise<void> {
    for (const guest of this.guests) if (guest.id === id) guest.paused = false;
  }

  async snapshot(requests: readonly SnapshotRequest[], options: { stop?: boolean } = {}): Promise<SnapshotResult[]> {
    this.moment("before the swap");
    this.fail("snapshot");
    for (const { id, disks } of requests) {
      for (const { vdev, store } of disks) {
        const at = this.disks.findIndex((disk) => disk.frontendId === id && disk.vdev === vdev);
        const disk = this.disks[at];
        if (disk !== undefined) this.disks[at] = { ...disk, store };
      }
    }
    this.moment("after the swap");
    for (const { file, id } of requests) if (file !== undefined) writeFileSync(file, `${MEMORY}${id}`);
    this.moment("memory written");
    if (options.stop) {
      for (const { id } of requests) await this.guests.find((guest) => guest.id === id)?.kill();
    }
    return requests.map(({ id }) => ({ id, pausedMs: 3, seconds: 0.1, fileBytes: 1000, touchedBytes: 5000 }));
  }

  readonly resized: { id: number; vdev: number; bytes: number }[] = [];
  async resizeDisk(id: number, vdev: number, bytes: number): Promise<void> {
    this.fail("resize");
    this.resized.push({ id, vdev, bytes });
  }

  async close(): Promise<void> {
    this.closed = true;
    await Promise.all([...this.guests].map((guest) => guest.kill()));
  }
}
