/** The bridge as the page sees it: the preload script in a function of its own, as Electron runs it. */
import { readFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import type { Bridge } from "../../../renderer/lib/rpc/bridge.ts";

const SCRIPT = path.join(import.meta.dirname, "../../../dist/preload/preload.cjs");

class FakePort {
  onmessage: ((event: { data: unknown }) => void) | null = null;
  readonly posted: unknown[] = [];
  closed = false;
  postMessage(message: unknown): void {
    this.posted.push(message);
  }
  close(): void {
    this.closed = true;
  }
}
class FakeChannel {
  static readonly all: FakeChannel[] = [];
  readonly port1 = new FakePort();
  readonly port2 = new FakePort();
  constructor() {
    FakeChannel.all.push(this);
  }
}

/** Runs it; returns what it put into the page, and what it sent. */
function load() {
  const exposed: Record<string, unknown> = {};
  const sent: unknown[][] = [];
  const required: string[] = [];
  const electron = {
    contextBridge: { exposeInMainWorld: (name: string, value: unknown) => Object.assign(exposed, { [name]: value }) },
    ipcRenderer: { postMessage: (...given: unknown[]) => void sent.push(given), send: () => {}, on: () => {} },
    webUtils: { getPathForFile: (file: { where: string }) => file.where },
  };
  const require = (name: string) => {
    required.push(name);
    return electron;
  };
  new Function("require", "exports", "module", "process", "MessageChannel", readFileSync(SCRIPT, "utf8"))(
    require,
    {},
    { exports: {} },
    { platform: "linux" },
    FakeChannel,
  );
  return { exposed, sent, required, bridge: exposed.domlab as Bridge };
}

/** Everything that can be reached from a value. */
function* reachable(value: unknown, seen = new Set<unknown>()): Generator<[string, unknown]> {
  if (value === null || typeof value !== "object" || seen.has(value)) return;
  seen.add(value);
  for (const [name, inner] of Object.entries(value)) {
    yield [name, inner];
    yield* reachable(inner, seen);
  }
}

describe("the preload bridge", () => {
  it("gives the page four things, and nothing of Electron's", () => {
    const { exposed, required } = load();
    expect(Object.keys(exposed)).toEqual(["domlab"]);
    expect(required).toEqual(["electron"]);
    const found = [...reachable(exposed.domlab)].map(([name, value]) => [name, typeof value]);
    expect(found).toEqual([
      ["version", "number"],
      ["connect", "function"],
      ["pathOf", "function"],
      ["platform", "string"],
    ]);
  });

  it("passes text over a port that the app gets the other end of", () => {
    const { bridge, sent } = load();
    const heard: string[] = [];
    const connection = bridge.connect((text) => heard.push(text));
    const channel = FakeChannel.all.at(-1);
    expect(sent).toEqual([["domlab:connect", null, [channel?.port2]]]);
    connection.send("out");
    connection.send(7 as never);
    channel?.port1.onmessage?.({ data: "in" });
    expect(channel?.port1.posted).toEqual(["out", "7"]);
    expect(heard).toEqual(["in"]);
    expect([...reachable(connection)].map(([name]) => name)).toEqual(["send", "close"]);
    connection.close();
    expect(channel?.port1.closed).toBe(true);
  });

  it("gives each connection a port of its own", () => {
    const { bridge, sent } = load();
    bridge.connect(() => {});
    bridge.connect(() => {});
    const ports = sent.map(([, , given]) => (given as unknown[])[0]);
    expect(new Set(ports).size).toBe(2);
  });

  it("tells a file's path", () => {
    expect(load().bridge.pathOf({ where: "/disk.img" } as never)).toBe("/disk.img");
  });
});
