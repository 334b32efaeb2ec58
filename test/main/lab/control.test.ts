import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer, type Server } from "node:net";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { BadInput, explain, PassedOn } from "../../../main/failure.ts";
import type { ControlFunctions } from "../../../main/lab/control-api.ts";
import { ControlClient } from "../../../main/lab/control-client.ts";
import { answerCall, type ControlServer, serveControl } from "../../../main/lab/control-server.ts";
import { hostControl, type KnownGuest } from "../../../main/lab/host-control.ts";
import { LineSplitter } from "../../../main/lab/line-channel.ts";
import { GUEST, TestHost } from "./test-host.ts";

let folder = "";
let socket = "";
let host: TestHost;
let guests: KnownGuest[];
let functions: ControlFunctions;
let server: ControlServer | undefined;
let client: ControlClient | undefined;

beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "domlab-control-"));
  socket = path.join(folder, "control");
  writeFileSync(path.join(folder, "d.img"), new Uint8Array(4096));
  host = new TestHost();
  guests = [GUEST];
  functions = hostControl("web", host, () => guests);
});
afterEach(async () => {
  client?.close();
  await server?.close();
  server = undefined;
  rmSync(folder, { recursive: true, force: true });
});

async function connected(): Promise<ControlClient> {
  server = await serveControl(functions, socket);
  client = await ControlClient.connect(socket);
  return client;
}

describe("control functions over a socket", () => {
  it("list, attach, show, count and detach", async () => {
    const lab = await connected();
    expect(await lab.call("list", {})).toEqual({ lab: "web", pid: process.pid, guests: [{ ...GUEST, disks: [] }] });
    const attached = await lab.call("blockAttach", { disk: "d.img,,xvdb,ro", cwd: folder });
    expect(attached).toEqual({ vdev: 51728, name: "xvdb" });
    expect(host.disks[0]).toMatchObject({ store: { kind: "file", path: path.join(folder, "d.img") }, readOnly: true });
    expect((await lab.call("list", {})).guests[0]?.disks).toEqual(["xvdb"]);
    expect(await lab.call("blockList", {})).toEqual([
      {
        vdev: 51728,
        name: "xvdb",
        frontendId: 1,
        backendId: 2,
        backend: "storage",
        state: 4,
        stateName: "Connected",
        mode: "r",
        target: "d.img",
      },
    ]);
    expect(await lab.call("blockStatistics", {})).toEqual([
      { vdev: 51728, name: "xvdb", frontendId: 1, counters: { rd_req: 12, wr_req: 3 } },
    ]);
    await lab.call("blockDetach", { vdev: "xvdb", force: true });
    expect(host.detached).toEqual([{ guest: 1, vdev: 51728, force: true }]);
  });

  it("pass the lab's line and status on", async () => {
    const lab = await connected();
    await lab.call("blockAttach", { disk: "d.img,,xvda", cwd: folder });
    const again = await lab.call("blockAttach", { disk: "d.img,,xvda", cwd: folder }).catch((error: unknown) => error);
    expect(again).toBeInstanceOf(PassedOn);
    expect(explain(again)).toEqual({ line: "it has that one; choose another", status: 2 });
    await expect(lab.call("blockAttach", { disk: "d.img", cwd: "/" })).rejects.toThrow(/vdev is missing; /);
    await expect(lab.call("blockDetach", { vdev: "floppy", force: false })).rejects.toThrow(/"floppy" names no disk; /);
  });

  it("refuse disks while there is no guest", async () => {
    guests = [];
    const lab = await connected();
    await expect(lab.call("blockAttach", { disk: "d.img,,xvda", cwd: "/" })).rejects.toThrow(/not running yet; /);
  });

  it("call a bug a bug", async () => {
    functions = {
      ...functions,
      list: () => {
        throw new TypeError("x is undefined");
      },
    };
    const lab = await connected();
    const error = await lab.call("list", {}).catch((reason: unknown) => reason);
    expect(explain(error)).toEqual({ line: "internal error: x is undefined", status: 1 });
  });
});

describe("what does not fit", () => {
  it.each([
    ["an unknown method", "format", {}],
    ["a method of every object", "toString", {}],
    ["wrong parameters", "blockDetach", { vdev: 1 }],
    ["parameters too many", "list", { everything: true }],
    ["no parameters", "blockAttach", undefined],
  ])("%s is refused in a line", async (_what, method, parameters) => {
    expect(await answerCall(functions, method, parameters)).toEqual({
      ok: false,
      status: 2,
      line: expect.stringMatching(/^the lab .*; use the same version of domlab$/),
    });
  });

  it.each(["\n", "nonsense\n", "null\n", '{"t":"q"}\n', '{"t":"q","m":"call","a":{}}\n'])(
    "the server hangs up on %j and lives on",
    async (text) => {
      const lab = await connected();
      const other = connect(socket);
      other.resume();
      const closed = new Promise((resolve) => other.on("close", resolve));
      other.write(text);
      await closed;
      expect((await lab.call("list", {})).lab).toBe("web");
    },
  );

  it("a function of birpc's own object cannot be called", async () => {
    await connected();
    const other = connect(socket);
    const answer = new Promise<string>((resolve) => other.once("data", (bytes) => resolve(bytes.toString())));
    other.write('{"t":"q","m":"constructor","a":["return 1"],"i":"1"}\n');
    expect(JSON.parse(await answer)).not.toHaveProperty("r");
    other.destroy();
  });

  /** A server that answers each line with what `reply` makes of its message; undefined: hangs up. */
  async function odd(reply: (id: string) => string | undefined): Promise<Server> {
    const other = createServer((connection) => {
      connection.on("error", () => {});
      connection.on("data", (bytes) => {
        const answer = reply(JSON.parse(bytes.toString()).i);
        if (answer === undefined) connection.destroy();
        else connection.write(answer);
      });
    });
    await new Promise<void>((resolve) => other.listen(socket, resolve));
    return other;
  }

  it.each([
    ["hangs up", () => undefined, /ended meanwhile; /],
    ["answers nonsense", (id: string) => `{"t":"s","i":"${id}","r":7}\n`, /another version/],
    [
      "answers in another shape",
      (id: string) => `{"t":"s","i":"${id}","r":{"ok":true,"result":{}}}\n`,
      /another version/,
    ],
    ["sends no messages", () => "hello\n", /ended meanwhile; /],
  ])("a server that %s", async (_what, reply, line) => {
    const other = await odd(reply);
    try {
      client = await ControlClient.connect(socket);
      const error = await client.call("list", {}).catch((reason: unknown) => reason);
      expect(error).toBeInstanceOf(BadInput);
      expect(explain(error).line).toMatch(line);
    } finally {
      client?.close();
      await new Promise((resolve) => other.close(resolve));
    }
  });
});

describe("lines", () => {
  it("come together from pieces, characters too", () => {
    const splitter = new LineSplitter();
    const bytes = Buffer.from("aé\nb\n\nc");
    const lines = [...bytes].flatMap((byte) => splitter.feed(Buffer.of(byte)) ?? ["too long"]);
    expect(lines).toEqual(["aé", "b", ""]);
    expect(splitter.feed(Buffer.from("d\n"))).toEqual(["cd"]);
  });

  it("that never end are refused", () => {
    const splitter = new LineSplitter();
    const piece = Buffer.alloc(1 << 20, "x");
    const answers = Array.from({ length: 5 }, () => splitter.feed(piece));
    expect(answers).toEqual([[], [], [], [], undefined]);
  });
});
