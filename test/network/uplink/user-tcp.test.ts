import { connect, createServer, type Socket } from "node:net";
import { describe, expect, it, onTestFinished } from "vitest";
import { parseIpv4 } from "../../../engine/network/address.ts";
import { Protocol, TcpFlag } from "../../../engine/network/headers.ts";
import { FULL_ROOM } from "../../../engine/network/uplink/user/buffer-pool.ts";
import { hostAddresses } from "../../../engine/network/uplink/user/reachability.ts";
import { MOST_HALF_OPEN } from "../../../engine/network/uplink/user/tcp-guests.ts";
import { GATEWAY, GuestNetwork, GuestSocket, tcpFrame } from "./user-guest.ts";
import { network, tcpServer } from "./user-servers.ts";

function withResolvers<T>(): { promise: Promise<T>; resolve: (value: T) => void } {
  let resolve: (value: T) => void = () => undefined;
  const promise = new Promise<T>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}

/** Every n-th byte known: what is lost, repeated or swapped shows. */
function pattern(length: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let n = 0; n + 4 <= length; n += 4) bytes.writeUInt32LE((n * 2_654_435_761) >>> 0, n);
  return bytes;
}

/** Loses one frame in twenty, the same ones in each run. */
function lossy(): () => boolean {
  let state = 12_345;
  return () => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return (state >>> 16) % 20 === 0;
  };
}

describe("TCP of the user uplink", () => {
  it("carries a connection to a declared port of the host, both ways, and ends it in peace", async () => {
    const { port } = await tcpServer((socket) => socket.pipe(socket));
    const net = await network({ hostLoopback: [port] });
    const socket = new GuestSocket(net, 1000, { address: GATEWAY, port });
    socket.write(Buffer.from("hello"));
    await socket.until((s) => s.received === 5);
    expect(socket.data.toString()).toBe("hello");
    socket.end();
    await socket.until((s) => s.hasEnded && s.isAllAcknowledged);
    expect(net.uplink.describe().connections).not.toHaveProperty("established");
  });

  it.each(["guest to host", "host to guest"])("delivers 1 MiB intact, %s, with 5 % loss both ways", async (way) => {
    const data = pattern(1 << 20);
    const chunks: Buffer[] = [];
    const { port } = await tcpServer((socket) => {
      socket.on("data", (chunk: Buffer) => chunks.push(chunk));
      socket.on("end", () => socket.end());
      if (way === "host to guest") socket.end(data);
    });
    const net = await network({ hostLoopback: [port] });
    net.lose = lossy();
    const socket = new GuestSocket(net, 1000, { address: GATEWAY, port });
    if (way === "guest to host") socket.write(data);
    socket.end();
    await socket.until((s) => s.hasEnded && s.isAllAcknowledged);
    const arrived = way === "host to guest" ? socket.data : Buffer.concat(chunks);
    expect(arrived.equals(data)).toBe(true);
  });

  it("lets a guest half-close: the host answers after the guest's FIN", async () => {
    const { port } = await tcpServer((socket) => {
      let text = "";
      socket.on("data", (chunk) => {
        text += String(chunk);
      });
      socket.on("end", () => socket.end(`got ${text}`));
    });
    const net = await network({ hostLoopback: [port] });
    const socket = new GuestSocket(net, 1000, { address: GATEWAY, port });
    socket.write(Buffer.from("all of it"));
    socket.end();
    await socket.until((s) => s.hasEnded);
    expect(socket.data.toString()).toBe("got all of it");
  });

  it("lets the host half-close: the guest goes on sending", async () => {
    const ended = withResolvers<string>();
    const { port } = await tcpServer((socket) => {
      let text = "";
      socket.end("bye");
      socket.on("data", (chunk) => {
        text += String(chunk);
      });
      socket.on("end", () => ended.resolve(text));
    });
    const net = await network({ hostLoopback: [port] });
    const socket = new GuestSocket(net, 1000, { address: GATEWAY, port });
    await socket.until((s) => s.hasEnded);
    socket.write(Buffer.from("still here"));
    socket.end();
    expect(await ended.promise).toBe("still here");
    expect(socket.data.toString()).toBe("bye");
  });

  it("stops reading from the host while the guest's window is closed, and goes on when it opens", async () => {
    const total = 4 << 20;
    const { port } = await tcpServer((socket) => socket.end(pattern(total)));
    const net = await network({ hostLoopback: [port] });
    const socket = new GuestSocket(net, 1000, { address: GATEWAY, port });
    socket.window = 0;
    // What came before the window was closed; then single bytes, which only ask whether it is open again.
    await socket.until((s) => s.chunks.filter((chunk) => chunk.length === 1).length === 2);
    expect(socket.received).toBeLessThan(100_000);
    expect(net.uplink.describe().buffered).toBeLessThanOrEqual(FULL_ROOM + 65_536);
    socket.window = 0xffff;
    socket.update();
    await socket.until((s) => s.hasEnded);
    expect(socket.data.equals(pattern(total))).toBe(true);
  });

  it("closes the guest's window when the host does not read, and holds no more than its bound", async () => {
    const { port, sockets } = await tcpServer((socket) => socket.pause());
    const net = await network({ hostLoopback: [port] });
    const socket = new GuestSocket(net, 1000, { address: GATEWAY, port });
    const data = pattern(16 << 20);
    socket.write(data);
    const isStuck = async (): Promise<boolean> => {
      const before = net.uplink.counters.bytesIn;
      await new Promise((resolve) => setTimeout(resolve, 100));
      return net.uplink.counters.bytesIn - before < 4096;
    };
    while (!(await isStuck()));
    expect(socket.isAllAcknowledged).toBe(false);
    expect(net.uplink.describe().buffered).toBeGreaterThan(FULL_ROOM / 2);
    expect(net.uplink.describe().buffered).toBeLessThanOrEqual(FULL_ROOM);
    const chunks: Buffer[] = [];
    sockets[0]?.on("data", (chunk: Buffer) => chunks.push(chunk));
    sockets[0]?.resume();
    await socket.until((s) => s.isAllAcknowledged);
    const done = withResolvers<void>();
    sockets[0]?.on("end", () => done.resolve());
    socket.end();
    await done.promise;
    expect(Buffer.concat(chunks).equals(data)).toBe(true);
  });

  it("answers a reset where the host refuses", async () => {
    const { port, server } = await tcpServer(() => undefined);
    await new Promise((resolve) => server.close(resolve));
    const net = await network({ hostLoopback: [port] });
    const socket = new GuestSocket(net, 1000, { address: GATEWAY, port });
    await socket.until((s) => s.state === "reset");
    expect(net.uplink.counters["tcp-refused"]).toBe(1);
  });

  it("passes resets on, either way", async () => {
    const broken = withResolvers<void>();
    const { port, sockets } = await tcpServer((socket) => socket.on("close", () => broken.resolve()));
    const net = await network({ hostLoopback: [port] });
    const first = new GuestSocket(net, 1000, { address: GATEWAY, port });
    first.write(Buffer.from("x"));
    await first.until((s) => s.isAllAcknowledged);
    first.reset();
    await broken.promise;
    const second = new GuestSocket(net, 1001, { address: GATEWAY, port });
    second.write(Buffer.from("x"));
    await second.until((s) => s.isAllAcknowledged);
    while (sockets.length < 2) await new Promise(setImmediate);
    sockets[1]?.resetAndDestroy();
    await second.until((s) => s.state === "reset");
    expect(net.uplink.describe().connections).toEqual({});
  });

  it.each([
    ["loopback", "127.0.0.1"],
    ["another loopback address", "127.9.9.9"],
    ["this host", "0.0.0.0"],
    ["an undeclared port of the gateway", "10.0.2.2"],
    ["the name server's address", "10.0.2.3"],
    ["an own address of the host", "192.0.2.77"],
    ["cloud metadata", "169.254.169.254"],
    ["another guest", "10.0.2.99"],
    ["a group", "224.0.0.1"],
  ])("refuses %s, and nobody is connected to", async (_name, destination) => {
    const { port, sockets } = await tcpServer(() => undefined);
    const net = await network({}, [], ["192.0.2.77", "127.0.0.1"]);
    const socket = new GuestSocket(net, 1000, { address: parseIpv4(destination), port });
    await socket.until((s) => s.state === "reset");
    expect(sockets).toHaveLength(0);
    expect(Object.keys(net.uplink.counters).some((name) => name.startsWith("refused-"))).toBe(true);
  });

  const own = [...hostAddresses()].find((address) => address >>> 24 !== 127);
  it.skipIf(own === undefined)("gives up at once when an address turns out to be the host's own", async () => {
    // The list of own addresses is empty, as for an address that came up a moment ago.
    const seen: Socket[] = [];
    const server = createServer((socket) => seen.push(socket.on("error", () => undefined)));
    await new Promise<void>((resolve) => server.listen(0, "0.0.0.0", resolve));
    onTestFinished(() => new Promise((resolve) => server.close(() => resolve())));
    const address = server.address();
    if (address === null || typeof address === "string") throw new Error("no port");
    const net = await network({}, [], []);
    const socket = new GuestSocket(net, 1000, { address: own ?? 0, port: address.port });
    socket.write(Buffer.from("let me in"));
    await socket.until((s) => s.state === "reset");
    expect(socket.isAllAcknowledged).toBe(false);
    net.sendUdp(4000, own ?? 0, address.port, Buffer.from("x"));
    const { headers } = await net.next((got) => got.headers.protocol === Protocol.icmp);
    expect([headers.icmpType, headers.icmpCode]).toEqual([3, 3]);
    expect(net.uplink.counters["refused-host"]).toBe(2);
    for (const one of seen) expect(one.bytesRead).toBe(0);
  });

  it("reaches what is allowed explicitly, and only that port", async () => {
    const { port, sockets } = await tcpServer((socket) => socket.end("yes"));
    const net = await network({ allowHost: [`127.0.0.1:${port}`] });
    const socket = new GuestSocket(net, 1000, { address: parseIpv4("127.0.0.1"), port });
    await socket.until((s) => s.hasEnded);
    expect(socket.data.toString()).toBe("yes");
    const other = new GuestSocket(net, 1001, { address: parseIpv4("127.0.0.1"), port: (port % 65_535) + 1 });
    await other.until((s) => s.state === "reset");
    expect(sockets).toHaveLength(1);
  });

  it("drops the oldest half-open connections of a guest that floods with SYNs", async () => {
    const { port } = await tcpServer((socket) => socket.end("alive"));
    const net = await network({ hostLoopback: [port] });
    net.keep = false;
    for (let n = 0; n < 4 * MOST_HALF_OPEN; n++) {
      const to = { destination: GATEWAY, to: port, source: net.address, from: 2000 + n };
      net.send(tcpFrame({ ...to, sequence: n, acknowledgement: 0, flags: TcpFlag.syn }));
    }
    expect(net.uplink.counters["tcp-evicted"]).toBe(3 * MOST_HALF_OPEN);
    const socket = new GuestSocket(net, 1000, { address: GATEWAY, port });
    await socket.until((s) => s.hasEnded);
    expect(socket.data.toString()).toBe("alive");
  });

  it("refuses connections past a guest's limit", async () => {
    const { port } = await tcpServer(() => undefined);
    const net = await network({ hostLoopback: [port], connectionsPerGuest: 3 });
    const open = [1, 2, 3].map((n) => new GuestSocket(net, 1000 + n, { address: GATEWAY, port }));
    for (const socket of open) await socket.until((s) => s.state === "open");
    const fourth = new GuestSocket(net, 1004, { address: GATEWAY, port });
    await fourth.until((s) => s.state === "reset");
    expect(net.uplink.counters["tcp-limit"]).toBe(1);
  });

  it("answers a segment without a connection by a reset as RFC 9293 says", async () => {
    const net = await network();
    const ends = { source: net.address, destination: GATEWAY, from: 7, to: 8 };
    net.send(tcpFrame({ ...ends, sequence: 100, acknowledgement: 200, flags: TcpFlag.ack }));
    const { headers } = await net.next((got) => got.headers.protocol === Protocol.tcp);
    expect([headers.tcpFlags, headers.tcpSequence]).toEqual([TcpFlag.rst, 200]);
    net.send(tcpFrame({ ...ends, sequence: 100, acknowledgement: 0, flags: TcpFlag.fin, data: Buffer.from("abc") }));
    const second = (await net.next((got) => got.headers.protocol === Protocol.tcp)).headers;
    expect([second.tcpFlags, second.tcpAcknowledgement]).toEqual([TcpFlag.rst | TcpFlag.ack, 104]);
  });

  it("forwards a port of the host to a guest, which it finds by ARP", async () => {
    const net = await network();
    const listener = new GuestSocket(net, 80);
    const forward = { protocol: "tcp", hostPort: 0, guestAddress: "10.0.2.15", guestPort: 80 } as const;
    const { port } = await freePort();
    await net.uplink.addForward({ ...forward, hostPort: port });
    await expect(net.uplink.addForward({ ...forward, hostPort: port })).rejects.toThrow(
      `host port tcp:127.0.0.1:${port} already is forwarded to 10.0.2.15:80; remove that forward first`,
    );
    const client = connect(port, "127.0.0.1");
    const received = withResolvers<string>();
    let text = "";
    client.on("data", (chunk) => {
      text += String(chunk);
    });
    client.on("end", () => received.resolve(text));
    client.write("GET /");
    await listener.until((s) => s.received === 5);
    listener.write(Buffer.from("200 OK"));
    listener.end();
    expect(await received.promise).toBe("200 OK");
    client.destroy();
    expect(await net.uplink.removeForward({ protocol: "tcp", hostPort: port })).toBe(true);
    expect(await net.uplink.removeForward({ protocol: "tcp", hostPort: port })).toBe(false);
  });

  it("says in one line that a port is in use", async () => {
    const { port } = await tcpServer(() => undefined);
    const forward = { protocol: "tcp", hostPort: port, guestAddress: "10.0.2.15", guestPort: 80 } as const;
    const net = new GuestNetwork({}, [forward]);
    onTestFinished(() => net.close());
    await expect(net.uplink.start()).rejects.toThrow(
      `host port tcp:127.0.0.1:${port} is in use by another program; choose another port, or stop that program`,
    );
  });
});

async function freePort(): Promise<{ port: number }> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("no port");
  return { port: address.port };
}
