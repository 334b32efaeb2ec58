import { createSocket } from "node:dgram";
import { createServer } from "node:net";
import { describe, expect, it, onTestFinished } from "vitest";
import { Frame } from "../../../engine/device/net/frame.ts";
import { formatIpv4, parseIpv4, writeMac } from "../../../engine/network/address.ts";
import { checksumOf, sumBytes } from "../../../engine/network/checksum.ts";
import { Headers, Protocol } from "../../../engine/network/headers.ts";
import { GuestLink } from "../../../engine/network/uplink/user/guest-link.ts";
import { IcmpService } from "../../../engine/network/uplink/user/icmp.ts";
import { Reachability } from "../../../engine/network/uplink/user/reachability.ts";
import { GATEWAY_MAC, settle } from "../../../engine/network/uplink/user/settings.ts";
import { DNS, GATEWAY, type Got, GUEST_MAC, GuestSocket, hasRightChecksum, ipv4, udpBody } from "./user-guest.ts";
import { network, udpServer } from "./user-servers.ts";

const isUdp = ({ headers }: Got): boolean => headers.protocol === Protocol.udp;
const isIcmp = ({ headers }: Got): boolean => headers.protocol === Protocol.icmp;

function query(id: number): Buffer {
  const name = [1, 97, 4, 116, 101, 115, 116, 0];
  return Buffer.from([id >> 8, id & 255, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, ...name, 0, 1, 0, 1]);
}

function response(asked: Buffer, address = "192.0.2.1"): Buffer {
  const head = Buffer.from(asked);
  head[2] = 0x81;
  head[7] = 1;
  const octets = address.split(".").map(Number);
  return Buffer.concat([head, Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, ...octets])]);
}

describe("name server of the user uplink", () => {
  it("hands queries to the resolver, and its answers back", async () => {
    const { port } = await udpServer((asked, reply) => reply(response(asked)));
    const net = await network({ resolvers: [`127.0.0.1:${port}`] });
    net.sendUdp(5000, DNS, 53, query(7));
    const got = await net.next(isUdp);
    expect(got.payload).toEqual(response(query(7)));
    expect([got.headers.source4, got.headers.sourcePort, got.headers.destinationPort]).toEqual([DNS, 53, 5000]);
  });

  it("asks the next resolver when one is not there, and says SERVFAIL when none is", async () => {
    const { port, socket } = await udpServer((asked, reply) => reply(response(asked)));
    const gone = await udpServer(() => undefined);
    const free = gone.port;
    await gone.close();
    const net = await network({ resolvers: [`127.0.0.1:${free}`, `127.0.0.1:${port}`] });
    net.sendUdp(5000, DNS, 53, query(8));
    expect((await net.next(isUdp)).payload).toEqual(response(query(8)));
    expect(socket.address().port).toBe(port);
    const none = await network({ resolvers: [`127.0.0.1:${free}`] });
    none.sendUdp(5000, DNS, 53, query(9));
    const { payload } = await none.next(isUdp);
    expect([payload.readUInt16BE(0), payload[3]! & 15]).toEqual([9, 2]);
  });

  it("counts what is no query", async () => {
    const net = await network({ resolvers: ["127.0.0.1:1"] });
    net.sendUdp(5000, DNS, 53, Buffer.alloc(3));
    net.sendUdp(5000, DNS, 53, response(query(1)));
    expect(net.uplink.counters["dns-malformed"]).toBe(2);
  });

  it("is there over TCP too", async () => {
    const server = createServer((socket) => socket.on("error", () => undefined).end("tcp answer"));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    onTestFinished(() => new Promise((resolve) => server.close(() => resolve())));
    const address = server.address();
    if (address === null || typeof address === "string") throw new Error("no port");
    const net = await network({ resolvers: [`127.0.0.1:${address.port}`] });
    const socket = new GuestSocket(net, 1000, { address: DNS, port: 53 });
    await socket.until((s) => s.hasEnded);
    expect(socket.data.toString()).toBe("tcp answer");
  });

  it("leads nobody to the loopback by a name that resolves to it", async () => {
    const { port } = await udpServer((asked, reply) => reply(response(asked, "127.0.0.1")));
    const visits: unknown[] = [];
    const server = createServer((socket) => visits.push(socket.destroy()));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    onTestFinished(() => new Promise((resolve) => server.close(() => resolve())));
    const net = await network({ resolvers: [`127.0.0.1:${port}`] });
    net.sendUdp(5000, DNS, 53, query(7));
    const { payload } = await net.next(isUdp);
    const target = server.address();
    if (target === null || typeof target === "string") throw new Error("no port");
    const socket = new GuestSocket(net, 1000, { address: payload.readUInt32BE(payload.length - 4), port: target.port });
    await socket.until((s) => s.state === "reset");
    expect(visits).toHaveLength(0);
    expect(net.uplink.counters["refused-loopback"]).toBe(1);
  });
});

describe("UDP of the user uplink", () => {
  it("carries datagrams to a declared port and the answers back", async () => {
    const { port } = await udpServer((data, reply) => reply(Buffer.from(`re: ${data}`)));
    const net = await network({ hostLoopback: [port] });
    net.sendUdp(4000, GATEWAY, port, Buffer.from("one"));
    const got = await net.next(isUdp);
    expect(got.payload.toString()).toBe("re: one");
    expect([got.headers.source4, got.headers.sourcePort, got.headers.destinationPort]).toEqual([GATEWAY, port, 4000]);
    net.sendUdp(4000, GATEWAY, port, Buffer.from("two"));
    expect((await net.next(isUdp)).payload.toString()).toBe("re: two");
    expect(net.uplink.counters["udp-flows"]).toBe(1);
  });

  it("sends fragments where an answer is longer than the MTU", async () => {
    const long = Buffer.alloc(4000, "abcdefg");
    const { port } = await udpServer((_data, reply) => reply(long));
    const net = await network({ hostLoopback: [port] });
    net.sendUdp(4000, GATEWAY, port, Buffer.from("more"));
    const parts = new Map<number, Buffer>();
    for (let length = 0; length < 4008; ) {
      const { headers, bytes } = await net.next((got) => got.headers.ipVersion === 4);
      expect(headers.l3End - 14).toBeLessThanOrEqual(1500);
      const data = bytes.subarray(34, headers.l3End);
      expect(checksumOf(sumBytes(bytes, 14, 20))).toBe(0);
      parts.set(headers.fragmentOffset, data);
      length += data.length;
    }
    const whole = Buffer.concat([...parts].sort(([a], [b]) => a - b).map(([, data]) => data));
    expect(whole.subarray(8)).toEqual(long);
  });

  it("puts fragments of a guest together, and drops what overlaps", async () => {
    const { port } = await udpServer((data, reply) =>
      reply(Buffer.from([data.length >> 8, data.length & 255, data[2999]!])),
    );
    const net = await network({ hostLoopback: [port] });
    const body = udpBody(net.address, GATEWAY, 4000, port, Buffer.alloc(3000, "0123456789"));
    const fragment = (identification: number, at: number, end: number): Buffer => {
      const bytes = ipv4(Protocol.udp, net.address, GATEWAY, body.subarray(at, end));
      bytes.writeUInt16BE(identification, 18);
      bytes.writeUInt16BE((at >> 3) | (end < body.length ? 0x2000 : 0), 20);
      bytes.writeUInt16BE(0, 24);
      bytes.writeUInt16BE(checksumOf(sumBytes(bytes, 14, 20)), 24);
      return bytes;
    };
    net.send(fragment(1, 0, 1480));
    net.send(fragment(1, 1472, 2960));
    expect(net.uplink.counters["fragments-lost"]).toBe(1);
    for (const [at, end] of [
      [2960, 3008],
      [0, 1480],
      [1480, 2960],
    ] as const)
      net.send(fragment(2, at, end));
    expect([...(await net.next(isUdp)).payload]).toEqual([3000 >> 8, 3000 & 255, "9".charCodeAt(0)]);
  });

  it("answers port unreachable where nobody listens, with the datagram's beginning", async () => {
    const { port, close } = await udpServer(() => undefined);
    await close();
    const net = await network({ hostLoopback: [port] });
    net.sendUdp(4000, GATEWAY, port, Buffer.from("anyone?"));
    const got = await net.next(isIcmp);
    expect([got.headers.icmpType, got.headers.icmpCode]).toEqual([3, 3]);
    expect(hasRightChecksum(got)).toBe(true);
    const quoted = got.bytes.subarray(42);
    expect([quoted.readUInt32BE(12), quoted.readUInt32BE(16)]).toEqual([net.address, GATEWAY]);
    expect([quoted.readUInt16BE(20), quoted.readUInt16BE(22)]).toEqual([4000, port]);
  });

  it.each(["127.0.0.1", "10.0.2.2", "192.0.2.77", "169.254.169.254"])("refuses %s", async (address) => {
    const received: Buffer[] = [];
    const { port } = await udpServer((data) => received.push(data));
    const net = await network({}, [], ["192.0.2.77"]);
    net.sendUdp(4000, parseIpv4(address), port, Buffer.from("x"));
    const { headers } = await net.next(isIcmp);
    expect([headers.icmpType, headers.icmpCode]).toEqual([3, 3]);
    expect(net.uplink.describe().udpFlows).toBe(0);
    expect(received).toHaveLength(0);
  });

  it("keeps no more flows of a guest than its limit", async () => {
    const { port } = await udpServer((data, reply) => reply(data));
    const net = await network({ hostLoopback: [port], flowsPerGuest: 4 });
    for (let n = 0; n < 20; n++) net.sendUdp(4000 + n, GATEWAY, port, Buffer.from([n]));
    expect(net.uplink.describe().udpFlows).toBe(4);
    expect((await net.next(({ payload }) => payload[0] === 19)).headers.destinationPort).toBe(4019);
  });

  it("forwards a port of the host to a guest and its answers back", async () => {
    const net = await network();
    const free = await udpServer(() => undefined);
    await free.close();
    const forward = { protocol: "udp", hostPort: free.port, guestAddress: "10.0.2.15", guestPort: 9 } as const;
    await net.uplink.addForward(forward);
    const answers: string[] = [];
    const { socket, port } = await udpServer((data) => answers.push(data.toString()));
    socket.send("ask", free.port, "127.0.0.1");
    const { headers, payload } = await net.next(isUdp);
    expect([payload.toString(), headers.source4, headers.destinationPort]).toEqual(["ask", GATEWAY, 9]);
    expect(headers.sourcePort).not.toBe(port);
    const arrived = new Promise((resolve) => socket.once("message", resolve));
    // Another port of the guest is not the one that was asked.
    net.sendUdp(10, GATEWAY, headers.sourcePort, Buffer.from("wrong"));
    net.sendUdp(9, GATEWAY, headers.sourcePort, Buffer.from("answer"));
    await arrived;
    expect(answers).toEqual(["answer"]);
  });
});

function echo(destination: number, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from([8, 0, 0, 0, 0x12, 0x34, 0, 9]), data]);
  body.writeUInt16BE(checksumOf(sumBytes(body, 0, body.length)), 2);
  return ipv4(Protocol.icmp, parseIpv4("10.0.2.15"), destination, body);
}

describe("ICMP of the user uplink", () => {
  it.each([GATEWAY, DNS])("answers echo requests to its own addresses", async (address) => {
    const net = await network();
    net.send(echo(address, Buffer.from("ping data")));
    const got = await net.next(isIcmp);
    expect([got.headers.icmpType, got.headers.icmpIdentifier, got.headers.source4]).toEqual([0, 0x1234, address]);
    expect(got.bytes.readUInt16BE(40)).toBe(9);
    expect(got.payload.toString()).toBe("ping data");
    expect(hasRightChecksum(got)).toBe(true);
  });

  it("passes echo requests to other hosts on where ping sockets are allowed, and their answers back", async () => {
    const sent: { message: Buffer; address: string }[] = [];
    const socket = createSocket("udp4");
    const send = (message: Buffer, _port: number, address: string): void => {
      sent.push({ message, address });
      const answer = Buffer.from(message);
      answer[0] = 0;
      // The kernel's own identifier, not the guest's.
      answer.writeUInt16BE(0x9999, 4);
      socket.emit("message", answer, {});
    };
    Object.assign(socket, { send });
    const frames: Frame[] = [];
    const settings = settle({});
    const clock = { now: () => 0, after: () => ({ cancel: () => undefined }) };
    const counters = { framesIn: 0, bytesIn: 0, framesOut: 0, bytesOut: 0 };
    const context = { send: (frame: Frame) => frames.push(frame.clone()), log: () => undefined, clock };
    const link = new GuestLink(settings, context, counters);
    const icmp = new IcmpService(
      link,
      new Reachability(settings, clock, () => new Set()),
      () => 0,
      () => undefined,
      () => socket,
    );
    const frame = Frame.of(echo(parseIpv4("192.0.2.5"), Buffer.from("hello")));
    const headers = new Headers();
    expect(headers.parse(frame)).toBeUndefined();
    icmp.receive(frame, headers);
    await new Promise(setImmediate);
    expect(sent[0]?.address).toBe("192.0.2.5");
    expect(headers.parse(frames[0]!)).toBeUndefined();
    expect([headers.icmpType, headers.icmpIdentifier, formatIpv4(headers.source4)]).toEqual([0, 0x1234, "192.0.2.5"]);
    icmp.close();
    expect(icmp.size).toBe(0);
  });

  it("says prohibited for the host's loopback", async () => {
    const net = await network();
    net.send(echo(parseIpv4("127.0.0.1"), Buffer.alloc(0)));
    const { headers } = await net.next(isIcmp);
    expect([headers.icmpType, headers.icmpCode]).toEqual([3, 13]);
  });

  it("says time exceeded for what has no hops left", async () => {
    const net = await network();
    const bytes = echo(parseIpv4("192.0.2.1"), Buffer.alloc(0));
    bytes[22] = 1;
    bytes.writeUInt16BE(0, 24);
    bytes.writeUInt16BE(checksumOf(sumBytes(bytes, 14, 20)), 24);
    net.send(bytes);
    const { headers } = await net.next(isIcmp);
    expect([headers.icmpType, headers.source4]).toEqual([11, GATEWAY]);
  });

  it("ignores and counts wrong checksums, foreign sources and IPv6", async () => {
    const net = await network();
    const wrong = echo(GATEWAY, Buffer.from("x"));
    wrong[42] = wrong[42]! ^ 1;
    net.send(wrong);
    const foreign = ipv4(Protocol.icmp, parseIpv4("10.9.9.9"), GATEWAY, Buffer.from([8, 0, 0xf7, 0xff, 0, 0, 0, 0]));
    net.send(foreign);
    const six = Buffer.alloc(54);
    writeMac(GATEWAY_MAC, six, 0);
    writeMac(GUEST_MAC, six, 6);
    six.writeUInt16BE(0x86dd, 12);
    six[14] = 0x60;
    six[20] = 59;
    net.send(six);
    expect(net.uplink.counters).toMatchObject({
      "bad-checksum": 1,
      "foreign-source": 1,
      "ignored-ipv6": 1,
      framesOut: 0,
    });
  });
});
