/** A served app on a free port with a lab that plays, and clients that can lie about who they are. */
import { mkdirSync, writeFileSync } from "node:fs";
import http from "node:http";
import path from "node:path";
import WebSocket from "ws";
import type { AppHost } from "../../../main/app/renderer-session.ts";
import { AppServer, type AppServerOptions } from "../../../main/serve/app-server.ts";
import { FakeLab, type Partly } from "../app/fake-lab.ts";
import { type Renderer, renderer } from "../app/renderer.ts";

export interface Answer {
  readonly status: number;
  readonly headers: http.IncomingHttpHeaders;
  readonly body: string;
}

export interface Wish {
  readonly method?: string;
  readonly headers?: http.OutgoingHttpHeaders;
  readonly body?: string | Buffer;
}

export class Served {
  readonly lab: FakeLab;
  readonly said: string[] = [];
  readonly key = Buffer.alloc(32, 7);
  /** The clock, ms. */
  now = Date.parse("2026-11-21T10:00:00Z");
  server!: AppServer;
  private readonly host: AppHost;
  private readonly sockets: WebSocket[] = [];

  constructor(functions: Partly = {}, host: Partial<AppHost> = {}) {
    this.lab = new FakeLab(functions);
    this.host = {
      shell: "served",
      version: "1.2.3",
      home: this.lab.folder,
      mostUploadBytes: 1 << 20,
      lab: this.lab,
      startShell: () => Promise.reject(new Error("no shells here")),
      say: (line) => this.said.push(line),
      ...host,
    };
  }

  async start(options: Partial<AppServerOptions> = {}, port = 0): Promise<void> {
    const pages = path.join(this.lab.folder, "renderer");
    mkdirSync(path.join(pages, "assets"), { recursive: true });
    writeFileSync(path.join(pages, "index.html"), "<!doctype html><title>interface</title>");
    writeFileSync(path.join(pages, "assets", "app-1234.js"), "let here;");
    writeFileSync(path.join(pages, ".secret"), "hidden");
    const now = () => this.now;
    this.server = await AppServer.listen({ host: this.host, renderer: pages, key: this.key, now, ...options }, port);
  }

  get origin(): string {
    return `http://127.0.0.1:${this.server.port}`;
  }

  /** A request; the path goes out as it is written. */
  request(target: string, { method = "GET", headers = {}, body }: Wish = {}): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const request = http.request(
        { host: "127.0.0.1", port: this.server.port, method, path: target, headers, agent: false },
        (response) => {
          let text = "";
          response.setEncoding("utf8");
          response.on("data", (piece: string) => {
            text += piece;
          });
          response.on("end", () =>
            resolve({ status: response.statusCode ?? 0, headers: response.headers, body: text }),
          );
          response.on("error", reject);
        },
      );
      request.on("error", reject);
      request.end(body);
    });
  }

  /** As the page does it with the token of its link. */
  signIn(token: string, headers: http.OutgoingHttpHeaders = {}): Promise<Answer> {
    const body = JSON.stringify({ token });
    return this.request("/session", { method: "POST", headers: { origin: this.origin, ...headers }, body });
  }

  token(): string {
    return new URL(this.server.link()).hash.replace("#token=", "");
  }

  /** A Cookie header with a good session. */
  async cookie(): Promise<string> {
    const { headers } = await this.signIn(this.token());
    return headers["set-cookie"]?.[0]?.split(";")[0] ?? "";
  }

  /** Opens a WebSocket. @throws with the HTTP status in the message when it is refused */
  connect(headers: http.OutgoingHttpHeaders, target = "/rpc"): Promise<WebSocket> {
    const socket = new WebSocket(`ws://127.0.0.1:${this.server.port}${target}`, { headers: { ...headers } });
    this.sockets.push(socket);
    return new Promise((resolve, reject) => {
      socket.once("open", () => resolve(socket));
      socket.once("error", reject);
    });
  }

  /** A page with a session. */
  async page(): Promise<Renderer & { readonly socket: WebSocket }> {
    const socket = await this.connect({ origin: this.origin, cookie: await this.cookie() });
    const client = renderer(
      (text) => socket.send(text),
      (listener) => void socket.on("message", (data) => listener(String(data))),
    );
    return { ...client, socket };
  }

  async close(): Promise<void> {
    for (const socket of this.sockets) socket.terminate();
    await this.server?.close();
    await this.lab.close();
  }
}

/** The code with which a WebSocket is closed. */
export function closeCode(socket: WebSocket): Promise<number> {
  return new Promise((resolve) => socket.once("close", (code) => resolve(code)));
}
