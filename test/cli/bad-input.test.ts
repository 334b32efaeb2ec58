import { execFileSync, spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { cpioFile } from "./cpio.ts";
import { domlab } from "./domlab.ts";
import { endlessLoop, tinyKernel } from "./tiny-kernel.ts";

let folder = "";
const file = (name: string) => path.join(folder, name);

/** The header of a bzImage whose payload is `payload`; everything else of the file is zero. */
function bzImage(payload: Uint8Array, declaredLength = payload.length): Uint8Array {
  const setupSectors = 1;
  const protectedMode = (1 + setupSectors) * 512;
  const image = new Uint8Array(protectedMode + payload.length);
  const view = new DataView(image.buffer);
  image[0x1f1] = setupSectors;
  view.setUint16(0x1fe, 0xaa55, true);
  view.setUint32(0x202, 0x53726448, true);
  view.setUint16(0x206, 0x020f, true);
  view.setUint32(0x248, 0, true);
  view.setUint32(0x24c, declaredLength, true);
  image.set(payload, protectedMode);
  return image;
}

beforeAll(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "domlab-bad-"));
  writeFileSync(file("kernel"), tinyKernel(endlessLoop));
  writeFileSync(file("empty"), "");
  writeFileSync(file("text"), "this is not a kernel\n".repeat(1000));
  writeFileSync(file("no-note"), tinyKernel(endlessLoop, false));
  writeFileSync(file("cut-elf"), tinyKernel(endlessLoop).subarray(0, 100));
  writeFileSync(file("cut-bzimage"), bzImage(Buffer.from([0x1f, 0x8b, 8, 0]), 100_000));
  writeFileSync(file("odd-compression"), bzImage(Buffer.from("????????????????")));
  writeFileSync(file("big-initrd"), cpioFile("big", 80 * 1024 * 1024));
  mkdirSync(file("folder"));
  execFileSync("mkfifo", [file("fifo")]);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Exit status 2, nothing on stdout, one line on stderr with cause and remedy. */
async function expectRefusal(
  args: readonly string[],
  cause: RegExp,
  environment: NodeJS.ProcessEnv = {},
): Promise<void> {
  const state = file("state");
  const result = await domlab(args, { environment: { XDG_STATE_HOME: state, ...environment }, limit: 30_000 });
  expect(result.stderr).toMatch(/^domlab: [^\n]+\n$/);
  expect(result.stderr).toMatch(cause);
  expect(result.stderr).toMatch(/;/);
  expect(result.stdout.toString()).toBe("");
  expect(result.status).toBe(2);
}

describe("bad options", () => {
  it.each([
    [["run", "--memory", "lots"], /--memory/],
    [["run", "--timeout", "never"], /--timeout/],
    [["run", "--no-such-option"], /--no-such-option/],
    [["run", "surplus"], /argument/],
    [["jog"], /jog/],
    [["run", "--image", "no-such-image"], /no-such-image/],
    [["run", "--image", "../../etc/passwd"], /image/],
  ] as const)("%j", async (args, cause) => {
    await expectRefusal(args, cause);
  });
});

describe("bad kernels and initrds", () => {
  it.each([
    ["a file that is not there", "missing", /no such file/],
    ["an empty file", "empty", /kernel/],
    ["text", "text", /kernel/],
    ["a folder", "folder", /not a regular file/],
    ["a fifo", "fifo", /not a regular file/],
    ["an ELF file without a PVH note", "no-note", /PVH/],
    ["a truncated ELF file", "cut-elf", /truncated/],
    ["a truncated bzImage", "cut-bzimage", /truncated/],
    ["an unknown compression", "odd-compression", /compress/],
  ])("%s", async (_name, kernel, cause) => {
    await expectRefusal(["run", "--kernel", file(kernel), "--initrd", file("kernel")], cause);
  });

  it("a file without permission", async (context) => {
    if (process.getuid?.() === 0) return context.skip("root may read everything");
    writeFileSync(file("secret"), tinyKernel(endlessLoop));
    chmodSync(file("secret"), 0);
    await expectRefusal(["run", "--kernel", file("secret"), "--initrd", file("kernel")], /permission/);
  });

  it("an initrd that is none", async () => {
    await expectRefusal(["run", "--kernel", file("kernel"), "--initrd", file("text")], /initrd/);
  });

  it("an initrd that does not fit", async () => {
    await expectRefusal(["run", "--kernel", file("kernel"), "--initrd", file("big-initrd"), "--memory", "64"], /fit/);
  });

  it.each([
    ["1", /small/],
    ["4096", /limit/],
    ["999999", /limit/],
  ])("memory of %s MiB", async (memory, cause) => {
    await expectRefusal(["run", "--kernel", file("kernel"), "--initrd", file("big-initrd"), "--memory", memory], cause);
  });

  it("a command line that is too long", async () => {
    const args = ["run", "--kernel", file("kernel"), "--initrd", file("big-initrd"), "--cmdline", "x".repeat(3000)];
    await expectRefusal(args, /command line/);
  });
});

describe("hosts that cannot give an image", () => {
  /** Files below a folder. */
  const filesIn = (root: string): string[] =>
    existsSync(root)
      ? readdirSync(root, { recursive: true, withFileTypes: true })
          .filter((entry) => entry.isFile())
          .map((entry) => entry.name)
      : [];

  it("without apt", async () => {
    const bin = file("bin");
    mkdirSync(bin);
    symlinkSync(process.execPath, path.join(bin, "node"));
    const cache = file("cache-without-apt");
    await expectRefusal(["run", "--exec", "true"], /apt/, { PATH: bin, XDG_CACHE_HOME: cache });
    expect(filesIn(cache)).toEqual([]);
  });

  it("with a cache that is a file", async () => {
    await expectRefusal(["run", "--exec", "true"], /cache/i, { XDG_CACHE_HOME: file("text") });
  });

  it("without space in the cache", async (context) => {
    const cache = file("small");
    mkdirSync(cache);
    const mounted = spawnSync("mount", ["-t", "tmpfs", "-o", "size=256k", "tmpfs", cache]).status === 0;
    if (!mounted) return context.skip("needs the right to mount a small file system");
    try {
      await expectRefusal(["run", "--exec", "true"], /space/, { XDG_CACHE_HOME: cache });
      expect(filesIn(cache)).toEqual([]);
    } finally {
      spawnSync("umount", [cache]);
    }
  });

  it("with a state folder that cannot be made", async () => {
    const args = ["run", "--kernel", file("kernel"), "--initrd", file("big-initrd")];
    await expectRefusal(args, /./, { XDG_STATE_HOME: file("text") });
  });
});
