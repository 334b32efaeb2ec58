/** Images that the block store had open when its process was killed, and random chains that are merged. */
import { copyFileSync, readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it, onTestFinished } from "vitest";
import { chainSpec } from "../../engine/disk/chain.ts";
import { lockImage } from "../../engine/disk/image.ts";
import { checkQcow2, recover, repairQcow2 } from "../../engine/disk/image-tools/check.ts";
import { convertImage, copyImage } from "../../engine/disk/image-tools/convert.ts";
import { createQcow2 } from "../../engine/disk/image-tools/create.ts";
import { imageInfo } from "../../engine/disk/image-tools/info.ts";
import { flatten, pullInto } from "../../engine/disk/image-tools/merge.ts";
import { resizeImage } from "../../engine/disk/image-tools/resize.ts";
import { openStore } from "../../engine/disk/open.ts";
import { memoryOf, scatterOf, temporaryFolder, transfer } from "./helpers.ts";
import { contentOf, hasQemu, pattern, qemuCheck, qemuIo } from "./image-helpers.ts";

const KiB = 1024;
const MiB = 1024 * KiB;

/** A copy of an overlay as a killed writer leaves it: written, never flushed or closed. */
async function killedWriter(): Promise<{ image: string; expected: Buffer }> {
  const folder = temporaryFolder();
  const [base, live, image] = [join(folder, "base"), join(folder, "live"), join(folder, "image")];
  await createQcow2(base, { size: 4 * MiB });
  qemuIo(base, "write -P 1 0 4M");
  await createQcow2(live, { backing: { path: base, format: "qcow2" } });
  const store = await openStore(chainSpec(live, { readOnly: false }), () => {});
  onTestFinished(() => store.close());
  const memory = memoryOf(300 * KiB);
  memory.bytes.set(pattern(300 * KiB, 5));
  expect(await transfer(store, "write", MiB, scatterOf(memory, [[0, 300 * KiB]]))).toBeUndefined();
  copyFileSync(live, image);
  const expected = Buffer.alloc(4 * MiB, 1);
  pattern(300 * KiB, 5).copy(expected, MiB);
  return { image, expected };
}

describe.runIf(hasQemu)("an image whose writer was killed", () => {
  it("shows after recover() what was written", async () => {
    const { image, expected } = await killedWriter();
    expect(await checkQcow2(image)).toMatchObject({ dirty: true });
    // What was written is not in the tables yet, only in the journal, which QEMU does not know.
    expect(contentOf(image).equals(expected)).toBe(false);
    expect((await recover(image)).state).toBe("repaired");
    expect(qemuCheck(image)).toBe("clean");
    expect(contentOf(image).equals(expected)).toBe(true);
    expect((await recover(image)).state).toBe("untouched");
  });

  it.each(["leaks", "errors", "all"] as const)("shows it after a repair of %s", async (mode) => {
    const { image, expected } = await killedWriter();
    expect((await repairQcow2(image, mode)).after).toMatchObject({ state: "clean", dirty: false });
    expect(contentOf(image).equals(expected)).toBe(true);
  });

  it("shows it to every tool that reads or changes it", async () => {
    const first = await killedWriter();
    await convertImage(first.image, `${first.image}.raw`, "raw");
    expect(readFileSync(`${first.image}.raw`).equals(first.expected)).toBe(true);
    const second = await killedWriter();
    await createQcow2(`${second.image}.top`, { backing: { path: second.image, format: "qcow2" } });
    await pullInto(`${second.image}.top`);
    expect(contentOf(`${second.image}.top`).equals(second.expected)).toBe(true);
    const third = await killedWriter();
    await resizeImage(third.image, 8 * MiB);
    expect(
      contentOf(third.image)
        .subarray(0, 4 * MiB)
        .equals(third.expected),
    ).toBe(true);
    expect(qemuCheck(third.image)).toBe("clean");
  });
});

describe.runIf(hasQemu)("an image whose writer was killed and that others read", () => {
  /** Locks the image as a running machine does whose layer lies over it. */
  function inUse(image: string, readOnly: boolean) {
    const lock = lockImage({ kind: "file", path: image, format: "raw", readOnly });
    onTestFinished(() => lock.release());
  }

  it("is read with its journal and left as it is", async () => {
    const { image, expected } = await killedWriter();
    const before = readFileSync(image);
    inUse(image, true);
    await convertImage(image, `${image}.raw`, "raw");
    expect(readFileSync(`${image}.raw`).equals(expected)).toBe(true);
    await createQcow2(`${image}.top`, { backing: { path: image, format: "qcow2" } });
    await copyImage(`${image}.top`, `${image}.copy`);
    await pullInto(`${image}.copy`);
    expect(contentOf(`${image}.copy`).equals(expected)).toBe(true);
    expect(readFileSync(image).equals(before)).toBe(true);
    await expect(resizeImage(image, 8 * MiB)).rejects.toThrow("is in use");
  });

  it("is copied as it is, and the copy comes to order", async () => {
    const { image, expected } = await killedWriter();
    inUse(image, true);
    await copyImage(image, `${image}.copy`);
    expect((await recover(`${image}.copy`)).state).toBe("repaired");
    expect(contentOf(`${image}.copy`).equals(expected)).toBe(true);
  });

  it("is refused while it is written", async () => {
    const { image } = await killedWriter();
    inUse(image, false);
    await expect(convertImage(image, `${image}.raw`, "raw")).rejects.toThrow("is being written");
  });
});

describe.runIf(hasQemu)("random chains", () => {
  const sectors = fc.integer({ min: 1, max: 2000 });
  const change = fc.record({
    kind: fc.constantFrom("write -P 85", "write -P 0", "write -z", "discard"),
    at: fc.nat(1999),
    count: fc.integer({ min: 1, max: 400 }),
  });
  const layer = fc.record({
    size: sectors,
    clusterSize: fc.constantFrom(512, 4096, 65_536),
    changes: fc.array(change, { maxLength: 4 }),
  });

  it("keep their content when layers are merged", async () => {
    const property = fc.asyncProperty(
      fc.array(layer, { minLength: 2, maxLength: 4 }),
      fc.boolean(),
      async (layers, all) => {
        const folder = temporaryFolder();
        let path = "";
        for (const [depth, { size, clusterSize, changes }] of layers.entries()) {
          const next = join(folder, `layer${depth}`);
          const backing = depth > 0 && { backing: { path, format: "qcow2" as const } };
          await createQcow2(next, { size: size * 512, clusterSize, ...backing });
          path = next;
          const commands = changes
            .filter(({ at }) => at < size)
            .map(({ kind, at, count }) => `${kind} ${at * 512} ${Math.min(count, size - at) * 512}`);
          if (commands.length > 0) qemuIo(path, ...commands);
        }
        const before = contentOf(path);
        await (all ? flatten(path) : pullInto(path));
        expect(imageInfo(path)).toHaveLength(all ? 1 : layers.length - 1);
        expect(qemuCheck(path)).toBe("clean");
        expect(contentOf(path).equals(before)).toBe(true);
      },
    );
    await fc.assert(property, { numRuns: 25 });
  });
});
