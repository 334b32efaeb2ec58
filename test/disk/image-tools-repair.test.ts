import { copyFileSync, readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { checkQcow2, repairQcow2 } from "../../engine/disk/image-tools/check.ts";
import { createQcow2 } from "../../engine/disk/image-tools/create.ts";
import { temporaryFolder } from "./helpers.ts";
import { contentOf, hasQemu, patch, pattern, peek, qemuCheck, qemuImg, qemuIo, refusal } from "./image-helpers.ts";

const MiB = 2 ** 20;

/** Places of tables in an image, bytes. */
interface Places {
  readonly l1: number;
  readonly l2: readonly number[];
  readonly table: number;
  readonly block: number;
  readonly size: number;
}

function placesOf(path: string): Places {
  const image = readFileSync(path);
  const offset = (at: number) => Number(image.readBigUInt64BE(at) & 0x00ff_ffff_ffff_fe00n);
  const [l1, table] = [Number(image.readBigUInt64BE(40)), Number(image.readBigUInt64BE(48))];
  const l2 = Array.from({ length: image.readUInt32BE(36) }, (_, n) => offset(l1 + n * 8)).filter((at) => at !== 0);
  return { l1, l2, table, block: offset(table), size: image.length };
}

function setEntry(path: string, at: number, value: bigint): void {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(value);
  patch(path, at, bytes);
}

const entry = (path: string, at: number): bigint => peek(path, at, 8).readBigUInt64BE();

/** Three L2 tables of 4 KiB clusters, data in each. */
async function sample(path: string): Promise<Places> {
  await createQcow2(path, { size: 6 * MiB, clusterSize: 4096 });
  qemuIo(path, "write -P 1 0 64k", `write -P 2 ${2 * MiB} 64k`, `write -P 3 ${4 * MiB} 64k`);
  expect(qemuCheck(path)).toBe("clean");
  return placesOf(path);
}

interface Damage {
  readonly name: string;
  readonly do: (path: string, places: Places) => void;
  readonly verdict: "leaks" | "errors";
  /** What QEMU says, where it does not get as far as we. */
  readonly theirs?: "unusable";
  /** What is enough to mend it. */
  readonly mode: "leaks" | "errors" | "all";
  /** Whether all content is there afterwards. */
  readonly kept: boolean;
}

const DAMAGES: readonly Damage[] = [
  {
    name: "a cluster that nobody refers to",
    do: (path, { l2 }) => setEntry(path, l2[0]! + 8, 0n),
    verdict: "leaks",
    mode: "leaks",
    kept: false,
  },
  {
    name: "a refcount too low",
    do: (path, { block, l2 }) => patch(path, block + (l2[0]! / 4096) * 2, Buffer.from([0, 0])),
    verdict: "errors",
    mode: "errors",
    kept: true,
  },
  {
    name: "a refcount block lost",
    do: (path, { table }) => setEntry(path, table, 0n),
    verdict: "errors",
    mode: "errors",
    kept: true,
  },
  {
    name: "a refcount block in the middle of a cluster",
    do: (path, { table, block }) => setEntry(path, table, BigInt(block + 512)),
    verdict: "errors",
    theirs: "unusable",
    mode: "errors",
    kept: true,
  },
  {
    name: "a refcount block that is an L2 table",
    do: (path, { table, l2 }) => setEntry(path, table, BigInt(l2[0]!)),
    verdict: "errors",
    mode: "errors",
    kept: true,
  },
  {
    name: "an L1 entry without its flag",
    do: (path, { l1 }) => setEntry(path, l1, entry(path, l1) & ~(1n << 63n)),
    verdict: "errors",
    mode: "errors",
    kept: true,
  },
  {
    name: "an L2 entry without its flag",
    do: (path, { l2 }) => setEntry(path, l2[1]!, entry(path, l2[1]!) & ~(1n << 63n)),
    verdict: "errors",
    mode: "errors",
    kept: true,
  },
  {
    name: "a reserved bit in an L1 entry",
    do: (path, { l1 }) => setEntry(path, l1 + 8, entry(path, l1 + 8) | (1n << 60n)),
    verdict: "errors",
    mode: "errors",
    kept: true,
  },
  {
    name: "a compressed cluster that lies in the header",
    do: (path, { l2 }) => setEntry(path, l2[0]! + 18 * 8, 1n << 62n),
    verdict: "errors",
    mode: "all",
    kept: false,
  },
  {
    name: "two entries for one cluster",
    do: (path, { l2 }) => setEntry(path, l2[0]! + 40 * 8, entry(path, l2[1]!)),
    verdict: "errors",
    mode: "errors",
    kept: false,
  },
  {
    name: "an L2 entry behind the end",
    do: (path, { l2, size }) => setEntry(path, l2[0]! + 8, (1n << 63n) | BigInt(size + 40_960)),
    verdict: "errors",
    mode: "all",
    kept: false,
  },
  {
    name: "an L1 entry behind the end",
    do: (path, { l1, size }) => setEntry(path, l1, (1n << 63n) | BigInt(size * 16)),
    verdict: "errors",
    mode: "all",
    kept: false,
  },
  {
    name: "an L2 entry for the header",
    do: (path, { l2, l1 }) => setEntry(path, l2[2]! + 8, (1n << 63n) | BigInt(l1)),
    verdict: "errors",
    mode: "all",
    kept: false,
  },
  {
    name: "an L1 entry for data",
    do: (path, { l1, l2 }) => setEntry(path, l1 + 8, entry(path, l2[0]!)),
    verdict: "errors",
    mode: "all",
    kept: false,
  },
];

describe.runIf(hasQemu)("check and repair", () => {
  it.each(DAMAGES)("$name", async (damage) => {
    const path = join(temporaryFolder(), "a");
    const places = await sample(path);
    const before = contentOf(path);
    damage.do(path, places);
    expect(qemuCheck(path)).toBe(damage.theirs ?? damage.verdict);
    const found = await checkQcow2(path);
    expect(found.state).toBe(damage.verdict);
    expect(found.problems.length).toBe(found.leaks + found.errors);
    if (damage.mode === "errors") expect((await repairQcow2(path, "leaks")).after.state).toBe("errors");
    if (damage.mode === "all") expect((await repairQcow2(path, "errors")).after.state).toBe("errors");
    const report = await repairQcow2(path, damage.mode);
    expect(report.after).toMatchObject({ state: "clean", leaks: 0, errors: 0, problems: [] });
    expect(report.dropped > 0).toBe(damage.mode === "all");
    expect(qemuCheck(path)).toBe("clean");
    if (damage.kept) expect(contentOf(path).equals(before)).toBe(true);
    qemuIo(path, "write -P 9 1M 512k");
    expect(qemuCheck(path)).toBe("clean");
  });

  it("an L1 entry that leads into data costs its own table, not the data", async () => {
    const path = join(temporaryFolder(), "a");
    const { l1, l2 } = await sample(path);
    patch(path, Number(entry(path, l2[0]!) & 0x00ff_ffff_ffff_fe00n), pattern(4096, 1));
    const data = contentOf(path).subarray(0, 2 * MiB);
    setEntry(path, l1 + 8, entry(path, l2[0]!));
    await repairQcow2(path, "all");
    expect(qemuCheck(path)).toBe("clean");
    expect(
      contentOf(path)
        .subarray(0, 2 * MiB)
        .equals(data),
    ).toBe(true);
  });

  it("counts what internal snapshots, bitmaps and compressed clusters refer to", async () => {
    const folder = temporaryFolder();
    const path = join(folder, "a");
    await sample(path);
    qemuImg("snapshot", "-c", "one", path);
    qemuIo(path, "write -P 7 0 32k");
    qemuImg("bitmap", "--add", path, "changes");
    qemuIo(path, "write -P 8 1M 32k");
    expect(await checkQcow2(path)).toMatchObject({ state: "clean", dirty: false });
    const { table } = placesOf(path);
    setEntry(path, table, 0n);
    expect((await repairQcow2(path, "errors")).after.state).toBe("clean");
    expect(qemuCheck(path)).toBe("clean");
    expect(qemuImg("info", path)).toContain("changes");
    qemuImg("bitmap", "--remove", path, "changes");
    qemuImg("snapshot", "-a", "one", path);
    expect(
      contentOf(path)
        .subarray(0, 32 * 1024)
        .equals(Buffer.alloc(32 * 1024, 1)),
    ).toBe(true);
    const packed = join(folder, "packed");
    qemuImg("convert", "-c", "-O", "qcow2", path, packed);
    expect(await checkQcow2(packed)).toMatchObject({ state: "clean" });
    expect((await checkQcow2(packed)).compressedClusters).toBeGreaterThan(0);
  });

  it("finds an L1 entry that says of no table that it belongs to nobody else", async () => {
    const path = join(temporaryFolder(), "a");
    const { l1 } = await sample(path);
    setEntry(path, l1, 1n << 63n);
    expect(qemuCheck(path)).toBe("errors");
    const before = await checkQcow2(path);
    expect(before.state).toBe("errors");
    expect(before.problems).toContainEqual(expect.objectContaining({ kind: "bad-entry", offset: l1 }));
    expect((await repairQcow2(path, "errors")).after.state).toBe("clean");
    expect(qemuCheck(path)).toBe("clean");
  });

  it("finds what qemu-img finds when bits of the tables flip, and mends it", async () => {
    const folder = temporaryFolder();
    const good = join(folder, "good");
    const { l1, l2, table, block } = await sample(good);
    const path = join(folder, "a");
    const places = fc.oneof(
      fc.nat(24 * 8 - 1).map((bit) => l1 * 8 + bit),
      fc.tuple(fc.constantFrom(...l2), fc.nat(20 * 64 - 1)).map(([at, bit]) => at * 8 + bit),
      fc.nat(2 * 64 - 1).map((bit) => table * 8 + bit),
      fc.nat(60 * 16 - 1).map((bit) => block * 8 + bit),
    );
    const property = fc.asyncProperty(fc.array(places, { minLength: 1, maxLength: 3 }), async (bits) => {
      copyFileSync(good, path);
      for (const bit of bits) {
        const at = Math.floor(bit / 8);
        patch(path, at, Buffer.from([peek(path, at, 1)[0]! ^ (1 << (bit % 8))]));
      }
      const theirs = qemuCheck(path);
      const ours = (await checkQcow2(path)).state;
      // QEMU gives up on some tables that we can still read, and finds nothing wrong with metadata that data points to as
      // long as the refcounts agree.
      if (theirs !== "unusable") expect(ours === theirs || (ours === "errors" && theirs !== "clean")).toBe(true);
      const { after } = await repairQcow2(path, "all");
      expect(after.state).toBe("clean");
      expect(qemuCheck(path)).toBe("clean");
    });
    await fc.assert(property, { numRuns: 60 });
  });

  it("no byte of the metadata, whatever its value, makes a check or a repair do more than report", async () => {
    const folder = temporaryFolder();
    const good = join(folder, "good");
    const { l1, l2, table, block, size } = await sample(good);
    qemuImg("snapshot", "-c", "one", good);
    const path = join(folder, "a");
    const near = [0, l1, table, block, ...l2];
    const change = fc.tuple(fc.constantFrom(...near), fc.nat(119), fc.uint8Array({ minLength: 1, maxLength: 12 }));
    const property = fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 4 }), async (changes) => {
      copyFileSync(good, path);
      for (const [at, offset, bytes] of changes) patch(path, at + offset, bytes);
      const refused = await refusal(async () => {
        await checkQcow2(path);
        await repairQcow2(path, "all");
      });
      expect(readFileSync(path).length).toBeLessThan(size * 2 + 256 * 1024);
      if (refused === undefined) {
        // What was mended can be described again.
        expect((await checkQcow2(path)).path).toBe(path);
      }
    });
    await fc.assert(property, { numRuns: 150 });
  });

  it("clears the marks of a dirty or corrupt image only once it is clean", async () => {
    const path = join(temporaryFolder(), "a");
    const { l2, size } = await sample(path);
    patch(path, 79, Buffer.from([2]));
    setEntry(path, l2[0]! + 8, (1n << 63n) | BigInt(size + 40_960));
    expect((await repairQcow2(path, "errors")).after).toMatchObject({ state: "errors", corrupt: true });
    expect((await repairQcow2(path, "all")).after).toMatchObject({ state: "clean", corrupt: false });
    expect(qemuCheck(path)).toBe("clean");
  });

  it("refuses raw images", async () => {
    const path = join(temporaryFolder(), "a");
    qemuImg("create", "-f", "raw", path, "1M");
    expect(await refusal(() => checkQcow2(path))).toBe("unsupported-format");
  });
});
