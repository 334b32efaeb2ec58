import { describe, expect, it } from "vitest";
import {
  XS_CONNECTION,
  XS_ERROR,
  XS_REQUEST_CONS,
  XS_REQUEST_PROD,
  XS_RESPONSE_CONS,
  XS_RESPONSE_PROD,
  XS_SERVER_FEATURES,
  XsType,
} from "../../engine/abi/xs-wire.ts";
import { planFrames } from "../../engine/memory/frame-plan.ts";
import { createGuestMemory } from "../../engine/memory/guest-memory.ts";
import { XenstoreClient } from "../../engine/xenstore/client.ts";
import { decodeText, encodeMessage, encodeText, MessageParser } from "../../engine/xenstore/protocol.ts";
import { ClientRelay, DaemonRelay, type RelayMessage, RingRelay, WINDOW } from "../../engine/xenstore/relay.ts";
import { XenstoreRing } from "../../engine/xenstore/ring.ts";
import { lab } from "./harness.ts";

/** A guest's end of its XenStore page, with a channel that delivers when told to. */
function guest() {
  const mapping = createGuestMemory(planFrames(1 << 20), 0, "threads").attach();
  const page = mapping.base + mapping.plan.xenstore;
  const daemon = lab();
  let events = 0;
  const toMain: RelayMessage[] = [];
  const toDomain: RelayMessage[] = [];
  const near = new RingRelay(
    new XenstoreRing(mapping),
    (message) => toMain.push(message),
    () => events++,
  );
  const far = new DaemonRelay(daemon, 7, (message) => toDomain.push(message));
  const parser = new MessageParser();
  let produced = 0;
  const word = (field: number) => mapping.view.getUint32(page + field, true);
  const setWord = (field: number, value: number) => mapping.view.setUint32(page + field, value, true);
  function write(bytes: Uint8Array): boolean {
    if (produced + bytes.length - word(XS_REQUEST_CONS) > 1024) return false;
    for (const byte of bytes) mapping.bytes[page + (produced++ % 1024)] = byte;
    setWord(XS_REQUEST_PROD, produced);
    near.handleEvent();
    return true;
  }
  function settle(): void {
    while (toMain.length + toDomain.length > 0) {
      for (const message of toMain.splice(0)) far.receive(message);
      for (const message of toDomain.splice(0)) near.receive(message);
    }
  }
  return {
    daemon,
    word,
    setWord,
    settle,
    events: () => events,
    event: () => near.handleEvent(),
    underWay: () => [...toMain],
    restart: () => {
      produced = 0;
    },
    /** Writes as much of a request as there is room for. */
    send(type: number, payload: string): boolean {
      return write(encodeMessage({ type, requestId: 1, transactionId: 0, payload: encodeText(payload) }));
    },
    sendRaw: (text: string) => write(encodeText(text)),
    receive(): string[] {
      let consumed = word(XS_RESPONSE_CONS);
      const bytes = [];
      while (consumed !== word(XS_RESPONSE_PROD)) bytes.push(mapping.bytes[page + 1024 + (consumed++ % 1024)] ?? 0);
      setWord(XS_RESPONSE_CONS, consumed);
      parser.push(Uint8Array.from(bytes));
      const found = [];
      for (let next = parser.next(); typeof next === "object"; next = parser.next())
        found.push(decodeText(next.payload));
      return found;
    },
  };
}

describe("XenStore ring and relay", () => {
  it("answers over the ring, many times around", () => {
    const g = guest();
    expect(g.word(XS_SERVER_FEATURES)).toBe(7);
    for (let i = 0; i < 200; i++) {
      g.send(XsType.WRITE, `data/k\0${i}`);
      g.settle();
      expect(g.receive()).toEqual(["OK\0"]);
      g.send(XsType.READ, "data/k\0");
      g.settle();
      expect(g.receive()).toEqual([String(i)]);
    }
    expect(g.events()).toBeGreaterThanOrEqual(400);
  });

  it("sends a reply longer than the ring in pieces", () => {
    const g = guest();
    g.daemon.toolstack.write("/local/domain/7/data/long", "x".repeat(2000));
    g.send(XsType.READ, "data/long\0");
    const found: string[] = [];
    for (let i = 0; i < 3; i++) {
      g.settle();
      found.push(...g.receive());
      g.event();
    }
    expect(found).toEqual(["x".repeat(2000)]);
  });

  it("stalls a guest that does not read, holds little for it, and goes on when it reads", () => {
    const g = guest();
    let sent = 0;
    while (g.send(XsType.READ, "memory/static-max\0")) {
      sent++;
      g.settle();
      expect(sent).toBeLessThan(1000);
    }
    expect(g.daemon.usage(7)?.memory).toBeLessThan(100_000);
    let found = 0;
    for (let i = 0; i < 200; i++) {
      found += g.receive().length;
      g.event();
      g.settle();
    }
    expect(found).toBe(sent);
  });

  it("reads no more than the window ahead of the daemon", () => {
    const g = guest();
    while (g.send(XsType.WRITE, `data/k\0${"x".repeat(500)}`));
    const bytes = g.underWay().map((message) => ("toDaemon" in message ? message.toDaemon.length : 0));
    expect(bytes.reduce((sum, length) => sum + length, 0)).toBe(WINDOW);
  });

  it("reconnects on a message boundary, without watches, and after an error too", () => {
    const g = guest();
    g.send(XsType.WATCH, "data\0t\0");
    g.settle();
    g.receive();
    g.setWord(XS_REQUEST_PROD, 0xffff);
    g.event();
    g.settle();
    expect(g.word(XS_ERROR)).toBe(2);
    g.setWord(XS_CONNECTION, 1);
    g.event();
    expect(g.word(XS_CONNECTION)).toBe(1);
    g.settle();
    expect([XS_CONNECTION, XS_ERROR, XS_REQUEST_PROD, XS_RESPONSE_PROD].map(g.word)).toEqual([0, 0, 0, 0]);
    expect(g.daemon.usage(7)?.watches).toBe(0);
    g.restart();
    g.send(XsType.READ, "name\0");
    g.settle();
    expect(g.receive()).toEqual(["guest7"]);
  });

  it.each([
    [XS_REQUEST_PROD, 5000],
    [XS_RESPONSE_CONS, 0xf0000000],
  ])("ends the connection at an impossible index in field %i", (field, value) => {
    const g = guest();
    g.send(XsType.WATCH, "data\0t\0");
    g.setWord(field, value);
    g.event();
    g.settle();
    expect(g.word(XS_ERROR)).toBe(2);
    expect(g.daemon.usage(7)?.watches).toBe(0);
  });

  it("tells the guest that its message was too long", () => {
    const g = guest();
    g.sendRaw("\u0002\0\0\0\0\0\0\0\0\0\0\0\u0001\u0010\0\0");
    g.settle();
    expect(g.word(XS_ERROR)).toBe(3);
    expect(g.send(XsType.READ, "name\0")).toBe(true);
    expect(g.underWay()).toEqual([]);
  });

  it("carries a client without a ring", async () => {
    const daemon = lab();
    const near: ClientRelay = new ClientRelay((message) => queueMicrotask(() => far.receive(message)));
    const far = new DaemonRelay(daemon, 7, (message) => queueMicrotask(() => near.receive(message)));
    const client = new XenstoreClient(near);
    const values = Array.from({ length: 100 }, (_, i) => `${i} ${"x".repeat(1500)}`);
    await Promise.all(values.map((value, i) => client.write(`data/n${i}`, value)));
    expect(await Promise.all(values.map((_, i) => client.read(`data/n${i}`)))).toEqual(values);
    near.closed();
    await expect(client.read("name")).rejects.toMatchObject({ code: "ENOTCONN" });
  });
});
