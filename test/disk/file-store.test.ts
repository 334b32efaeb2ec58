import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  statSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { DiskError, type DiskErrorCode } from "../../engine/disk/errors.ts";
import { type FileStore, openFileStore } from "../../engine/disk/file-store.ts";
import { hostIo, portableIo } from "../../engine/disk/host-io.ts";
import { checkImage, lockImage } from "../../engine/disk/image.ts";
import { openStore } from "../../engine/disk/open.ts";
import type { FileSpec } from "../../engine/disk/spec.ts";
import { discard, flush, memoryOf, scatterOf, temporaryFolder, transfer } from "./helpers.ts";

const { EIO, ENOSPC } = constants.errno;
const linux = process.platform === "linux";
const root = process.getuid?.() === 0;

function spec(path: string, more: Partial<FileSpec> = {}): FileSpec {
  return { kind: "file", path, readOnly: false, ...more };
}

function image(bytes: number): string {
  const path = join(temporaryFolder(), "disk.img");
  writeFileSync(path, Buffer.alloc(0));
  truncateSync(path, bytes);
  return path;
}

function opened(what: FileSpec, io = hostIo()): FileStore & { lines: string[] } {
  const lines: string[] = [];
  const store = openFileStore(what, (line) => lines.push(line), io);
  onTestFinished(() => store.close());
  return Object.assign(store, { lines });
}

function refusal(action: () => unknown): DiskErrorCode | undefined {
  try {
    action();
    return undefined;
  } catch (error) {
    expect(error).toBeInstanceOf(DiskError);
    expect((error as DiskError).message).toMatch(/^[^\n]+; [^\n]+$/);
    return (error as DiskError).code;
  }
}

describe.each([
  ["system calls on the guest's pages", hostIo],
  ["node:fs with a copy", portableIo],
])("a raw file through %s", (_, io) => {
  it("moves scattered pieces both ways", async () => {
    const path = image(1 << 20);
    const store = opened(spec(path), io());
    const memory = memoryOf(1 << 16);
    memory.bytes.forEach((__, i, all) => {
      all[i] = (i * 7 + (i >> 8)) & 0xff;
    });
    const pieces = [
      [8192, 512],
      [0, 4096],
      [20480, 1536],
    ] as const;
    expect(await transfer(store, "write", 4096, scatterOf(memory, pieces))).toBeUndefined();
    const expected = Buffer.concat(pieces.map(([at, length]) => memory.bytes.slice(at, at + length)));
    expect(
      readFileSync(path)
        .subarray(4096, 4096 + 6144)
        .equals(expected),
    ).toBe(true);
    const into = memoryOf(1 << 16);
    expect(await transfer(store, "read", 4096, scatterOf(into, [[512, 6144]]))).toBeUndefined();
    expect(Buffer.from(into.bytes.slice(512, 6656)).equals(expected)).toBe(true);
    expect(into.bytes.slice(0, 512).every((byte) => byte === 0) && into.bytes[6656] === 0).toBe(true);
    expect(await flush(store)).toBeUndefined();
  });

  it("takes more pieces than one call does", async () => {
    const path = image(1 << 20);
    const store = opened(spec(path), io());
    const memory = memoryOf(1 << 21);
    const pieces = Array.from({ length: 1500 }, (__, i) => [i * 1024, 512] as const);
    for (const [at] of pieces) memory.bytes.fill((at >> 10) & 0xff, at, at + 512);
    expect(await transfer(store, "write", 0, scatterOf(memory, pieces))).toBeUndefined();
    const file = readFileSync(path);
    expect(pieces.every((__, i) => file[i * 512] === (i & 0xff) && file[i * 512 + 511] === (i & 0xff))).toBe(true);
  });

  it("reads a file that was cut short as I/O errors, not zeros, and does not make it longer again", async () => {
    const path = image(1 << 20);
    const store = opened(spec(path), io());
    const scatter = scatterOf(memoryOf(8192), [[0, 8192]]);
    truncateSync(path, 65_536);
    expect(await transfer(store, "read", 65_536 - 4096, scatter)).toMatchObject({ errno: EIO });
    expect(await transfer(store, "write", 1 << 19, scatter)).toMatchObject({ errno: EIO });
    expect(statSync(path).size).toBe(65_536);
    expect(await transfer(store, "read", 0, scatter)).toBeUndefined();
    expect(store.lines).toHaveLength(1);
  });
});

describe("a raw file", () => {
  it("goes on serving after its name is gone", async () => {
    const path = image(1 << 16);
    const store = opened(spec(path));
    unlinkSync(path);
    const memory = memoryOf(4096);
    memory.bytes.fill(5);
    expect(await transfer(store, "write", 0, scatterOf(memory, [[0, 512]]))).toBeUndefined();
    expect(await transfer(store, "read", 0, scatterOf(memory, [[1024, 512]]))).toBeUndefined();
    expect(memory.bytes[1024]).toBe(5);
    expect(await flush(store)).toBeUndefined();
  });

  it("rounds an odd size down and says so", () => {
    const store = opened(spec(image(1000)));
    expect(store.size).toBe(512);
    expect(store.lines).toEqual([expect.stringContaining("488 bytes")]);
  });

  it("serves a byte range", async () => {
    const path = image(1 << 16);
    const store = opened(spec(path, { offset: 4096, length: 8192 }));
    expect(store.size).toBe(8192);
    const memory = memoryOf(512);
    memory.bytes.fill(9);
    await transfer(store, "write", 512, scatterOf(memory, [[0, 512]]));
    expect(readFileSync(path).indexOf(9)).toBe(4608);
  });

  it("tells when it has grown, and not when it has shrunk", () => {
    const path = image(1 << 16);
    const store = opened(spec(path));
    let calls = 0;
    store.onResize(() => calls++);
    store.refresh();
    expect(calls).toBe(0);
    truncateSync(path, 1 << 17);
    store.refresh();
    expect([calls, store.size]).toEqual([1, 1 << 17]);
    truncateSync(path, 1 << 12);
    store.refresh();
    expect([calls, store.size, store.lines.length]).toEqual([1, 1 << 17, 1]);
  });

  it.runIf(linux)("frees what is discarded", async (context) => {
    const path = image(1 << 20);
    writeFileSync(path, Buffer.alloc(1 << 20, 1));
    const store = opened(spec(path));
    if (!store.discard) return context.skip("this file system makes no holes");
    await flush(store);
    const before = statSync(path).blocks;
    expect(await discard(store, 65_536, 1 << 19)).toBeUndefined();
    expect(statSync(path).blocks).toBeLessThan(before);
    const file = readFileSync(path);
    expect([file[65_535], file[65_536], file[65_535 + (1 << 19)], file[65_536 + (1 << 19)]]).toEqual([1, 0, 0, 1]);
    expect(opened(spec(path, { discard: false })).discard).toBeUndefined();
  });

  it("passes a full disk on as ENOSPC", async (context) => {
    const folder = temporaryFolder();
    const mounted =
      linux && root && spawnSync("mount", ["-t", "tmpfs", "-o", "size=256k", "none", folder]).status === 0;
    if (!mounted) return context.skip("needs root and tmpfs");
    onTestFinished(() => void spawnSync("umount", ["-l", folder]));
    const path = join(folder, "d");
    writeFileSync(path, "");
    truncateSync(path, 1 << 20);
    const store = opened(spec(path));
    const memory = memoryOf(1 << 20);
    expect(await transfer(store, "write", 0, scatterOf(memory, [[0, 1 << 20]]))).toMatchObject({ errno: ENOSPC });
  });

  it("serves a loop device", async (context) => {
    const path = image(1 << 20);
    const made = linux && root ? spawnSync("losetup", ["-f", "--show", path], { encoding: "utf8" }) : undefined;
    if (made?.status !== 0) return context.skip("needs root and loop devices");
    const device = made.stdout.trim();
    onTestFinished(() => {
      // The read-only mark would outlive the image and meet the next user of this device.
      spawnSync("blockdev", ["--setrw", device]);
      spawnSync("losetup", ["-d", device]);
    });
    const store = opened(spec(device));
    expect([store.size, store.sectorSize]).toEqual([1 << 20, 512]);
    const memory = memoryOf(4096);
    memory.bytes.fill(3);
    expect(await transfer(store, "write", 8192, scatterOf(memory, [[0, 4096]]))).toBeUndefined();
    expect(await flush(store)).toBeUndefined();
    expect(readFileSync(path)[8192]).toBe(3);
    if (store.discard) {
      expect(await discard(store, 0, 1 << 20)).toBeUndefined();
      expect(readFileSync(path).every((byte) => byte === 0)).toBe(true);
    }
    const lock = lockImage(spec(device));
    expect(refusal(() => checkImage(spec(device)))).toBe("image-in-use");
    lock.release();
    execFileSync("blockdev", ["--setro", device]);
    expect(["read-only-image", "no-permission"]).toContain(refusal(() => checkImage(spec(device))));
  });
});

describe("what cannot be a disk", () => {
  it("is refused in one line", async () => {
    const folder = temporaryFolder();
    const write = (name: string, data: string | Buffer) => {
      writeFileSync(join(folder, name), data);
      return join(folder, name);
    };
    const qcow2 = Buffer.alloc(4096);
    qcow2.write("QFI\xfb\0\0\0\x03", "latin1");
    const good = write("good", Buffer.alloc(4096));
    expect(refusal(() => checkImage(spec(good)))).toBeUndefined();
    expect(refusal(() => checkImage(spec(join(folder, "none"))))).toBe("missing-image");
    expect(refusal(() => checkImage(spec(join(good, "none"))))).toBe("missing-image");
    expect(refusal(() => checkImage(spec(folder)))).toBe("not-a-disk");
    expect(refusal(() => checkImage(spec(folder, { readOnly: true })))).toBe("not-a-disk");
    expect(refusal(() => checkImage(spec(write("empty", ""))))).toBe("empty-image");
    expect(refusal(() => checkImage(spec(write("tiny", "x"))))).toBe("empty-image");
    expect(refusal(() => checkImage(spec(write("q", qcow2), { format: "probe" })))).toBe("unsupported-format");
    expect(refusal(() => checkImage(spec(write("q", qcow2), { format: "raw" })))).toBeUndefined();
    expect(refusal(() => checkImage(spec(good, { offset: 8192 })))).toBe("bad-range");
    expect(refusal(() => checkImage(spec(good, { offset: 512, length: 4096 })))).toBe("bad-range");
    if (linux) expect(refusal(() => checkImage(spec("/dev/null")))).toBe("not-a-disk");
    if (linux && spawnSync("mkfifo", [join(folder, "pipe")]).status === 0) {
      expect(refusal(() => checkImage(spec(join(folder, "pipe"), { readOnly: true })))).toBe("not-a-disk");
    }
    if (!root) {
      chmodSync(good, 0o400);
      expect(refusal(() => checkImage(spec(good)))).toBe("no-permission");
      chmodSync(good, 0);
      expect(refusal(() => checkImage(spec(good, { readOnly: true })))).toBe("no-permission");
    }
    mkdirSync(join(folder, "d"));
    await expect(openStore(spec(join(folder, "d")))).rejects.toBeInstanceOf(DiskError);
  });
});

describe.runIf(linux)("locks", () => {
  it("let many read or one write, and end with release", () => {
    const path = image(4096);
    const reader = lockImage(spec(path, { readOnly: true }));
    const second = lockImage(spec(path, { readOnly: true }));
    expect(refusal(() => lockImage(spec(path)))).toBe("image-in-use");
    reader.release();
    expect(refusal(() => lockImage(spec(path)))).toBe("image-in-use");
    second.release();
    const writer = lockImage(spec(path));
    expect(refusal(() => lockImage(spec(path)))).toBe("image-in-use");
    expect(refusal(() => lockImage(spec(path, { readOnly: true })))).toBe("image-in-use");
    writer.release();
    writer.release();
    lockImage(spec(path, { readOnly: true })).release();
  });

  it("are not lost when another descriptor of the image is closed, and lend the file by its descriptor", async () => {
    const path = image(4096);
    const lock = lockImage(spec(path));
    onTestFinished(() => lock.release());
    closeSync(openSync(path, "r"));
    unlinkSync(path);
    const store = opened(spec(path, { openPath: `/proc/${process.pid}/fd/${lock.descriptor}` }));
    await store.close();
    expect(refusal(() => checkImage(spec(path, { openPath: `/proc/self/fd/${lock.descriptor}` })))).toBe(
      "image-in-use",
    );
  });

  it("hold between processes, and go with theirs", async (context) => {
    const path = image(1 << 20);
    if (spawnSync("qemu-io", ["--version"]).status !== 0) return context.skip("needs qemu-io");
    const other = spawn("qemu-io", ["-f", "raw", path], { stdio: ["pipe", "pipe", "ignore"] });
    onTestFinished(() => void other.kill("SIGKILL"));
    // Its answer to a command shows that it has the image open.
    other.stdin.write("length\n");
    let said = "";
    for await (const chunk of other.stdout) {
      said += String(chunk);
      if (said.includes("1 MiB")) break;
    }
    expect(refusal(() => checkImage(spec(path)))).toBe("image-in-use");
    expect(refusal(() => checkImage(spec(path, { readOnly: true })))).toBe("image-in-use");
    const gone = once(other, "exit");
    other.kill("SIGKILL");
    await gone;
    const lock = lockImage(spec(path));
    onTestFinished(() => lock.release());
    expect(spawnSync("qemu-io", ["-f", "raw", "-c", "length", path]).status).not.toBe(0);
  });
});
