/** `domlab console --pty`: another program's terminal on a machine's console. */
import { spawn } from "node:child_process";
import { constants, existsSync } from "node:fs";
import { open } from "node:fs/promises";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { openPty, type Pty } from "../../main/console-pty.ts";
import { until } from "./app/fake-lab.ts";
import { details, FakeLab } from "./machine-commands-lab.ts";

/** A program that has opened the terminal, and what it has read. */
interface Tool {
  text(): string;
  write(text: string): Promise<void>;
  close(): Promise<void>;
}

async function openTool(path: string): Promise<Tool> {
  const handle = await open(path, constants.O_RDWR | constants.O_NOCTTY);
  // Another process reads: a read of ours would hold one of this process's few threads.
  const reader = spawn("cat", [path], { stdio: ["ignore", "pipe", "ignore"] });
  let text = "";
  reader.stdout.on("data", (piece: Buffer) => {
    text += piece;
  });
  return {
    text: () => text,
    write: async (given) => void (await handle.write(given)),
    async close() {
      const ended = new Promise((resolve) => reader.once("close", resolve));
      reader.kill();
      await ended;
      await handle.close();
    },
  };
}

const hasPty = process.platform === "linux" && existsSync("/dev/pts");

describe.skipIf(!hasPty)("a pseudoterminal", () => {
  let pty: Pty;
  let got: string;

  beforeEach(async () => {
    pty = await openPty();
    got = "";
    pty.stream.on("data", (piece: Buffer) => {
      got += piece;
    });
    pty.stream.resume();
  });
  afterEach(() => pty.close());

  it("carries bytes both ways, unchanged and without an echo", async () => {
    expect(pty.path).toMatch(/^\/dev\/pts\/\d+$/);
    const tool = await openTool(pty.path);
    try {
      pty.stream.write("login: \x03\x04\r\n");
      await until("the output", () => tool.text().length >= 11);
      expect(tool.text()).toBe("login: \x03\x04\r\n");
      await tool.write("root\r\x03");
      await until("the keys", () => got.length >= 6);
      expect(got).toBe("root\r\x03");
    } finally {
      await tool.close();
    }
  });

  it("outlives the programs that use it, and keeps what none has read", async () => {
    const first = await openTool(pty.path);
    pty.stream.write("one\n");
    await until("the first", () => first.text() === "one\n");
    await first.close();
    pty.stream.write("two\n");
    const second = await openTool(pty.path);
    try {
      await until("the second", () => second.text() === "two\n");
      await second.write("x");
      await until("a key", () => got === "x");
    } finally {
      await second.close();
    }
  });
});

describe.skipIf(!hasPty)("domlab console --pty", () => {
  it("prints the path, carries the console, and ends with the machine", async () => {
    const lab = new FakeLab();
    let state: "running" | "stopped" = "running";
    let typed = "";
    await lab.serve({
      machineShow: ({ machine }) => details(machine, { state }),
      consoleLog: ({ offset = 0 }) => ({ offset, data: "", end: 0 }),
      consoleAttach: () => ({ attachment: 1, offset: 0, end: 0 }),
      consoleAcknowledge: () => ({}),
      consoleWrite: ({ data }) => {
        typed += Buffer.from(data, "base64").toString();
        return {};
      },
    });
    try {
      let path = "";
      lab.onPrint = (text) => {
        path += text;
      };
      const command = lab.command("console", "web", "--pty");
      await until("the path", () => path.endsWith("\n"));
      const tool = await openTool(path.trim());
      const data = Buffer.from("login: ").toString("base64");
      lab.session?.send({ kind: "console", attachment: 1, offset: 0, data });
      await until("the output", () => tool.text() === "login: ");
      await tool.write("root\r");
      await until("the keys", () => typed === "root\r");
      await tool.close();
      state = "stopped";
      lab.session?.send({ kind: "console-state", attachment: 1, offset: 7, state });
      const { status, told, printed } = await command;
      expect(status).toBe(0);
      expect(printed).toMatch(/^\/dev\/pts\/\d+\n$/);
      expect(told).toEqual([expect.stringContaining(`is at ${path.trim()}, for example: screen`)]);
    } finally {
      await lab.close();
    }
  });

  it("refuses a machine that is off", async () => {
    const lab = new FakeLab();
    await lab.serve({
      machineShow: ({ machine }) => details(machine, { state: "stopped" }),
      consoleLog: ({ offset = 0 }) => ({ offset, data: "", end: 0 }),
    });
    try {
      const { line, status } = await lab.refused("console", "web", "--pty");
      expect(line).toContain("web is stopped: nobody is at its console; domlab start web");
      expect(status).toBe(2);
    } finally {
      await lab.close();
    }
  });
});
