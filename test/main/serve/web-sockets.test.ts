/** Renderers that misbehave. */
import { connect } from "node:net";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { ControlSession } from "../../../main/lab/control-api.ts";
import { until } from "../app/fake-lab.ts";
import { closeCode, Served } from "./served.ts";

const DATE = "2026-11-21T10:00:00.000Z";

let served: Served;

beforeEach(() => {
  served = new Served({ operationCancel: () => ({ cancelled: true }) });
});
afterEach(() => served.close());

describe("a renderer over a WebSocket", () => {
  it("calls the lab, hears its events, and hears of its end", async () => {
    await served.start();
    const page = await served.page();
    expect(await page.call("operationCancel", { operation: "x" })).toEqual({ ok: true, result: { cancelled: true } });
    await page.call("subscribe", { topics: ["log"] });
    served.lab.session?.send({ kind: "log", date: DATE, line: "hello" });
    await until("the event", () => page.events.length === 1);
    await served.lab.end(false);
    await until("the lab", () => page.events.length === 3);
    expect(page.events.slice(1).map(({ state }) => state)).toEqual(["down", "up"]);
    expect(await page.call("operationCancel", { operation: "x" })).toMatchObject({ ok: true });
  });

  it("is disconnected for bytes, for no messages, and for one that is too long", async () => {
    await served.start();
    const bytes = await served.page();
    bytes.socket.send(Buffer.from("{}"));
    expect(await closeCode(bytes.socket)).toBe(1003);
    const nonsense = await served.page();
    nonsense.socket.send("nonsense");
    expect(await closeCode(nonsense.socket)).toBe(1008);
    const long = await served.page();
    long.socket.on("error", () => {});
    long.socket.send("x".repeat((8 << 20) + 1));
    expect(await closeCode(long.socket)).toBe(1009);
    // The others are none the worse.
    expect(await (await served.page()).call("appInfo")).toMatchObject({ ok: true });
  });

  it("is disconnected when it leaves very much unread", async () => {
    await served.start();
    const page = await served.page();
    await page.call("subscribe", { topics: ["log"] });
    page.socket.pause();
    const line = "x".repeat(1 << 20);
    const session = served.lab.session as ControlSession;
    let gone = false;
    session.onEnd(() => {
      gone = true;
    });
    let sent = 0;
    while (!gone && sent < 400) {
      session.send({ kind: "log", date: DATE, line });
      sent++;
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    await until("the end of its connection to the lab", () => gone);
    expect(sent).toBeLessThan(400);
  });

  it("is disconnected when it does not answer pings, and not while it does", async () => {
    await served.start({ pingMs: 50 });
    const page = await served.page();
    const cookie = await served.cookie();
    // A client that opens a WebSocket and is silent from then on.
    const mute = connect(served.server.port, "127.0.0.1");
    const request = ["GET /rpc HTTP/1.1", `Host: 127.0.0.1:${served.server.port}`, `Origin: ${served.origin}`];
    const upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"];
    const rest = ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", `Cookie: ${cookie}`];
    mute.write(`${[...request, ...upgrade, ...rest].join("\r\n")}\r\n\r\n`);
    mute.resume();
    await new Promise<void>((resolve) => mute.once("close", () => resolve()));
    expect(page.socket.readyState).toBe(page.socket.OPEN);
    expect(await page.call("appInfo")).toMatchObject({ ok: true });
  });

  it("is told when the server goes, and comes back to the next one", async () => {
    await served.start();
    const { port } = served.server;
    const page = await served.page();
    const cookie = await served.cookie();
    const code = closeCode(page.socket);
    await served.server.close();
    expect(await code).toBe(1001);
    await served.start({}, port);
    const socket = await served.connect({ origin: served.origin, cookie });
    expect(socket.readyState).toBe(socket.OPEN);
  });

  it("leaves nothing behind when it goes", async () => {
    await served.start();
    const page = await served.page();
    await page.call("subscribe", { topics: ["log"] });
    // Its own and the one that keeps the lab there.
    expect(served.lab.clients).toBe(2);
    page.socket.terminate();
    await until("the end of its connection", () => served.lab.clients === 1);
  });
});
