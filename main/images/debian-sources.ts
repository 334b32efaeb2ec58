/** Where the host's apt gets Debian from: the same places serve the guest's root file system. */

import type { FetchOptions } from "./apt.ts";
import { ImageError } from "./errors.ts";
import { run } from "./run.ts";

/** Fields of apt's index targets, in the order asked for. */
const FIELDS = ["ORIGIN", "CODENAME", "REPO_URI", "RELEASE", "COMPONENT", "ARCHITECTURE", "CREATED_BY"] as const;
const FORMAT = FIELDS.map((field) => `$(${field})`).join("|");

/** Where packages come from. */
export interface DebianSources {
  /** The release's code name: "bookworm". */
  readonly suite: string;
  /** One-line sources of that release, its updates and its security updates. */
  readonly lines: readonly string[];
}

/**
 * The release that a code name of the archive belongs to; undefined for what is not meant for everyone, backports
 * say.
 */
function releaseOf(codename: string): string | undefined {
  return /^([a-z]+)(-updates|-security)?$/.exec(codename)?.[1];
}

/**
 * Chooses from apt's list of index targets. With several releases among the sources it is the host's own one, else
 * the first.
 *
 * @param text output of `apt-get indextargets` in our format
 * @param preferred code name of the host's release
 * @returns undefined where no release of Debian is among the sources
 */
export function chooseSources(text: string, preferred: string | undefined): DebianSources | undefined {
  const found: { release: string; line: string; base: boolean }[] = [];
  for (const row of text.split("\n")) {
    const fields = row.split("|");
    const [origin, codename, uri, suite, component, architecture, creator] = fields;
    if (fields.length !== FIELDS.length || origin !== "Debian" || creator !== "Packages") continue;
    if (component !== "main" || architecture !== "amd64") continue;
    const release = releaseOf(codename as string);
    if (release === undefined || !/^(https?|file|copy|mirror(\+\w+)?|tor\+https?):\S+$/.test(uri as string)) continue;
    found.push({ release, line: `deb ${uri} ${suite} main`, base: release === codename });
  }
  const releases = found.filter(({ base }) => base).map(({ release }) => release);
  const suite = releases.find((release) => release === preferred) ?? releases[0];
  if (suite === undefined) return undefined;
  return { suite, lines: [...new Set(found.filter(({ release }) => release === suite).map(({ line }) => line))] };
}

async function hostRelease(options: FetchOptions): Promise<string | undefined> {
  const { stdout } = await run("sh", ["-c", '. /etc/os-release && echo "$VERSION_CODENAME"'], options);
  return stdout.trim() || undefined;
}

/**
 * Asks the host's apt for its sources of Debian.
 *
 * @throws ImageError `no-apt`, `no-sources`
 */
export async function debianSources(options: FetchOptions): Promise<DebianSources> {
  const { stdout } = await run("apt-get", ["indextargets", "--format", FORMAT], options);
  const sources = chooseSources(stdout, await hostRelease(options));
  if (sources !== undefined) return sources;
  throw new ImageError(
    "no-sources",
    "apt has no package lists of a Debian release for amd64",
    "add Debian's main archive to apt's sources and run: sudo apt-get update",
  );
}

/** The proxies that apt is set to use, as the environment variables that it takes them from elsewhere. */
export async function proxyVariables(options: FetchOptions): Promise<Record<string, string>> {
  const shell = ["shell", "http_proxy", "Acquire::http::Proxy", "https_proxy", "Acquire::https::Proxy"];
  const { stdout } = await run("apt-config", shell, options);
  const variables: Record<string, string> = {};
  for (const [, name, value] of stdout.matchAll(/^(https?_proxy)='([^'\n]*)'$/gm)) {
    if (value !== "" && value !== "DIRECT") variables[name as string] = value as string;
  }
  return variables;
}
