/** `domlab serve` as a user runs it, with a real lab behind it. */
import { type ChildProcess, spawn } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import os from "node:os";
import path from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import WebSocket from "ws";
import { type Renderer, renderer } from "../main/app/renderer.ts";
import { domlab, program, until } from "./domlab.ts";

let folder: string;
let environment: NodeJS.ProcessEnv;
const running: ChildProcess[] = [];

beforeAll(() => {
  folder = realpathSync(mkdtempSync(path.join(os.tmpdir(), "domlab-serve-")));
  const runtime = path.join(folder, "run");
  mkdirSync(runtime);
  chmodSync(runtime, 0o700);
  environment = {
    DOMLAB_HOME: path.join(folder, "home"),
    XDG_RUNTIME_DIR: runtime,
    XDG_STATE_HOME: path.join(folder, "state"),
    DISPLAY: "",
    WAYLAND_DISPLAY: "",
  };
});
afterEach(async () => {
  for (const child of running.splice(0)) {
    const ended = new Promise((resolve) => child.once("exit", resolve));
    if (child.exitCode === null && child.signalCode === null) {
      child.kill("SIGTERM");
      await ended;
    }
  }
});
afterAll(async () => {
  await domlab(["lab", "quit"], { environment });
  rmSync(folder, { recursive: true, force: true });
});

interface Serving {
  readonly child: ChildProcess;
  readonly url: string;
  readonly port: number;
  readonly errors: () => string;
}

/** Starts a server and waits for its link. */
async function serve(...args: string[]): Promise<Serving> {
  const child = spawn(process.execPath, [program, "serve", "--json", ...args], {
    env: { ...process.env, ...environment },
    stdio: ["ignore", "pipe", "pipe"],
  });
  running.push(child);
  let [output, errors] = ["", ""];
  child.stdout.on("data", (piece: Buffer) => {
    output += piece;
  });
  child.stderr.on("data", (piece: Buffer) => {
    errors += piece;
  });
  await until("the link", () => output.includes("\n") || child.exitCode !== null);
  expect(output, errors).toContain("\n");
  return { child, ...JSON.parse(output), errors: () => errors };
}

/** Opens a link as a browser does. */
async function browse(url: string): Promise<Renderer & { socket: WebSocket; cookie: string }> {
  const { origin, hash, host } = new URL(url);
  const body = JSON.stringify({ token: hash.replace("#token=", "") });
  const answer = await fetch(`${origin}/session`, { method: "POST", headers: { origin }, body });
  expect(answer.status).toBe(200);
  const cookie = answer.headers.get("set-cookie")?.split(";")[0] ?? "";
  return { ...(await connect(host, cookie)), cookie };
}

async function connect(host: string, cookie: string): Promise<Renderer & { socket: WebSocket }> {
  const socket = new WebSocket(`ws://${host}/rpc`, { origin: `http://${host}`, headers: { cookie } });
  await new Promise((resolve, reject) => {
    socket.once("open", resolve);
    socket.once("error", reject);
  });
  const client = renderer(
    (text) => socket.send(text),
    (listener) => void socket.on("message", (data) => listener(String(data))),
  );
  return { ...client, socket };
}

const serverFile = () => JSON.parse(readFileSync(path.join(folder, "home", "server.json"), "utf8"));

describe("domlab serve", () => {
  it("opens the lab, and brings it back when it is killed, but not when it was ended", async () => {
    const { url, errors } = await serve("--port", "0");
    await until("its last words", () => errors().includes("Ctrl-C ends the interface"));
    const page = await browse(url);
    const info = await page.call("labInfo");
    expect(info).toMatchObject({ ok: true, result: { home: path.join(folder, "home") } });
    const { pid } = serverFile();
    process.kill(pid, "SIGKILL");
    await until("the lab", () => page.events.some(({ state }) => state === "up"));
    expect(page.events.map(({ state }) => state)).toEqual(["down", "up"]);
    expect(await page.call("labInfo")).toMatchObject({ ok: true });
    expect(serverFile().pid).not.toBe(pid);

    await domlab(["lab", "quit"], { environment });
    await until("its end", () => page.events.at(-1)?.ended === true);
    expect(await page.call("labInfo")).toMatchObject({ ok: false });
    expect(await page.call("labStart")).toMatchObject({ ok: true });
    expect(await page.call("labInfo")).toMatchObject({ ok: true });
    page.socket.terminate();
  });

  it("serves a lab once, gives out links, ends, and comes back at the same port with the same sessions", async () => {
    const first = await serve("--port", "0");
    const second = await domlab(["serve", "--json"], { environment });
    expect(second.status).toBe(0);
    const told = JSON.parse(second.stdout.toString());
    expect(told).toMatchObject({ running: true, port: first.port, pid: first.child.pid });
    expect(second.stderr).toContain("is served already");
    const { cookie, socket } = await browse(told.url);

    const link = await domlab(["serve", "--link"], { environment });
    expect(link.stdout.toString()).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/#token=[\w-]{43}\n$/);
    (await browse(link.stdout.toString().trim())).socket.terminate();

    const closed = new Promise((resolve) => socket.once("close", resolve));
    const stopped = await domlab(["serve", "--stop"], { environment });
    expect(stopped).toMatchObject({ status: 0, stderr: `domlab: process ${first.child.pid} has ended\n` });
    await closed;
    await until("its end", () => first.child.exitCode !== null);
    expect(first.child.exitCode).toBe(0);

    const again = await serve();
    expect(again.port).toBe(first.port);
    (await connect(`127.0.0.1:${again.port}`, cookie)).socket.terminate();
  });

  it("says in one line what it cannot do", async () => {
    const none = await domlab(["serve", "--link"], { environment });
    expect(none).toMatchObject({
      status: 2,
      stderr: "domlab: the interface is not being served; start it: domlab serve\n",
    });
    const stop = await domlab(["serve", "--stop"], { environment });
    expect(stop).toMatchObject({ status: 0, stderr: "domlab: the interface was not being served\n" });
    const other = createServer().listen(0, "127.0.0.1");
    await new Promise((resolve) => other.once("listening", resolve));
    const { port } = other.address() as { port: number };
    const taken = await domlab(["serve", "--port", String(port)], { environment });
    expect(taken.status).toBe(2);
    expect(taken.stderr).toBe(
      `domlab: port ${port} is taken by another program; choose another --port, or leave it out\n`,
    );
    other.close();
    const remote = await domlab(["serve", "--host", "0.0.0.0"], { environment });
    expect(remote.status).toBe(2);
    expect(remote.stderr).toMatch(/^domlab: --host 0\.0\.0\.0 would carry your session unencrypted.*ssh -L.*\n$/);
  });
});

describe("npm start", () => {
  it("takes the options of domlab run as before, and others as those of the app", async () => {
    const run = await domlab(["npm-start", "--memory=none"], { environment });
    expect(run).toMatchObject({ status: 2, stderr: expect.stringContaining("--memory none is no whole number") });
    const app = await domlab(["npm-start", "--port", "none"], { environment });
    expect(app).toMatchObject({ status: 2, stderr: expect.stringContaining("--port none is no port") });
  });
});
