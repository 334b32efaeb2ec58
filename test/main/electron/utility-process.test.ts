/** Domains in utility processes: real Node processes that see no more of Node's channel than Electron's would. */
import { EventEmitter } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { DomainChild } from "../../../engine/domain/child.ts";
import { Host } from "../../../engine/domain/host.ts";
import { type ChannelProcess, parentChannel } from "../../../engine/domain/parent-channel.ts";
import { forkProcess, type ProcessStarter } from "../../../engine/domain/process-starter.ts";
import { mannerOfDeath, startUtilityProcess } from "../../../main/electron/utility-process.ts";
import { endlessSleep, jumpToNowhere, tinyKernel } from "../../cli/tiny-kernel.ts";
import { KernelLab, RUNS } from "../../domain/kernel-lab.ts";
import { called, reset } from "./stand-in.ts";

vi.mock("electron", () => import("./stand-in.ts"));

beforeEach(reset);

describe.runIf(RUNS)("a TypeScript domain in a utility process", () => {
  let lab: KernelLab;
  beforeAll(() => {
    lab = new KernelLab({ startProcess: startUtilityProcess });
  });
  afterAll(() => lab.end());

  it("starts, answers, and dies with a cause", async () => {
    const unikernel = await lab.start("workbench");
    expect(called("fork")).toEqual([
      [
        expect.stringMatching(/dist.engine.domain.typescript.process-main\.js$/),
        [],
        expect.objectContaining({ execArgv: [], stdio: ["ignore", "ignore", "pipe"] }),
      ],
    ]);
    expect(await unikernel.call("state")).toHaveProperty("id", unikernel.id);
    const { pid } = unikernel.handle;
    expect(pid).toBeGreaterThan(0);
    process.kill(pid, "SIGKILL");
    expect(await unikernel.handle.exited).toEqual({ reason: "killed", cause: "SIGKILL" });
  });

  it("is ended by its host at once", async () => {
    const unikernel = await lab.start("workbench", { name: "second" });
    await unikernel.handle.kill();
    expect((await unikernel.handle.exited).reason).toBe("killed");
  });
});

describe.runIf(RUNS)("a guest in a utility process", () => {
  const host = new Host({ startProcess: startUtilityProcess });
  afterAll(() => host.close());

  it("runs, and tells how it ended", async () => {
    const guest = await host.startGuest({
      name: "tiny",
      memoryMiB: 64,
      image: { kernel: { bytes: Uint8Array.from(tinyKernel(jumpToNowhere)) }, initrd: [], commandLine: "" },
    });
    expect(guest.pid).toBeGreaterThan(0);
    expect(called("fork")).toHaveLength(1);
    const exit = await guest.exited;
    expect(exit).toMatchObject({ reason: "crash", registers: { rip: "0xe0000000" } });
  });

  it("is ended by its host", async () => {
    const guest = await host.startGuest({
      name: "asleep",
      memoryMiB: 64,
      image: { kernel: { bytes: Uint8Array.from(tinyKernel(endlessSleep)) }, initrd: [], commandLine: "" },
    });
    await guest.kill();
    expect(await guest.exited).toEqual({ reason: "killed", requested: true, cause: "SIGKILL" });
  });
});

describe.each<[string, ProcessStarter]>([
  ["Node", forkProcess],
  ["Electron", startUtilityProcess],
])("a process started by %s", (_name, start) => {
  const folder = mkdtempSync(path.join(os.tmpdir(), "domlab-starter-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  const children: DomainChild<object, object>[] = [];
  afterEach(() => Promise.all(children.splice(0).map((child) => child.kill())));

  /** A program in `lines`, which may use `port`: what both kinds of process can do. */
  const run = (lines: string): DomainChild<{ twice(bytes: Uint8Array): Uint8Array }, object> => {
    const program = path.join(folder, `${children.length}-${Math.random()}.mjs`);
    writeFileSync(
      program,
      `const port = process.parentPort
        ? { send: (m) => process.parentPort.postMessage(m), on: (f) => process.parentPort.on("message", (e) => f(e.data)) }
        : { send: (m) => process.send(m), on: (f) => process.on("message", f) };
      ${lines}`,
    );
    const child = new DomainChild<{ twice(bytes: Uint8Array): Uint8Array }, object>(program, {}, start);
    children.push(child);
    return child;
  };
  const ANSWERS = `port.on(({ i, a }) => port.send({ t: "s", i, r: new Uint8Array([...a[0], ...a[0]]) }));`;

  it("answers calls with bytes, also one that came before it was made", async () => {
    const child = run(ANSWERS);
    const answer = await child.rpc.twice(Uint8Array.of(1, 2));
    expect([...answer]).toEqual([1, 2, 1, 2]);
    expect(child.pid).toBeGreaterThan(0);
    expect(child.connected).toBe(true);
  });

  it("is killed even before it is made", async () => {
    const child = run(ANSWERS);
    await child.kill();
    expect(await child.gone).toBe("SIGKILL");
    expect(child.connected).toBe(false);
  });

  it("tells its exit status, and what it said last", async () => {
    const child = run(`process.stderr.write("no such thing\\n", () => process.exit(3));`);
    expect(await child.gone).toBe("exit status 3: no such thing");
  });

  it("tells the signal that ended it", async () => {
    const child = run(`process.kill(process.pid, "SIGSEGV"); setInterval(() => {}, 1000);`);
    expect(await child.gone).toBe("SIGSEGV");
  });

  it("does not mind a message after its end", async () => {
    const child = run("process.exit(0);");
    expect(await child.gone).toBe("exit status 0");
    child.rpc.twice.asEvent(Uint8Array.of(1));
    expect(child.connected).toBe(false);
  });
});

describe("an exit code of Electron's", () => {
  it.each([
    [0, "exit status 0"],
    [1, "exit status 1"],
    [2, "exit status 2"],
    [9, "SIGKILL"],
    [11, "SIGSEGV"],
    [0x80 | 6, "SIGABRT"],
    [3 << 8, "exit status 3"],
  ])("%i is %s", (code, manner) => {
    expect(mannerOfDeath(code, "linux")).toBe(manner);
  });

  it("is never a signal on Windows", () => {
    expect(mannerOfDeath(9, "win32")).toBe("exit status 9");
  });
});

describe("the process's end of the channel", () => {
  class OwnProcess extends EventEmitter {
    connected = true;
    ppid = 4711;
    readonly sent: unknown[] = [];
    send = (message: unknown): boolean => this.sent.push(message) > 0;
  }
  const asProcess = (own: object): ChannelProcess => own as ChannelProcess;

  it("goes over parentPort where there is one", () => {
    const port = Object.assign(new EventEmitter(), { postMessage: vi.fn() });
    const own = Object.assign(new OwnProcess(), { parentPort: port });
    const channel = parentChannel(asProcess(own));
    const heard: unknown[] = [];
    channel.onMessage((message) => heard.push(message));
    port.emit("message", { data: "in", ports: [] });
    channel.send("out");
    expect(heard).toEqual(["in"]);
    expect(port.postMessage).toHaveBeenCalledWith("out");
    expect(own.sent).toEqual([]);
  });

  it("notices that its parent is gone, which parentPort does not tell", () => {
    vi.useFakeTimers();
    try {
      const own = Object.assign(new OwnProcess(), { parentPort: new EventEmitter() });
      const ended = vi.fn();
      parentChannel(asProcess(own)).onEnd(ended);
      vi.advanceTimersByTime(5000);
      expect(ended).not.toHaveBeenCalled();
      own.ppid = 1;
      vi.advanceTimersByTime(5000);
      expect(ended).toHaveBeenCalledTimes(1);
    } finally {
      vi.useRealTimers();
    }
  });

  it("hears Node's disconnect, and that it was too late for it", () => {
    const own = new OwnProcess();
    const ended = vi.fn();
    parentChannel(asProcess(own)).onEnd(ended);
    expect(ended).not.toHaveBeenCalled();
    own.emit("disconnect");
    expect(ended).toHaveBeenCalledTimes(1);
    own.connected = false;
    const late = vi.fn();
    const channel = parentChannel(asProcess(own));
    channel.onEnd(late);
    channel.send("lost");
    expect(late).toHaveBeenCalledTimes(1);
    expect(own.sent).toEqual([]);
  });
});
