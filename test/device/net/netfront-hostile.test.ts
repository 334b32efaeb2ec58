/** A frontend whose backend answers what it likes: it neither throws nor loses buffers, and believes no impossible size. */
import fc from "fast-check";
import { expect, it } from "vitest";
import { Frame } from "../../../engine/device/net/frame.ts";
import { NetfrontReceive } from "../../../engine/device/net/netfront-receive.ts";
import { NetfrontTransmit } from "../../../engine/device/net/netfront-transmit.ts";
import { RECEIVE_SLOT, TRANSMIT_SLOT } from "../../../engine/device/net/protocol.ts";
import { BackRing } from "../../../engine/device/ring/back.ts";
import { initialiseSharedRing, SharedRing } from "../../../engine/device/ring/layout.ts";
import { BACKEND, FakeDomain } from "../xenbus-harness.ts";
import { makeFrame, PAGE } from "./net-harness.ts";

function ringFor(domain: FakeDomain, slot: number): SharedRing {
  const shared = new SharedRing(domain.memory, [domain.allocatePage()!], slot);
  initialiseSharedRing(shared);
  return shared;
}

const word = fc.oneof(fc.integer({ min: 0, max: 0xffff_ffff }), fc.integer({ min: 0, max: 15 }));

it("receives anything", () => {
  const size = fc.integer({ min: -3, max: 5000 });
  const response = fc.oneof(
    fc.tuple(word, word),
    fc.tuple(fc.nat(255), size).map(([flags, status]) => [0, flags | (status << 16)] as [number, number]),
  );
  fc.assert(
    fc.property(fc.array(response, { maxLength: 300 }), (responses) => {
      const domain = new FakeDomain(64);
      const shared = ringFor(domain, RECEIVE_SLOT);
      const back = new BackRing(shared);
      const held: number[] = [];
      const front = new NetfrontReceive({
        ring: shared,
        grants: domain,
        acceptor: undefined,
        backendId: BACKEND,
        buffers: 32,
        dispose: (page, ref) => {
          expect(domain.endAccess(ref)).toBe(true);
          domain.freePage(page);
        },
        receive: (frame) => {
          const bytes = new Uint8Array(frame.length);
          expect(frame.copyTo(bytes, 0)).toBe(frame.length);
          expect(frame.segments).toBeLessThanOrEqual(20);
          expect(frame.length).toBeLessThanOrEqual(20 * PAGE);
        },
        broken: () => held.push(1),
      });
      const words = new Int32Array(2);
      front.refill();
      for (const [first, second] of responses) {
        back.copyRequest(words, 0);
        words[0] = first;
        words[1] = second;
        back.putResponse(words, 0, 2);
        back.pushResponsesAndCheckNotify();
        front.poll();
        front.refill();
      }
      expect(held).toEqual([]);
      // Buffers of a frame that has no end yet are not lost either.
      front.close();
      expect(domain.allocated.size).toBe(1);
      expect(domain.entries.size).toBe(0);
    }),
    { numRuns: 200 },
  );
});

it("is told that anything was sent", () => {
  fc.assert(
    fc.property(fc.array(word, { maxLength: 60 }), (answers) => {
      const domain = new FakeDomain(64);
      const shared = ringFor(domain, TRANSMIT_SLOT);
      const back = new BackRing(shared);
      let broken = 0;
      let done = 0;
      const front = new NetfrontTransmit({
        ring: shared,
        grants: domain,
        backendId: BACKEND,
        dispose: (page, ref) => {
          expect(domain.endAccess(ref)).toBe(true);
          domain.freePage(page);
        },
        pages: 8,
        broken: () => {
          broken++;
        },
      });
      let sent = 0;
      const words = new Int32Array(3);
      for (const answer of answers) {
        if (front.send(makeFrame(5000), { done: () => done++ })) sent++;
        front.push();
        if (back.unconsumedRequests() === 0) break;
        back.copyRequest(words, 0);
        words[0] = answer;
        back.putResponse(words, 0, 1);
        back.pushResponsesAndCheckNotify();
        front.poll();
      }
      front.close();
      // Everybody who waits is told, once.
      expect(done).toBe(sent);
      expect(broken).toBeLessThanOrEqual(1);
      expect(domain.allocated.size).toBe(1);
    }),
    { numRuns: 200 },
  );
});

it("keeps a copy of what is kept, wherever it lies", () => {
  fc.assert(
    fc.property(fc.nat(300), fc.array(fc.tuple(fc.nat(50), fc.nat(900)), { maxLength: 5 }), (head, pieces) => {
      const memory = new Uint8Array(16_384).map((_, n) => (n * 7) & 0xff);
      const frame = new Frame(512);
      frame.reset(head + pieces.reduce((sum, [, length]) => sum + length, 0));
      frame.headLength = head;
      frame.head.set(memory.subarray(0, head));
      const parts = [memory.slice(0, head)];
      for (const [n, [gap, length]] of pieces.entries()) {
        frame.add(memory, 1000 * n + gap, length);
        parts.push(memory.slice(1000 * n + gap, 1000 * n + gap + length));
      }
      const copy = frame.clone();
      memory.fill(0);
      const bytes = new Uint8Array(copy.length);
      copy.copyTo(bytes, 0);
      expect(Buffer.compare(bytes, Buffer.concat(parts))).toBe(0);
      expect(copy.alignment).toBe(copy.head.byteOffset & 7);
    }),
  );
});
