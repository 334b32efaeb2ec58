import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { DiskError } from "../../engine/disk/errors.ts";
import { type HostIo, hostIo } from "../../engine/disk/host-io.ts";
import { parseHeader } from "../../engine/disk/qcow2/header.ts";
import { openQcow2Store, type Qcow2Store } from "../../engine/disk/qcow2/store.ts";
import { discard, flush, temporaryFolder } from "./helpers.ts";
import { hasQemuImg, openedStore, qemuImg, readStore, specOf, unsyncedIo, writeStore } from "./qcow2-tools.ts";

const CLUSTER = 4096;
const SIZE = 2 << 20;
const { EIO } = constants.errno;

/** An image with data, compressed clusters, an internal snapshot and free room. */
let bytes: Buffer;

/** Throws when something is written where an image of this size cannot have room, or when there is no end to it. */
function guardedIo(end: number): HostIo {
  const region = CLUSTER * (CLUSTER / 2);
  let calls = 0;
  return {
    ...unsyncedIo,
    transfer(writing, descriptor, offset, scatter, skip) {
      if (++calls > 50_000) throw new Error("it does not come to an end");
      if (offset < 0 || !Number.isSafeInteger(offset)) throw new Error(`an offset of ${offset}`);
      if (writing && offset > end + (64 << 20) + 4 * region) throw new Error(`written at ${offset}`);
      return hostIo().transfer(writing, descriptor, offset, scatter, skip);
    },
  };
}

async function useAll(store: Qcow2Store): Promise<void> {
  const size = Math.min(store.size, SIZE);
  await readStore(store, 0, size);
  if (!store.readOnly && size >= SIZE) {
    await writeStore(store, 512, Buffer.alloc(9 * 512, 1));
    await writeStore(store, 1 << 20, Buffer.alloc(100 * 512, 2));
    await discard(store, 0, 300_032);
    await writeStore(store, 1_900_544, Buffer.alloc(8192, 3));
    await flush(store);
    store.resize(store.size + (40 << 20));
    await readStore(store, 0, size);
  }
}

/** Where the tables of the sample lie, so that most changes hit something. */
function interesting(): number[] {
  const header = parseHeader(bytes, "sample");
  const l2 = bytes.readUIntBE(header.l1Offset + 2, 6);
  const block = bytes.readUIntBE(header.refcountTableOffset + 2, 6);
  const starts = [0, 0, 0, header.l1Offset, l2, block, header.refcountTableOffset, header.snapshotsOffset];
  return starts.flatMap((start) => Array.from({ length: 40 }, (_, i) => start + i));
}

describe.skipIf(!hasQemuImg)("a hostile qcow2 image", () => {
  beforeAll(async () => {
    const folder = mkdtempSync(join(tmpdir(), "domlab-hostile-"));
    const raw = join(folder, "source.raw");
    const path = join(folder, "image.qcow2");
    writeFileSync(raw, Buffer.concat([Buffer.from("words ".repeat(20_000)), Buffer.alloc(SIZE - 120_000)]));
    qemuImg("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", `cluster_size=${CLUSTER}`, raw, path);
    const first = openQcow2Store(specOf(path), () => {}, unsyncedIo);
    await writeStore(first, 1 << 20, Buffer.alloc(200_704, 7));
    await first.close();
    qemuImg("snapshot", "-c", "one", path);
    const second = openQcow2Store(specOf(path), () => {}, unsyncedIo);
    await writeStore(second, (1 << 20) + 4096, Buffer.alloc(65_536, 8));
    await second.close();
    bytes = readFileSync(path);
    rmSync(folder, { recursive: true });
  });

  it("is refused or fails with I/O errors, whatever bytes are changed", async () => {
    const path = join(temporaryFolder(), "image.qcow2");
    const change = fc.record({
      at: fc.oneof(
        fc.nat(1_000).map((i) => interesting()[i % interesting().length]!),
        fc.nat(bytes.length - 1),
      ),
      value: fc.oneof(fc.nat(255), fc.constantFrom(0, 1, 0x40, 0x80, 0xff)),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 6 }), fc.boolean(), async (changes, readOnly) => {
        const damaged = Buffer.from(bytes);
        for (const { at, value } of changes) damaged[at] = value;
        writeFileSync(path, damaged);
        let store: Qcow2Store;
        try {
          store = openQcow2Store(specOf(path, [], readOnly), () => {}, guardedIo(damaged.length));
        } catch (error) {
          expect(error).toBeInstanceOf(DiskError);
          expect((error as DiskError).message).toMatch(/^[^\n]+; [^\n]+$/);
          return;
        }
        await useAll(store);
        await store.close();
      }),
      { numRuns: 250 },
    );
  });

  it("whose data is said to lie further out than any file reaches has I/O errors there", async () => {
    const path = join(temporaryFolder(), "image.qcow2");
    const damaged = Buffer.from(bytes);
    const l2 = bytes.readUIntBE(parseHeader(bytes, "sample").l1Offset + 2, 6);
    const entry = l2 + ((1 << 20) / CLUSTER) * 8;
    // Bit 55, the highest one of an offset.
    damaged[entry + 1] = 0x80;
    writeFileSync(path, damaged);
    const store = openQcow2Store(specOf(path), () => {}, guardedIo(damaged.length));
    expect(await readStore(store, (1 << 20) + 512, 512)).toMatchObject({ errno: EIO });
    expect(await writeStore(store, (1 << 20) + 512, Buffer.alloc(512, 1))).toMatchObject({ errno: EIO });
    await store.close();
  });

  it("does not get its tables overwritten by data", async () => {
    const path = join(temporaryFolder(), "image.qcow2");
    const header = parseHeader(bytes, "sample");
    const l2 = bytes.readUIntBE(header.l1Offset + 2, 6);
    const damaged = Buffer.from(bytes);
    // The disk's first cluster is said to lie where the L1 table is.
    damaged.writeBigUInt64BE((1n << 63n) | BigInt(header.l1Offset), l2);
    writeFileSync(path, damaged);
    const store = openedStore(specOf(path));
    expect((await writeStore(store, 0, Buffer.alloc(512, 1)))?.errno).toBe(EIO);
    expect(store.lines).toEqual([expect.stringContaining("is damaged")]);
    // Nothing more is written, and closing leaves it as it is.
    expect((await writeStore(store, 1_900_544, Buffer.alloc(512, 1)))?.errno).toBe(EIO);
    await store.close();
    expect(readFileSync(path).equals(damaged)).toBe(true);
  });

  it("does not hand out a table's cluster as free", async () => {
    const path = join(temporaryFolder(), "image.qcow2");
    const header = parseHeader(bytes, "sample");
    const damaged = Buffer.from(bytes);
    const block = bytes.readUIntBE(header.refcountTableOffset + 2, 6);
    damaged.writeUInt16BE(0, block + (header.l1Offset / CLUSTER) * 2);
    writeFileSync(path, damaged);
    const store = openedStore(specOf(path));
    expect((await writeStore(store, 1_900_544, Buffer.alloc(512, 1)))?.errno).toBe(EIO);
    expect(store.lines).toEqual([expect.stringContaining("is damaged (refcounts)")]);
    const before = damaged.subarray(header.l1Offset, header.l1Offset + header.l1Size * 8);
    expect(
      readFileSync(path)
        .subarray(header.l1Offset, header.l1Offset + before.length)
        .equals(before),
    ).toBe(true);
  });

  it("with overlapping tables is only read", () => {
    const path = join(temporaryFolder(), "image.qcow2");
    const damaged = Buffer.from(bytes);
    const header = parseHeader(bytes, "sample");
    bytes.copy(damaged, header.l1Offset, header.refcountTableOffset, header.refcountTableOffset + 8);
    writeFileSync(path, damaged);
    expect(() => openedStore(specOf(path))).toThrow(/an L2 table overlaps another table; repair it/);
    expect(openedStore(specOf(path, [], true)).size).toBe(SIZE);
  });
});
