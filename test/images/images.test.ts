import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { walkCpio } from "../../engine/builder/cpio.ts";
import { cacheDirectory } from "../../main/images/cache.ts";
import { openImage } from "../../main/images/catalogue.ts";
import { writeSessionArchive } from "../../main/images/debian-shell.ts";
import { ImageError } from "../../main/images/errors.ts";
import { dependenciesOf, loadOrder, moduleName } from "../../main/images/kernel-modules.ts";

/** A relocatable ELF with only a .modinfo section and the section names. */
function makeModule(depends: string): Buffer {
  const info = Buffer.from(`license=GPL\0depends=${depends}\0name=x\0`);
  const names = Buffer.from("\0.modinfo\0.shstrtab\0");
  const header = Buffer.alloc(64);
  header.write("\x7fELF", 0, "latin1");
  header.writeBigUInt64LE(BigInt(64 + info.length + names.length), 40);
  header.writeUInt16LE(3, 60);
  header.writeUInt16LE(2, 62);
  const sections = Buffer.alloc(3 * 64);
  const section = (index: number, name: number, offset: number, size: number): void => {
    sections.writeUInt32LE(name, index * 64);
    sections.writeBigUInt64LE(BigInt(offset), index * 64 + 24);
    sections.writeBigUInt64LE(BigInt(size), index * 64 + 32);
  };
  section(1, 1, 64, info.length);
  section(2, 10, 64 + info.length, names.length);
  return Buffer.concat([header, info, names, sections]);
}

const MODULES = "lib/modules/9.9/kernel";
const KERNEL_FILES: Readonly<Record<string, Uint8Array | string>> = {
  "boot/vmlinuz-9.9": "a kernel",
  [`${MODULES}/block/xen-blkfront.ko`]: makeModule(""),
  [`${MODULES}/net/xen-netfront.ko`]: makeModule("page-helper"),
  [`${MODULES}/lib/page-helper.ko`]: makeModule(""),
  [`${MODULES}/net/other.ko`]: makeModule(""),
};

/**
 * A world with an apt of its own: the tools are shell scripts that count their calls, and a "package" is a tar archive.
 */
function makeWorld() {
  const root = mkdtempSync(join(tmpdir(), "domlab-images-"));
  const archive = join(root, "archive");
  const tools = join(root, "bin");
  mkdirSync(archive);
  mkdirSync(tools);
  const pack = (name: string, files: Readonly<Record<string, Uint8Array | string>>): void => {
    const tree = join(root, "tree");
    for (const [path, data] of Object.entries(files)) {
      mkdirSync(join(tree, path, ".."), { recursive: true });
      writeFileSync(join(tree, path), data);
    }
    execFileSync("tar", ["--format=gnu", "-C", tree, "-cf", join(archive, name), "."]);
    rmSync(tree, { recursive: true });
  };
  const tool = (name: string, script: string): void => {
    writeFileSync(join(tools, name), `#!/bin/sh\necho "${name} $*" >>${root}/calls\n${script}\n`);
    chmodSync(join(tools, name), 0o755);
  };
  pack("linux-image-9.9_1_amd64.deb", KERNEL_FILES);
  pack("busybox-static_1_amd64.deb", { "usr/bin/busybox": "a busybox" });
  tool("apt-cache", 'echo "$2"; echo "  Depends: linux-image-9.9"');
  tool(
    "apt-get",
    `case "$*" in
*print-uris*) cd ${archive}; for f in *; do echo "'http://x/$f' $f $(wc -c <$f) SHA256:0"; done ;;
*" download "*) cp ${archive}/* . ;;
*) exit 0 ;;
esac`,
  );
  tool("dpkg-deb", 'cat "$2"');
  const env = { PATH: `${tools}:/usr/bin:/bin`, DOMLAB_CACHE: join(root, "cache") };
  const calls = (): number => {
    try {
      return readFileSync(join(root, "calls"), "utf8").split("\n").length - 1;
    } catch {
      return 0;
    }
  };
  return { root, env, tool, tools, calls, images: join(root, "cache", "images"), archive };
}

let world: ReturnType<typeof makeWorld>;
beforeEach(() => {
  world = makeWorld();
});
afterEach(() => rmSync(world.root, { recursive: true, force: true }));

const open = () => openImage("debian-shell", { env: world.env });

async function failure(action: Promise<unknown>): Promise<ImageError> {
  const error = await action.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof ImageError)) throw error ?? new Error("it did not fail");
  expect(error.message).not.toContain("\n");
  return error;
}

describe("debian-shell", () => {
  it("is fetched once and complete", async () => {
    const image = await open();
    expect(readFileSync(image.kernel, "utf8")).toBe("a kernel");
    const walk = walkCpio(image.initramfs, 0);
    if (!walk.ok) throw new Error(walk.failure);
    const files = new Map(walk.members.map(({ path, data }) => [path, Buffer.from(data).toString("utf8")]));
    expect(files.get("bin/busybox")).toBe("a busybox");
    expect(files.get("init")).toMatch(/^#!\/bin\/busybox sh\n/);
    const order = (files.get("lib/domlab/modules") ?? "").trim().split("\n");
    expect(order).toEqual(["xen_blkfront", "page_helper", "xen_netfront"]);
    expect(files.get("lib/modules/9.9/modules.dep")).toContain("xen-netfront.ko: page-helper.ko\n");
    for (const name of order) expect(files.has(`lib/modules/9.9/${name.replace("_", "-")}.ko`)).toBe(true);

    const calls = world.calls();
    expect(Buffer.compare((await open()).initramfs, image.initramfs)).toBe(0);
    expect(world.calls()).toBe(calls);
    expect(readdirSync(world.images)).toEqual(["debian-shell"]);
  });

  it("is fetched once by two at the same time", async () => {
    await Promise.all([open(), open()]);
    const downloads = readFileSync(join(world.root, "calls"), "utf8").match(/^apt-get .*download/gm);
    expect(downloads).toHaveLength(2); // one that prints, one that loads
    expect(readdirSync(world.images)).toEqual(["debian-shell"]);
  });

  it("is fetched again when a cached file is damaged", async () => {
    const { kernel } = await open();
    writeFileSync(kernel, "a kernal");
    expect(readFileSync((await open()).kernel, "utf8")).toBe("a kernel");
    expect(readdirSync(world.images)).toEqual(["debian-shell"]);
  });

  it("takes over the lock and the leftovers of a process that is gone", async () => {
    mkdirSync(join(world.images, ".fetch-debian-shell-dead"), { recursive: true });
    writeFileSync(join(world.images, ".debian-shell.lock"), "4194999\n");
    await open();
    expect(readdirSync(world.images)).toEqual(["debian-shell"]);
  });

  it.each<[string, string, string, string]>([
    [
      "no network",
      "apt-get",
      "echo 'E: Failed to fetch x  Temporary failure resolving deb' >&2; exit 100",
      "no-network",
    ],
    ["a full disk", "apt-get", "echo 'E: Write error - write (28: No space left on device)' >&2; exit 100", "no-space"],
    ["empty lists", "apt-cache", "echo 'E: No packages found' >&2; exit 100", "no-package"],
    ["a damaged package", "dpkg-deb", 'head -c 3000 "$2"', "damaged-package"],
    ["a package of something else", "dpkg-deb", "head -c 1024 /dev/zero", "damaged-package"],
    ["a failing unpacker", "dpkg-deb", "echo 'dpkg-deb: error: not a Debian archive' >&2; exit 2", "damaged-package"],
  ])("reports %s and leaves nothing behind", async (_name, tool, script, code) => {
    world.tool(tool, script);
    expect((await failure(open())).code).toBe(code);
    expect(readdirSync(world.images)).toEqual([]);
  });

  it("reports a host without apt", async () => {
    rmSync(world.tools, { recursive: true });
    const env = { ...world.env, PATH: world.tools };
    expect((await failure(openImage("debian-shell", { env }))).code).toBe("no-apt");
  });

  it("reports a cache that cannot be one, and an unknown name", async () => {
    writeFileSync(join(world.root, "file"), "");
    const env = { ...world.env, DOMLAB_CACHE: join(world.root, "file") };
    expect((await failure(openImage("debian-shell", { env }))).code).toBe("unusable-cache");
    expect((await failure(openImage("constructor"))).code).toBe("unknown-image");
  });

  it("can be cancelled", async () => {
    world.tool("apt-get", "exec sleep 20");
    const abort = new AbortController();
    setTimeout(() => abort.abort(), 200);
    const error = await failure(openImage("debian-shell", { env: world.env, signal: abort.signal }));
    expect(error.code).toBe("cancelled");
    expect(readdirSync(world.images)).toEqual([]);
  });
});

describe("pieces", () => {
  it("finds the cache directory", () => {
    expect(cacheDirectory({ DOMLAB_CACHE: "/a", XDG_CACHE_HOME: "/b" })).toBe("/a");
    expect(cacheDirectory({ XDG_CACHE_HOME: "/b" })).toBe("/b/domlab");
    expect(cacheDirectory({ XDG_CACHE_HOME: "relative" })).toMatch(/^\/.*\.cache\/domlab$/);
  });

  it("orders modules by what they need", () => {
    expect(moduleName("kernel/net/xen-netfront.ko.xz")).toBe("xen_netfront");
    expect(dependenciesOf(makeModule("a-b,c"))).toEqual(["a_b", "c"]);
    expect(dependenciesOf(Buffer.from("no module"))).toBeUndefined();
    const needs = new Map([
      ["top", ["left", "right"]],
      ["left", ["base"]],
      ["right", ["base", "built_in"]],
      ["base", []],
    ]);
    expect(loadOrder(["top"], needs)).toEqual(["base", "left", "right", "top"]);
  });

  it("writes a session's files, whatever the command contains", () => {
    const command = `awk "BEGIN{print 22/7}"; echo '${"x".repeat(5000)}'\nexit 7`;
    const walk = walkCpio(writeSessionArchive({ exec: { command, token: "0123456789abcdef" } }) as Uint8Array, 0);
    if (!walk.ok) throw new Error(walk.failure);
    const exec = walk.members.find(({ path }) => path === "domlab/exec");
    expect(Buffer.from(exec?.data ?? []).toString("utf8")).toBe(`${command}\n`);
    expect(writeSessionArchive({})).toBeUndefined();
  });
});
