/**
 * The numbers that a restored domain had before. Its memory still holds paths and permissions that name it by them,
 * while each may be another domain's by now: from that domain's own connection they mean the domain itself.
 */
import { homeOf } from "./path.ts";

/** Heads of paths that name a domain by its number. */
const HEADS: readonly RegExp[] = [
  /^(\/local\/domain\/)([0-9]+)(?=\/|$)/,
  /^(\/local\/domain\/[0-9]+\/backend\/[^/]+\/)([0-9]+)(?=\/|$)/,
  /^(@(?:introduce|release)Domain\/)([0-9]+)$/,
];

/** A path in today's numbers. */
export interface ResolvedPath {
  readonly path: string;
  /** Characters at its end that are as they were given. */
  readonly tail: number;
}

export class Aliases {
  readonly domain: number;
  /** Earlier numbers, the first one first; none is the present one. */
  readonly earlier: readonly number[];
  private readonly set: ReadonlySet<number>;

  constructor(domain: number, earlier: Iterable<number> = []) {
    this.domain = domain;
    this.set = new Set([...earlier].filter((number) => number !== domain));
    this.earlier = [...this.set];
  }

  /** Whom the domain means by a number. */
  meant(number: number): number {
    return this.set.has(number) ? this.domain : number;
  }

  /** How the domain is told of a number: of its own by the one that it booted with. */
  shown(number: number): number {
    return number === this.domain ? (this.earlier[0] ?? number) : number;
  }

  /** The absolute path that the domain means. */
  resolve(path: string): ResolvedPath {
    let tail = path.length;
    if (this.set.size === 0) return { path, tail };
    let resolved = path;
    for (const head of HEADS) {
      const [all = "", before = "", number = ""] = head.exec(resolved) ?? [];
      // Numbers in paths are names: "07" is nobody's.
      if (number !== String(Number(number)) || !this.set.has(Number(number))) continue;
      tail = Math.min(tail, resolved.length - all.length);
      resolved = `${before}${this.domain}${resolved.slice(all.length)}`;
    }
    return { path: resolved, tail };
  }

  /** As resolve(), for any path that the domain sends: a relative one lies below its home. */
  resolveRequest(path: string): ResolvedPath {
    if (path.startsWith("/") || path.startsWith("@")) return this.resolve(path);
    const { path: resolved, tail } = this.resolve(`${homeOf(this.domain)}/${path}`);
    return { path: resolved, tail: Math.min(tail, path.length) };
  }
}
