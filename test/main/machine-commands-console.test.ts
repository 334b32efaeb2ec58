/** `domlab console` through pipes, against a lab that plays a machine. */
import { PassThrough } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { attachConsole, type ConsoleStreams, printLog } from "../../main/console-command.ts";
import { explain } from "../../main/failure.ts";
import { ControlClient } from "../../main/lab/control-client.ts";
import type { MachineState } from "../../main/lab/machine-api.ts";
import { details, FakeLab } from "./machine-commands-lab.ts";

/** A stream that remembers what it got. */
function collector(): { stream: PassThrough; text: () => string } {
  const stream = new PassThrough();
  let text = "";
  stream.on("data", (chunk: Buffer) => {
    text += chunk.toString();
  });
  return { stream, text: () => text };
}

let lab: FakeLab;
let client: ControlClient;
let state: MachineState;
let message: string | undefined;
let log: Buffer;
let typed: string;
let acknowledged: number;

const base64 = (text: string) => Buffer.from(text).toString("base64");

/** Sends what the machine prints. */
function print(offset: number, text: string): void {
  lab.session?.send({ kind: "console", attachment: 1, offset, data: base64(text) });
}
function enter(next: MachineState, offset: number): void {
  state = next;
  lab.session?.send({ kind: "console-state", attachment: 1, offset, state: next });
}

/** Waits for a condition; the test's own time limit ends it in vain. */
async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await delay(5);
}

beforeEach(async () => {
  lab = new FakeLab();
  state = "running";
  message = undefined;
  log = Buffer.from("first line\nlast line\n");
  typed = "";
  acknowledged = 0;
  await lab.serve({
    machineShow: ({ machine }) => details(machine, { state, ...(message !== undefined && { message }) }),
    consoleLog: ({ offset = 0, bytes = 1 << 20 }) => {
      const data = log.subarray(offset, offset + Math.min(bytes, 8));
      return { offset, data: data.toString("base64"), end: log.length };
    },
    consoleAttach: ({ offset = 0 }, session) => {
      // Before the answer, as a lab may: what is kept from there on.
      const kept = log.subarray(offset).toString("base64");
      if (kept !== "") session.send({ kind: "console", attachment: 1, offset, data: kept });
      return { attachment: 1, offset, end: log.length };
    },
    consoleAcknowledge: ({ offset }) => {
      acknowledged = offset;
      return {};
    },
    consoleWrite: ({ data }) => {
      typed += Buffer.from(data, "base64").toString();
      return {};
    },
  });
  client = await ControlClient.connect(lab.socket);
});
afterEach(async () => {
  client.close();
  await lab.close();
});

function attach(from?: number) {
  const input = new PassThrough();
  const output = collector();
  const errors = collector();
  const streams: ConsoleStreams = { input, output: output.stream, errors: errors.stream };
  const ended = attachConsole(client, "web", { streams, ...(from !== undefined && { from }) });
  return { input, output: output.text, errors: errors.text, ended };
}

describe("a console", () => {
  it("shows the last lines first, then what comes, and acknowledges it", async () => {
    const { output, ended, errors } = attach();
    await until(() => output() === "first line\nlast line\n");
    print(21, "more\n");
    await until(() => acknowledged === 26);
    expect(output()).toBe("first line\nlast line\nmore\n");
    enter("stopped", 26);
    expect(await ended).toBe(0);
    expect(errors()).toBe("domlab: web is stopped\n");
  });

  it("leaves out the rest of a line that the tail begins with", async () => {
    log = Buffer.from(`${"x".repeat(20_000)}\nwhole line\n`);
    const { output, ended } = attach();
    await until(() => output() !== "");
    enter("suspended", log.length);
    await ended;
    expect(output()).toBe("whole line\n");
  });

  it("shows all of it from a place that was named", async () => {
    const { output, ended } = attach(6);
    await until(() => output() === "line\nlast line\n");
    enter("suspended", log.length);
    await ended;
  });

  it("stays through a reboot, and tells how a machine has crashed once everything is shown", async () => {
    const { output, errors, ended } = attach(log.length);
    await until(() => lab.calls.some(({ method }) => method === "consoleAttach"));
    enter("stopped", log.length);
    enter("starting", log.length);
    enter("running", log.length);
    message = "crashed (triple fault)";
    enter("crashed", log.length + 4);
    print(log.length, "oops");
    expect(await ended).toBe(1);
    expect(output()).toBe("oops");
    expect(errors()).toBe("domlab: web crashed (triple fault)\n");
  });

  it("tells of output that was lost", async () => {
    const { errors, ended } = attach(log.length);
    await until(() => lab.calls.some(({ method }) => method === "consoleAttach"));
    print(log.length + 100, "later");
    enter("suspended", log.length + 105);
    await ended;
    expect(errors()).toMatch(/100 bytes of output were lost/);
  });

  it("types what comes through a pipe, in order, and leaves when it has ended and all is quiet", async () => {
    const { input, ended } = attach();
    const text = "a".repeat(200_000);
    input.write(text);
    input.end("\x1d end\n");
    expect(await ended).toBe(0);
    // The key that leaves a terminal is a byte like others in a pipe.
    expect(typed).toBe(`${text}\x1d end\n`);
  });

  it("ends with the lab", async () => {
    const { errors, ended } = attach();
    await until(() => lab.calls.some(({ method }) => method === "consoleAttach"));
    await lab.close();
    expect(await ended).toBe(2);
    expect(errors()).toMatch(/the lab has ended/);
  });

  it("of a machine that is off is refused, with the way to its log", async () => {
    state = "stopped";
    message = "ended";
    const error = await attach().ended.catch((reason: unknown) => reason);
    const { line, status } = explain(error);
    expect(line).toMatch(/^web is stopped \(ended\): .*; .*--console.*--log/);
    expect(status).toBe(2);
  });

  it("of a machine that ended right after its start shows what it printed", async () => {
    state = "crashed";
    message = "crashed (triple fault)";
    const { output, errors, ended } = attach(11);
    expect(await ended).toBe(1);
    expect(output()).toBe("last line\n");
    expect(errors()).toBe("domlab: web crashed (triple fault)\n");
  });

  it("has a log, which is printed whole", async () => {
    const { stream, text } = collector();
    await printLog(client, "web", stream);
    await until(() => text() === "first line\nlast line\n");
  });
});
