/** Layers of a chain made one, whatever their sizes and clusters. */
import { mkdirSync, readFileSync, renameSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { createQcow2 } from "../../engine/disk/image-tools/create.ts";
import { imageInfo } from "../../engine/disk/image-tools/info.ts";
import { flatten, pullInto } from "../../engine/disk/image-tools/merge.ts";
import { rebase } from "../../engine/disk/image-tools/rebase.ts";
import { temporaryFolder } from "./helpers.ts";
import { contentOf, hasQemu, qemuCheck, qemuImg, qemuIo, refusal, write } from "./image-helpers.ts";

const KiB = 1024;
const MiB = 1024 * KiB;

interface Shape {
  readonly sizes: readonly [number, number, number];
  readonly clusters: readonly [number, number, number];
  readonly base: "raw" | "qcow2";
}

/** base ← middle ← top, each with content of its own, zeros and nothing. */
async function makeChain(folder: string, { sizes, clusters, base }: Shape): Promise<[string, string, string]> {
  const paths: [string, string, string] = [join(folder, "base"), join(folder, "middle"), join(folder, "top")];
  if (base === "raw") {
    writeFileSync(paths[0], Buffer.alloc(sizes[0], 0xb0));
    truncateSync(paths[0], sizes[0]);
  } else {
    await createQcow2(paths[0], { size: sizes[0], clusterSize: clusters[0] });
    write(paths[0], [[0, sizes[0], 0xb0]]);
  }
  await createQcow2(paths[1], { size: sizes[1], clusterSize: clusters[1], backing: { path: paths[0], format: base } });
  write(paths[1], [
    [MiB, 300 * KiB, 0xc1],
    [3 * MiB + 512, 512, 0xc2],
  ]);
  qemuIo(paths[1], `write -z ${2 * MiB} ${512 * KiB}`, "discard 64k 128k");
  await createQcow2(paths[2], {
    size: sizes[2],
    clusterSize: clusters[2],
    backing: { path: paths[1], format: "qcow2" },
  });
  write(paths[2], [
    [MiB + 64 * KiB, 64 * KiB, 0xd1],
    [2 * MiB + 4096, 4096, 0xd2],
  ]);
  qemuIo(paths[2], `write -z ${512 * KiB} 64k`);
  return paths;
}

const SHAPES: readonly Shape[] = [
  { sizes: [4 * MiB, 4 * MiB, 4 * MiB], clusters: [65536, 65536, 65536], base: "qcow2" },
  { sizes: [6 * MiB, 4 * MiB, 8 * MiB + 512], clusters: [65536, 65536, 65536], base: "qcow2" },
  { sizes: [5 * MiB, 4 * MiB + 512, 6 * MiB], clusters: [65536, 4096, 2 * MiB], base: "raw" },
  { sizes: [3 * MiB, 8 * MiB, 6 * MiB], clusters: [512, 65536, 512], base: "qcow2" },
  { sizes: [8 * MiB, 7 * MiB, 4 * MiB], clusters: [4096, 2 * MiB, 4096], base: "raw" },
];

describe.runIf(hasQemu)("merge", () => {
  it.each(SHAPES)("pull keeps what the disk shows: %j", async (shape) => {
    const folder = temporaryFolder();
    const [base, middle, top] = await makeChain(folder, shape);
    const before = contentOf(top);
    const frozen = readFileSync(middle);
    const report = await pullInto(top);
    expect(report.backing).toBe(base);
    expect(qemuCheck(top)).toBe("clean");
    expect(JSON.parse(qemuImg("info", "--output=json", top))).toMatchObject({
      "backing-filename": "base",
      "backing-filename-format": shape.base,
    });
    expect(contentOf(top).equals(before)).toBe(true);
    expect(readFileSync(middle).equals(frozen)).toBe(true);
    await pullInto(top);
    expect(imageInfo(top)).toHaveLength(1);
    expect(qemuCheck(top)).toBe("clean");
    expect(contentOf(top).equals(before)).toBe(true);
    expect(await refusal(() => pullInto(top))).toBe("broken-chain");
  });

  it("flatten copies everything; a snapshot's shared tables are left alone", async () => {
    const [, , top] = await makeChain(temporaryFolder(), SHAPES[0]!);
    qemuImg("snapshot", "-c", "one", top);
    const before = contentOf(top);
    await flatten(top);
    expect(imageInfo(top)).toHaveLength(1);
    expect(qemuCheck(top)).toBe("clean");
    expect(contentOf(top).equals(before)).toBe(true);
  });

  it("copies no more than is needed", async () => {
    const folder = temporaryFolder();
    const [base, middle, top] = [join(folder, "base"), join(folder, "middle"), join(folder, "top")];
    await createQcow2(base, { size: 2 ** 40 });
    await createQcow2(middle, { backing: { path: base, format: "qcow2" } });
    await createQcow2(top, { backing: { path: middle, format: "qcow2" } });
    write(middle, [[700 * 2 ** 30, 64 * KiB, 1]]);
    expect((await pullInto(top)).copied).toBe(64 * KiB);
    expect(qemuCheck(top)).toBe("clean");
  });

  it("rebase changes the header alone, and refuses a chain that would be a loop", async () => {
    const folder = temporaryFolder();
    const [base, middle, top] = await makeChain(folder, SHAPES[0]!);
    await rebase(top, { path: base, format: "qcow2" });
    expect(imageInfo(top).map(({ path }) => path)).toEqual([top, base]);
    expect(await refusal(() => rebase(base, { path: middle, format: "qcow2" }))).toBe("broken-chain");
    expect(await refusal(() => rebase(top, { path: join(folder, "none"), format: "raw" }))).toBe("missing-image");
    const deep = join(folder, ...Array.from({ length: 8 }, () => "d".repeat(100)));
    mkdirSync(deep, { recursive: true });
    for (const name of ["one", "two", "three"]) {
      renameSync(imageInfo(top)[1]!.path, join(deep, name));
      await rebase(top, { path: join(deep, name), format: "qcow2" });
      expect(imageInfo(top)[1]?.path).toBe(join(deep, name));
      expect(qemuCheck(top)).toBe("clean");
    }
    await rebase(top, undefined);
    expect(imageInfo(top)).toHaveLength(1);
  });
});
