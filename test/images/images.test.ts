import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { walkCpio } from "../../engine/builder/cpio.ts";
import { cacheDirectory } from "../../main/images/cache.ts";
import { openImage } from "../../main/images/catalogue.ts";
import { writeSessionArchive } from "../../main/images/debian-shell.ts";
import { dependenciesOf, loadOrder, moduleName } from "../../main/images/kernel-modules.ts";
import { failure, makeModule, makeWorld } from "./apt-world.ts";

let world: ReturnType<typeof makeWorld>;
beforeEach(() => {
  world = makeWorld();
});
afterEach(() => rmSync(world.root, { recursive: true, force: true }));

const open = () => openImage("debian-shell", { env: world.env });

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
