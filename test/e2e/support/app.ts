/** `domlab serve` of the built program on a lab folder of its own, and pages of a browser that are open on it. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import os from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { Browser, BrowserContext, BrowserContextOptions, Page } from "playwright-core";
import type { TestContext } from "vitest";
import { compiledPath } from "../../../engine/domain/entry.ts";
import type { ControlMethod, ControlParameters, ControlResult } from "../../../main/lab/control-api.ts";
import type { ControlClient } from "../../../main/lab/control-client.ts";
import { connectHome } from "../../../main/lab/server/ensure-lab.ts";
import { launchBrowser } from "./browser.ts";
import { slowDown } from "./slowness.ts";

const here = fileURLToPath(import.meta.url);
const extension = here.endsWith(".ts") ? ".ts" : ".js";
/** The program that the build has made. */
const program = compiledPath(new URL(`../../../main/cli${extension}`, import.meta.url).href, "cli.js");

const LINK_MS = 60_000;
const END_MS = 30_000;
const LOOK_MS = 20;

/** A port that nobody has just now. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("a port was asked for");
  return address.port;
}

/** Whether a process runs; one that has ended and was not waited for does not. */
function runs(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

export class App {
  readonly folder = realpathSync(mkdtempSync(path.join(os.tmpdir(), "domlab-e2e-")));
  readonly home = path.join(this.folder, "home");
  /** What went wrong in pages without anybody seeing it: uncaught errors, violations of the content security policy. */
  readonly problems: string[] = [];
  readonly port: number;
  private readonly environment: NodeJS.ProcessEnv;
  private readonly contexts: BrowserContext[] = [];
  private browser: Browser | undefined;
  private server: ChildProcess | undefined;
  private client: ControlClient | undefined;
  private errors = "";

  private constructor(port: number, environment: NodeJS.ProcessEnv) {
    this.port = port;
    const runtime = path.join(this.folder, "run");
    mkdirSync(runtime);
    chmodSync(runtime, 0o700);
    this.environment = {
      ...process.env,
      DOMLAB_HOME: this.home,
      XDG_RUNTIME_DIR: runtime,
      XDG_STATE_HOME: path.join(this.folder, "state"),
      DISPLAY: "",
      WAYLAND_DISPLAY: "",
      ...environment,
    };
  }

  /** An app that is not served yet, at a port that was free. @param environment variables added to the process's own */
  static async make(environment: NodeJS.ProcessEnv = {}): Promise<App> {
    return new App(await freePort(), environment);
  }

  /** Starts the server. @returns its one-time link */
  async serve(): Promise<string> {
    const args = [program, "serve", "--no-open", "--json", "--port", String(this.port)];
    const child = spawn(process.execPath, args, { env: this.environment, stdio: ["ignore", "pipe", "pipe"] });
    this.server = child;
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.errors += text;
    });
    const lines = createInterface({ input: child.stdout });
    const line = await Promise.race([
      once(lines, "line").then(([first]) => String(first)),
      once(lines, "close").then(() => undefined),
      delay(LINK_MS, undefined, { ref: false }),
    ]);
    if (line === undefined) throw new Error(`the server printed no link: ${this.errors}`);
    return String((JSON.parse(line) as { url: unknown }).url);
  }

  /** Starts the server, and opens its link in a browser. */
  async open(options: BrowserContextOptions = {}): Promise<Page> {
    const link = await this.serve();
    const page = await this.newPage(options);
    await page.goto(link);
    return page;
  }

  /** An empty page in a browser of its own: without session and preferences. */
  async newPage(options: BrowserContextOptions = {}): Promise<Page> {
    this.browser ??= await launchBrowser();
    const context = await this.browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
    // Playwright's 30 s are short where guests boot beside it.
    context.setDefaultTimeout(90_000);
    this.contexts.push(context);
    await slowDown(context);
    context.on("weberror", (error) => this.problems.push(error.error().message));
    context.on("console", (message) => {
      if (/Content Security Policy/.test(message.text())) this.problems.push(message.text());
    });
    return await context.newPage();
  }

  /** After a test that failed: what its pages show, as pictures in the folder E2E_PICTURES, if that is set. */
  async keepPictures({ task }: TestContext): Promise<void> {
    const folder = process.env.E2E_PICTURES;
    if (task.result?.state !== "fail" || folder === undefined) return;
    const pages = this.contexts.flatMap((context) => context.pages());
    for (const [index, page] of pages.entries()) {
      const name = `${task.name.replaceAll(/\W+/g, "-")}-${index}.png`;
      await page.screenshot({ path: path.join(folder, name) }).catch(() => {});
    }
  }

  /** Address of a place in the interface: "machines", "consoles/<id>". */
  address(place = ""): string {
    return `http://127.0.0.1:${this.port}/${place === "" ? "" : `#/${place}`}`;
  }

  /** A new link, as `domlab serve --link` prints it. */
  async link(): Promise<string> {
    const child = spawn(process.execPath, [program, "serve", "--link"], { env: this.environment });
    let text = "";
    child.stdout.on("data", (piece: Buffer) => {
      text += piece;
    });
    await once(child, "close");
    return text.trim();
  }

  get serverPid(): number {
    if (this.server?.pid === undefined) throw new Error("nothing is served");
    return this.server.pid;
  }

  /** Kills the server, and only it. */
  async killServer(): Promise<void> {
    const { server } = this;
    if (server === undefined || server.exitCode !== null) return;
    const ended = once(server, "exit");
    server.kill("SIGKILL");
    await ended;
  }

  /** Process of the lab behind it; undefined when none runs. */
  get labPid(): number | undefined {
    try {
      const { pid } = JSON.parse(readFileSync(path.join(this.home, "server.json"), "utf8")) as { pid: number };
      return runs(pid) ? pid : undefined;
    } catch {
      return undefined;
    }
  }

  /** Asks the lab itself, past the interface. */
  async call<Method extends ControlMethod>(
    method: Method,
    parameters: ControlParameters<Method>,
  ): Promise<ControlResult<Method>> {
    if (this.client === undefined) {
      const client = await connectHome(this.home);
      if (client === undefined) throw new Error("the lab does not run");
      this.client = client;
      void client.ended.then(() => {
        if (this.client === client) this.client = undefined;
      });
    }
    return await this.client.call(method, parameters);
  }

  /** Ends pages, server, lab and machines; nothing is left. */
  async end(): Promise<void> {
    await this.browser?.close();
    const { server } = this;
    if (server !== undefined && server.exitCode === null && server.signalCode === null) {
      const ended = once(server, "exit");
      server.kill("SIGTERM");
      await ended;
    }
    const lab = this.labPid;
    if (lab !== undefined) {
      await this.call("labQuit", { machines: "destroy" }).catch(() => {});
      this.client?.close();
      for (const end = Date.now() + END_MS; runs(lab) && Date.now() < end; ) await delay(LOOK_MS);
      if (runs(lab)) process.kill(lab, "SIGKILL");
    }
    rmSync(this.folder, { recursive: true, force: true });
  }
}
