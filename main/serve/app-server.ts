/**
 * The served form of the app: the interface's files, sessions, uploads and the WebSocket of each renderer, on one port.
 *
 *   GET  /…            the interface; holds no secrets and needs no session
 *   GET  /session      200 with a session, 401 without
 *   POST /session      {token} of a one-time link → a session's cookie
 *   PUT  /upload?name=&page= a file, with a session; `page` as appInfo tells it
 *   GET  /rpc          WebSocket, with a session
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { z } from "zod";
import { LabLink } from "../app/lab-link.ts";
import { type AppHost, type RendererSession, serveRenderer } from "../app/renderer-session.ts";
import { explain } from "../failure.ts";
import { SECURITY_HEADERS } from "../page-policy.ts";
import { answerJson, Guard, type Refusal } from "./guard.ts";
import { OneTimeLinks } from "./one-time-links.ts";
import { type Pages, pages } from "./pages.ts";
import { SessionCookies } from "./session-cookies.ts";
import { Uploads } from "./uploads.ts";
import { type WebSockets, webSockets } from "./web-sockets.ts";

const LONGEST_LOGIN = 1024;
/** How long a new connection may take for its headers, ms. */
const HEADERS_MS = 20_000;

const NO_SESSION: Refusal = {
  status: 401,
  line: "this browser has no session; get a link with: domlab serve --link",
};
const BAD_LINK: Refusal = {
  status: 401,
  line: "this link was used or is not valid; get a new one with: domlab serve --link",
};

const login = z.strictObject({ token: z.string().min(1).max(128) });

export interface AppServerOptions {
  readonly host: AppHost;
  /** Folder with index.html. */
  readonly renderer: string;
  /** Key of session cookies (session-cookies.ts). */
  readonly key: Buffer;
  /** Address to bind that is not loopback, as the user wants it. */
  readonly address?: string;
  /** The clock, ms; and the time between pings; for tests. */
  readonly now?: () => number;
  readonly pingMs?: number;
  /** How long what a page has sent outlives its connection (uploads.ts); for tests. */
  readonly returnMs?: number;
}

/** The body of a small request; undefined when it is too long or not JSON. */
async function readJson(request: IncomingMessage): Promise<unknown> {
  const pieces: Buffer[] = [];
  let length = 0;
  for await (const piece of request.iterator({ destroyOnReturn: false })) {
    length += (piece as Buffer).length;
    if (length > LONGEST_LOGIN) return undefined;
    pieces.push(piece as Buffer);
  }
  try {
    return JSON.parse(Buffer.concat(pieces).toString());
  } catch {
    return undefined;
  }
}

/** Refuses an upgrade: there is no response object yet. */
function refuseUpgrade(socket: Duplex, { status, line }: Refusal): void {
  const body = JSON.stringify({ line });
  const head = [
    `HTTP/1.1 ${status} Refused`,
    "Content-Type: application/json; charset=utf-8",
    `Content-Length: ${Buffer.byteLength(body)}`,
    "Connection: close",
  ];
  socket.end(`${head.join("\r\n")}\r\n\r\n${body}`);
}

export class AppServer {
  private readonly options: AppServerOptions;
  private readonly http: Server;
  private readonly guard: Guard;
  private readonly links: OneTimeLinks;
  private readonly cookies: SessionCookies;
  private readonly uploads: Uploads;
  private readonly sockets: WebSockets;
  private readonly sessions = new Set<RendererSession>();
  private readonly files: Pages;
  /** Keeps the lab there while the app is: machines that start by themselves do so, and it is not idle. */
  private readonly keeper: LabLink;

  private constructor(options: AppServerOptions) {
    const { host, now } = options;
    this.options = options;
    this.guard = new Guard(() => this.port, options.address);
    this.links = new OneTimeLinks(now);
    this.cookies = new SessionCookies(host.home, options.key, now);
    const { mostUploadBytes: most } = host;
    const uploads = new Uploads({ folder: join(host.home, "tmp"), most, returnMs: options.returnMs });
    this.uploads = uploads;
    this.files = pages(options.renderer);
    this.sockets = webSockets((transport) => {
      const session = serveRenderer(transport, { ...host, uploads });
      this.sessions.add(session);
      uploads.pageBegan(session.page);
      transport.onClose(() => {
        this.sessions.delete(session);
        uploads.pageEnded(session.page);
      });
      this.keeper.start();
    }, options.pingMs);
    this.keeper = new LabLink(host.lab, {
      event: () => {},
      state: (state) => {
        if (state.state === "down") host.say(state.line);
      },
    });
    this.http = createServer((request, response) => void this.serve(request, response));
    // An upload may take hours; silence is noticed otherwise.
    this.http.requestTimeout = 0;
    this.http.headersTimeout = HEADERS_MS;
    this.http.on("upgrade", (request, socket, head) => this.upgrade(request, socket, head));
  }

  /** Listens on a port; 0 for any that is free. @throws the system's error (EADDRINUSE, EACCES) */
  static async listen(options: AppServerOptions, port: number): Promise<AppServer> {
    const server = new AppServer(options);
    try {
      await new Promise<void>((resolve, reject) => {
        server.http.once("error", reject);
        server.http.listen(port, options.address ?? "127.0.0.1", () => {
          server.http.off("error", reject);
          resolve();
        });
      });
    } catch (error) {
      server.release();
      throw error;
    }
    // A failure to accept a connection (no more descriptors, say) is none of the others'.
    server.http.on("error", (error) => options.host.say(explain(error).line));
    server.keeper.start();
    void server.uploads.sweep();
    return server;
  }

  get port(): number {
    return (this.http.address() as AddressInfo | null)?.port ?? 0;
  }

  /** A new link that gives one browser a session. */
  link(): string {
    const { address } = this.options;
    const name = address === undefined || address === "0.0.0.0" || address === "::" ? "127.0.0.1" : address;
    const host = name.includes(":") ? `[${name}]` : name;
    return `http://${host}:${this.port}/#token=${this.links.make()}`;
  }

  private async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    for (const [name, value] of Object.entries(SECURITY_HEADERS)) response.setHeader(name, value);
    // A renderer that goes away in the middle of an answer.
    response.on("error", () => {});
    try {
      await this.route(request, response);
    } catch (error) {
      const { line, stack } = explain(error);
      if (request.socket.destroyed) return;
      if (stack !== undefined) this.options.host.say(line);
      if (response.headersSent) response.destroy();
      else answerJson(response, 500, { line });
    }
  }

  private async route(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = "" } = request;
    const reads = method === "GET" || method === "HEAD";
    const refused = this.guard.refusal(request, !reads);
    if (refused !== undefined) return answerJson(response, refused.status, { line: refused.line });
    const [path = "", query = ""] = (request.url ?? "").split("?", 2);
    if (path === "/session" && method === "POST") return await this.signIn(request, response);
    if (path === "/session" && reads) return this.showSession(request, response);
    if (path === "/upload" && method === "PUT") return await this.upload(request, response, query);
    if (reads) return this.files(request, response);
    response.setHeader("Allow", "GET, HEAD");
    answerJson(response, 405, { line: `${method.slice(0, 16)} is not offered here` });
  }

  private async signIn(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const wish = login.safeParse(await readJson(request));
    if (wish.success && this.links.use(wish.data.token)) {
      return answerJson(response, 200, { ok: true }, this.cookies.issue());
    }
    answerJson(response, BAD_LINK.status, { line: BAD_LINK.line });
  }

  private showSession(request: IncomingMessage, response: ServerResponse): void {
    const { cookie } = request.headers;
    if (this.cookies.accepts(cookie)) answerJson(response, 200, { ok: true }, this.cookies.renewal(cookie));
    else answerJson(response, NO_SESSION.status, { line: NO_SESSION.line });
  }

  private async upload(request: IncomingMessage, response: ServerResponse, query: string): Promise<void> {
    if (!this.cookies.accepts(request.headers.cookie)) {
      return answerJson(response, NO_SESSION.status, { line: NO_SESSION.line });
    }
    const words = new URLSearchParams(query);
    await this.uploads.serve(request, response, words.get("name") ?? "", words.get("page") ?? undefined);
  }

  private upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    socket.on("error", () => socket.destroy());
    const refused =
      this.guard.refusal(request, true) ??
      (this.cookies.accepts(request.headers.cookie) ? undefined : NO_SESSION) ??
      (request.url === "/rpc" ? undefined : { status: 404, line: "the WebSocket is at /rpc" });
    if (refused !== undefined) refuseUpgrade(socket, refused);
    else this.sockets.upgrade(request, socket, head);
  }

  private release(): void {
    this.keeper.close();
    this.sockets.close();
    this.uploads.close();
  }

  /** Ends all connections; the lab and its machines go on. */
  async close(): Promise<void> {
    this.release();
    await new Promise<void>((resolve) => {
      this.http.close(() => resolve());
      this.http.closeIdleConnections();
      // Uploads in the middle, and whoever does not say good-bye to a WebSocket.
      setTimeout(() => this.http.closeAllConnections(), 200).unref();
    });
  }
}
