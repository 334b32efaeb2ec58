import { describe, expect, it } from "vitest";
import { XS_ERROR, XS_REQUEST_PROD, XS_RESPONSE_CONS, XS_RESPONSE_PROD, XsType } from "../../engine/abi/xs-wire.ts";
import { planFrames } from "../../engine/memory/frame-plan.ts";
import { createGuestMemory } from "../../engine/memory/guest-memory.ts";
import { decodeText, encodeMessage, encodeText, MessageParser } from "../../engine/xenstore/protocol.ts";
import { XenstoreRing } from "../../engine/xenstore/ring.ts";
import { XenstoreServer } from "../../engine/xenstore/server.ts";
import { Store } from "../../engine/xenstore/store.ts";

/** The guest's end of its XenStore page. */
function guest() {
  const mapping = createGuestMemory(planFrames(1 << 20), 0, "threads").attach(0);
  const page = mapping.plan.xenstore;
  const store = new Store();
  store.write("/local/domain/7/data/long", "x".repeat(2000));
  let events = 0;
  const server = new XenstoreServer(store, 7, new XenstoreRing(mapping), () => events++);
  const parser = new MessageParser();
  let produced = 0;
  const word = (field: number) => mapping.view.getUint32(page + field, true);
  return {
    server,
    word,
    events: () => events,
    setWord: (field: number, value: number) => mapping.view.setUint32(page + field, value, true),
    send(type: number, payload: string) {
      for (const byte of encodeMessage({ type, requestId: 1, transactionId: 0, payload: encodeText(payload) })) {
        mapping.bytes[page + (produced++ % 1024)] = byte;
      }
      mapping.view.setUint32(page + XS_REQUEST_PROD, produced, true);
      server.handleEvent();
    },
    receive(): string[] {
      const bytes = [];
      let consumed = word(XS_RESPONSE_CONS);
      while (consumed !== word(XS_RESPONSE_PROD)) bytes.push(mapping.bytes[page + 1024 + (consumed++ % 1024)] ?? 0);
      mapping.view.setUint32(page + XS_RESPONSE_CONS, consumed, true);
      return parser.push(Uint8Array.from(bytes)).map((m) => (m === "too-long" ? m : decodeText(m.payload)));
    },
  };
}

describe("XenStore server", () => {
  it("answers over the ring, many times around", () => {
    const g = guest();
    for (let i = 0; i < 200; i++) {
      g.send(XsType.WRITE, `data/k\0${i}`);
      expect(g.receive()).toEqual(["OK\0"]);
      g.send(XsType.READ, "data/k\0");
      expect(g.receive()).toEqual([String(i)]);
    }
    expect(g.events()).toBe(400);
  });

  it("sends a reply longer than the ring in pieces", () => {
    const g = guest();
    g.send(XsType.READ, "data/long\0");
    expect(g.receive()).toEqual([]);
    g.server.handleEvent();
    g.receive();
    g.server.handleEvent();
    expect(g.word(XS_RESPONSE_PROD)).toBe(2016);
  });

  it("ends the connection at an impossible index or an oversized message", () => {
    const g = guest();
    g.setWord(XS_REQUEST_PROD, 1025);
    g.server.handleEvent();
    expect(g.word(XS_ERROR)).toBe(2);
    const h = guest();
    h.send(XsType.READ, "data/long\0");
    h.setWord(XS_RESPONSE_CONS, 0xf0000000);
    h.server.handleEvent();
    expect(h.word(XS_ERROR)).toBe(2);
  });
});
