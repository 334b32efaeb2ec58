import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createConnection, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Duplex } from "node:stream";
import fc from "fast-check";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import { FRAME_MOST, Frame } from "../../../engine/device/net/frame.ts";
import { Headers } from "../../../engine/network/headers.ts";
import { hasRightChecksums } from "../../../engine/network/offload.ts";
import { type SocketCounters, SocketUplink } from "../../../engine/network/uplink/socket.ts";
import { FrameDecoder, FrameStream } from "../../../engine/network/uplink/socket-stream.ts";
import { ethernet, ipv4, lent, tcp } from "../capture/frames.ts";
import { bytesOf, eventually, testContext } from "./context.ts";

const folder = mkdtempSync(join(tmpdir(), "domlab-socket-"));
afterAll(() => rmSync(folder, { recursive: true }));

let path = "";
let number = 0;
let open: { close(): Promise<void> }[] = [];
beforeEach(() => {
  path = join(folder, `s${number++}`);
});
afterEach(async () => {
  for (const uplink of open) await uplink.close();
  open = [];
});

function uplink(mode: "listen" | "connect", queueBytes = 1 << 20) {
  const context = testContext();
  const made = new SocketUplink(context, { path, mode, queueBytes });
  open.push(made);
  return { context, uplink: made, state: () => made.describe().state };
}

async function peer(): Promise<Socket> {
  const socket = createConnection(path);
  await new Promise((resolve, reject) => socket.once("connect", resolve).once("error", reject));
  open.push({
    close: async () => {
      socket.destroy();
    },
  });
  return socket;
}

function framed(bytes: Uint8Array, claimed = bytes.length): Buffer {
  const prefix = Buffer.alloc(4);
  prefix.writeUInt32BE(claimed);
  return Buffer.concat([prefix, bytes]);
}

const small = ethernet(0x0800, ipv4("10.0.0.1", "10.0.0.2", 6, tcp(1, 2, 16, new Uint8Array(40).fill(7))));
const large = ethernet(0x0800, ipv4("10.0.0.1", "10.0.0.2", 6, tcp(1, 2, 24, new Uint8Array(9000).fill(9))));

describe("a stream of frames", () => {
  test("any way of cutting it gives the same frames", () => {
    const lengths = fc.array(fc.integer({ min: 0, max: 300 }), { maxLength: 12 });
    fc.assert(
      fc.property(lengths, fc.array(fc.integer({ min: 1, max: 97 }), { minLength: 1 }), (sizes, cuts) => {
        const frames = sizes.map((size, n) => new Uint8Array(size).fill(n));
        const stream = Buffer.concat(frames.map((bytes) => framed(bytes)));
        const faults = { short: 0, long: 0 };
        const decoder = new FrameDecoder(faults);
        const found: Buffer[] = [];
        for (let at = 0, n = 0; at < stream.length; n++) {
          const count = cuts[n % cuts.length] ?? 1;
          expect(decoder.push(stream.subarray(at, at + count), (frame) => found.push(bytesOf(frame)))).toBe(true);
          at += count;
        }
        expect(found).toEqual(frames.filter(({ length }) => length >= 14).map((bytes) => Buffer.from(bytes)));
        expect(faults).toEqual({ short: sizes.filter((size) => size < 14).length, long: 0 });
      }),
    );
  });

  test("any bytes are frames or an end, never an exception", () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 64 })), (chunks) => {
        const decoder = new FrameDecoder({ short: 0, long: 0 });
        for (const chunk of chunks) {
          const sane = decoder.push(chunk, (frame) => expect(frame.length).toBeGreaterThanOrEqual(14));
          if (!sane) return;
        }
      }),
    );
  });

  test("too long for a frame is skipped, too long for a length is the end", () => {
    const faults = { short: 0, long: 0 };
    const decoder = new FrameDecoder(faults);
    const found: number[] = [];
    const take = (frame: Frame) => found.push(frame.length);
    expect(decoder.push(framed(new Uint8Array(FRAME_MOST + 1)), take)).toBe(true);
    expect(decoder.push(framed(new Uint8Array(FRAME_MOST)), take)).toBe(true);
    expect(found).toEqual([FRAME_MOST]);
    expect(faults).toEqual({ short: 0, long: 1 });
    expect(decoder.push(framed(new Uint8Array(0), 0x7fff_ffff), take)).toBe(false);
  });

  test("a peer that does not read costs a bounded number of bytes", () => {
    let taken = 0;
    const stuck = new Duplex({
      read() {},
      write(chunk: Uint8Array) {
        taken += chunk.length;
      },
    });
    const events = { frame() {}, batchEnd() {}, ended() {} };
    const stream = new FrameStream(stuck, events, { short: 0, long: 0 }, 10_000);
    const results = Array.from({ length: 1000 }, () => {
      const room = stream.write(lent(small));
      stream.flush();
      return room;
    });
    const queued = results.filter(Boolean).length;
    expect(queued * (small.length + 4)).toBeLessThanOrEqual(10_000);
    expect(queued).toBeGreaterThan(80);
    expect(results.lastIndexOf(true)).toBe(queued - 1);
    expect(taken).toBe(small.length + 4);
    stream.close();
  });
});

describe("a socket uplink", () => {
  test("joins two switches, whoever comes first", async () => {
    const client = uplink("connect");
    await client.uplink.start();
    expect(client.state()).toBe("connecting");
    expect(client.uplink.deliver(lent(small))).toBe("down");
    const server = uplink("listen");
    await server.uplink.start();
    expect(statSync(path).mode & 0o777).toBe(0o600);
    await eventually(client.state).toBe("connected");
    await eventually(server.state).toBe("connected");

    expect(client.uplink.deliver(lent(small))).toBeUndefined();
    expect(client.uplink.deliver(lent(large))).toBeUndefined();
    client.uplink.flush();
    await eventually(() => server.context.frames.length).toBe(2);
    expect(server.context.frames.map(bytesOf)).toEqual([Buffer.from(small), Buffer.from(large)]);
    expect(server.context.batches).toBeGreaterThan(0);
    // Nobody has called flush().
    expect(server.uplink.deliver(lent(small))).toBeUndefined();
    await eventually(() => client.context.frames.length).toBe(1);
    expect(client.uplink.counters).toMatchObject({ framesIn: 3, framesOut: 1, droppedDown: 1, connected: 1, lost: 0 });
    expect(client.context.lines[0]).toMatch(/nobody listens there yet/);
  });

  test("finds the other side again", async () => {
    let server = uplink("listen");
    await server.uplink.start();
    const client = uplink("connect");
    await client.uplink.start();
    await eventually(server.state).toBe("connected");
    await server.uplink.close();
    await eventually(client.state).toBe("connecting");
    server = uplink("listen");
    await server.uplink.start();
    await eventually(client.state).toBe("connected");
    expect(client.uplink.counters).toMatchObject({ connected: 2, lost: 1 });
  });

  test("what is to be done to frames is done before they leave", async () => {
    const server = uplink("listen");
    await server.uplink.start();
    const socket = await peer();
    const got: Buffer[] = [];
    const decoder = new FrameDecoder({ short: 0, long: 0 });
    const headers = new Headers();
    let right = 0;
    socket.on("data", (chunk) => {
      decoder.push(chunk, (frame) => {
        expect(headers.parse(frame)).toBeUndefined();
        if (hasRightChecksums(frame, headers)) right++;
        got.push(bytesOf(frame).subarray(headers.payloadOffset));
      });
    });
    await eventually(server.state).toBe("connected");
    const blank = lent(small);
    blank.checksum = "blank";
    const long = lent(large);
    long.checksum = "blank";
    long.segmentation = "tcpv4";
    long.segmentSize = 1460;
    server.uplink.deliver(blank);
    server.uplink.deliver(long);
    server.uplink.flush();
    await eventually(() => got.length).toBe(8);
    expect(right).toBe(8);
    expect(Buffer.concat(got)).toEqual(Buffer.concat([Buffer.alloc(40, 7), Buffer.alloc(9000, 9)]));
    const nonsense = lent(small);
    nonsense.segmentation = "tcpv6";
    nonsense.segmentSize = 1000;
    expect(server.uplink.deliver(nonsense)).toBe("full");
  });

  test("a peer whose lengths make no sense is put out; one peer at a time", async () => {
    const server = uplink("listen");
    await server.uplink.start();
    const bad = await peer();
    bad.on("error", () => {});
    await eventually(server.state).toBe("connected");
    const second = await peer();
    await new Promise((resolve) => second.once("close", resolve));
    const counters: SocketCounters = server.uplink.counters;
    expect(counters.refused).toBe(1);
    bad.write(Buffer.concat([framed(new Uint8Array(3)), framed(small), framed(new Uint8Array(0), 0xffff_ffff), small]));
    await eventually(server.state).toBe("listening");
    expect(server.context.frames.map(bytesOf)).toEqual([Buffer.from(small)]);
    expect(counters).toMatchObject({ short: 1, lost: 1 });
    expect(server.context.lines.at(-1)).toMatch(/does not speak in frames/);
    await peer();
    await eventually(server.state).toBe("connected");
  });

  test("takes over the path of an owner that died, and no other", async () => {
    writeFileSync(path, "mine");
    await expect(uplink("listen").uplink.start()).rejects.toThrow(/there is something else at this path; /);
    path = join(folder, "taken");
    await uplink("listen").uplink.start();
    await expect(uplink("listen").uplink.start()).rejects.toThrow(/somebody listens there already; /);
    path = join(folder, "stale");
    const { spawnSync } = await import("node:child_process");
    const script = `require("net").createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, "SIGKILL"))`;
    spawnSync(process.execPath, ["-e", script]);
    expect(statSync(path).isSocket()).toBe(true);
    await uplink("listen").uplink.start();
    await peer();
  });

  test("a path that cannot be is one line", async () => {
    path = join(folder, "x".repeat(200));
    await expect(uplink("listen").uplink.start()).rejects.toThrow(/is no path for a socket; use up to \d+ bytes$/);
    path = join(folder, "none", "s");
    await expect(uplink("listen").uplink.start()).rejects.toThrow(/there is no such directory; /);
  });

  test("after close() nothing is left", async () => {
    const server = uplink("listen");
    await server.uplink.start();
    await server.uplink.close();
    await server.uplink.close();
    expect(() => statSync(path)).toThrow(/ENOENT/);
    expect(server.state()).toBe("closed");
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(path, resolve));
    await new Promise((resolve) => other.close(resolve));
    expect(server.uplink.deliver(Frame.of(small))).toBe("down");
  });
});
