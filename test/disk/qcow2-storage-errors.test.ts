/** Storage that cannot be read for a while: told apart from damage, and no reason to give an image up. */
import { readFileSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { DiskError } from "../../engine/disk/errors.ts";
import { type HostIo, hostIo } from "../../engine/disk/host-io.ts";
import { createQcow2 } from "../../engine/disk/image-tools/create.ts";
import { openQcow2Store } from "../../engine/disk/qcow2/store.ts";
import { temporaryFolder } from "./helpers.ts";
import { openedStore, readStore, specOf, writeStore } from "./qcow2-tools.ts";

const { EIO } = constants.errno;
const CLUSTER = 65_536;

/** Storage whose reads within [start, end) fail while `broken` says so. */
function brokenIo(start: number, end: number): HostIo & { broken: boolean } {
  const real = hostIo();
  const io = {
    ...real,
    broken: true,
    transfer: (...[writing, descriptor, offset, ...rest]: Parameters<HostIo["transfer"]>) => {
      if (io.broken && !writing && offset >= start && offset < end) return -EIO;
      return real.transfer(writing, descriptor, offset, ...rest);
    },
  };
  return io;
}

/** An image with something at its begin. */
async function written(): Promise<string> {
  const path = join(temporaryFolder(), "image.qcow2");
  await createQcow2(path, { size: 16 * CLUSTER });
  const store = openQcow2Store(specOf(path), () => {});
  expect(await writeStore(store, 0, Buffer.alloc(CLUSTER, 7))).toBeUndefined();
  await store.close();
  return path;
}

function l2Of(path: string): number {
  const bytes = readFileSync(path);
  return Number(bytes.readBigUInt64BE(l1Of(path)) & 0xff_ffff_ffff_fe00n);
}

function l1Of(path: string): number {
  return Number(readFileSync(path).readBigUInt64BE(40));
}

describe("storage that cannot be read", () => {
  it.each([
    ["the L1 table", l1Of],
    ["the refcount table", (path: string) => Number(readFileSync(path).readBigUInt64BE(48))],
  ])("keeps an image from being opened: %s", async (_what, place) => {
    const path = await written();
    const at = place(path);
    let failure: unknown;
    try {
      await openQcow2Store(specOf(path), () => {}, brokenIo(at, at + 512)).close();
    } catch (error) {
      failure = error;
    }
    expect(failure).toBeInstanceOf(DiskError);
    expect(failure).toMatchObject({
      code: "unreadable-image",
      message: `disk image ${path} cannot be read (EIO); check the storage it lies on`,
    });
  });

  it("fails what needs an L2 table, and nothing any more when it can be read again", async () => {
    const path = await written();
    const l2 = l2Of(path);
    const io = brokenIo(l2, l2 + CLUSTER);
    const store = openedStore(specOf(path), io);
    const bytes = Buffer.alloc(512, 9);
    expect(await readStore(store, 0, 512)).toEqual({ errno: EIO, message: `${path}: read failed with EIO` });
    expect(await writeStore(store, 0, bytes)).toEqual({ errno: EIO, message: `${path}: write failed with EIO` });
    expect(await writeStore(store, 3 * CLUSTER, bytes)).toMatchObject({ errno: EIO });
    expect(store.lines).toEqual([]);
    io.broken = false;
    for (const offset of [0, 3 * CLUSTER]) {
      expect(await writeStore(store, offset, bytes)).toBeUndefined();
      expect(await readStore(store, offset, 512)).toEqual(bytes);
    }
  });

  it("fails what needs refcounts, and nothing any more when they can be read again", async () => {
    const path = await written();
    const block = Number(readFileSync(path).readBigUInt64BE(Number(readFileSync(path).readBigUInt64BE(48))));
    const io = brokenIo(block, block + CLUSTER);
    const store = openedStore(specOf(path), io);
    const bytes = Buffer.alloc(512, 9);
    expect(await writeStore(store, 5 * CLUSTER, bytes)).toEqual({
      errno: EIO,
      message: `${path}: write failed with EIO`,
    });
    expect(store.lines).toEqual([]);
    io.broken = false;
    expect(await writeStore(store, 5 * CLUSTER, bytes)).toBeUndefined();
    expect(await readStore(store, 5 * CLUSTER, 512)).toEqual(bytes);
    expect(await readStore(store, 0, 512)).toEqual(Buffer.alloc(512, 7));
  });
});

describe("an image that is damaged", () => {
  it("says so in what it fails", async () => {
    const path = await written();
    const bytes = readFileSync(path);
    // A reserved bit in the first L2 entry.
    bytes.writeUInt8(bytes.readUInt8(l2Of(path)) | 0x20, l2Of(path));
    writeFileSync(path, bytes);
    const store = openedStore(specOf(path));
    const message = `${path}: read failed with damaged tables or data`;
    expect(await readStore(store, 0, 512)).toEqual({ errno: EIO, message });
    expect(await writeStore(store, 0, Buffer.alloc(512))).toMatchObject({ errno: EIO });
    expect(store.lines).toEqual([expect.stringContaining("is damaged (an L2 entry)")]);
  });
});
