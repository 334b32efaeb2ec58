/**
 * Makes the root file system of the guest image `debian` without being root: mmdebstrap unpacks and configures
 * packages in a user namespace (or under fakechroot), tar unpacks what it delivers, and mke2fs writes the tree into a
 * sparse file, so that nothing is ever mounted. fakeroot keeps the owners for a user that may not set them.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { access, mkdir, open, statfs, truncate } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { oneLine } from "../../engine/errors/input-error.ts";
import type { FetchOptions } from "./apt.ts";
import { BuildProgress, FILE_SYSTEM_PERCENT } from "./debian-progress.ts";
import { PACKAGES, ROOT_SIZE, setupScript } from "./debian-recipe.ts";
import { type DebianSources, proxyVariables } from "./debian-sources.ts";
import { cancelled, ImageError, noSpace } from "./errors.ts";
import { run } from "./run.ts";

const MIB = 1024 * 1024;
/**
 * What mmdebstrap needs for packages and root, and what the tree and the file system need in the cache, measured with
 * room to spare.
 */
const TEMPORARY_ROOM = 800 * MIB;
const CACHE_ROOM = 900 * MIB;
/** How long tools may take to clean up after a cancellation, in milliseconds; then they are killed. */
const CLEAN_UP_MS = 20_000;
/** Lines of output that are kept for the message of a failure. */
const KEPT_LINES = 60;
/** Scripts of mmdebstrap that let /bin and the like be links from the start. */
const MERGED_USR_HOOKS = "/usr/share/mmdebstrap/hooks/maybe-merged-usr";

/** Tools and the packages of Debian they are in. */
const TOOLS = [
  { tool: "mmdebstrap", package: "mmdebstrap" },
  { tool: "mke2fs", package: "e2fsprogs" },
  { tool: "tar", package: "tar" },
] as const;

const isRoot = (): boolean => process.getuid?.() === 0;

/** PATH with the places of administrators' tools, which Debian's users do not have on theirs. */
function withSbin(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return { ...env, PATH: [env.PATH ?? "/usr/bin:/bin", "/usr/sbin", "/sbin"].join(delimiter) };
}

async function isInstalled(tool: string, env: NodeJS.ProcessEnv): Promise<boolean> {
  const { status } = await run("sh", ["-c", 'command -v "$0" >/dev/null', tool], { env });
  return status === 0;
}

/** Tells of all missing tools at once. @throws ImageError `no-tool` */
export async function checkTools(options: FetchOptions): Promise<void> {
  const env = withSbin(options.env ?? process.env);
  const wanted = isRoot() ? TOOLS : [...TOOLS, { tool: "fakeroot", package: "fakeroot" }];
  const present = await Promise.all(wanted.map(({ tool }) => isInstalled(tool, env)));
  const missing = wanted.filter((_, index) => !present[index]);
  if (missing.length === 0) return;
  const names = missing.map(({ tool }) => tool).join(" and ");
  // A user without root's rights needs newuidmap as well, which mmdebstrap only recommends.
  const packages = [...missing.map((entry) => entry.package), ...(isRoot() ? [] : ["uidmap"])];
  throw new ImageError(
    "no-tool",
    `the Debian image is made with ${names}, not installed here`,
    `run: sudo apt-get install ${packages.join(" ")}`,
  );
}

async function checkRoom(directory: string, bytes: number, remedy?: string): Promise<void> {
  const { bavail, bsize } = await statfs(directory);
  if (bavail * bsize >= bytes) return;
  if (remedy === undefined) throw noSpace(directory, undefined, bytes);
  const needed = Math.ceil(bytes / MIB);
  throw new ImageError("no-space", `no space left in ${directory}, ${needed} MiB are needed`, remedy);
}

/** What mmdebstrap's or mke2fs' last lines mean to the user. */
export function buildFailure(tool: string, lines: readonly string[], directory: string): ImageError {
  const text = lines.join("\n");
  if (/No space left|enough free space|Disk quota/i.test(text)) return noSpace(directory);
  if (/unshare|newuidmap|newgidmap|user namespace|subuid|cannot (use|run) fakechroot/i.test(text)) {
    return new ImageError(
      "build-failed",
      `mmdebstrap may not make a user namespace: ${lastError(lines)}`,
      "see that uidmap is installed and /etc/subuid names you, or run: sudo apt-get install fakechroot",
    );
  }
  if (
    /Could not resolve|Could not connect|Unable to connect|Temporary failure|Network is unreachable|timed out/i.test(
      text,
    )
  ) {
    const what = `the Debian packages cannot be fetched: ${lastError(lines)}`;
    return new ImageError("no-network", what, "check the network connection (and apt's proxy), then start again");
  }
  return new ImageError("build-failed", `${tool} failed: ${lastError(lines)}`, `run ${tool} by hand to see why`);
}

/**
 * The line that says most: the first error of apt's or a hook's, as what follows only repeats the commands that
 * failed.
 */
function lastError(lines: readonly string[]): string {
  const errors = lines.filter((line) => /^(E:|dpkg: error|chroot:|mke2fs:|tar:|.*[Nn]o space left)/.test(line));
  return oneLine(errors[0] ?? lines.at(-1) ?? "it said nothing").slice(0, 300);
}

/** Reads a tool's messages to the end and keeps the last ones. */
function follow(stream: Readable, each: (line: string) => void): string[] {
  const kept: string[] = [];
  createInterface({ input: stream }).on("line", (line) => {
    if (line.trim() === "") return;
    kept.push(line);
    if (kept.length > KEPT_LINES) kept.shift();
    each(line);
  });
  return kept;
}

/** Exit status; null after a signal or when the tool, which was there a moment ago, cannot be started. */
function statusOf(child: ChildProcess): Promise<number | null> {
  return new Promise((resolve) => {
    child.once("error", () => resolve(null));
    child.once("close", resolve);
  });
}

/** A tool and the signal at which it cleans up. */
interface Tool {
  readonly child: ChildProcess;
  readonly politely: NodeJS.Signals;
}

/**
 * Ends tools on the signal: politely, so that mmdebstrap removes its root directory and fakeroot its daemon, then for
 * good. They are leaders of their own process groups, so that Ctrl-C in a terminal comes from here only and their
 * children go with them.
 */
function endOnAbort(tools: readonly Tool[], signal: AbortSignal | undefined): () => void {
  let timer: NodeJS.Timeout | undefined;
  const kill = ({ child }: Tool, name: NodeJS.Signals): void => {
    if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
    try {
      process.kill(-child.pid, name);
    } catch {
      // It has ended meanwhile.
    }
  };
  const abort = (): void => {
    for (const tool of tools) kill(tool, tool.politely);
    timer = setTimeout(() => {
      for (const tool of tools) kill(tool, "SIGKILL");
    }, CLEAN_UP_MS);
  };
  signal?.addEventListener("abort", abort, { once: true });
  if (signal?.aborted === true) abort();
  return () => {
    signal?.removeEventListener("abort", abort);
    clearTimeout(timer);
  };
}

/**
 * Unpacks standard input into a tree and makes the file system of it, in one go for fakeroot's sake. Extended
 * attributes are left out: fakeroot loses the type of files that have some. Debian's only one is ping's capability,
 * which the kernel's net.ipv4.ping_group_range, as systemd sets it, makes needless.
 */
const WRITE_ROOT = `tar --extract --directory="$1" --numeric-owner --preserve-permissions &&
exec mke2fs -q -F -t ext4 -L debian-root -m 1 -E lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0 -d "$1" "$2"`;

interface RootBuild {
  readonly sources: DebianSources;
  /** Work directory. */
  readonly work: string;
  /** Tar archive with the kernel's modules, as usr/lib/modules. */
  readonly modules: string;
}

async function bootstrapArguments({ sources, modules }: RootBuild): Promise<string[]> {
  const merged = await access(MERGED_USR_HOOKS).then(
    () => [`--hook-dir=${MERGED_USR_HOOKS}`],
    () => [],
  );
  return [
    ...["--verbose", "--variant=minbase", "--format=tar", "--architectures=amd64", ...merged],
    `--include=${PACKAGES.join(",")}`,
    '--aptopt=Acquire::Languages "none"',
    "--aptopt=Acquire::Retries 2",
    `--customize-hook=tar-in ${modules} /`,
    `--customize-hook=${setupScript(sources.suite)}`,
    ...[sources.suite, "-", ...sources.lines],
  ];
}

/**
 * Makes the root file system.
 *
 * @returns the image file's path, in the work directory; it is on the disk when this returns
 * @throws ImageError
 */
export async function buildRoot(build: RootBuild, options: FetchOptions): Promise<string> {
  const { work } = build;
  if (options.signal?.aborted === true) throw cancelled();
  const tree = join(work, "tree");
  const image = join(work, "root.img");
  await checkRoom(tmpdir(), TEMPORARY_ROOM, "free some space or set TMPDIR to another disk");
  await checkRoom(work, CACHE_ROOM);
  await mkdir(tree);
  await (await open(image, "wx", 0o644)).close();
  await truncate(image, ROOT_SIZE);
  const proxies = await proxyVariables(options);
  const env = { ...withSbin(options.env ?? process.env), ...proxies, LC_ALL: "C", LANGUAGE: "C" };
  const start = { env, cwd: work, detached: true } as const;
  const bootstrap = spawn("mmdebstrap", await bootstrapArguments(build), {
    ...start,
    stdio: ["ignore", "pipe", "pipe"],
  });
  const writer = isRoot() ? ["sh"] : ["fakeroot", "sh"];
  const [command, ...before] = writer as [string, ...string[]];
  const write = spawn(command, [...before, "-c", WRITE_ROOT, "sh", tree, image], {
    ...start,
    stdio: ["pipe", "ignore", "pipe"],
  });
  const tools: Tool[] = [
    { child: bootstrap, politely: "SIGTERM" },
    // fakeroot has no trap for SIGTERM.
    { child: write, politely: "SIGINT" },
  ];
  const release = endOnAbort(tools, options.signal);
  try {
    await finish(bootstrap, write, work, options);
  } finally {
    release();
  }
  const handle = await open(image, "r+");
  await handle.sync();
  await handle.close();
  return image;
}

async function finish(
  bootstrap: ReturnType<typeof spawn>,
  write: ReturnType<typeof spawn>,
  work: string,
  options: FetchOptions,
): Promise<void> {
  if (!bootstrap.stdout || !bootstrap.stderr || !write.stdin || !write.stderr) throw new Error("a pipe is missing");
  const progress = new BuildProgress();
  const said = follow(bootstrap.stderr, (line) => {
    const text = progress.line(line);
    if (text !== undefined) options.progress?.(text);
  });
  const complaints = follow(write.stderr, () => undefined);
  // A side that fails closes its end; its status tells why.
  const copied = pipeline(bootstrap.stdout, write.stdin).catch(() => undefined);
  const writing = `making the Debian image: ${FILE_SYSTEM_PERCENT} %, writing the file system`;
  void copied.then(() => options.progress?.(writing));
  const [made, written] = await Promise.all([statusOf(bootstrap), statusOf(write)]);
  if (options.signal?.aborted === true) throw cancelled();
  const failures = [
    // mmdebstrap also fails when nobody reads on, so a full disk shows at the writer only.
    ...(written === 0 ? [] : [{ tool: "mke2fs", lines: complaints }]),
    ...(made === 0 ? [] : [{ tool: "mmdebstrap", lines: said }]),
  ];
  const full = failures
    .map(({ tool, lines }) => buildFailure(tool, lines, work))
    .find(({ code }) => code === "no-space");
  if (full !== undefined) throw full;
  const cause = failures.at(-1);
  if (cause !== undefined) throw buildFailure(cause.tool, cause.lines, work);
}

/**
 * Packs the modules of a kernel package for the root file system.
 *
 * @returns the archive's path, in the work directory
 * @throws ImageError
 */
export async function packModules(packageFile: string, work: string, options: FetchOptions): Promise<string> {
  const folder = join(work, "kernel");
  const archive = join(work, "modules.tar");
  options.progress?.("making the Debian image: unpacking the kernel's modules");
  const unpacked = await run("dpkg-deb", ["--extract", packageFile, folder], options);
  if (unpacked.status !== 0) throw buildFailure("dpkg-deb", unpacked.stderr.split("\n"), work);
  const owner = ["--owner=0", "--group=0", "--numeric-owner"];
  // Debian's packages of bookworm still say /lib, which is a link in the root.
  const rename = ["--transform=s,^lib/,usr/lib/,"];
  const lib = await access(join(folder, "lib/modules")).then(
    () => "lib/modules",
    () => "usr/lib/modules",
  );
  const packed = await run("tar", ["-C", folder, "-cf", archive, ...owner, ...rename, lib], options);
  if (packed.status !== 0) throw buildFailure("tar", packed.stderr.split("\n"), work);
  return archive;
}
