import { execFileSync } from "node:child_process";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { walkCpio } from "../../engine/builder/cpio.ts";
import { openImage } from "../../main/images/catalogue.ts";
import { type DebianImage, keepDebian, openDebian, prepareDebian } from "../../main/images/debian.ts";
import { buildFailure } from "../../main/images/debian-build.ts";
import { BuildProgress } from "../../main/images/debian-progress.ts";
import { ROOT_SIZE, recipeKey, setupScript } from "../../main/images/debian-recipe.ts";
import { chooseSources } from "../../main/images/debian-sources.ts";
import { failure, makeWorld } from "./apt-world.ts";

const row = (codename: string, uri: string, more = "main|amd64|Packages", origin = "Debian"): string =>
  `${origin}|${codename}|${uri}|${codename}|${more}`;

describe("chooseSources", () => {
  const lists = [
    row("noble", "http://ubuntu.test/", undefined, "Ubuntu"),
    row("trixie", "http://mirror.test/debian/"),
    row("bookworm", "http://mirror.test/debian/"),
    row("bookworm", "http://mirror.test/debian/", "main|amd64|Sources"),
    row("bookworm", "http://mirror.test/debian/", "contrib|amd64|Packages"),
    row("bookworm", "http://mirror.test/debian/", "main|i386|Packages"),
    row("bookworm-backports", "http://mirror.test/debian/"),
    row("bookworm-security", "http://mirror.test/security/"),
  ].join("\n");

  it("takes the host's release with its updates, and nothing else", () => {
    expect(chooseSources(lists, "bookworm")).toEqual({
      suite: "bookworm",
      lines: [
        "deb http://mirror.test/debian/ bookworm main",
        "deb http://mirror.test/security/ bookworm-security main",
      ],
    });
  });

  it("takes the first release on a host of another distribution, and none where there is none", () => {
    expect(chooseSources(lists, "noble")?.suite).toBe("trixie");
    expect(chooseSources(row("noble", "http://ubuntu.test/", undefined, "Ubuntu"), "noble")).toBeUndefined();
    expect(chooseSources(row("bookworm-security", "http://mirror.test/"), "bookworm")).toBeUndefined();
    expect(chooseSources(row("bookworm", "--option"), "bookworm")).toBeUndefined();
  });
});

describe("BuildProgress", () => {
  const percentOf = (text: string | undefined): number => Number(/ (\d+) %/.exec(text ?? "")?.[1]);

  it("goes up through the phases and names packages", () => {
    const lines = [
      "I: running apt-get update...",
      "Get:1 http://mirror.test bookworm InRelease [151 kB]",
      "I: downloading packages with apt...",
      "0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.",
      "Get:1 http://mirror.test/debian bookworm/main amd64 dash amd64 0.5 [91.8 kB]",
      "I: installing essential packages...",
      "Preparing to unpack .../dash_0.5_amd64.deb ...",
      "Setting up dash (0.5) ...",
      "I: installing remaining packages inside the chroot...",
      "0 upgraded, 4 newly installed, 0 to remove and 0 not upgraded.",
      "Get:1 http://mirror.test/debian bookworm/main amd64 udev amd64 252 [91.8 kB]",
      "Selecting previously unselected package udev.",
      "Setting up udev:amd64 (252) ...",
      "I: running special hook: tar-in /x /",
      "I: creating tarball...",
    ];
    const progress = new BuildProgress();
    const shown = lines.map((line) => progress.line(line)).filter((text) => text !== undefined);
    const percents = shown.map(percentOf);
    expect(percents).toEqual([...percents].sort((a, b) => a - b));
    expect(new Set(percents).size).toBe(percents.length);
    expect(shown[0]).toContain("reading package lists");
    expect(shown.join("\n")).toContain("(dash)");
    expect(shown.join("\n")).toContain("setting up (udev)");
    expect(percents.at(-1)).toBeLessThan(100);
  });
});

describe("buildFailure", () => {
  it("tells a full disk, a missing network and a forbidden namespace apart", () => {
    const code = (...lines: string[]) => buildFailure("mmdebstrap", lines, "/cache").code;
    expect(code("E: Write error", "dpkg: error: No space left on device")).toBe("no-space");
    expect(code("Err:1 http://mirror.test", "E: Could not resolve 'mirror.test'")).toBe("no-network");
    expect(code("E: unshare failed: Operation not permitted")).toBe("build-failed");
    const other = buildFailure(
      "mmdebstrap",
      ["noise", "E: Unable to locate package x", "E: mmdebstrap failed to run"],
      "/c",
    );
    expect(other.message).toContain("Unable to locate package x");
    expect(buildFailure("mke2fs", [], "/c").message).toContain("it said nothing");
  });
});

describe("the recipe", () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "domlab-recipe-"));
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  it("configures a root file system", () => {
    const root = join(folder, "root");
    for (const path of ["boot", "etc/apt/sources.list.d", "usr/lib/modules/9.9", "var/lib/dbus"]) {
      mkdirSync(join(root, path), { recursive: true });
    }
    writeFileSync(join(root, "boot/vmlinuz-9.9"), "x");
    writeFileSync(join(root, "etc/machine-id"), "0123\n");
    writeFileSync(join(root, "etc/apt/sources.list.d/0000bookworm.list"), "deb http://mirror.test bookworm main\n");
    writeFileSync(join(folder, "chroot"), `#!/bin/sh\nshift\necho "$*" >>${folder}/calls\n`, { mode: 0o755 });
    const env = { PATH: `${folder}:/usr/bin:/bin` };
    execFileSync("sh", ["-c", setupScript("bookworm"), "sh", root], { env });

    const read = (path: string): string => readFileSync(join(root, path), "utf8");
    expect(read("etc/machine-id")).toBe("");
    expect(read("etc/fstab")).toMatch(/^\/dev\/xvda \/ ext4 \S*x-systemd\.growfs\S* 0 1\n$/);
    expect(read("etc/apt/sources.list").split("\n").filter(Boolean)).toHaveLength(3);
    expect(read("etc/apt/sources.list")).toContain("bookworm-security");
    expect(readdirSync(join(root, "etc/apt/sources.list.d"))).toEqual([]);
    expect(readdirSync(join(root, "boot"))).toEqual([]);
    expect(read("etc/udev/rules.d/60-xen-disk.rules")).toContain('ATTR{queue/scheduler}="none"');
    expect(readlinkSync(join(root, "etc/systemd/system/getty@tty1.service"))).toBe("/dev/null");
    expect(statSync(join(root, "etc/.updated")).mtimeMs).toBe(statSync(join(root, "usr")).mtimeMs);
    const calls = readFileSync(join(folder, "calls"), "utf8");
    expect(calls).toContain("depmod 9.9\n");
    expect(calls).toContain("passwd -d root\n");
  });

  it("ends with an error when a step fails", () => {
    const env = { PATH: `${folder}:/usr/bin:/bin` };
    writeFileSync(join(folder, "chroot"), "#!/bin/sh\nexit 3\n", { mode: 0o755 });
    const run = () => execFileSync("sh", ["-c", setupScript("bookworm"), "sh", folder], { env, stdio: "ignore" });
    expect(run).toThrow();
  });
});

/** Whether a process runs; one that has ended and waits for its parent to ask does not. */
function isRunning(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

const hasMke2fs = ["/usr/sbin/mke2fs", "/sbin/mke2fs"].some((path) => existsSync(path));
const hasFakeroot = process.getuid?.() === 0 || existsSync("/usr/bin/fakeroot");

describe.skipIf(!hasMke2fs || !hasFakeroot)("debian", () => {
  let world: ReturnType<typeof makeWorld>;
  beforeEach(() => {
    world = makeWorld();
    const lists = row("bookworm", "http://mirror.test/debian/");
    world.tool(
      "apt-get",
      `case "$*" in
indextargets*) echo '${lists}' ;;
*print-uris*) cd ${world.archive}; for f in *; do echo "'http://x/$f' $f $(wc -c <$f) SHA256:0"; done ;;
*" download "*) cp ${world.archive}/* . ;;
esac`,
    );
    world.tool("apt-config", "echo \"http_proxy='http://proxy.test:3142'\"");
    world.tool("dpkg-deb", 'case "$1" in --extract) mkdir "$3" && tar -C "$3" -xf "$2" ;; *) cat "$2" ;; esac');
    // A root with one file, in place of a Debian system.
    world.tool(
      "mmdebstrap",
      `echo "proxy $http_proxy" >>${world.root}/calls
mkdir -p tiny/etc && echo hello >tiny/etc/greeting
echo "I: creating tarball..." >&2
exec tar -C tiny -c --owner=0 --group=0 --numeric-owner .`,
    );
  });
  afterEach(() => rmSync(world.root, { recursive: true, force: true }));

  const prepare = (signal?: AbortSignal, progress?: (text: string) => void) =>
    prepareDebian({ env: world.env, signal, progress });
  const inRoot = (image: DebianImage, command: string): string =>
    execFileSync("debugfs", ["-R", command, image.root.path], {
      env: { PATH: "/usr/sbin:/sbin:/usr/bin:/bin" },
      stdio: ["ignore", "pipe", "ignore"],
      encoding: "utf8",
    });

  it("is made once, complete, of the host's sources", async () => {
    const shown: string[] = [];
    const image = await prepare(undefined, (text) => shown.push(text));
    expect(image.id).toBe(`debian-${recipeKey()}`);
    expect(readFileSync(image.kernel, "utf8")).toBe("a kernel");
    expect(image.root).toMatchObject({ format: "raw", virtualSize: ROOT_SIZE });
    const status = lstatSync(image.root.path);
    expect(status.size).toBe(ROOT_SIZE);
    expect(status.mode & 0o777).toBe(0o444);
    // Sparse: an almost empty file system of gigabytes takes up little.
    expect(status.blocks * 512).toBeLessThan(ROOT_SIZE / 16);
    expect(inRoot(image, "cat /etc/greeting")).toBe("hello\n");
    expect(inRoot(image, "stat /etc/greeting")).toMatch(/User: +0 +Group: +0 /);
    const calls = readFileSync(join(world.root, "calls"), "utf8");
    expect(calls).toContain("deb http://mirror.test/debian/ bookworm main");
    expect(calls).toContain("proxy http://proxy.test:3142");
    expect(shown.join("\n")).toMatch(/95 %|86 %/);

    const before = world.calls();
    const again = await openImage("debian", { env: world.env });
    expect(again.root).toEqual(image.root);
    expect(world.calls()).toBe(before);
    expect(readdirSync(world.images)).toEqual([image.id]);
  });

  it("is made anew when its root was written to or a file of it is damaged", async () => {
    const image = await prepare();
    utimesSync(image.root.path, new Date(), new Date(0));
    expect(await openDebian(image.directory)).toBeUndefined();
    const second = await prepare();
    writeFileSync(second.kernel, "b kernel");
    expect(await openDebian(second.directory)).toBeUndefined();
  });

  it("has an initramfs whose scripts a shell takes", async () => {
    const walk = walkCpio((await prepare()).initramfs, 0);
    if (!walk.ok) throw new Error(walk.failure);
    const files = new Map(walk.members.map(({ path, data }) => [path, Buffer.from(data).toString("utf8")]));
    for (const name of ["init", "lib/domlab/run-command"]) {
      const script = files.get(name);
      expect(script, name).toBeDefined();
      execFileSync("sh", ["-n"], { input: script as string });
    }
    expect(files.get("lib/domlab/modules")).toBe("xen_blkfront\n");
    expect(files.has("lib/modules/9.9/xen-blkfront.ko")).toBe(true);
  });

  it("is kept apart from the cache, whole", async () => {
    const image = await prepare();
    const lab = join(world.root, "lab");
    const kept = await keepDebian(image, lab);
    rmSync(world.images, { recursive: true });
    expect((await openDebian(join(lab, image.id)))?.root).toEqual(kept.root);
    expect(inRoot(kept, "cat /etc/greeting")).toBe("hello\n");
    expect(readdirSync(lab)).toEqual([image.id]);
    // Machines have overlays on a base image: one that is damaged is told of, never replaced.
    utimesSync(kept.root.path, new Date(), new Date(0));
    const fresh = await prepare();
    expect((await failure(keepDebian(fresh, lab))).message).toContain("is damaged");
  });

  it("tells what mmdebstrap says when it fails, and leaves nothing", async () => {
    world.tool("mmdebstrap", "echo \"E: Could not resolve 'mirror.test'\" >&2; exit 1");
    expect((await failure(prepare())).code).toBe("no-network");
    expect(readdirSync(world.images)).toEqual([]);
  });

  it("says how to install what is missing", async () => {
    const tools = join(world.root, "few");
    mkdirSync(tools);
    symlinkSync("/bin/sh", join(tools, "sh"));
    const error = await failure(prepareDebian({ env: { ...world.env, PATH: tools } }));
    expect(error.code).toBe("no-tool");
    expect(error.message).toMatch(/mmdebstrap.*not installed.*apt-get install .*mmdebstrap/);
  });

  it("ends its tools when it is cancelled, and leaves nothing", async () => {
    const pidFile = join(world.root, "pid");
    // mmdebstrap removes its root when it is asked to end; its children go with it.
    world.tool(
      "mmdebstrap",
      `sleep 1000 & child=$!
trap 'echo cleaned >>${world.root}/calls; exit 1' TERM
echo $child >${pidFile}.new; mv ${pidFile}.new ${pidFile}
wait`,
    );
    const abort = new AbortController();
    const work = failure(prepare(abort.signal));
    const timer = setInterval(() => existsSync(pidFile) && abort.abort(), 20);
    try {
      expect((await work).code).toBe("cancelled");
    } finally {
      clearInterval(timer);
    }
    expect(readFileSync(join(world.root, "calls"), "utf8")).toContain("cleaned");
    expect(isRunning(Number(readFileSync(pidFile, "utf8")))).toBe(false);
    expect(readdirSync(world.images)).toEqual([]);
  });
});
