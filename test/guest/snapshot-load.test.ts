/** A restored guest whose memory is still on its way: it is killed, saved again, served by backends; its file is damaged. */
import { createHash, randomBytes } from "node:crypto";
import {
  closeSync,
  copyFileSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import type { DomainHandle } from "../../engine/domain/guest.ts";
import { GuestProcess } from "../../engine/domain/guest.ts";
import { GuestLoad } from "../../engine/domain/guest-load.ts";
import { Arrivals } from "../../engine/memory/arrival.ts";
import { WINDOW_BYTES } from "../../engine/memory/frame-plan.ts";
import { SnapshotFile } from "../../engine/snapshot/file-reader.ts";
import { Random } from "../crash/random.ts";
import { imageDisk } from "../disk-config.ts";
import { DiskLab, ShellGuest } from "./shell-guest.ts";

/** Each way to kill a guest once; DOMLAB_CRASH_ROUNDS asks for more. */
const ROUNDS = Number(process.env.DOMLAB_CRASH_ROUNDS ?? 9);
/** Longer than the loading takes, ms. */
const LOADING_MS = 450;
const MIB = 1 << 20;
/** What the guest has written to its disk, and its kernel not yet, bytes. */
const DIRTY = 8 * MIB;
/** What lies in pages that the guest does not use any more. */
const OLD = "what was there before";
const CONFIG = { name: "guest", memoryMiB: 256, image: { kernel: { path: "" }, initrd: [], commandLine: "" } };

let lab: DiskLab;
let guest: ShellGuest;
/** The snapshot file. */
let file: string;
let image: string;
/** What was in it when the guest was saved. */
let disk: Buffer;
/** Checksums of a file in the guest's memory, and of what it wrote to the disk. */
let sums: { readonly big: string; readonly dirty: string };

const md5 = (bytes: Uint8Array) => createHash("md5").update(bytes).digest("hex");
const sumOf = async (of: ShellGuest, path: string) => (await of.output(`md5sum ${path}`)).slice(0, 32);

/** A guest with a file in its memory, and pages in its cache that are yet to be written to its disk; saved, and gone. */
beforeAll(async () => {
  lab = new DiskLab();
  image = lab.image("disk.img", 32 * MIB);
  file = lab.path("memory");
  const [big, dirty] = [randomBytes(20 * MIB), randomBytes(DIRTY)];
  sums = { big: md5(big), dirty: md5(dirty) };
  const old = Buffer.alloc(24 * MIB, `${OLD}\n`);
  const files = Object.entries({ big, dirty, old }).map(([path, data]) => ({ kind: "file" as const, path, data }));
  guest = await (await lab.start({ memoryMiB: 256, disks: [imageDisk(image)], files })).ready();
  await guest.output(`cd /proc/sys/vm
    echo 999999 >dirty_writeback_centisecs; echo 100000000 >dirty_bytes; echo 90000000 >dirty_background_bytes
    rm /old
    (exec 9<>/dev/xvda; cat /dirty >&9; rm /dirty; echo >/tmp/done; sleep 100000) &
    until [ -e /tmp/done ]; do sleep 0.1; done`);
  expect(await sumOf(guest, "/big")).toBe(sums.big);
  await lab.host.snapshot([{ id: guest.handle.id, file, disks: [] }], { stop: true });
  disk = readFileSync(image);
  // The kernel has kept most of it to itself.
  expect(disk.findLastIndex((byte) => byte !== 0)).toBeLessThan(DIRTY - 3 * MIB);
  await vi.waitUntil(() => !lab.host.table.isTaken(guest.handle.id));
});

/** Guests of a test. */
const handles: DomainHandle[] = [];

afterEach(async () => {
  vi.restoreAllMocks();
  for (const handle of handles.splice(0)) await handle.kill();
  await vi.waitUntil(() => lab.host.vbds.list().length === 0);
});
afterAll(() => lab.end());

async function restored(from = file): Promise<ShellGuest> {
  const made = await guest.restore(lab.host, from, { ...CONFIG, disks: [imageDisk(image)] });
  handles.push(made.handle);
  return made;
}

/** The same without a console, with a step before the guest runs. */
const restoring = (from: string, beforeRun: () => Promise<void>) =>
  lab.host.restoreGuest({ ...CONFIG, disks: [imageDisk(image)] }, from, beforeRun);

/** From now on restored guests have only what is asked for, for some seconds. */
const loadNothingUnasked = () => void vi.spyOn(GuestLoad.prototype, "resumed").mockImplementation(() => {});

/** How many windows of a guest's memory are not there yet. */
function missing(id: number): number {
  const mapping = lab.host.table.attach(id);
  if (mapping === undefined) return 0;
  const arrivals = new Arrivals(mapping);
  let absent = 0;
  for (let at = 0; at < mapping.plan.control; at += WINDOW_BYTES) if (!arrivals.isPresent(at / WINDOW_BYTES)) absent++;
  mapping.release();
  return absent;
}

const children = (): number[] =>
  readdirSync("/proc/self/task").flatMap((task) =>
    readFileSync(`/proc/self/task/${task}/children`, "latin1").split(" ").filter(Boolean).map(Number),
  );

/** What a domain has of this process and of the host. */
function traces(id: number) {
  const descriptors = readdirSync("/proc/self/fd").flatMap((name) => {
    try {
      return [readlinkSync(`/proc/self/fd/${name}`)];
    } catch {
      // The one by which the folder was read.
      return [];
    }
  });
  return {
    snapshots: descriptors.filter((path) => path.startsWith(file)),
    memories: descriptors.filter((path) => path.includes("domlab-guest")).length,
    mapped: readFileSync("/proc/self/maps", "latin1").split("domlab-guest").length,
    threads: readdirSync("/proc/self/task").length,
    children: children(),
    known: [lab.host.table.isTaken(id), lab.host.xenstore.toolstack.read(`/local/domain/${id}/name`)],
    disks: lab.host.vbds.list(id),
  };
}

/** Damages the snapshot's copy of memory from a part of it on, as a program would that writes over the file. */
function damage(from: string, share: number): void {
  const whole = readFileSync(from);
  // The table and the header stand behind the memory; they were read long ago.
  const begin = Math.floor(whole.length * share);
  const descriptor = openSync(from, "r+");
  writeSync(descriptor, Buffer.alloc(whole.length - begin, 0x5a), 0, whole.length - begin, begin);
  closeSync(descriptor);
}

describe("killed while its memory is on its way", () => {
  it("leaves nothing behind", async () => {
    const seed = Number(process.env.DOMLAB_LOAD_SEED ?? Date.now() % 1e9);
    const random = new Random(seed);
    const first = await restored();
    const { id } = first.handle;
    await first.handle.kill();
    await expect.poll(() => lab.host.table.isTaken(id)).toBe(false);
    const before = traces(id);
    expect(before.snapshots).toEqual([]);

    /** Numbers of windows that were missing when the guest was killed. */
    const found: number[] = [];
    const wait = (longest: number) => delay(random.next() * longest);
    const later = async (longest: number, end: (handle: DomainHandle) => unknown) => {
      const { handle } = await restored();
      expect(handle.id).toBe(id);
      await wait(longest);
      found.push(missing(id));
      await end(handle);
      await handle.exited;
    };
    const outside = ({ pid }: Pick<DomainHandle, "pid">) => process.kill(pid, "SIGKILL");
    const ways: Record<string, () => Promise<unknown>> = {
      "its process, from outside, at some moment of the restore": async () => {
        const old = children();
        const made = restored().catch((error: unknown) => error);
        await wait(250);
        for (const pid of children().filter((each) => !old.includes(each))) outside({ pid });
        const result = await made;
        // It may have come before there was a process.
        if (result instanceof ShellGuest) await result.handle.kill();
        else expect(String(result)).toMatch(/^[^\n]+$/);
      },
      "its process, from outside, as its backends connect": async () => {
        const original = GuestProcess.prototype.restored;
        vi.spyOn(GuestProcess.prototype, "restored").mockImplementationOnce(async function (this: GuestProcess) {
          await original.call(this);
          outside(this);
        });
        const result = await restored().catch((error: unknown) => error);
        if (result instanceof ShellGuest) await result.handle.exited;
        else expect(String(result)).toMatch(/the guest has ended/);
      },
      "by its host, before it runs": async () => {
        const made = restoring(file, async () => {
          await wait(100);
          found.push(missing(id));
          throw new Error("it was not to be");
        });
        await expect(made).rejects.toThrow("it was not to be");
      },
      "at once": () => later(5, (handle) => handle.kill()),
      "while it has the processors": () => later(240, (handle) => handle.kill()),
      "while the rest is loaded": () => later(LOADING_MS, (handle) => handle.kill()),
      "its process, from outside": () => later(LOADING_MS, outside),
      "in the last moment": async () => {
        vi.spyOn(GuestProcess.prototype, "loaded").mockImplementationOnce(async function (this: GuestProcess) {
          const done = this.loaded();
          outside(this);
          await done;
        });
        const { handle } = await restored();
        await handle.exited;
      },
      "by the end of what it waits for": async () => {
        const { handle } = await restored();
        lab.host.vbds.detach(id, imageDisk(image).vdev, true).catch(() => undefined);
        await wait(50);
        await handle.kill();
      },
    };
    const names = Object.keys(ways);
    for (let round = 0; round < ROUNDS; round++) {
      const name = names[round % names.length] ?? "";
      const where = `seed ${seed}, round ${round}: killed ${name}`;
      await ways[name]?.();
      await expect.poll(() => traces(id), { message: where, timeout: 30_000 }).toEqual(before);
    }
    // The moments were what they are meant to be.
    expect(found.filter((windows) => windows > 0).length).toBeGreaterThan(ROUNDS / 4);
    const last = await restored();
    expect(last.handle.id).toBe(id);
    expect(await sumOf(last, "/big")).toBe(sums.big);
  });
});

describe("saved again while its memory is on its way", () => {
  it("is what it was, though the first file is gone", async () => {
    const [first, second] = [lab.path("first"), lab.path("second")];
    copyFileSync(file, first);
    const again = await restored(first);
    rmSync(first);
    const absent: number[] = [];
    const hurry = GuestLoad.prototype.hurry;
    vi.spyOn(GuestLoad.prototype, "hurry").mockImplementation(function (this: GuestLoad) {
      absent.push(missing(again.handle.id));
      hurry.call(this);
    });
    await lab.host.snapshot([{ id: again.handle.id, file: second, disks: [] }]);
    expect(absent[0]).toBeGreaterThan(50);
    expect(missing(again.handle.id)).toBe(0);
    expect(await sumOf(again, "/big")).toBe(sums.big);
    await again.handle.kill();
    const third = await restored(second);
    expect(await sumOf(third, "/big")).toBe(sums.big);
  });
});

describe("whose file is damaged after it was verified", () => {
  const bad = (name: string) => {
    const path = lab.path(name);
    copyFileSync(file, path);
    return path;
  };
  const lines = expect.stringMatching(/^[^\n]*(damaged|cut off)[^\n]*$/);
  const ways: [string, (path: string) => void][] = [
    ["by other contents", (path) => damage(path, 0.3)],
    ["by an end that comes too early", (path) => truncateSync(path, 5 * MIB)],
    ["by being emptied", (path) => writeFileSync(path, "")],
  ];

  it.each(ways)("ends with one line, %s", async (_, spoil) => {
    const path = bad("bad");
    const handle = await restoring(path, async () => spoil(path));
    expect(await handle.exited).toMatchObject({ reason: "crash", cause: lines });
    await expect.poll(() => traces(handle.id).snapshots).toEqual([]);
  });

  it.each(ways)("ends with one line after it has run for a while, %s", async (_, spoil) => {
    const path = bad("bad");
    const { handle } = await restored(path);
    await delay(100);
    spoil(path);
    expect(await handle.exited).toMatchObject({ reason: "crash", cause: lines });
  });

  it("is not there, and says why, when the guest's own process cannot open it any more", async () => {
    const path = bad("bad");
    const { start } = GuestProcess.prototype;
    let verified: Promise<void> = Promise.resolve();
    const verify = SnapshotFile.prototype.verify;
    vi.spyOn(SnapshotFile.prototype, "verify").mockImplementation(function (this: SnapshotFile, options) {
      verified = verify.call(this, options);
      return verified;
    });
    vi.spyOn(GuestProcess.prototype, "start").mockImplementation(async function (this: GuestProcess, message) {
      await verified;
      truncateSync(path, 5 * MIB);
      await start.call(this, message);
    });
    const failure: unknown = await restored(path).catch((error: unknown) => error);
    expect(failure).toMatchObject({ message: lines, remedy: expect.any(String) });
    await expect.poll(() => lab.host.vbds.list()).toEqual([]);
  });

  it("is not there, and says why, when its backends wait for what does not come", async () => {
    const path = bad("bad");
    const original = GuestProcess.prototype.restored;
    vi.spyOn(GuestProcess.prototype, "restored").mockImplementation(async function (this: GuestProcess) {
      await original.call(this);
      damage(path, 0);
    });
    const ended = restored(path).then(
      async ({ handle }) => await handle.exited,
      (error: unknown) => ({ reason: "crash", cause: error instanceof Error ? error.message : "" }),
    );
    expect(await ended).toMatchObject({ reason: "crash", cause: lines });
    await expect.poll(() => lab.host.vbds.list()).toEqual([]);
  });
});

describe("used while its memory is on its way", () => {
  it("has what it had not written yet written to its disk, for which its backend waits", async () => {
    writeFileSync(image, disk);
    loadNothingUnasked();
    const wishes = vi.spyOn(Arrivals.prototype, "takeWanted");
    const again = await restored();
    // The guest's kernel only names these pages: its backend is the first to want what is in them.
    await again.output("sync");
    const waited = wishes.mock.results.filter(({ value }) => value !== undefined).length;
    expect(waited).toBeGreaterThan(10);
    const written = md5(readFileSync(image).subarray(0, DIRTY));
    expect(written).toBe(sums.dirty);
    expect(await sumOf(again, "/big")).toBe(sums.big);
  });

  it("keeps what it has written into pages that it gave away and took back", async () => {
    loadNothingUnasked();
    const again = await restored();
    const balloon = "/sys/devices/system/xen_memory/xen_memory0";
    const [before, after] = (
      await again.output(`cd ${balloon}; cat info/current_kb
        echo $(($(cat info/current_kb) - 40960)) >target_kb
        n=0; until [ $(cat info/current_kb) -le $(cat target_kb) ]; do sleep 0.02; n=$((n + 1)); [ $n -lt 500 ]; done
        cat info/current_kb; echo ${256 * 1024} >target_kb
        n=0; until [ $(cat info/current_kb) -ge 255000 ]; do sleep 0.02; n=$((n + 1)); [ $n -lt 500 ]; done`)
    )
      .trim()
      .split("\n")
      .map(Number);
    expect(before).toBeGreaterThan((after ?? 0) + 40_000);
    await again.output("cat /big >/tmp/new");
    await expect.poll(() => missing(again.handle.id), { timeout: 120_000 }).toBe(0);
    expect(await sumOf(again, "/tmp/new")).toBe(sums.big);
  });
});
