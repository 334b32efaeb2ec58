/** The app from its start to its end, with a stand-in for Electron and a lab of fake machines behind a real socket. */
import { EventEmitter, once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type RunningShell, runShell } from "../../../main/electron/shell.ts";
import { until as untilThat } from "../app/fake-lab.ts";
import { type Renderer, renderer } from "../app/renderer.ts";
import { LabFixture } from "../lab/machines/lab-fixture.ts";
import * as electron from "./stand-in.ts";

vi.mock("electron", () => import("./stand-in.ts"));

const { app, BrowserWindow, called, ipcMain, Port, Preventable } = electron;

const until = (condition: () => boolean): Promise<void> => untilThat(condition.toString(), condition);

/** This process, as far as the app looks at it. */
class OwnProcess extends EventEmitter {
  argv: string[] = ["electron", "/app"];
  folder = os.tmpdir();
  cwd = () => this.folder;
}

describe("the desktop app", () => {
  let fixture: LabFixture;
  let own: OwnProcess;
  let shell: RunningShell;
  let isRunning: boolean;

  beforeEach(() => {
    electron.reset();
    fixture = new LabFixture();
    own = new OwnProcess();
    isRunning = false;
  });
  afterEach(async () => {
    if (isRunning) {
      await shell.lab.quit();
      shell.close();
    }
    await fixture.dispose();
  });

  const begin = async (): Promise<RunningShell> => {
    const started = runShell({
      home: fixture.home,
      process: own as never,
      openLab: async ({ home, version }) => (await fixture.open({ home, version })).server,
    });
    app.becomeReady();
    const running = await started;
    if (running === undefined) throw new Error("it did not start");
    shell = running;
    isRunning = true;
    return running;
  };
  const window = () => {
    const [first] = BrowserWindow.all;
    if (first === undefined) throw new Error("there is no window");
    return first;
  };
  /** What the preload bridge does for the page in the window. */
  const connect = (frame: object | null = { url: "app://domlab/", parent: null }, ports = Port.pair()) => {
    const [theirs, page] = ports;
    ipcMain.emit("domlab:connect", { senderFrame: frame, ports: [theirs], sender: window().webContents });
    return page;
  };
  const page = (port = connect()): Renderer => {
    const client = renderer(
      (text) => port.postMessage(text),
      (listener) => port.on("message", ({ data }: { data: string }) => listener(data)),
    );
    port.start();
    return client;
  };

  it("shows one window of its own page, sandboxed, with a menu", async () => {
    await begin();
    expect(called("enableSandbox")).toHaveLength(1);
    expect(called("registerSchemesAsPrivileged")).toHaveLength(1);
    expect(app.paths.get("userData")).toBe(path.join(shell.place.home, "window"));
    expect(BrowserWindow.all).toHaveLength(1);
    expect(window().loaded).toEqual(["app://domlab/"]);
    expect(window().options).toMatchObject({
      show: false,
      webPreferences: { sandbox: true, contextIsolation: true, nodeIntegration: false, devTools: false },
    });
    const { preload } = window().options.webPreferences as { preload: string };
    expect(preload).toMatch(/dist.preload.preload\.cjs$/);
    expect(existsSync(String(window().options.icon))).toBe(true);
    window().emit("ready-to-show");
    expect(window().shown).toBe(1);
    const { handlers } = electron.session.defaultSession;
    expect([...handlers.keys()].sort()).toEqual(["app", "device", "permission-check", "permission-request", "request"]);
    expect(called("setApplicationMenu")).toHaveLength(1);
  });

  it("serves the page over the port that it sends: the app's own calls and the lab's", async () => {
    await begin();
    const client = page();
    expect(await client.call("appInfo")).toMatchObject({
      ok: true,
      result: { shell: "electron", home: shell.place.home, canPickFiles: true, mostUploadBytes: 0 },
    });
    expect(await client.call("machineList", {})).toMatchObject({ ok: true });
    expect(shell.lab.isOwn).toBe(true);
  });

  it("gives no session to other pages, frames or odd messages", async () => {
    await begin();
    for (const frame of [null, { url: "https://example.org/", parent: null }, { url: "app://domlab/", parent: {} }]) {
      const port = connect(frame);
      await once(port, "close");
    }
    ipcMain.emit("domlab:connect", {
      senderFrame: { url: "app://domlab/", parent: null },
      ports: [],
      sender: window().webContents,
    });
    expect(shell.sessions.size).toBe(0);
  });

  it("ends a session with its page", async () => {
    await begin();
    const first = connect();
    page(first);
    page();
    expect(shell.sessions.size).toBe(2);
    first.close();
    await until(() => shell.sessions.size === 1);
    window().webContents.emit("render-process-gone", {}, { reason: "crashed", exitCode: 5 });
    await until(() => shell.sessions.size === 0);
  });

  it("uses a lab that runs, and leaves it running", async () => {
    mkdirSync(fixture.home, { recursive: true });
    await fixture.open();
    await begin();
    expect(await page().call("machineList", {})).toMatchObject({ ok: true });
    expect(shell.lab.isOwn).toBe(false);
    window().close();
    await until(() => called("gone").length === 1);
    expect(await fixture.call("labInfo", {})).toHaveProperty("pid");
    expect(window).toThrow("there is no window");
  });

  it("suspends machines before it ends, visibly, and however often it is told to quit", async () => {
    await begin();
    const client = page();
    await client.call("machineList", {});
    const id = await fixture.create("web");
    await fixture.call("machineStart", { machine: id, operation: "start" } as never);
    let release = () => {};
    const quit = fixture.server.quit.bind(fixture.server);
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    vi.spyOn(fixture.server, "quit").mockImplementation(async (how) => {
      await held;
      return quit(how);
    });
    window().close();
    expect(window().loaded.at(-1)).toBe("app://domlab/quitting");
    expect(window().progress).toBe(2);
    app.quit();
    own.emit("SIGINT");
    own.emit("SIGTERM");
    window().close();
    expect(called("gone")).toEqual([]);
    expect(BrowserWindow.all).toHaveLength(1);
    release();
    await until(() => called("gone").length === 1);
    expect(fixture.server.quit).toHaveBeenCalledTimes(1);
    expect(fixture.server.quit).toHaveBeenCalledWith(undefined);
    await fixture.server.ended;
    const record = JSON.parse(readFileSync(path.join(fixture.home, "machines", id, "machine.json"), "utf8"));
    expect(JSON.stringify(record)).toContain("suspend");
  });

  it("waits when the system goes down", async () => {
    await begin();
    await page().call("machineList", {});
    const event = new Preventable();
    electron.powerMonitor.emit("shutdown", event);
    expect(event.defaultPrevented).toBe(true);
    await until(() => called("gone").length === 1);
  });

  it("quits with its machines safe after a bug of its own, and writes it down", async () => {
    await begin();
    await page().call("machineList", {});
    own.emit("uncaughtException", new Error("a bug"));
    await until(() => called("gone").length === 1);
    expect(readFileSync(path.join(fixture.home, "app.log"), "utf8")).toContain("a bug");
  });

  it("loads a page anew whose process died, and asks after the third time", async () => {
    await begin();
    const die = () => window().webContents.emit("render-process-gone", {}, { reason: "oom", exitCode: 9 });
    for (let times = 1; times <= 3; times++) {
      die();
      await until(() => window().loaded.length === 1 + times);
    }
    expect(called("showMessageBox")).toEqual([]);
    die();
    await until(() => window().loaded.length === 5);
    expect(called("showMessageBox")).toHaveLength(1);
    window().webContents.emit("render-process-gone", {}, { reason: "clean-exit", exitCode: 0 });
    expect(window().loaded).toHaveLength(5);
    expect(readFileSync(path.join(fixture.home, "app.log"), "utf8")).toContain("oom");
  });

  it("writes down which process of its own died", async () => {
    await begin();
    const gone = (reason: string) =>
      app.emit("child-process-gone", {}, { type: "Utility", name: `domain ${reason}`, reason, exitCode: 11 });
    for (const reason of ["crashed", "killed", "clean-exit"]) gone(reason);
    const log = readFileSync(path.join(fixture.home, "app.log"), "utf8");
    expect(log).toContain("domain crashed");
    expect(log).not.toMatch(/domain (killed|clean-exit)/);
  });

  it("opens the files of its command line, of a second start and of the system's", async () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), "domlab-files-"));
    try {
      const file = (name: string) => {
        const full = path.join(folder, name);
        writeFileSync(full, "");
        return full;
      };
      const [one, two, three] = [file("one.domlab"), file("two.cfg"), file("three.DOMLAB")];
      mkdirSync(path.join(folder, "folder.cfg"));
      own.folder = folder;
      own.argv.push("--no-such-switch", "one.domlab", "missing.cfg", "folder.cfg", file("other.txt"));
      await begin();
      expect(called("requestSingleInstanceLock")).toEqual([[{ files: [one] }]]);
      const client = page();
      window().minimized = true;
      app.emit("second-instance", {}, ["electron"], folder, { files: [two, "/etc/passwd", 7] });
      expect(window().minimized).toBe(false);
      const event = new Preventable();
      app.emit("open-file", event, three);
      expect(event.defaultPrevented).toBe(true);
      await until(() => client.events.length >= 3);
      expect(client.events.filter(({ kind }) => kind === "open-file")).toEqual([
        { kind: "open-file", path: one },
        { kind: "open-file", path: two },
        { kind: "open-file", path: three },
      ]);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  it("offers the system's file dialog, and the user's browser for pages of the web", async () => {
    await begin();
    const client = page();
    electron.dialog.chosen = ["/disk.img"];
    const filters = [
      { name: "Images", extensions: ["img", "iso"] },
      { name: "Discs", extensions: ["iso"] },
    ];
    const picked = await client.call("pickFile", { title: "Disk", filters });
    expect(picked).toEqual({ ok: true, result: { path: "/disk.img" } });
    expect(called("showOpenDialog")).toEqual([
      [
        window(),
        {
          title: "Disk",
          properties: ["openFile"],
          filters: [...filters, { name: "All files", extensions: ["*"] }],
        },
      ],
    ]);
    electron.dialog.chosen = [];
    expect(await client.call("pickFile", { title: "Disk" })).toEqual({ ok: true, result: { path: null } });
    expect(called("showOpenDialog").at(-1)).toEqual([window(), { title: "Disk", properties: ["openFile"] }]);
    expect(await client.call("openExternal", { url: "https://example.org/x" })).toMatchObject({ ok: true });
    for (const url of ["file:///etc/passwd", "app://domlab/", "javascript:alert(1)", "smb://host/share"]) {
      expect([url, (await client.call("openExternal", { url })).ok]).toEqual([url, false]);
    }
    expect(called("openExternal")).toEqual([["https://example.org/x"]]);
  });

  it("keeps the window's place, unless its screen is gone", async () => {
    await begin();
    window().bounds = { x: 300, y: 200, width: 900, height: 650 };
    window().close();
    await until(() => called("gone").length === 1);
    shell.close();
    const kept = { x: 300, y: 200, width: 900, height: 650 };
    const again = async () => {
      electron.BrowserWindow.all = [];
      app.begin();
      ipcMain.removeAllListeners();
      await begin();
      const { x, y, width, height } = window().options as unknown as typeof kept;
      shell.close();
      return { x, y, width, height };
    };
    expect(await again()).toEqual(kept);
    electron.screen.displays = [{ workArea: { x: 5000, y: 0, width: 800, height: 600 } }];
    expect(await again()).toEqual({ x: undefined, y: undefined, width: 1280, height: 840 });
    electron.screen.displays = [{ workArea: { x: 0, y: 0, width: 1920, height: 1080 } }];
    writeFileSync(path.join(fixture.home, "window", "window.json"), '{"x":');
    expect(await again()).toEqual({ x: undefined, y: undefined, width: 1280, height: 840 });
  });

  it("leaves the window to the instance that has the lab", async () => {
    app.lock = false;
    expect(await runShell({ home: fixture.home, process: own as never })).toBeUndefined();
    expect(called("quit")).toHaveLength(1);
    expect(BrowserWindow.all).toEqual([]);
  });

  it("says in one line that the lab's folder cannot be used", async () => {
    mkdirSync(fixture.folder, { recursive: true });
    const file = path.join(fixture.folder, "file");
    writeFileSync(file, "");
    expect(await runShell({ home: path.join(file, "home"), process: own as never })).toBeUndefined();
    expect(called("showErrorBox")).toEqual([["Domlab", expect.stringMatching(/^\S.*; .*\S$/)]]);
    expect(called("exit")).toEqual([[2]]);
  });
});
