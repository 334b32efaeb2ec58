/** The interactive session as a user has it: in a terminal, which tmux provides. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { program, until } from "../cli/domlab.ts";
import { endlessLoop, tinyKernel } from "../cli/tiny-kernel.ts";

const hasTmux = spawnSync("tmux", ["-V"]).status === 0;
let folder = "";
let socket = "";

function tmux(...args: string[]): string {
  return spawnSync("tmux", ["-S", socket, ...args], { encoding: "utf8" }).stdout;
}

const screen = (): string => tmux("capture-pane", "-p", "-S", "-2000", "-t", "main");
const keys = (...names: string[]): string => tmux("send-keys", "-t", "main", ...names);
/** Waits for something on the screen; a failure shows the screen. */
async function waitFor(what: string, condition: () => boolean, limit = 150_000): Promise<void> {
  await until(what, condition, limit).catch((error: Error) => {
    throw new Error(`${error.message}; the screen shows:\n${screen().trimEnd()}`);
  });
}

/** What stty says about the terminal; equal before and after means restored. */
async function settings(name: string): Promise<string> {
  keys(`stty -g | sed 's/^/${name}=/'`, "Enter");
  const pattern = new RegExp(`^${name}=([0-9a-f:]+)$`, "m");
  await waitFor("stty's answer", () => pattern.test(screen()));
  return pattern.exec(screen())?.[1] ?? "";
}

async function start(...args: string[]): Promise<void> {
  keys(`XDG_STATE_HOME=${folder} ${process.execPath} ${program} ${args.join(" ")}; echo status=$?`, "Enter");
}

/** Whether the guest's shell waits for input; the host's prompt in these tests looks different. */
const atPrompt = (): boolean => /root@domlab:~# *$/.test(screen().trimEnd());
const ended = (): Promise<void> => waitFor("the end of domlab", () => /^status=\d+$/m.test(screen()));
const exitStatus = (): number => Number(/^status=(\d+)$/m.exec(screen())?.[1]);

beforeEach(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "domlab-tmux-"));
  socket = path.join(folder, "socket");
  tmux("-f", "/dev/null", "new-session", "-d", "-s", "main", "-x", "150", "-y", "50", "env PS1='host> ' sh");
  // What is typed before the shell has set the terminal up is echoed in the wrong place.
  await waitFor("the host's prompt", () => /^host> *$/.test(screen().trimEnd()));
});
afterEach(() => {
  tmux("kill-server");
  rmSync(folder, { recursive: true, force: true });
});

describe.skipIf(!hasTmux)("an interactive session in a terminal", () => {
  it("gives a shell, Ctrl-C for the guest, and the terminal back when the shell ends", async () => {
    const before = await settings("before");
    await start("run");
    await waitFor("the guest's prompt", atPrompt, 120_000);
    keys("sleep 1000", "Enter");
    await new Promise((resolve) => setTimeout(resolve, 1000));
    keys("C-c");
    await waitFor("the prompt after Ctrl-C", atPrompt);
    tmux("resize-window", "-t", "main", "-x", "100", "-y", "30");
    keys("echo $((6*7)) in the guest", "Enter");
    await waitFor("the guest's answer", () => /^42 in the guest/m.test(screen()));
    keys("exit", "Enter");
    await ended();
    expect(exitStatus()).toBe(0);
    expect(await settings("after")).toBe(before);
  });

  it("gives the terminal back on Ctrl-C twice", async () => {
    const before = await settings("before");
    await start("run");
    await waitFor("the guest's prompt", atPrompt, 120_000);
    keys("C-c");
    keys("C-c");
    await ended();
    expect(exitStatus()).toBe(130);
    expect(await settings("after")).toBe(before);
  });

  it.each([
    ["Ctrl-C", "C-c", 130],
    ["Ctrl-]", "C-]", 0],
  ])("gives the terminal back on %s while a guest hangs at boot", async (_name, key, status) => {
    const kernel = path.join(folder, "kernel");
    writeFileSync(kernel, tinyKernel(endlessLoop));
    const before = await settings("before");
    await start("run", "--kernel", kernel);
    await waitFor("the guest's process", () => existsSync(path.join(folder, "domlab/domains/kernel/running")));
    await new Promise((resolve) => setTimeout(resolve, 1000));
    keys(key);
    await ended();
    expect(exitStatus()).toBe(status);
    expect(await settings("after")).toBe(before);
  });

  it("gives the terminal back when the time is up", async () => {
    const kernel = path.join(folder, "kernel");
    writeFileSync(kernel, tinyKernel(endlessLoop));
    const before = await settings("before");
    await start("run", "--kernel", kernel, "--timeout", "3");
    await ended();
    expect(exitStatus()).toBe(124);
    expect(await settings("after")).toBe(before);
  });
});
