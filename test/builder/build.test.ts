import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { memmapEntry, modlistEntry, startInfoStruct } from "../../engine/abi/pvh.ts";
import { type DomainImage, loadImage, prepareImage } from "../../engine/builder/build.ts";
import { walkCpio, writeCpio } from "../../engine/builder/cpio.ts";
import { BuildError } from "../../engine/builder/errors.ts";
import { readBounded } from "../../engine/builder/files.ts";
import { unpackInitrd } from "../../engine/builder/initrd.ts";
import { makeElf, makeFrames } from "./samples.ts";

const MIB = 1024 * 1024;
const RESERVED = [{ start: 0xfeff_8000, length: 0x8000 }];
const archive = writeCpio([{ kind: "file", path: "init", data: "#!/bin/sh\n", mode: 0o755 }]);

const image = (changes: Partial<DomainImage> = {}): DomainImage => ({
  kernel: { bytes: makeElf() },
  initrd: [{ bytes: archive }],
  commandLine: "console=hvc0",
  ...changes,
});

async function load(mebibytes: number, changes: Partial<DomainImage> = {}) {
  const frames = makeFrames(mebibytes * MIB);
  return { frames, entry: loadImage(await prepareImage(image(changes)), frames, { reserved: RESERVED }) };
}

function code(error: unknown): string {
  if (!(error instanceof BuildError)) throw error;
  expect(error.message).not.toContain("\n");
  return error.code;
}

describe("loading", () => {
  it("places kernel, initrd and start info, and describes them", async () => {
    const { frames, entry } = await load(64);
    const view = new DataView(frames.ram.buffer);
    expect(entry.eip).toBe(0x10_0010);
    expect(frames.ram.subarray(0x10_0000, 0x10_0004)).toEqual(Uint8Array.of(0, 1, 2, 3));
    const info = startInfoStruct.read(view, entry.ebx);
    expect(info).toMatchObject({ magic: 0x336ec578, version: 1, nrModules: 1, rsdpPaddr: 0n, memmapEntries: 3 });
    const module = modlistEntry.read(view, Number(info.modlistPaddr));
    expect(module).toMatchObject({ paddr: BigInt(64 * MIB - 4096), size: BigInt(archive.length) });
    expect(Buffer.compare(frames.view(Number(module.paddr), archive.length), archive)).toBe(0);
    const line = Buffer.from(frames.view(Number(info.cmdlinePaddr), 13)).toString("latin1");
    expect(line).toBe("console=hvc0\0");
    const map = [0, 1, 2].map((i) => memmapEntry.read(view, Number(info.memmapPaddr) + i * memmapEntry.size));
    expect(map).toMatchObject([
      { addr: 0n, size: 0x9f000n, type: 1 },
      { addr: 0x10_0000n, size: BigInt(63 * MIB), type: 1 },
      { addr: 0xfeff_8000n, size: 0x8000n, type: 2 },
    ]);
  });

  it("keeps the start info away from a kernel in low memory", async () => {
    const { entry } = await load(64, {
      kernel: { bytes: makeElf({ loads: [{ address: 0x1000, data: new Uint8Array(64), memorySize: 0x9000 }] }) },
    });
    expect(entry.ebx).toBe(MIB);
  });

  it("keeps the initrd below reserved pages inside RAM", async () => {
    const prepared = await prepareImage(image());
    const reserved = [{ start: 63 * MIB, length: MIB }];
    const { initrd } = loadImage(prepared, makeFrames(64 * MIB), { reserved });
    expect(initrd?.start).toBe(63 * MIB - 4096);
  });

  it("refuses what does not fit and writes nothing then", async () => {
    const high = makeElf({ loads: [{ address: 80 * MIB, data: new Uint8Array(64) }] });
    const hole = makeElf({ loads: [{ address: 0xa_0000, data: new Uint8Array(64) }] });
    await expect(load(32).catch(code)).resolves.toBe("memory-too-small");
    await expect(load(64, { kernel: { bytes: high } }).catch(code)).resolves.toBe("memory-too-small");
    await expect(load(64, { kernel: { bytes: hole } }).catch(code)).resolves.toBe("kernel-does-not-fit");
    const prepared = await prepareImage(image({ initrd: [{ bytes: new Uint8Array(70 * MIB) }] }));
    const frames = makeFrames(64 * MIB);
    expect(() => loadImage(prepared, frames, { reserved: RESERVED })).toThrow(/give at least 17[0-9] MiB/);
    expect(Buffer.compare(frames.ram, new Uint8Array(frames.ram.length))).toBe(0);
    const huge = { ...frames, ramBytes: 4096 * MIB };
    expect(() => loadImage(prepared, huge, { reserved: RESERVED })).toThrow(/at most 3584 MiB/);
  });

  it("checks the command line", async () => {
    await expect(prepareImage(image({ commandLine: "x".repeat(2048) })).catch(code)).resolves.toBe(
      "command-line-too-long",
    );
    await expect(prepareImage(image({ commandLine: "a\nb" })).catch(code)).resolves.toBe("bad-command-line");
  });
});

describe("initrds", () => {
  const early = writeCpio([{ kind: "file", path: "kernel/x86/microcode/a.bin", data: new Uint8Array(3000) }]);

  it("joins a plain early archive and compressed ones, aligned", async () => {
    const joined = await unpackInitrd(
      Buffer.concat([early, gzipSync(archive), new Uint8Array(300), gzipSync(archive)]),
    );
    const first = walkCpio(joined, 0);
    if (!first.ok) throw new Error(first.failure);
    expect(first.members.map(({ path }) => path)).toEqual(["kernel/x86/microcode/a.bin"]);
    expect(joined.length % 4).toBe(0);
    expect(Buffer.from(joined).toString("latin1").split("TRAILER!!!").length).toBe(4);
  });

  it.each<[string, Uint8Array, string]>([
    ["nothing", new Uint8Array(0), "not-an-initrd"],
    ["zeros", new Uint8Array(600), "not-an-initrd"],
    ["text", Buffer.from("hello there"), "not-an-initrd"],
    ["compressed text", gzipSync("hello there"), "not-an-initrd"],
    ["an archive cut short", early.subarray(0, 700), "truncated-image"],
    ["a compressed archive cut short", gzipSync(early).subarray(0, 40), "truncated-image"],
    ["garbage behind an archive", Buffer.concat([early, Buffer.from("garbage")]), "not-an-initrd"],
    ["an archive with a bad header", Buffer.from(`070701${"z".repeat(200)}`), "corrupt-image"],
  ])("refuses %s", async (_name, bytes, expected) => {
    await expect(unpackInitrd(bytes).catch(code)).resolves.toBe(expected);
  });

  it("refuses an initrd that grows beyond the limit", async () => {
    await expect(unpackInitrd(gzipSync(early), 2000).catch(code)).resolves.toBe("file-too-large");
  });
});

describe("files", () => {
  let directory = "";
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), "domlab-files-"));
    execFileSync("mkfifo", [join(directory, "fifo")]);
    writeFileSync(join(directory, "big"), new Uint8Array(100));
  });
  afterAll(() => rmSync(directory, { recursive: true }));

  it.each([
    ["missing", "unreadable-file"],
    ["fifo", "unreadable-file"],
    [".", "unreadable-file"],
    ["big", "file-too-large"],
  ])("refuses %s without waiting", async (name, expected) => {
    await expect(readBounded(join(directory, name), "kernel", 99).catch(code)).resolves.toBe(expected);
  });

  it("reads a file that just fits", async () => {
    expect(await readBounded(join(directory, "big"), "kernel", 100)).toHaveLength(100);
  });
});
