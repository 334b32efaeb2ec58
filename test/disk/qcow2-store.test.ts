import { randomBytes } from "node:crypto";
import { truncateSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { portableIo } from "../../engine/disk/host-io.ts";
import type { Qcow2Store } from "../../engine/disk/qcow2/store.ts";
import type { ImageLayer } from "../../engine/disk/spec.ts";
import { flush, temporaryFolder } from "./helpers.ts";
import {
  check,
  contents,
  hasQemuImg,
  Model,
  openedStore,
  qemuImg,
  randomNumbers,
  readStore,
  specOf,
  step,
  writeStore,
} from "./qcow2-tools.ts";

const CLEAN = { status: 0, leaks: 0, errors: 0 };

interface Chain {
  readonly path: string;
  readonly backing: readonly ImageLayer[];
  readonly model: Model;
}

/** Random bytes with stretches of zeros, as disks have them. */
function patches(length: number, random: (below: number) => number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let i = 0; i < 20; i++) {
    const at = 512 * random(length / 512);
    bytes.fill(1 + random(255), at, Math.min(length, at + 512 * random(300)));
  }
  return bytes;
}

/** An image with what is said behind it. */
function chainOf(behind: string, size: number, options: string, random: (below: number) => number): Chain {
  const folder = temporaryFolder();
  const path = join(folder, "top.qcow2");
  const clusterSize = Number(/cluster_size=(\d+)/.exec(options)?.[1] ?? 65_536);
  if (behind === "nothing") {
    qemuImg("create", "-f", "qcow2", "-o", options, path, String(size));
    return { path, backing: [], model: new Model(Buffer.alloc(size), clusterSize) };
  }
  const raw = join(folder, "base.raw");
  const rawSize = behind.includes("longer") ? size + 700 * 512 : behind.includes("shorter") ? size / 2 - 512 : size;
  const bytes = patches(rawSize, random);
  writeFileSync(raw, bytes);
  const backing: ImageLayer[] = [{ path: raw, format: "raw" }];
  if (behind.includes("qcow2")) {
    const middle = join(folder, "middle.qcow2");
    qemuImg("create", "-f", "qcow2", "-b", raw, "-F", "raw", middle, String(rawSize));
    backing.unshift({ path: middle, format: "qcow2" });
  }
  const [nearest] = backing;
  qemuImg("create", "-f", "qcow2", "-o", options, "-b", nearest!.path, "-F", nearest!.format, path, String(size));
  const model = Buffer.alloc(size);
  bytes.copy(model);
  return { path, backing, model: new Model(model, clusterSize) };
}

/** Compared as a whole: toEqual() looks at each byte on its own. */
async function expectBytes(store: Qcow2Store, offset: number, length: number, expected: Buffer): Promise<void> {
  const bytes = await readStore(store, offset, length);
  expect(Buffer.isBuffer(bytes) ? bytes.equals(expected) : bytes).toBe(true);
}

describe.skipIf(!hasQemuImg)("a qcow2 store", () => {
  const shapes: readonly (readonly [options: string, behind: string, size: number, steps: number])[] = [
    ["cluster_size=512", "nothing", 6 << 20, 300],
    ["cluster_size=512", "raw, shorter", 3 << 20, 200],
    ["cluster_size=4096", "raw, longer", 8 << 20, 300],
    ["cluster_size=4096", "qcow2 on raw", 8 << 20, 300],
    ["cluster_size=65536", "nothing", 40 << 20, 300],
    ["cluster_size=65536", "raw", 16 << 20, 300],
    ["cluster_size=65536", "qcow2 on raw, shorter", 16 << 20, 300],
    ["cluster_size=65536", "qcow2 on raw, longer", (16 << 20) + 512, 300],
    ["cluster_size=2097152", "raw", 16 << 20, 100],
    ["cluster_size=65536,compat=0.10", "nothing", 16 << 20, 100],
    ["cluster_size=4096,refcount_bits=1", "nothing", 8 << 20, 200],
    ["cluster_size=4096,refcount_bits=64", "raw", 8 << 20, 200],
    ["cluster_size=512,refcount_bits=64", "nothing", 4 << 20, 200],
    ["cluster_size=65536,lazy_refcounts=on", "nothing", 16 << 20, 200],
    ["cluster_size=65536,preallocation=metadata", "nothing", 16 << 20, 200],
  ];

  it.each(shapes)("holds what was written: %s behind %s", async (options, behind, size, steps) => {
    const random = randomNumbers(size + steps + options.length);
    const { path, backing, model } = chainOf(behind, size, options, random);
    for (let round = 0; round < 3; round++) {
      const store = openedStore(specOf(path, backing));
      for (let i = 0; i < steps / 3; i++) await step(store, model, random);
      expect(store.size).toBe(size);
      const all = await readStore(store, 0, size);
      expect(Buffer.isBuffer(all) && all.equals(model.bytes)).toBe(true);
      await store.close();
      expect(store.lines).toEqual([]);
      expect(check(path)).toMatchObject(CLEAN);
    }
    expect(contents(path).equals(model.bytes)).toBe(true);
  });

  it("works through node:fs, too", async () => {
    const random = randomNumbers(5);
    const { path, backing, model } = chainOf("raw", 4 << 20, "cluster_size=65536", random);
    const store = openedStore(specOf(path, backing), portableIo());
    for (let i = 0; i < 150; i++) await step(store, model, random);
    await store.close();
    expect(check(path)).toMatchObject(CLEAN);
    expect(contents(path).equals(model.bytes)).toBe(true);
  });

  it("leaves an image that is only read as it is", async () => {
    const random = randomNumbers(6);
    const { path, backing, model } = chainOf("raw", 4 << 20, "cluster_size=65536", random);
    const store = openedStore(specOf(path, backing, true));
    await expectBytes(store, 0, model.bytes.length, model.bytes);
    expect((await writeStore(store, 0, Buffer.alloc(512)))?.errno).toBe(constants.errno.EROFS);
    expect(store.discard).toBeUndefined();
    expect(store.resize(8 << 20)?.errno).toBe(constants.errno.EROFS);
  });

  it.each(["zlib", "zstd"])("reads and overwrites clusters compressed by %s", async (method) => {
    const random = randomNumbers(7);
    const folder = temporaryFolder();
    const raw = join(folder, "source.raw");
    const path = join(folder, "image.qcow2");
    const bytes = Buffer.concat([patches(4 << 20, random), Buffer.from("text ".repeat(100_000)), randomBytes(288_304)]);
    const size = bytes.length - (bytes.length % 512);
    writeFileSync(raw, bytes.subarray(0, size));
    qemuImg("convert", "-f", "raw", "-c", "-O", "qcow2", "-o", `compression_type=${method}`, raw, path);
    const model = new Model(bytes.subarray(0, size), 65_536);
    const store = openedStore(specOf(path));
    await expectBytes(store, 0, size, model.bytes);
    for (let i = 0; i < 200; i++) await step(store, model, random);
    await store.close();
    expect(check(path)).toMatchObject(CLEAN);
    expect(contents(path).equals(model.bytes)).toBe(true);
  });

  it("leaves internal snapshots alone", async () => {
    const random = randomNumbers(8);
    const { path, model } = chainOf("nothing", 8 << 20, "cluster_size=4096", random);
    const first = openedStore(specOf(path));
    for (let i = 0; i < 100; i++) await step(first, model, random);
    await first.close();
    const before = Buffer.from(model.bytes);
    qemuImg("snapshot", "-c", "before", path);
    const second = openedStore(specOf(path));
    for (let i = 0; i < 150; i++) await step(second, model, random);
    await second.close();
    expect(check(path)).toMatchObject(CLEAN);
    expect(contents(path).equals(model.bytes)).toBe(true);
    qemuImg("snapshot", "-a", "before", path);
    expect(contents(path).equals(before)).toBe(true);
  });

  it.each([
    ["cluster_size=512", "nothing", 64 << 10, [80 << 10, 9 << 20, 40 << 20]],
    ["cluster_size=65536", "nothing", 1 << 20, [(1 << 20) + 512, 3 * 2 ** 30]],
    ["cluster_size=65536", "raw, longer", (1 << 20) + 512, [(1 << 20) + 100 * 512, 4 << 20]],
    ["cluster_size=4096", "qcow2 on raw, longer", (1 << 20) + 512, [(1 << 20) + 100 * 512, 40 << 20]],
  ] as const)("grows: %s behind %s", async (options, behind, size, sizes) => {
    const random = randomNumbers(size);
    const { path, backing, model } = chainOf(behind, size, options, random);
    const store = openedStore(specOf(path, backing));
    let told = 0;
    store.onResize(() => told++);
    for (const next of sizes) {
      for (let i = 0; i < 20; i++) await step(store, model, random);
      expect(store.resize(next)).toBeUndefined();
      expect(store.size).toBe(next);
      const seen = Math.min(next, 48 << 20);
      model.bytes = Buffer.concat([model.bytes, Buffer.alloc(Math.max(0, seen - model.bytes.length))]);
      await expectBytes(store, 0, seen, model.bytes);
      expect(await writeStore(store, next - 512, Buffer.alloc(512, 9))).toBeUndefined();
      await expectBytes(store, next - 512, 512, Buffer.alloc(512, 9));
      expect(await writeStore(store, next - 512, Buffer.alloc(512))).toBeUndefined();
    }
    expect(told).toBe(sizes.length);
    expect(store.resize(512)?.errno).toBe(constants.errno.EINVAL);
    await store.close();
    expect(check(path)).toMatchObject(CLEAN);
    expect(qemuImg("info", path)).toContain(`(${sizes.at(-1)} bytes)`);
  });

  it("serves a chain of 200 images", async () => {
    const folder = temporaryFolder();
    const raw = join(folder, "0.raw");
    writeFileSync(raw, Buffer.alloc(1 << 20, 0x11));
    const backing: ImageLayer[] = [{ path: raw, format: "raw" }];
    const empty = join(folder, "empty.qcow2");
    qemuImg("create", "-f", "qcow2", empty, "1M");
    for (let i = 1; i < 200; i++) backing.unshift({ path: empty, format: "qcow2" });
    const top = join(folder, "top.qcow2");
    qemuImg("create", "-f", "qcow2", "-u", "-b", empty, "-F", "qcow2", top, "1M");
    const store = openedStore(specOf(top, backing));
    expect(await writeStore(store, 1024, Buffer.alloc(512, 0x22))).toBeUndefined();
    const expected = Buffer.alloc(1 << 20, 0x11).fill(0x22, 1024, 1536);
    await expectBytes(store, 0, 1 << 20, expected);
  });

  it("gives discarded clusters back to the file system after a flush", async () => {
    const random = randomNumbers(9);
    const { path, model } = chainOf("nothing", 16 << 20, "cluster_size=65536", random);
    const store = openedStore(specOf(path));
    expect(await writeStore(store, 0, Buffer.alloc(8 << 20, 1))).toBeUndefined();
    await flush(store);
    const { statSync } = await import("node:fs");
    const full = statSync(path).blocks * 512;
    await new Promise((resolve) => store.discardRange(0, model.bytes.length, false, resolve));
    await flush(store);
    expect(full).toBeGreaterThan(8 << 20);
    expect(statSync(path).blocks * 512).toBeLessThan(2 << 20);
    expect(await writeStore(store, 0, Buffer.alloc(8 << 20, 2))).toBeUndefined();
    await store.close();
    // The room was used again.
    expect(statSync(path).size).toBeLessThan(14 << 20);
    expect(check(path)).toMatchObject(CLEAN);
  });

  it("refuses images in words", () => {
    const folder = temporaryFolder();
    const path = join(folder, "image.qcow2");
    const refused = (what: RegExp): void => {
      expect(() => openedStore(specOf(path))).toThrow(what);
    };
    refused(/does not exist; /);
    writeFileSync(path, Buffer.alloc(4096));
    refused(/is no qcow2 image; /);
    qemuImg("create", "-f", "qcow2", "-o", "extended_l2=on", path, "1M");
    refused(/subclusters \(extended_l2\), which is not supported; convert it/);
    qemuImg("create", "-f", "qcow2", "-o", `data_file=${join(folder, "data")}`, path, "1M");
    refused(/an external data file, which is not supported; /);
    qemuImg("create", "-f", "qcow2", path, "1M");
    truncateSync(path, 600);
    refused(/damaged: .*; /);
  });
});
