/** Watches, and the events that wait for a connection to take them (docs/misc/xenstore.txt, WATCH). */
import { XS_PAYLOAD_MAX } from "../abi/xs-wire.ts";
import type { Aliases } from "./aliases.ts";
import { depthBelow, parsePath, SPECIAL_NODES } from "./path.ts";
import { parseDomain } from "./permissions.ts";
import { encodeMessage, watchEvent } from "./protocol.ts";
import { RECORD_BYTES } from "./quota.ts";

export interface Watch {
  /** Absolute path. */
  readonly path: string;
  readonly token: string;
  /** Bytes at the front of a path that its events show as `lead` instead: they name paths as the watch was named. */
  readonly prefix: number;
  readonly lead: string;
  /** Levels below the path that count, undefined for all. */
  readonly depth: number | undefined;
}

/** Bytes that a watch costs its domain. */
export function watchBytes({ path, token }: Watch): number {
  return RECORD_BYTES + path.length + token.length;
}

/**
 * The watch that a domain asks for, or undefined if its path or depth is malformed.
 * @param longest bytes that a path below a domain's home may have; 0: whatever the protocol allows
 */
export function makeWatch(
  aliases: Aliases,
  path: string,
  token: string,
  depth: number | undefined,
  longest: number,
): Watch | undefined {
  const { path: full, tail } = aliases.resolveRequest(path);
  const special = full.startsWith("@");
  if (special) {
    const [name = "", domain, ...more] = full.split("/");
    if (!SPECIAL_NODES.includes(name) || more.length > 0) return undefined;
    if (domain !== undefined && parseDomain(domain) === undefined) return undefined;
    if (depth !== undefined && depth > 1) return undefined;
  } else if (path === "" || parsePath(full, longest) === undefined) return undefined;
  const lead = path.slice(0, path.length - tail);
  // A special watch hears of the domid below it only if it asks for that depth.
  return { path: full, token, prefix: full.length - tail, lead, depth: special ? (depth ?? 0) : depth };
}

/** A path as the watch's events show it; of its own path, that is how it was registered. */
export function shownPath({ prefix, lead }: Watch, path: string): string {
  return lead + path.slice(prefix);
}

/** What no two watches of a connection share. */
export function watchKey({ path, token }: Pick<Watch, "path" | "token">): string {
  return `${path}\0${token}`;
}

/** Whether an event on `path` concerns the watch; `exact`: only if it is on that very path. */
export function matches(watch: Watch, path: string, exact: boolean): boolean {
  if (exact) return watch.path === path;
  const depth = depthBelow(watch.path, path);
  return depth !== undefined && (watch.depth === undefined || depth <= watch.depth);
}

/** An event as its message has it. */
export interface ShownEvent {
  readonly path: string;
  readonly token: string;
}

/** Events that a connection has not been sent. One that waits stands for later ones like it (XSA-349). */
export class EventQueue {
  private readonly waiting = new Map<string, ShownEvent & { readonly message: Uint8Array }>();
  private readonly longest: number;
  /** Bytes that the waiting events take. */
  bytes = 0;

  /** `longest` is how many may wait; those that come then are lost. */
  constructor(longest: number) {
    this.longest = longest;
  }

  get length(): number {
    return this.waiting.size;
  }

  push({ path, token }: ShownEvent): void {
    const key = `${path}\0${token}\0`;
    if (key.length > XS_PAYLOAD_MAX || this.waiting.has(key) || this.waiting.size >= this.longest) return;
    const message = encodeMessage(watchEvent(path, token));
    this.waiting.set(key, { path, token, message });
    this.bytes += RECORD_BYTES + message.length;
  }

  shift(): Uint8Array | undefined {
    const first = this.waiting.entries().next().value;
    if (first === undefined) return undefined;
    const [key, { message }] = first;
    this.waiting.delete(key);
    this.bytes -= RECORD_BYTES + message.length;
    return message;
  }

  clear(): void {
    this.waiting.clear();
    this.bytes = 0;
  }

  /** What waits, the next one first. */
  list(): ShownEvent[] {
    return [...this.waiting.values()].map(({ path, token }) => ({ path, token }));
  }
}
