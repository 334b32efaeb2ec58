/** Images of a lab when something goes wrong with them: a full disk, a kill in the middle, a guest that forges headers. */
import { execFileSync, spawnSync } from "node:child_process";
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from "vitest";
import { chainSpec } from "../../../../engine/disk/chain.ts";
import { checkQcow2 } from "../../../../engine/disk/image-tools/check.ts";
import { createQcow2 } from "../../../../engine/disk/image-tools/create.ts";
import { imageInfo } from "../../../../engine/disk/image-tools/info.ts";
import { openStore } from "../../../../engine/disk/open.ts";
import { labImages } from "../../../../main/lab/machines/lab-images.ts";
import { memoryOf, scatterOf, transfer } from "../../../disk/helpers.ts";
import { LabFixture, MIB, reopened } from "./lab-fixture.ts";

const pool = (lab: LabFixture) => readdirSync(path.join(lab.home, "disks")).sort();

/** Opens a machine's disk as its backend does and fills the first bytes with one value. @returns what it opened */
async function writing(image: string, value: number, bytes: number) {
  const store = await openStore(chainSpec(image, { readOnly: false }), () => {});
  const memory = memoryOf(bytes);
  memory.bytes.fill(value);
  expect(await transfer(store, "write", 0, scatterOf(memory, [[0, bytes]]))).toBeUndefined();
  return store;
}

async function write(image: string, value: number, bytes: number): Promise<void> {
  await (await writing(image, value, bytes)).close();
}

/** The first byte of the disk and that at `offset`. */
async function bytesAt(image: string, ...offsets: number[]): Promise<number[]> {
  const store = await openStore(chainSpec(image, { readOnly: true }), () => {});
  const memory = memoryOf(512);
  const found: number[] = [];
  for (const offset of offsets) {
    expect(await transfer(store, "read", offset, scatterOf(memory, [[0, 512]]))).toBeUndefined();
    found.push(memory.bytes[0] ?? -1);
  }
  await store.close();
  return found;
}

describe("a full disk", () => {
  const SMALL = 96 * MIB;
  let lab: LabFixture;
  let mounted = false;

  beforeEach(async () => {
    lab = new LabFixture();
    mkdirSync(lab.home);
    mounted = spawnSync("mount", ["-t", "tmpfs", "-o", `size=${SMALL}`, "domlab-test", lab.home]).status === 0;
    if (mounted) await lab.open();
  });
  afterEach(async () => {
    if (mounted) await lab.quit("destroy").catch(() => undefined);
    if (mounted) execFileSync("umount", ["-l", lab.home]);
    rmSync(lab.folder, { recursive: true, force: true });
  });

  const filler = () => path.join(lab.home, "fill");
  /** Takes the last byte. */
  function fill(): void {
    const descriptor = openSync(filler(), "a");
    const bytes = Buffer.alloc(MIB);
    try {
      for (let length = bytes.length; length >= 1; ) {
        try {
          if (writeSync(descriptor, bytes, 0, length) === 0) length = 0;
        } catch {
          length = Math.floor(length / 2);
        }
      }
    } finally {
      closeSync(descriptor);
    }
  }
  const free = () => rmSync(filler(), { force: true });

  it("stops what is asked of the lab with one line, and everything goes on when there is room again", async (context) => {
    if (!mounted) return context.skip("mounting a tmpfs needs root");
    await lab.create("web");
    await write(await lab.disk("web"), 1, 4 * MIB);
    await lab.call("snapshotTake", { machine: "web", name: "one" });
    await write(await lab.disk("web"), 2, MIB);
    const [before, files] = [await lab.call("machineShow", { machine: "web" }), pool(lab)];
    const disk = { vdev: "xvdb", size: 2 ** 40, format: "qcow2" } as const;
    const calls = {
      create: () => lab.call("machineCreate", { config: { name: "db" }, newDisks: [disk] }),
      snapshot: () => lab.call("snapshotTake", { machine: "web", name: "two" }),
      set: () => lab.call("machineSet", { machine: "web", settings: ["notes=full"] }),
      disk: () => lab.call("diskCreate", { machine: "web", disk }),
      resize: () => lab.call("diskResize", { machine: "web", vdev: "xvda", size: 2 ** 42 }),
      clone: () => lab.call("machineClone", { machine: "web", name: "copy", linked: false }),
      linked: () => lab.call("machineClone", { machine: "web", name: "link", linked: true }),
    };
    fill();
    for (const [what, call] of Object.entries(calls)) {
      const line = await call().then(
        () => `${what} went on`,
        (error: Error) => error.message,
      );
      expect(line, what).toMatch(/^[^\n]*(no space left|MiB left)[^\n]*; [^\n]*free some[^\n]*$/);
      expect(await lab.call("machineShow", { machine: "web" }), what).toEqual(before);
      expect(pool(lab), what).toEqual(files);
    }
    // Room enough when it was looked at, and none when it was needed.
    free();
    const copy = labImages.copy.bind(labImages);
    const spy = vi.spyOn(labImages, "copy").mockImplementation(async (...parts) => {
      fill();
      await copy(...parts);
    });
    onTestFinished(() => spy.mockRestore());
    await expect(calls.clone()).rejects.toThrow(/cannot be written: no space left; free some/);
    spy.mockRestore();
    expect(pool(lab)).toEqual(files);
    expect(await bytesAt(await lab.disk("web"), 0, MIB)).toEqual([2, 1]);
    free();
    for (const call of [calls.snapshot, calls.set, calls.disk, calls.clone, calls.linked]) await call();
    expect((await lab.call("machineList", {})).map(({ name }) => name)).toEqual(["web", "copy", "link"]);
    for (const name of ["web", "copy", "link"]) {
      expect(await bytesAt(await lab.disk(name), 0, MIB), name).toEqual([2, 1]);
    }
    for (const file of pool(lab)) {
      expect(await checkQcow2(path.join(lab.home, "disks", file)), file).toMatchObject({ state: "clean" });
    }
  });

  it("puts merging off until there is room", async (context) => {
    if (!mounted) return context.skip("mounting a tmpfs needs root");
    await lab.create("web");
    await write(await lab.disk("web"), 1, 4 * MIB);
    await lab.call("snapshotTake", { machine: "web", name: "one" });
    await write(await lab.disk("web"), 2, MIB);
    const layers = pool(lab);
    // The records have their room: what is missing is that for the data.
    fill();
    free();
    const pull = labImages.pull.bind(labImages);
    const spy = vi.spyOn(labImages, "pull").mockImplementation(async (...parts) => {
      fill();
      await pull(...parts);
    });
    onTestFinished(() => spy.mockRestore());
    expect(await lab.call("snapshotDelete", { machine: "web", snapshot: "one" })).toEqual({ deferred: true });
    spy.mockRestore();
    expect(pool(lab)).toEqual(layers);
    expect(await bytesAt(await lab.disk("web"), 0, MIB)).toEqual([2, 1]);
    free();
    await lab.server.context.layers.tidy();
    expect(pool(lab)).toHaveLength(1);
    expect(await bytesAt(await lab.disk("web"), 0, MIB)).toEqual([2, 1]);
    expect(await checkQcow2(await lab.disk("web"))).toMatchObject({ state: "clean", dirty: false });
  });
});

describe("a lab with images", () => {
  let lab: LabFixture;
  beforeEach(async () => {
    lab = await new LabFixture().open();
  });
  afterEach(() => lab.dispose());

  it("that is killed before the disks are swapped puts the frozen images in order too", async () => {
    await lab.create("web");
    await lab.call("machineStart", { machine: "web" });
    const base = await lab.disk("web");
    const store = await writing(base, 7, MIB);
    onTestFinished(() => store.close());
    let copy: string | undefined;
    lab.host.moment = (what) => {
      if (what === "before the swap") copy ??= lab.freeze();
    };
    await lab.call("snapshotTake", { machine: "web", name: "one" });
    const found = await reopened(copy ?? "", lab.home);
    onTestFinished(() => found.dispose());
    const layers = imageInfo(await found.disk("web"), "qcow2");
    expect(layers.map((layer) => path.basename(layer.path))[1]).toBe(path.basename(base));
    expect(layers.map(({ dirty }) => dirty)).toEqual([false, false]);
    expect(await bytesAt(await found.disk("web"), 0, MIB)).toEqual([7, 0]);
  });

  it("merges a raw layer for what it is, whatever its guest has written there", async () => {
    const stray = path.join(lab.home, "disks", "stray.img");
    writeFileSync(stray, Buffer.alloc(4096, "not the guest's"));
    const newDisks = [{ vdev: "xvda", size: 8 * MIB, format: "raw" as const }];
    await lab.call("machineCreate", { config: { name: "web" }, newDisks });
    const raw = await lab.disk("web");
    // What the guest writes looks like an image that lies over a file of the lab's.
    const forged = path.join(lab.folder, "forged.qcow2");
    await createQcow2(forged, { size: 8 * MIB, backing: { path: stray, format: "raw" } });
    const bytes = memoryOf(512 * 1024);
    bytes.bytes.set(readFileSync(forged).subarray(0, 512 * 1024));
    const store = await openStore(chainSpec(raw, { readOnly: false, format: "raw" }), () => {});
    await transfer(store, "write", 0, scatterOf(bytes, [[0, 512 * 1024]]));
    await store.close();
    await lab.call("snapshotTake", { machine: "web", name: "one" });
    expect(await lab.call("snapshotDelete", { machine: "web", snapshot: "one" })).toEqual({ deferred: false });
    expect(existsSync(raw)).toBe(false);
    expect(existsSync(stray)).toBe(true);
    expect(pool(lab)).toHaveLength(2);
    expect(await bytesAt(await lab.disk("web"), 0)).toEqual([0x51]);
  });
});
