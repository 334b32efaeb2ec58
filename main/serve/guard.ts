/**
 * Which requests are served at all. The Host header must be ours: a page of another site whose name was pointed at this
 * machine (DNS rebinding) has its own name in it. Requests that do something must come from a page of ours: browsers send the
 * page's Origin with them.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { isIP } from "node:net";
import os from "node:os";

/** A refusal: HTTP status and the line for the user. */
export interface Refusal {
  readonly status: number;
  readonly line: string;
}

const LOOPBACK_NAMES = ["127.0.0.1", "localhost", "[::1]"];

/** Name and port of a Host header; port 80 when it has none. */
function splitHost(host: string): { name: string; port: number } | undefined {
  const match = /^(\[[0-9a-f:.]+\]|[^:[\]/@\s]+)(?::(\d{1,5}))?$/i.exec(host);
  if (match?.[1] === undefined) return undefined;
  return { name: match[1].toLowerCase(), port: match[2] === undefined ? 80 : Number(match[2]) };
}

export class Guard {
  private readonly port: () => number;
  private readonly names: ReadonlySet<string>;
  private readonly remote: boolean;

  /**
   * @param port that the server listens on
   * @param bound address that it was bound to, if that is not loopback: then it may be called by any address (an address
   *   cannot be rebound) and by the host's name
   */
  constructor(port: () => number, bound?: string) {
    this.port = port;
    this.remote = bound !== undefined;
    const own = bound === undefined ? [] : [bound.toLowerCase(), os.hostname().toLowerCase()];
    this.names = new Set([...LOOPBACK_NAMES, ...own]);
  }

  private isOurs(host: string | undefined): boolean {
    const parts = splitHost(host ?? "");
    if (parts === undefined || parts.port !== this.port()) return false;
    if (this.names.has(parts.name)) return true;
    return this.remote && isIP(parts.name.replace(/^\[|\]$/g, "")) !== 0;
  }

  /** Why a request is not served. @param acts whether it does something, or opens a WebSocket */
  refusal({ headers }: IncomingMessage, acts: boolean): Refusal | undefined {
    if (!this.isOurs(headers.host)) {
      return { status: 421, line: `this server has another name; open http://localhost:${this.port()}/` };
    }
    if (acts && headers.origin?.toLowerCase() !== `http://${headers.host?.toLowerCase()}`) {
      return { status: 403, line: "this request comes from another site; open the interface itself" };
    }
    return undefined;
  }
}

/** Answers with JSON; never cached. */
export function answerJson(response: ServerResponse, status: number, content: object, cookie?: string): void {
  const text = JSON.stringify(content);
  response.writeHead(status, {
    "Content-Type": "application/json; charset=utf-8",
    "Content-Length": Buffer.byteLength(text),
    "Cache-Control": "no-store",
    ...(cookie !== undefined && { "Set-Cookie": cookie }),
  });
  response.end(text);
}
