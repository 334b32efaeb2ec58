/**
 * Paths (docs/misc/xenstore.txt): letters, digits and -_@ between slashes, no empty component, no slash at the end.
 *
 * Inside, a path is its components below a root that nobody sees: "/" is one child of it and each special node
 * ("@introduceDomain", "@releaseDomain") is another, so that one tree holds both and they cannot be confused.
 */
import { XS_ABSOLUTE_PATH_MAX } from "../abi/xs-wire.ts";

export type Path = readonly string[];

export const INTRODUCE_DOMAIN = "@introduceDomain";
export const RELEASE_DOMAIN = "@releaseDomain";
export const SPECIAL_NODES: readonly string[] = [INTRODUCE_DOMAIN, RELEASE_DOMAIN];

const HOME = /^\/local\/domain\/[0-9]{1,5}\//;

/** A domain's base path, to which its relative paths are relative. */
export function homeOf(domain: number): string {
  return `/local/domain/${domain}`;
}

/** Makes a path that a domain sent absolute. */
export function absolutePath(domain: number, path: string): string {
  return path.startsWith("/") || path.startsWith("@") ? path : `${homeOf(domain)}/${path}`;
}

/**
 * Components of a well-formed absolute path of at most `longest` bytes below a domain's home (0: whatever the protocol
 * allows); else undefined.
 */
export function parsePath(path: string, longest: number): Path | undefined {
  if (path === "/") return ["/"];
  const home = HOME.exec(path)?.[0].length ?? 0;
  if (path.length > XS_ABSOLUTE_PATH_MAX || (longest !== 0 && path.length - home > longest)) return undefined;
  return /^(\/[A-Za-z0-9\-_@]+)+$/.test(path) ? ["/", ...path.slice(1).split("/")] : undefined;
}

/** The text of a path. */
export function pathText(path: Path): string {
  return path[0] === "/" ? `/${path.slice(1).join("/")}` : path.join("/");
}

/** Levels from `ancestor` down to `path`: 0 for itself; undefined if it does not lie at or below. */
export function depthBelow(ancestor: string, path: string): number | undefined {
  if (path === ancestor) return 0;
  const prefix = ancestor === "/" ? "/" : `${ancestor}/`;
  return path.startsWith(prefix) ? path.slice(prefix.length).split("/").length : undefined;
}
