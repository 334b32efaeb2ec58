import { existsSync, fstatSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { crc32, deflateRawSync } from "node:zlib";
import * as fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { defaultMemoryKind } from "../../engine/memory/guest-memory.ts";
import { type Codec, codecOf, deflateCodec, preferredCodec } from "../../engine/snapshot/codec.ts";
import { SnapshotError } from "../../engine/snapshot/errors.ts";
import { ENTRY_BYTES, PREAMBLE_BYTES, VERSION } from "../../engine/snapshot/file-format.ts";
import { openSnapshot } from "../../engine/snapshot/file-reader.ts";
import { type WriteOptions, writeSnapshot } from "../../engine/snapshot/file-writer.ts";
import { guestBytes, type MemoryDomain, memoryDomain, PAGE, withFolder } from "./memory-domain.ts";

const RAM = 1 << 20;
const HEADER = { name: "web", ports: [1, 2, 3], nested: { text: "ä€😀" } };

function fill(domain: MemoryDomain, frames: readonly number[]): void {
  for (const frame of frames) {
    const start = domain.mapping.base + frame * PAGE;
    for (let n = 0; n < PAGE; n += 64) domain.mapping.bytes[start + n] = frame + n;
  }
}

/** Writes the memory of a domain with those frames filled, and gives the file's bytes. */
async function written(frames: readonly number[], options?: WriteOptions, header: unknown = HEADER) {
  const domain = memoryDomain(RAM);
  fill(domain, frames);
  let bytes = Buffer.alloc(0);
  await withFolder(async (folder) => {
    const path = join(folder, "a.dsnap");
    const result = await writeSnapshot(path, domain.descriptor, domain.guest.plan, header, options);
    bytes = readFileSync(path);
    expect(readdirSync(folder)).toEqual(["a.dsnap"]);
    expect(result).toEqual({ fileBytes: bytes.length, touchedBytes: frames.length * PAGE });
  });
  const memory = guestBytes(domain);
  domain.guest.close();
  return { bytes, memory };
}

const targets: MemoryDomain[] = [];
afterAll(() => {
  for (const target of targets) target.guest.close();
});

/** Opens and loads a file of those bytes. Anything but a SnapshotError is a bug. @returns header and memory, or the error */
async function opened(folder: string, bytes: Uint8Array, domain?: MemoryDomain) {
  const path = join(folder, "b.dsnap");
  writeFileSync(path, bytes);
  const target = domain ?? memoryDomain(RAM);
  if (domain === undefined) targets.push(target);
  try {
    const file = await openSnapshot(path);
    try {
      await file.loadInto(target.descriptor, RAM);
      return { header: file.header, target };
    } finally {
      await file.close();
    }
  } catch (error) {
    if (!(error instanceof SnapshotError)) throw error;
    expect(error.message).toMatch(/^[^\n]+; [^\n]+$/);
    return error.code;
  } finally {
    expect(fstatSync(target.descriptor).size).toBe(target.guest.plan.length);
  }
}

/** Makes all checksums right again, as far as the parts can still be found. */
function reseal(bytes: Buffer): Buffer {
  const tableAt = Number(bytes.readBigUInt64LE(40));
  const entries = bytes.readUInt32LE(48);
  const tableEnd = tableAt + entries * ENTRY_BYTES;
  if (tableEnd <= bytes.length) {
    for (let n = 0, at = PREAMBLE_BYTES; n < entries; n++) {
      const stored = bytes.readUInt32LE(tableAt + n * ENTRY_BYTES + 8) & 0x7fffffff;
      bytes.writeUInt32LE(crc32(bytes.subarray(at, at + stored)), tableAt + n * ENTRY_BYTES + 12);
      at += stored;
    }
    bytes.writeUInt32LE(crc32(bytes.subarray(tableAt, tableEnd)), 52);
    bytes.writeUInt32LE(crc32(bytes.subarray(tableEnd, tableEnd + bytes.readUInt32LE(60))), 68);
  }
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 92)), 92);
  return bytes;
}

describe.skipIf(defaultMemoryKind() !== "mapped")("snapshot file", () => {
  const codecs: readonly (readonly [string, () => Promise<Codec>])[] = [
    ["the host's", preferredCodec],
    ["every host's", async () => deflateCodec],
  ];
  it.each(codecs)("gives back header and memory, with %s codec", async (_name, codec) => {
    const { bytes, memory } = await written([0, 1, 2, 31, 32, 40, 63, 200, 255, 256, 290], { codec: await codec() });
    await withFolder(async (folder) => {
      const result = await opened(folder, bytes);
      if (typeof result === "string") throw new Error(result);
      expect(result.header).toEqual(HEADER);
      expect(Buffer.compare(guestBytes(result.target), memory)).toBe(0);
    });
  });

  it("gives back any set of pages, and stores no other", async () => {
    await withFolder(async (folder) => {
      await fc.assert(
        fc.asyncProperty(fc.uniqueArray(fc.nat(255), { maxLength: 120 }), async (frames) => {
          const { bytes, memory } = await written(frames);
          const result = await opened(folder, bytes);
          if (typeof result === "string") throw new Error(result);
          expect(Buffer.compare(guestBytes(result.target), memory)).toBe(0);
        }),
        { numRuns: 30 },
      );
    });
  });

  it("keeps what does not compress as it is", async () => {
    const domain = memoryDomain(RAM);
    let random = 1;
    for (let n = 0; n < 40 * PAGE; n++) {
      random = (Math.imul(random, 1664525) + 1013904223) >>> 0;
      domain.mapping.bytes[domain.mapping.base + n] = random >>> 24;
    }
    await withFolder(async (folder) => {
      const path = join(folder, "a.dsnap");
      const { fileBytes } = await writeSnapshot(path, domain.descriptor, domain.guest.plan, {});
      expect(fileBytes).toBeLessThan(41 * PAGE);
      const result = await opened(folder, readFileSync(path));
      if (typeof result === "string") throw new Error(result);
      expect(Buffer.compare(guestBytes(result.target), guestBytes(domain))).toBe(0);
    });
    domain.guest.close();
  });

  it("is refused wherever a bit is wrong", async () => {
    const { bytes } = await written([3, 4, 90]);
    await withFolder(async (folder) => {
      const target = memoryDomain(RAM);
      targets.push(target);
      for (let at = 0; at < bytes.length; at++) {
        const wrong = Buffer.from(bytes);
        wrong[at] = (wrong[at] ?? 0) ^ (1 << (at % 8));
        const code = await opened(folder, wrong, target);
        const expected =
          at < 8 ? ["not-a-snapshot"] : at < 12 ? ["later-version", "damaged-snapshot"] : ["damaged-snapshot"];
        expect(expected, `byte ${at}`).toContain(code);
      }
    });
  });

  it("is refused wherever it is cut off, and with something behind it", async () => {
    const { bytes } = await written([3, 4, 90]);
    await withFolder(async (folder) => {
      const target = memoryDomain(RAM);
      targets.push(target);
      for (let length = 0; length < bytes.length; length++) {
        const code = await opened(folder, bytes.subarray(0, length), target);
        expect(code, `${length} bytes`).toBe(length < 8 ? "not-a-snapshot" : "damaged-snapshot");
      }
      expect(await opened(folder, Buffer.concat([bytes, Buffer.alloc(1)]), target)).toBe("damaged-snapshot");
    });
  });

  it("is refused, or loads within its bounds, whatever somebody forged", async () => {
    const { bytes } = await written([3, 4, 90, 91, 92, 255, 290]);
    await withFolder(async (folder) => {
      const target = memoryDomain(RAM);
      targets.push(target);
      const change = fc.record({
        at: fc.integer({ min: 12, max: bytes.length - 1 }),
        value: fc.integer({ min: 0, max: 255 }),
      });
      await fc.assert(
        fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 4 }), async (changes) => {
          const forged = Buffer.from(bytes);
          for (const { at, value } of changes) forged[at] = value;
          const result = await opened(folder, reseal(forged), target);
          if (typeof result === "string") expect(["damaged-snapshot", "other-memory"]).toContain(result);
        }),
        { numRuns: 400 },
      );
    });
  });

  it.each<readonly [string, (bytes: Buffer, tableAt: number) => void]>([
    ["more chunks than memory has windows", (bytes) => bytes.writeUInt32LE(0xffffffff, 48)],
    ["a window twice", (bytes, table) => bytes.writeUInt32LE(bytes.readUInt32LE(table), table + ENTRY_BYTES)],
    ["a window behind the memory", (bytes, table) => bytes.writeUInt32LE(1 << 20, table + ENTRY_BYTES)],
    ["a page behind the memory", (bytes, table) => bytes.writeUInt32LE(9, table + ENTRY_BYTES)],
    ["a chunk without pages", (bytes, table) => bytes.writeUInt32LE(0, table + 4)],
    ["a chunk that is longer than its pages", (bytes, table) => bytes.writeUInt32LE(0x7fffffff, table + 8)],
    ["a chunk that says it is not compressed", (bytes, table) => bytes.writeUInt8(0x80, table + 11)],
    ["a chunk that wants 4 GiB when decompressed", (bytes) => bytes.writeUInt32LE(0xffffffff, PREAMBLE_BYTES)],
    ["another number of pages", (bytes) => bytes.writeUInt32LE(1, 56)],
    ["a codec that does not exist", (bytes) => bytes.writeUInt32LE(77, 12)],
    ["no codec that fits", (bytes) => bytes.writeUInt32LE(deflateCodec.id, 12)],
    ["a header that is longer than it says", (bytes) => bytes.writeUInt32LE(5, 64)],
    ["a header of 4 GiB", (bytes) => bytes.writeUInt32LE(0xffffffff, 64)],
    ["RAM of an impossible size", (bytes) => bytes.writeBigUInt64LE(12345n, 32)],
    ["a table at the end of the world", (bytes) => bytes.writeBigUInt64LE(2n ** 63n, 40)],
  ])("is refused with %s", async (_name, forge) => {
    const { bytes } = await written([1, 2, 3, 33, 34, 35]);
    forge(bytes, Number(bytes.readBigUInt64LE(40)));
    await withFolder(async (folder) => expect(await opened(folder, reseal(bytes))).toBe("damaged-snapshot"));
  });

  it.each([
    ["no JSON", "no JSON"],
    ["empty", ""],
    ["nested without end", "[".repeat(200_000)],
  ])("is refused when its header is %s", async (_name, text) => {
    const { bytes } = await written([1]);
    const tableEnd = Number(bytes.readBigUInt64LE(40)) + ENTRY_BYTES;
    const header = deflateRawSync(text);
    const forged = Buffer.concat([bytes.subarray(0, tableEnd), header]);
    forged.writeBigUInt64LE(BigInt(forged.length), 16);
    forged.writeUInt32LE(header.length, 60);
    forged.writeUInt32LE(text.length, 64);
    await withFolder(async (folder) => expect(await opened(folder, reseal(forged))).toBe("damaged-snapshot"));
  });

  it("of a later version says so", async () => {
    const { bytes } = await written([1]);
    bytes.writeUInt32LE(VERSION + 1, 8);
    await withFolder(async (folder) => {
      writeFileSync(join(folder, "later"), reseal(bytes));
      await expect(openSnapshot(join(folder, "later"))).rejects.toThrow(/made by a later version of domlab.*; update/);
    });
  });

  it("that is none, missing or a folder says so", async () => {
    await withFolder(async (folder) => {
      writeFileSync(join(folder, "text"), "hello");
      await expect(openSnapshot(join(folder, "text"))).rejects.toMatchObject({ code: "not-a-snapshot" });
      await expect(openSnapshot(join(folder, "none"))).rejects.toMatchObject({ code: "missing-snapshot" });
      await expect(openSnapshot(folder)).rejects.toMatchObject({ code: "not-a-snapshot" });
    });
  });

  it("of another size of memory is refused before anything is loaded", async () => {
    const { bytes } = await written([1]);
    await withFolder(async (folder) => {
      writeFileSync(join(folder, "a"), bytes);
      const file = await openSnapshot(join(folder, "a"));
      const other = memoryDomain(2 * RAM);
      await expect(file.loadInto(other.descriptor, 2 * RAM)).rejects.toMatchObject({ code: "other-memory" });
      await file.check();
      await file.close();
      other.guest.close();
    });
  });

  it("leaves nothing behind, and what was there as it was, when it cannot be finished", async () => {
    const domain = memoryDomain(RAM);
    fill(domain, [1, 50, 100]);
    const attempt = (path: string, options?: WriteOptions, header: unknown = {}) =>
      writeSnapshot(path, domain.descriptor, domain.guest.plan, header, options);
    await withFolder(async (folder) => {
      const path = join(folder, "a.dsnap");
      writeFileSync(path, "before");
      const abort = new AbortController();
      const cancelled = attempt(path, { signal: abort.signal, onProgress: () => abort.abort() });
      await expect(cancelled).rejects.toMatchObject({ code: "cancelled" });
      symlinkSync("/dev/full", `${path}.tmp`);
      await expect(attempt(path)).rejects.toMatchObject({ code: "no-space" });
      await expect(attempt(path, {}, { text: "x".repeat(65 << 20) })).rejects.toMatchObject({ code: "too-large" });
      await expect(attempt(join(folder, "none", "a"))).rejects.toMatchObject({ code: "cannot-write" });
      expect(readdirSync(folder)).toEqual(["a.dsnap"]);
      expect(readFileSync(path, "utf8")).toBe("before");
    });
    domain.guest.close();
  });

  it("replaces a file that a killed writer has left", async () => {
    const domain = memoryDomain(RAM);
    await withFolder(async (folder) => {
      const path = join(folder, "a.dsnap");
      writeFileSync(`${path}.tmp`, Buffer.alloc(1 << 20, 7));
      const { fileBytes } = await writeSnapshot(path, domain.descriptor, domain.guest.plan, HEADER);
      expect(readFileSync(path)).toHaveLength(fileBytes);
      expect(existsSync(`${path}.tmp`)).toBe(false);
      const file = await openSnapshot(path);
      expect([file.header, file.touchedBytes]).toEqual([HEADER, 0]);
      await file.close();
    });
    domain.guest.close();
  });

  it("is loaded as far as wanted", async () => {
    const { bytes } = await written(Array.from({ length: 256 }, (_, n) => n));
    await withFolder(async (folder) => {
      writeFileSync(join(folder, "a"), bytes);
      const file = await openSnapshot(join(folder, "a"));
      const abort = new AbortController();
      abort.abort();
      await expect(file.check({ signal: abort.signal })).rejects.toMatchObject({ code: "cancelled" });
      const seen: number[] = [];
      await file.check({ onProgress: (done, total) => seen.push(done / total) });
      expect(seen.at(-1)).toBe(1);
      await file.close();
    });
  });
});

describe("codecs", () => {
  it("are known by the numbers in files", async () => {
    expect(await codecOf(deflateCodec.id)).toBe(deflateCodec);
    expect(await codecOf(99)).toBe("unknown");
  });

  it("decompress to the length that was asked for, or not at all", async () => {
    const text = Buffer.from("memory ".repeat(1000));
    for (const codec of [deflateCodec, await preferredCodec()]) {
      const small = await codec.compress(text);
      expect(small.length).toBeLessThan(text.length / 10);
      expect(Buffer.compare((await codec.decompress(small, text.length)) ?? Buffer.alloc(0), text)).toBe(0);
      expect(await codec.decompress(small, text.length - 1)).toBeUndefined();
      expect(await codec.decompress(small, text.length + 1)).toBeUndefined();
      expect(await codec.decompress(small.subarray(0, 3), text.length)).toBeUndefined();
      expect(await codec.decompress(small.subarray(0, -3), text.length)).toBeUndefined();
    }
  });
});
