import { realpathSync } from "node:fs";
import os from "node:os";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type AppEvent, SHELL_WINDOW } from "../../../main/app/app-api.ts";
import { HostShells, type ShellPty, userShell } from "../../../main/app/host-shell.ts";
import { until } from "./fake-lab.ts";

/** A terminal whose program is the test. */
class FakePty implements ShellPty {
  readonly calls: string[] = [];
  print: (bytes: Buffer) => void = () => {};
  end: (exit: { exitCode: number; signal?: number }) => void = () => {};
  readonly onData = (listener: (bytes: Buffer | string) => void) => {
    this.print = listener;
  };
  readonly onExit: ShellPty["onExit"] = (listener) => {
    this.end = listener;
    return { dispose: () => {} };
  };

  write(data: string | Buffer): void {
    this.calls.push(`write ${data}`);
  }
  resize(columns: number, rows: number): void {
    this.calls.push(`resize ${columns} ${rows}`);
  }
  kill(): void {
    this.calls.push("kill");
  }
  pause(): void {
    this.calls.push("pause");
  }
  resume(): void {
    this.calls.push("resume");
  }
}

const bytesOf = (events: readonly AppEvent[]): number =>
  events.reduce((sum, event) => sum + (event.kind === "shell" ? Buffer.from(event.data, "base64").length : 0), 0);
const textOf = (events: readonly AppEvent[]): string =>
  events.map((event) => (event.kind === "shell" ? Buffer.from(event.data, "base64").toString() : "")).join("");

describe("host shells", () => {
  let pty: FakePty;
  let events: AppEvent[];
  let shells: HostShells;

  beforeEach(() => {
    pty = new FakePty();
    events = [];
    shells = new HostShells(
      async () => pty,
      (event) => events.push(event),
    );
  });

  it("stop reading when a window of output is unacknowledged, and go on after an acknowledgement", async () => {
    const shell = await shells.open(80, 24);
    pty.print(Buffer.alloc(SHELL_WINDOW - 1));
    expect(pty.calls).toEqual([]);
    pty.print(Buffer.alloc(1));
    pty.print(Buffer.alloc(10));
    expect(pty.calls).toEqual(["pause"]);
    await until("the output", () => bytesOf(events) === SHELL_WINDOW + 10);
    shells.acknowledge(shell, 10);
    expect(pty.calls).toEqual(["pause"]);
    shells.acknowledge(shell, 1);
    expect(pty.calls).toEqual(["pause", "resume"]);
  });

  it("gather small pieces of output into one event", async () => {
    await shells.open(80, 24);
    for (let index = 0; index < 100; index++) pty.print(Buffer.from("y\n"));
    await until("the output", () => bytesOf(events) === 200);
    expect(events).toHaveLength(1);
  });

  it("tell of the end after the last output, with a signal as shells do", async () => {
    const shell = await shells.open(80, 24);
    pty.print(Buffer.from("bye"));
    pty.end({ exitCode: 0, signal: 9 });
    expect(events).toEqual([
      { kind: "shell", shell, data: Buffer.from("bye").toString("base64") },
      { kind: "shell-end", shell, status: 137 },
    ]);
    expect(() => shells.write(shell, Buffer.from("x"))).toThrow(/has ended; open another one/);
  });

  it("are hung up when closed, even when paused, and when the renderer goes", async () => {
    const shell = await shells.open(80, 24);
    shells.resize(shell, 100, 30);
    shells.close(shell);
    expect(pty.calls).toEqual(["resize 100 30", "resume", "kill"]);
    shells.dispose();
    expect(pty.calls.slice(3)).toEqual(["resume", "kill"]);
    pty.print(Buffer.from("late"));
    await new Promise((resolve) => setImmediate(resolve));
    expect(events).toEqual([]);
  });

  it("are hung up when they come up after the renderer has gone", async () => {
    const opening = shells.open(80, 24);
    shells.dispose();
    await opening;
    expect(pty.calls).toEqual(["resume", "kill"]);
  });

  it("are limited in number", async () => {
    for (let index = 0; index < 32; index++) await shells.open(80, 24);
    await expect(shells.open(80, 24)).rejects.toThrow(/32 host shells are open; close one first/);
  });
});

describe.skipIf(process.platform === "win32")("a host shell on a real terminal", () => {
  const home = realpathSync(os.tmpdir());
  let events: AppEvent[];
  let shells: HostShells;

  beforeEach(() => {
    vi.stubEnv("SHELL", "/bin/sh");
    // Nothing of the user's own start-up files.
    vi.stubEnv("ENV", "");
    events = [];
    shells = new HostShells(userShell({ home, programs: "/programs" }), (event) => events.push(event));
  });

  afterEach(() => {
    shells.dispose();
    vi.unstubAllEnvs();
  });

  it("runs the user's shell, which knows the lab and the size of its terminal", async () => {
    const shell = await shells.open(91, 27);
    shells.write(shell, Buffer.from('echo "[$DOMLAB_HOME|$(echo "$PATH" | sed s-.*:--)|$TERM]"; stty size; exit 7\n'));
    await until("its end", () => events.some(({ kind }) => kind === "shell-end"));
    expect(textOf(events)).toContain(`[${home}|/programs|xterm-256color]`);
    expect(textOf(events)).toMatch(/\b27 91\b/);
    expect(events.at(-1)).toEqual({ kind: "shell-end", shell, status: 7 });
  });

  it("holds a program back that prints for ever", async () => {
    const shell = await shells.open(80, 24);
    shells.write(shell, Buffer.from("yes\n"));
    await until("a full window", () => bytesOf(events) >= SHELL_WINDOW);
    // What it could print in a quarter of a second would be many windows.
    await new Promise((resolve) => setTimeout(resolve, 250));
    const before = bytesOf(events);
    expect(before).toBeLessThan(SHELL_WINDOW + 128 * 1024);
    shells.acknowledge(shell, before);
    await until("more", () => bytesOf(events) > before);
    shells.close(shell);
    await until("its end", () => events.some(({ kind }) => kind === "shell-end"));
  });
});
