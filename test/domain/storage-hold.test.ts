/**
 * Disks of a unikernel that never stops writing are held, moved to overlays and taken over by backends that know nothing but
 * the ring, while the storage domain is killed now and then: nothing is lost, doubled or out of order past a barrier, and every
 * image that was left behind has just what was acknowledged until then.
 */
import { spawnSync } from "node:child_process";
import { readFileSync, rmSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { vbdDirectories, vbdNodes } from "../../engine/device/block/vbd-nodes.ts";
import { chainSpec } from "../../engine/disk/chain.ts";
import { checkQcow2, repairQcow2 } from "../../engine/disk/image-tools/check.ts";
import { convertImage } from "../../engine/disk/image-tools/convert.ts";
import { createQcow2 } from "../../engine/disk/image-tools/create.ts";
import { imageInfo } from "../../engine/disk/image-tools/info.ts";
import { HoldLostError, type VbdReplacement } from "../../engine/domain/vbd-toolstack.ts";
import { imageDisk, xvd } from "../disk-config.ts";
import { eventually, KernelLab, RUNS, type Unikernel } from "./kernel-lab.ts";
import {
  CHAINS,
  type ChurnArgument,
  JOURNAL_ANSWERED,
  JOURNAL_CHAINS,
  JOURNAL_REGIONS,
  JOURNAL_SUBMITTED,
  REGION_PAGES,
  REGIONS,
} from "./kernels/churn.ts";

const PAGE = 4096;
const MIB = 1 << 20;
const ROUNDS = 12;

/** The word that fills a page; a page whose words differ is told as a list of those it has. */
function pagesOf(bytes: Buffer, count: number): (number | string)[] {
  return Array.from({ length: count }, (_, page) => {
    const copy = new Uint8Array(bytes.subarray(page * PAGE, (page + 1) * PAGE));
    const values = new Set(new Int32Array(copy.buffer));
    return values.size === 1 ? ([...values][0] ?? 0) : `torn: ${[...values]}`;
  });
}

/** Compares two images with what was acknowledged; `final`: nothing else was under way. */
function verify([chainBytes, regionBytes]: readonly [Buffer, Buffer], acknowledged: Int32Array, final: boolean): void {
  const chains = pagesOf(chainBytes, 2 * CHAINS);
  const regions = pagesOf(regionBytes, REGIONS * REGION_PAGES);
  for (let chain = 0; chain < CHAINS; chain++) {
    const round = acknowledged[JOURNAL_CHAINS + chain] ?? 0;
    const b = round === 0 ? 0 : 2 * round + 2;
    const states = [
      { b, c: round },
      { b: 2 * round + 3, c: round },
      { b: 2 * round + 3, c: round + 1 },
      { b: 2 * round + 4, c: round + 1 },
    ];
    const found = { b: chains[2 * chain], c: chains[2 * chain + 1] };
    expect(final ? states.slice(0, 1) : states).toContainEqual(found);
  }
  for (let region = 0; region < REGIONS; region++) {
    const stamp = acknowledged[JOURNAL_REGIONS + region] ?? 0;
    const values = new Set(regions.slice(region * REGION_PAGES, (region + 1) * REGION_PAGES));
    for (const value of values) expect(final ? [stamp] : [stamp, stamp + 1]).toContain(value);
  }
}

type Convert = (image: string, copy: string) => unknown;
const own: Convert = (image, copy) => convertImage(image, copy, "raw");
/** By QEMU's tool. */
const foreign: Convert = (image, copy) => {
  const args = ["convert", "-U", "-O", "raw", image, copy];
  if (spawnSync("qemu-img", args).status !== 0) throw new Error(`qemu-img ${args.join(" ")} has failed`);
};
const hasQemu = spawnSync("qemu-img", ["--version"]).status === 0;

interface Frozen {
  readonly images: readonly [string, string];
  readonly acknowledged: Int32Array;
}

describe.runIf(RUNS)("disks that are held while a unikernel writes", () => {
  const lab = new KernelLab();
  let active: [string, string] = [lab.image("chains.img", MIB), lab.image("regions.img", MIB)];
  let kernel: Unikernel;
  let journal: Int32Array;
  let made = 0;
  /** What was left behind, and what had been acknowledged then. */
  const frozen: Frozen[] = [];
  /** The same, of images whose writer has not closed them. */
  let marked: Frozen;

  beforeAll(async () => {
    const disks = active.map((image, i) => imageDisk(image, { vdev: xvd(i), persistent: i === 1 }));
    kernel = await lab.start("churn", { memoryMiB: 16, disks });
    const place = await kernel.call<number>("start", { chains: xvd(0), regions: xvd(1) } satisfies ChurnArgument);
    const mapping = lab.host.table.attach(kernel.id);
    if (mapping === undefined) throw new Error("no memory");
    const start = (mapping.base + place) / 4;
    journal = mapping.words.subarray(start, start + PAGE / 4);
  });
  afterAll(() => lab.end());

  const progress = () => Atomics.load(journal, JOURNAL_ANSWERED);
  async function goesOn(): Promise<void> {
    const before = progress();
    await eventually("requests are served again", () => progress() > before + 40);
  }

  /** The disks' content, by way of raw copies. */
  async function content(images: readonly [string, string], convert = own): Promise<[Buffer, Buffer]> {
    const read = async (image: string) => {
      const copy = path.join(lab.folder, `copy-${made++}.img`);
      await convert(image, copy);
      const bytes = readFileSync(copy);
      rmSync(copy);
      return bytes;
    };
    return [await read(images[0]), await read(images[1])];
  }

  async function overlays(): Promise<[string, string]> {
    const make = async (backing: string) => {
      const image = path.join(lab.folder, `overlay-${made++}.qcow2`);
      const format = backing.endsWith(".img") ? "raw" : "qcow2";
      await createQcow2(image, { backing: { path: backing, format } });
      return image;
    };
    return [await make(active[0]), await make(active[1])];
  }

  const replacing = (images: readonly string[]): VbdReplacement[] =>
    images.map((image, i) => ({ vdev: xvd(i), store: chainSpec(image, { readOnly: false }) }));

  it("rest while they are held, and go on", async () => {
    const { vbds } = lab.host;
    await goesOn();
    await vbds.hold(kernel.id);
    await expect(vbds.hold(kernel.id)).rejects.toThrow("another operation holds the guest's disks");
    // What is answered already may not have been seen by the unikernel.
    await new Promise((resolve) => setTimeout(resolve, 100));
    const [answered, before] = [progress(), active.map((image) => readFileSync(image))];
    expect(answered).toBeLessThan(Atomics.load(journal, JOURNAL_SUBMITTED));
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(progress()).toBe(answered);
    for (const [i, image] of active.entries()) expect(readFileSync(image).equals(before[i] ?? Buffer.of())).toBe(true);
    await vbds.release(kernel.id);
    await goesOn();
  });

  it("stay where they are when their new images cannot be served", async () => {
    const { vbds } = lab.host;
    const missing = path.join(lab.folder, "missing.qcow2");
    const store = { kind: "qcow2" as const, path: missing, readOnly: false, backing: [] };
    await vbds.hold(kernel.id);
    await expect(vbds.release(kernel.id, [{ vdev: xvd(0), store }])).rejects.toThrow("does not exist");
    await goesOn();
    const small = path.join(lab.folder, "small.qcow2");
    await createQcow2(small, { size: MIB / 2 });
    await vbds.hold(kernel.id);
    const shrunk = { vdev: xvd(0), store: chainSpec(small, { readOnly: false }) };
    await expect(vbds.release(kernel.id, [shrunk])).rejects.toThrow("cannot be moved to its new image");
    await goesOn();
    // The lock of the old image is whole again, that of the new one given back.
    const spec = chainSpec(active[0], { readOnly: true });
    expect(() => lab.host.vbds.attach(kernel.id, 1, { ...imageDisk(active[0]), vdev: xvd(5), store: spec })).toThrow(
      "is being written",
    );
    rmSync(small);
  });

  it("move to overlays again and again, whenever the storage domain dies", async () => {
    const storage = await lab.host.storageDomain();
    const lost: boolean[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      await goesOn();
      const { vbds } = lab.host;
      const next = await overlays();
      const { pid } = storage;
      const killing = round % 3 === 2;
      let swapped = true;
      let acknowledged: Int32Array | undefined;
      try {
        await vbds.hold(kernel.id);
        acknowledged = journal.slice();
        if (round % 2 === 0) await vbds.prepare(kernel.id, replacing(next));
        // At once, so that the hold is lost before or after the decision; later, somewhere in it or behind it.
        if (killing && round < ROUNDS / 2) process.kill(pid, "SIGKILL");
        else if (killing) setTimeout(() => process.kill(pid, "SIGKILL"), round / 2);
        await vbds.release(kernel.id, replacing(next));
      } catch (error) {
        if (!(error instanceof HoldLostError)) throw error;
        lost.push(error.swapped);
        swapped = error.swapped;
        acknowledged = undefined;
      }
      if (swapped) {
        if (acknowledged) frozen.push({ images: active, acknowledged });
        active = next;
      } else for (const image of next) rmSync(image);
      if (killing) await eventually("another process", () => storage.pid !== pid);
      expect(vbds.list(kernel.id).map(({ store }) => store.kind !== "nbd" && store.path)).toEqual(active);
    }
    await goesOn();
    expect(frozen.length).toBeGreaterThanOrEqual(ROUNDS / 2);
    expect(frozen.length + lost.length).toBe(ROUNDS);
    // With the new images open, and without.
    expect(lost.slice(0, 2)).toEqual([true, false]);
  });

  it("leave whole images behind, marked as in use, when the storage domain dies after the decision", async () => {
    const storage = await lab.host.storageDomain();
    const { vbds } = lab.host;
    // New ones, whose tables change with the first writes.
    const written = await overlays();
    await vbds.hold(kernel.id);
    await vbds.release(kernel.id, replacing(written));
    active = written;
    await goesOn();
    const next = await overlays();
    const { pid } = storage;
    await vbds.hold(kernel.id);
    const acknowledged = journal.slice();
    await vbds.prepare(kernel.id, replacing(next));
    // It never hears of the decision.
    process.kill(pid, "SIGSTOP");
    const released = vbds.release(kernel.id, replacing(next));
    await new Promise((resolve) => setImmediate(resolve));
    process.kill(pid, "SIGKILL");
    await expect(released).rejects.toMatchObject({ swapped: true });
    marked = { images: active, acknowledged };
    active = next;
    await eventually("another process", () => storage.pid !== pid);
    await goesOn();
    for (const image of marked.images) {
      expect(imageInfo(image, "qcow2")[0]).toMatchObject({ dirty: true });
      // Tables and data were written before: a program that knows no journal, or a host that was booted since, finds all.
      expect(await checkQcow2(image)).toMatchObject({ errors: 0 });
    }
    if (hasQemu) verify(await content(marked.images, foreign), acknowledged, false);
    verify(await content(marked.images), acknowledged, false);
  });

  it("are taken over by backends that know nothing but the rings", async () => {
    const { toolstack } = lab.host.xenstore;
    const storage = await lab.host.storageDomain();
    for (let round = 0; round < 4; round++) {
      await goesOn();
      // The guest stands still, as one that is being restored does.
      process.kill(kernel.handle.pid, "SIGSTOP");
      await storage.call("hold", { frontendId: kernel.id });
      expect(progress()).toBeLessThan(Atomics.load(journal, JOURNAL_SUBMITTED));
      const devices = lab.host.vbds.list(kernel.id);
      const nodes = devices.flatMap((device) => {
        const { backend } = vbdDirectories(device);
        const store: unknown = JSON.parse(toolstack.read(`${backend}/domlab-store`) ?? "null");
        const all = vbdNodes({ ...device, type: "file", params: device.target, store });
        return all.filter((node) => node.path.startsWith(`${backend}/`) || node.path === backend);
      });
      for (const device of devices) toolstack.remove(vbdDirectories(device).backend);
      await storage.call("abandon", { frontendId: kernel.id });
      await eventually("the old backends are gone", () => lab.holdings(storage.id, kernel.id).rings.length === 0);
      toolstack.writeNodes(nodes);
      const state = (vdev: number) =>
        toolstack.read(`/local/domain/${storage.id}/backend/vbd/${kernel.id}/${vdev}/state`);
      await eventually("new backends are connected", () => devices.every(({ vdev }) => state(vdev) === "4"));
      process.kill(kernel.handle.pid, "SIGCONT");
    }
    await goesOn();
  });

  it("grow while they are in use", async () => {
    const grown = 8 * MIB;
    expect(await lab.host.vbds.resize(kernel.id, xvd(0), grown)).toBe(grown);
    const storage = await lab.host.storageDomain();
    const sectors = `/local/domain/${storage.id}/backend/vbd/${kernel.id}/${xvd(0)}/sectors`;
    await eventually("it is told", () => lab.host.xenstore.toolstack.read(sectors) === String(grown / 512));
    await expect(lab.host.vbds.resize(kernel.id, xvd(0), MIB)).rejects.toThrow("cannot be resized");
    await expect(lab.host.vbds.resize(kernel.id, xvd(7), grown)).rejects.toThrow("the guest has no disk xvdh");
    await goesOn();
  });

  it("have lost nothing at the end", async () => {
    await kernel.call("stop");
    const acknowledged = journal.slice();
    expect(acknowledged[JOURNAL_ANSWERED]).toBe(acknowledged[JOURNAL_SUBMITTED]);
    const counters = lab.host.vbdStatistics(kernel.id).map((each) => each.counters);
    expect(counters.map(({ errors, refused }) => errors + refused)).toEqual([0, 0]);
    await kernel.handle.stop();
    const storage = await lab.host.storageDomain();
    await eventually("it lets go", () => lab.holdings(storage.id).rings.length === 0);
    await eventually("the images are free", () => lab.host.vbds.list().length === 0);
    verify(await content(active), acknowledged, true);
    expect(frozen.length).toBeGreaterThan(0);
    for (const left of frozen) verify(await content(left.images), left.acknowledged, false);
    // Whoever opens an image next that was in use at its writer's end puts it in order.
    for (const image of marked.images) {
      await repairQcow2(image, "leaks");
      expect(await checkQcow2(image)).toMatchObject({ state: "clean", dirty: false });
    }
    verify(await content(marked.images), marked.acknowledged, false);
  });
});
