/** Fetching of Debian packages with the host's own apt client. Nothing is installed and no system file is changed. */

import { readdir, stat, statfs } from "node:fs/promises";
import { join } from "node:path";
import { oneLine } from "../../engine/errors/input-error.ts";
import { cancelled, ImageError, noSpace } from "./errors.ts";
import { type Finished, type RunOptions, run, runStreaming } from "./run.ts";
import { readTar, TarError, type TarFile } from "./tar.ts";

/** Guests are amd64 whatever the host is. */
const ARCHITECTURE = "amd64";
const NETWORK_OPTIONS = ["-q", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=30"] as const;
/** How often the growing files are looked at for the progress line, in milliseconds. */
const PROGRESS_INTERVAL = 250;

export interface FetchOptions extends Omit<RunOptions, "cwd"> {
  readonly progress?: ((text: string) => void) | undefined;
}

/** A package file that apt would download. */
export interface PackageFile {
  readonly file: string;
  readonly size: number;
}

const qualified = (name: string): string => `${name}:${ARCHITECTURE}`;

function tail(text: string): string {
  const lines = text.split("\n").filter((line) => /^(E|Err|W|dpkg-deb):?/.test(line.trim()));
  return oneLine((lines.length > 0 ? lines : text.trim().split("\n")).slice(-2).join(" "));
}

const NETWORK_TROUBLE =
  /Temporary failure|Could not resolve|Could not connect|Unable to connect|Network is unreachable|Connection (timed out|refused|failed)|No route to host|Cannot initiate/i;
const SPACE_TROUBLE = /No space left|enough free space|Disk quota/i;
const MISSING_PACKAGE = /Unable to locate package|No packages found|has no installation candidate|Can't find a source/i;
const STALE_LISTS = /404 +Not Found|Hash Sum mismatch|is no longer available/i;

function aptFailure(what: string, result: Finished, directory: string): ImageError {
  const output = `${result.stderr}\n${result.stdout}`;
  if (SPACE_TROUBLE.test(output)) return noSpace(directory);
  if (MISSING_PACKAGE.test(output) || STALE_LISTS.test(output)) return noPackage(what);
  if (NETWORK_TROUBLE.test(output)) {
    return new ImageError(
      "no-network",
      `${what} cannot be fetched: ${tail(output)}`,
      "check the network connection (and apt's proxy), then start again",
    );
  }
  return new ImageError("fetch-failed", `${what} cannot be fetched: ${tail(output)}`, `try: apt-get download ${what}`);
}

function noPackage(name: string): ImageError {
  return new ImageError(
    "no-package",
    `apt does not know the package ${name}, or only an old version of it`,
    "run: sudo apt-get update (Debian's main archive must be among the sources)",
  );
}

/**
 * The package that the meta package `name` stands for: its first dependency whose name matches.
 *
 * @throws ImageError `no-apt`, `no-package`
 */
export async function resolveDependency(name: string, pattern: RegExp, options: FetchOptions): Promise<string> {
  const result = await run("apt-cache", ["depends", qualified(name)], options);
  for (const line of result.stdout.split("\n")) {
    const dependency = /^\s*\|?\s*Depends: (\S+)/.exec(line)?.[1]?.replace(/:\w+$/, "");
    if (dependency !== undefined && pattern.test(dependency)) return dependency;
  }
  throw noPackage(name);
}

/** Brings apt's package lists up to date where that is allowed; returns false where it is not or does not work. */
export async function updateLists(options: FetchOptions): Promise<boolean> {
  if (process.getuid?.() !== 0) return false;
  options.progress?.("updating apt's package lists");
  const result = await run("apt-get", [...NETWORK_OPTIONS, "update"], options);
  return result.status === 0;
}

/** Asks apt for file names and sizes, without downloading. Lines: 'url' file size checksum. */
async function filesOf(packages: readonly string[], directory: string, options: FetchOptions): Promise<PackageFile[]> {
  const args = [...NETWORK_OPTIONS, "--print-uris", "download", ...packages.map(qualified)];
  const result = await run("apt-get", args, { ...options, cwd: directory });
  if (result.status !== 0) throw aptFailure(packages.join(" "), result, directory);
  const listed: PackageFile[] = [];
  for (const line of result.stdout.split("\n")) {
    const match = /^'[^']*' (\S+\.deb) (\d+)/.exec(line);
    if (match !== null) listed.push({ file: match[1] as string, size: Number(match[2]) });
  }
  // apt lists them in an order of its own; file names begin with the package's name and an underscore.
  return packages.map((name) => {
    const file = listed.find((candidate) => candidate.file.startsWith(`${name}_`));
    if (file === undefined) throw noPackage(name);
    return file;
  });
}

async function checkSpace(directory: string, bytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(directory);
  if (bavail * bsize < bytes) throw noSpace(directory, undefined, bytes);
}

/** Bytes of package files in the directory so far; apt keeps unfinished ones there too. */
async function bytesIn(directory: string): Promise<number> {
  let total = 0;
  for (const name of await readdir(directory).catch(() => [])) {
    const status = await stat(join(directory, name)).catch(() => undefined);
    if (status?.isFile() === true) total += status.size;
  }
  return total;
}

/**
 * Downloads packages into `directory`. apt checks what it gets against the signed package lists.
 *
 * @param room bytes that the caller will need in the same place besides
 * @returns the files, in the order of the packages
 * @throws ImageError
 */
export async function downloadPackages(
  packages: readonly string[],
  directory: string,
  room: number,
  options: FetchOptions,
): Promise<PackageFile[]> {
  const files = await filesOf(packages, directory, options);
  const total = files.reduce((sum, { size }) => sum + size, 0);
  await checkSpace(directory, total + room);
  const show = (done: number): void => {
    const mib = (bytes: number): string => (bytes / (1024 * 1024)).toFixed(1);
    options.progress?.(`fetching the guest image: ${mib(Math.min(done, total))} of ${mib(total)} MiB`);
  };
  show(0);
  const timer = setInterval(() => void bytesIn(directory).then(show), PROGRESS_INTERVAL);
  try {
    const args = [...NETWORK_OPTIONS, "download", ...packages.map(qualified)];
    const result = await run("apt-get", args, { ...options, cwd: directory });
    if (result.status !== 0) throw aptFailure(packages.join(" "), result, directory);
  } finally {
    clearInterval(timer);
  }
  const present = new Set(await readdir(directory));
  return files.map((wanted) => {
    // apt writes the epoch's colon as %3a, whether or not --print-uris did.
    const file = [wanted.file, wanted.file.replaceAll(":", "%3a")].find((name) => present.has(name));
    if (file === undefined) {
      throw new ImageError("fetch-failed", `apt-get did not leave ${wanted.file}`, "try: apt-get download by hand");
    }
    return { ...wanted, file };
  });
}

function damaged(path: string, reason: string): ImageError {
  return new ImageError("damaged-package", `the package ${path} cannot be unpacked: ${reason}`, "start again");
}

function throwIfCancelled(options: FetchOptions): void {
  if (options.signal?.aborted === true) throw cancelled();
}

/**
 * Takes the wanted files out of a package, in memory.
 *
 * @param limit greatest accepted size of one file in bytes
 * @throws ImageError `damaged-package`, `no-apt` (no dpkg-deb), `cancelled`
 */
export async function readPackage(
  path: string,
  wanted: (path: string) => boolean,
  limit: number,
  options: FetchOptions,
): Promise<TarFile[]> {
  throwIfCancelled(options);
  const tool = runStreaming("dpkg-deb", ["--fsys-tarfile", path], options);
  const files: TarFile[] = [];
  let failure: unknown;
  try {
    for await (const file of readTar(tool.stdout, wanted, limit)) files.push(file);
  } catch (error) {
    failure = error;
    tool.stdout.destroy();
  }
  const { status, stderr } = await tool.done;
  throwIfCancelled(options);
  if (status !== 0 && stderr.trim() !== "") throw damaged(path, tail(stderr));
  if (failure instanceof TarError) throw damaged(path, failure.message);
  if (failure !== undefined) throw failure;
  if (status !== 0) throw damaged(path, `dpkg-deb ended with status ${status}`);
  return files;
}
