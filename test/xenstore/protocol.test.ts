import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { xsHeader } from "../../engine/abi/xs-wire.ts";
import { encodeMessage, type Message, MessageParser, strings } from "../../engine/xenstore/protocol.ts";

const message: fc.Arbitrary<Message> = fc.record({
  type: fc.nat(30),
  requestId: fc.nat(),
  transactionId: fc.nat(),
  payload: fc.uint8Array({ maxLength: 300 }),
});

describe("MessageParser", () => {
  it("finds the same messages wherever the stream is cut", () => {
    fc.assert(
      fc.property(fc.array(message, { maxLength: 5 }), fc.array(fc.integer({ min: 1, max: 50 })), (messages, cuts) => {
        const stream = Buffer.concat(messages.map(encodeMessage));
        const parser = new MessageParser();
        const found: (Message | string)[] = [];
        let at = 0;
        for (const cut of [...cuts, stream.length]) {
          parser.push(stream.subarray(at, at + cut));
          for (let next = parser.next(); next !== undefined; next = parser.next()) found.push(next);
          at += cut;
        }
        const plain = (m: Message) => [m.type, m.requestId, m.transactionId, ...m.payload];
        expect(found.map((m) => (typeof m === "string" ? m : plain(m)))).toEqual(messages.map(plain));
      }),
    );
  });

  it("stops at a payload over 4096 bytes", () => {
    const parser = new MessageParser();
    parser.push(xsHeader.encode({ type: 2, length: 4097 }));
    expect(parser.next()).toBe("too-long");
    parser.push(new Uint8Array(5000));
    expect(parser.next()).toBe("too-long");
  });

  it("splits NUL-terminated strings and refuses what is not terminated", () => {
    expect(strings(Buffer.from("a\0b\0"))).toEqual(["a", "b"]);
    expect(strings(Buffer.from("a\0b"))).toBeUndefined();
    expect(strings(Buffer.from(""))).toEqual([]);
  });
});
