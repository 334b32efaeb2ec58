/** Watches, and the events that wait for a connection to take them (docs/misc/xenstore.txt, WATCH). */
import { XS_PAYLOAD_MAX } from "../abi/xs-wire.ts";
import { depthBelow } from "./path.ts";
import { encodeMessage, watchEvent } from "./protocol.ts";
import { RECORD_BYTES } from "./quota.ts";

export interface Watch {
  /** Absolute path. */
  readonly path: string;
  readonly token: string;
  /** Bytes that its events leave out at the front of a path: a relative watch is answered with relative paths. */
  readonly prefix: number;
  /** Levels below the path that count, undefined for all. */
  readonly depth: number | undefined;
}

/** Bytes that a watch costs its domain. */
export function watchBytes({ path, token }: Watch): number {
  return RECORD_BYTES + path.length + token.length;
}

/** Whether an event on `path` concerns the watch; `exact`: only if it is on that very path. */
export function matches(watch: Watch, path: string, exact: boolean): boolean {
  if (exact) return watch.path === path;
  const depth = depthBelow(watch.path, path);
  return depth !== undefined && (watch.depth === undefined || depth <= watch.depth);
}

/** Events that a connection has not been sent. One that waits stands for later ones like it (XSA-349). */
export class EventQueue {
  private readonly waiting = new Map<string, Uint8Array>();
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

  push(watch: Watch, path: string): void {
    const shown = path.slice(watch.prefix);
    const key = `${shown}\0${watch.token}\0`;
    if (key.length > XS_PAYLOAD_MAX || this.waiting.has(key) || this.waiting.size >= this.longest) return;
    const message = encodeMessage(watchEvent(shown, watch.token));
    this.waiting.set(key, message);
    this.bytes += RECORD_BYTES + message.length;
  }

  shift(): Uint8Array | undefined {
    const first = this.waiting.entries().next().value;
    if (first === undefined) return undefined;
    this.waiting.delete(first[0]);
    this.bytes -= RECORD_BYTES + first[1].length;
    return first[1];
  }

  clear(): void {
    this.waiting.clear();
    this.bytes = 0;
  }
}
