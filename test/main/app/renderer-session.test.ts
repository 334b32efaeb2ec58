import { MessageChannel, type MessagePort } from "node:worker_threads";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { ShellPty } from "../../../main/app/host-shell.ts";
import { type AppHost, type RendererSession, serveRenderer } from "../../../main/app/renderer-session.ts";
import { type PortLike, portTransport } from "../../../main/app/transport.ts";
import { FakeLab, until } from "./fake-lab.ts";
import { type Renderer, renderer } from "./renderer.ts";

/** A port of Node with the shape of Electron's MessagePortMain. */
function electronPort(port: MessagePort): PortLike {
  return {
    postMessage: (message) => port.postMessage(message),
    on: (event: "message" | "close", listener: ((event: { data: unknown }) => void) | (() => void)) => {
      if (event === "message") port.on("message", (data: unknown) => listener({ data }));
      else port.on("close", listener as () => void);
    },
    // Node's begins with the first listener.
    start: () => {},
    close: () => port.close(),
  };
}

const DATE = "2026-11-21T10:00:00.000Z";

describe("a renderer's session over a message port", () => {
  let lab: FakeLab;
  let page: MessagePort;
  let client: Renderer;
  let session: RendererSession;
  let hungUp: number;
  let said: string[];

  const serve = (more: Partial<AppHost> = {}) => {
    const { port1, port2 } = new MessageChannel();
    page = port2;
    const startShell = async (): Promise<ShellPty> => ({
      write: () => {},
      resize: () => {},
      pause: () => {},
      resume: () => {},
      kill: () => void hungUp++,
      onData: () => {},
      onExit: () => ({ dispose: () => {} }),
    });
    const host: AppHost = {
      shell: "electron",
      version: "1.2.3",
      home: lab.folder,
      mostUploadBytes: 0,
      lab,
      startShell,
      say: (line) => said.push(line),
      ...more,
    };
    session = serveRenderer(portTransport(electronPort(port1)), host);
    client = renderer(
      (text) => port2.postMessage(text),
      (listener) => port2.on("message", listener),
    );
  };

  beforeEach(() => {
    hungUp = 0;
    said = [];
    lab = new FakeLab({ operationCancel: () => ({ cancelled: true }) });
  });

  afterEach(async () => {
    session.close();
    page.close();
    await lab.close();
  });

  it("answers the app's rows, passes on the lab's, and knows no others", async () => {
    serve();
    expect(await client.call("appInfo")).toMatchObject({
      ok: true,
      result: { shell: "electron", version: "1.2.3", home: lab.folder, canPickFiles: false },
    });
    expect(await client.call("operationCancel", { operation: "x" })).toEqual({ ok: true, result: { cancelled: true } });
    expect(await client.call("formatDisk")).toMatchObject({
      ok: false,
      line: expect.stringMatching(/knows no formatDisk/),
    });
    expect(await client.call("toString")).toMatchObject({ ok: false });
    expect(await client.call("constructor")).toMatchObject({ ok: false });
  });

  it("checks the parameters of the app's rows", async () => {
    serve({ openExternal: async () => {} });
    for (const [method, parameters] of [
      ["shellOpen", { columns: 0, rows: 24 }],
      ["shellOpen", { columns: 80 }],
      ["shellWrite", { shell: 1, data: "not base64!" }],
      ["pickFile", { title: "x", filters: [{ name: "x", extensions: ["../etc"] }] }],
      ["pickFile", { title: "x", filters: [{ name: "x", extensions: ["*"] }] }],
      ["readConfig", { path: "" }],
      ["openExternal", { url: "file:///etc/passwd" }],
      ["openExternal", { url: "javascript:alert(1)" }],
      ["appInfo", { more: true }],
    ] as const) {
      expect(await client.call(method, parameters), method).toMatchObject({
        ok: false,
        line: expect.stringMatching(/does not understand/),
      });
    }
    expect(await client.call("openExternal", { url: "https://xenproject.org/" })).toEqual({ ok: true, result: {} });
  });

  it("offers what the shell around it can do, and says so of what it cannot", async () => {
    const asked: unknown[] = [];
    serve({
      pickFile: async (title, filters) => {
        asked.push(title, filters);
        return null;
      },
    });
    const filters = [{ name: "Images", extensions: ["qcow2"] }];
    expect(await client.call("pickFile", { title: "Image", filters })).toEqual({
      ok: true,
      result: { path: null },
    });
    expect(asked).toEqual(["Image", filters]);
    expect(await client.call("appInfo")).toMatchObject({ result: { canPickFiles: true } });
    expect(await client.call("openExternal", { url: "https://xenproject.org/" })).toMatchObject({ ok: false });
  });

  it("passes on events of the lab and of the shell", async () => {
    serve();
    await client.call("subscribe", { topics: ["log"] });
    lab.session?.send({ kind: "log", date: DATE, line: "hello" });
    session.send({ kind: "open-file", path: "/tmp/web.cfg" });
    await until("both", () => client.events.length === 2);
    expect(client.events.map(({ kind }) => kind).sort()).toEqual(["log", "open-file"]);
  });

  it("tells of a lab that went and came, and starts one that was ended when it is asked to", async () => {
    serve();
    await client.call("subscribe", { topics: [] });
    await lab.end(false);
    await until("both", () => client.events.length === 2);
    expect(client.events).toEqual([
      { kind: "lab", state: "down", line: expect.stringContaining("started again") },
      { kind: "lab", state: "up" },
    ]);
    await client.call("subscribe", { topics: [] });
    await lab.end(true);
    await until("the end", () => client.events.at(-1)?.ended === true);
    expect(await client.call("operationCancel", { operation: "x" })).toMatchObject({
      ok: false,
      line: expect.stringMatching(/was ended/),
    });
    expect(await client.call("labStart")).toEqual({ ok: true, result: {} });
    expect(await client.call("operationCancel", { operation: "x" })).toMatchObject({ ok: true });
  });

  it("ends its connection to the lab and its shells when the renderer goes", async () => {
    serve();
    await client.call("subscribe", { topics: [] });
    expect(await client.call("shellOpen", { columns: 80, rows: 24 })).toEqual({ ok: true, result: { shell: 1 } });
    expect(lab.clients).toBe(1);
    page.close();
    await until("the end", () => lab.clients === 0);
    expect(hungUp).toBe(1);
    session.send({ kind: "open-file", path: "/late" });
    expect(said).toEqual([]);
  });

  it("disconnects a renderer that sends anything but messages", async () => {
    for (const message of ["no JSON", "{}", '{"t":"q"}', { t: "q" }, "[1]"]) {
      serve();
      const closed = new Promise<void>((resolve) => page.once("close", () => resolve()));
      page.postMessage(message);
      await closed;
      await until("its connection's end", () => lab.clients === 0);
    }
  });

  it("survives calls of odd shapes", async () => {
    serve();
    const answers: string[] = [];
    page.on("message", (text: string) => answers.push(text));
    page.postMessage(JSON.stringify({ t: "q", m: "call", a: [], i: "1" }));
    page.postMessage(JSON.stringify({ t: "q", m: "call", a: [{}, []], i: "2" }));
    page.postMessage(JSON.stringify({ t: "q", m: "hasOwnProperty", a: ["call"], i: "3" }));
    await until("answers", () => answers.length === 3);
    expect(answers.filter((text) => text.includes("without a name"))).toHaveLength(2);
    expect(await client.call("appInfo")).toMatchObject({ ok: true });
  });

  it("limits the calls that are under way", async () => {
    lab = new FakeLab({ operationCancel: () => new Promise(() => {}) });
    serve();
    for (let index = 0; index < 256; index++) void client.call("operationCancel", { operation: "x" }).catch(() => {});
    expect(await client.call("appInfo")).toMatchObject({
      ok: false,
      line: expect.stringMatching(/more than 256 calls at once/),
    });
  });
});
