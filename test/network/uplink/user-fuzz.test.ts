import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseIpv4 } from "../../../engine/network/address.ts";
import { Protocol, TcpFlag } from "../../../engine/network/headers.ts";
import { FULL_ROOM } from "../../../engine/network/uplink/user/buffer-pool.ts";
import { DNS, GATEWAY, type GuestNetwork, GuestSocket, ipv4, tcpFrame, udpBody } from "./user-guest.ts";
import { network, tcpServer } from "./user-servers.ts";

async function fuzzed(port: number): Promise<GuestNetwork> {
  // A resolver that is not there: what comes of fuzz goes nowhere outside.
  const made = await network({ hostLoopback: [port], resolvers: ["127.0.0.1:9"] });
  made.keep = false;
  return made;
}

const GUEST = parseIpv4("10.0.2.15");
/** Nothing of the host's outside: only what the uplink itself answers or refuses. */
const destination = fc.constantFrom(GATEWAY, DNS, parseIpv4("127.0.0.1"), parseIpv4("10.0.2.99"), 0xffff_ffff);
const port16 = fc.integer({ min: 0, max: 0xffff });
const bytes = fc.uint8Array({ maxLength: 400 });

/** Frames that get further and further into the uplink before they are found to be nonsense. */
const frames = fc.oneof(
  bytes,
  fc.tuple(fc.constantFrom(1, 2, 6, 17, 47), destination, bytes).map(([p, to, body]) => ipv4(p, GUEST, to, body)),
  fc
    .tuple(destination, port16, fc.constantFrom(53, 67, 68, 1234), bytes)
    .map(([to, from, port, data]) => ipv4(Protocol.udp, GUEST, to, udpBody(GUEST, to, from, port, data))),
  fc.tuple(fc.constantFrom(1, 3, 4, 7, 8, 99), bytes).map(([type, options]) => {
    const message = Buffer.alloc(240 + 3 + options.length);
    message.set([1, 1, 6]);
    message.set([0, 0x16, 0x3e, 0, 0, 1], 28);
    message.set([0x63, 0x82, 0x53, 0x63, 53, 1, type, ...options], 236);
    return ipv4(Protocol.udp, 0, 0xffff_ffff, udpBody(0, 0xffff_ffff, 68, 67, message));
  }),
);

describe("user uplink, whatever a guest sends", () => {
  it("never throws at frames of any kind", async () => {
    const { port } = await tcpServer((socket) => socket.end());
    const net = await fuzzed(port);
    await fc.assert(
      fc.asyncProperty(fc.array(frames, { maxLength: 8 }), async (list) => {
        for (const frame of list) net.send(frame);
        await new Promise(setImmediate);
      }),
      { numRuns: 300 },
    );
    const socket = new GuestSocket(net, 1000, { address: GATEWAY, port });
    await socket.until((s) => s.hasEnded);
  });

  it("never throws at segments around a connection's numbers, and holds no more than its bound", async () => {
    const { port } = await tcpServer((socket) => socket.on("data", (data: Buffer) => socket.write(data)));
    const net = await fuzzed(port);
    const segment = fc.record({
      from: fc.integer({ min: 0, max: 2 }),
      flags: fc.integer({ min: 0, max: 63 }),
      sequence: fc.oneof(fc.integer({ min: 0, max: 3000 }), fc.nat()),
      acknowledgement: fc.oneof(fc.integer({ min: -5, max: 2000 }), fc.nat()),
      window: port16,
      options: fc.constantFrom(
        new Uint8Array(0),
        Uint8Array.of(2, 4, 0, 1),
        Uint8Array.of(3, 3, 255, 0),
        Uint8Array.of(2, 0, 9, 9),
      ),
      data: fc.uint8Array({ maxLength: 600 }),
    });
    // New ports for each run, as what is left of the last may wait for long.
    const ports = { from: 2000 };
    await fc.assert(
      fc.asyncProperty(fc.array(segment, { minLength: 1, maxLength: 20 }), async (list) => {
        const ends = { source: GUEST, destination: GATEWAY, to: port };
        /** Our side's first numbers, by the guest's port. */
        const initial = new Map<number, number>();
        for (const from of [0, 1, 2].map((n) => n + ports.from)) {
          const answer = net.next(({ headers }) => headers.destinationPort === from && headers.tcpFlags === 18);
          net.send(tcpFrame({ ...ends, from, sequence: 99, acknowledgement: 0, flags: TcpFlag.syn }));
          initial.set(from, (await answer).headers.tcpSequence);
        }
        for (const one of list) {
          const acknowledgement = ((initial.get(one.from + ports.from) ?? 0) + one.acknowledgement) >>> 0;
          net.send(
            tcpFrame({
              ...ends,
              ...one,
              from: one.from + ports.from,
              sequence: (100 + one.sequence) >>> 0,
              acknowledgement,
            }),
          );
        }
        await new Promise(setImmediate);
        expect(net.uplink.describe().buffered).toBeLessThanOrEqual(ports.from * 2 * FULL_ROOM);
        ports.from += 3;
      }),
      { numRuns: 150 },
    );
    const socket = new GuestSocket(net, 1000, { address: GATEWAY, port });
    socket.write(Buffer.from("alive"));
    await socket.until((s) => s.received === 5);
  });

  it("puts a stream together from pieces in any order, however they overlap", async () => {
    let received: Buffer[] = [];
    let ended: () => void = () => undefined;
    const { port } = await tcpServer((socket) => {
      socket.on("data", (data: Buffer) => received.push(data));
      socket.on("end", () => {
        socket.end();
        ended();
      });
    });
    const net = await fuzzed(port);
    const stream = Buffer.from(Array.from({ length: 8000 }, (_, n) => (n * 31 + (n >> 8)) & 255));
    let from = 2000;
    const piece = fc.tuple(fc.integer({ min: 0, max: 7999 }), fc.integer({ min: 1, max: 1400 }));
    await fc.assert(
      fc.asyncProperty(fc.array(piece, { maxLength: 40 }), fc.nat(), async (pieces, start) => {
        received = [];
        from++;
        const hasEnded = new Promise<void>((resolve) => {
          ended = resolve;
        });
        const initial = (0xffff_f000 + start) >>> 0;
        const ends = { source: GUEST, destination: GATEWAY, from, to: port };
        const answer = net.next(({ headers }) => headers.destinationPort === from && headers.tcpFlags === 18);
        net.send(tcpFrame({ ...ends, sequence: initial, acknowledgement: 0, flags: TcpFlag.syn }));
        const acknowledgement = ((await answer).headers.tcpSequence + 1) >>> 0;
        const send = (at: number, length: number, flags: number): void => {
          const sequence = (initial + 1 + at) >>> 0;
          net.send(tcpFrame({ ...ends, sequence, acknowledgement, flags, data: stream.subarray(at, at + length) }));
        };
        for (const [at, length] of pieces) send(at, length, TcpFlag.ack);
        // In the end everything once more, in order: whatever came before must make no difference.
        for (let at = 0; at < stream.length; at += 1000) {
          send(at, 1000, at + 1000 === stream.length ? TcpFlag.ack | TcpFlag.fin : TcpFlag.ack);
        }
        await hasEnded;
        expect(Buffer.concat(received).equals(stream)).toBe(true);
      }),
      { numRuns: 60 },
    );
  });
});
