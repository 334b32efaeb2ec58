import { spawnSync } from "node:child_process";
import { createSocket, type Socket as UdpSocket } from "node:dgram";
import { existsSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Frame } from "../../../engine/device/net/frame.ts";
import { PollList } from "../../../engine/domain/poll.ts";
import { parseIpv4 } from "../../../engine/network/address.ts";
import { Headers } from "../../../engine/network/headers.ts";
import { hasRightChecksums, segmentTcp } from "../../../engine/network/offload.ts";
import { type OnReadable, type TapOptions, TapUplink } from "../../../engine/network/uplink/tap.ts";
import { HEADER_BYTES, readTapHeader, writeTapHeader } from "../../../engine/network/uplink/tap-header.ts";
import { arp, ethernet, ipv4, lent, MAC_A, tcp, udp } from "../capture/frames.ts";
import { eventually, testContext } from "./context.ts";
import { enterNetworkNamespace, type NetworkNamespace } from "./namespace.ts";

const HOST = "10.9.0.1";
const GUEST = "10.9.0.2";
const FLAG = { syn: 2, ack: 16, psh: 8 };

/** What onInterrupt() of a TypeScript domain does, by looking again and again. */
const onReadable: OnReadable = (descriptor, handler) => {
  const list = new PollList(1);
  list.add(descriptor);
  let armed = true;
  const timer = setInterval(() => {
    list.wait(0);
    if (!armed || !list.ready(0)) return;
    armed = false;
    handler();
  }, 1);
  return {
    eoi() {
      armed = true;
    },
    close: () => clearInterval(timer),
  };
};

const possible =
  process.platform === "linux" &&
  process.getuid?.() === 0 &&
  existsSync("/dev/net/tun") &&
  spawnSync("unshare", ["-n", "ip", "tuntap", "add", "dev", "probe0", "mode", "tap"]).status === 0;

describe("the header of a tap device's frames", () => {
  test("says of a frame what the frame says, and back", () => {
    const headers = new Headers();
    const bytes = new Uint8Array(HEADER_BYTES + 70_000);
    const view = new DataView(bytes.buffer);
    const frame = lent(ethernet(0x0800, ipv4(HOST, GUEST, 6, tcp(1, 2, 16, new Uint8Array(5000)))));
    frame.checksum = "blank";
    frame.segmentation = "tcpv4";
    frame.segmentSize = 1400;
    headers.parse(frame);
    frame.copyTo(bytes, HEADER_BYTES);
    expect(writeTapHeader(bytes, view, frame, headers)).toBe(true);
    expect([...bytes.subarray(0, HEADER_BYTES)]).toEqual([1, 1, 54, 0, 0x78, 5, 34, 0, 16, 0]);
    expect(readTapHeader(view)).toEqual({
      checksum: "blank",
      segmentation: "tcpv4",
      segmentSize: 1400,
      checksumStart: 34,
      checksumOffset: 16,
    });
    frame.segmentation = "tcpv6";
    expect(writeTapHeader(bytes, view, frame, headers)).toBe(false);
    bytes[1] = 3;
    expect(readTapHeader(view)).toBeUndefined();
  });
});

// What needs root and /dev/net/tun; skipped where there is neither.
describe.skipIf(!possible)("a tap device in a network namespace of its own (needs root and /dev/net/tun)", () => {
  let namespace: NetworkNamespace;
  const context = testContext();
  const headers = new Headers();
  let uplink: TapUplink;
  let hostMac = "";

  beforeAll(async () => {
    const entered = enterNetworkNamespace();
    if (entered === undefined) throw new Error("no network namespace, though unshare(1) got one");
    namespace = entered;
    namespace.ip("link", "add", "br0", "type", "bridge");
    uplink = new TapUplink(context, { name: "lab%d", mtu: 1500 }, onReadable);
    await uplink.start();
    namespace.ip("addr", "add", `${HOST}/24`, "dev", "lab0");
    hostMac = /link\/ether (\S+)/.exec(namespace.ip("link", "show", "lab0"))?.[1] ?? "";
    // Whoever answers for the guest is not what is tested.
    namespace.ip("neigh", "replace", GUEST, "lladdr", MAC_A, "dev", "lab0");
  });
  afterAll(async () => {
    await uplink.close();
    expect(namespace.ip("link")).not.toContain("lab0");
    namespace.leave();
  });

  function toHost(ip: Uint8Array): Frame {
    return lent(ethernet(0x0800, ip, { destination: hostMac }));
  }

  /** The next frame from the host that is what the test waits for; others are dropped. */
  async function fromHost(isIt: (headers: Headers) => boolean): Promise<Frame> {
    let found: Frame | undefined;
    await eventually(() => {
      while (found === undefined && context.frames.length > 0) {
        const frame = context.frames.shift()!;
        if (headers.parse(frame) === undefined && isIt(headers)) found = frame;
      }
      return found !== undefined;
    }).toBe(true);
    headers.parse(found!);
    return found!;
  }

  test("is up, and answers ARP", async () => {
    expect(uplink.describe()).toEqual({ kind: "tap", state: "open", device: "lab0", mtu: 1500 });
    expect(
      uplink.deliver(lent(ethernet(0x0806, arp(1, GUEST, HOST), { destination: "ff:ff:ff:ff:ff:ff" }))),
    ).toBeUndefined();
    await fromHost(({ arpOperation, arpSenderAddress }) => arpOperation === 2 && arpSenderAddress === parseIpv4(HOST));
    expect(context.batches).toBeGreaterThan(0);
  });

  test("UDP with blank checksums, both ways", async () => {
    const socket: UdpSocket = createSocket("udp4");
    const messages: Buffer[] = [];
    socket.on("message", (message) => messages.push(message));
    await new Promise<void>((resolve) => socket.bind(7000, HOST, resolve));
    const payload = new Uint8Array(300).fill(0x33);
    const frame = toHost(ipv4(GUEST, HOST, 17, udp(6000, 7000, payload)));
    // A wrong checksum would be dropped by the host: this one says that it is to be made.
    frame.checksum = "blank";
    expect(uplink.deliver(frame)).toBeUndefined();
    await eventually(() => messages.length).toBe(1);
    expect(messages[0]).toEqual(Buffer.from(payload));

    socket.send(Buffer.alloc(100, 0x44), 6000, GUEST);
    const answer = await fromHost(({ destinationPort }) => destinationPort === 6000);
    expect(answer.checksum).toBe("blank");
    const [finished] = segmentTcp(answer, headers);
    headers.parse(finished!);
    expect(hasRightChecksums(finished!, headers)).toBe(true);
    socket.close();
  });

  test("TCP with segmentation still to be done, both ways", async () => {
    const received: Buffer[] = [];
    let connection: Socket | undefined;
    const server: Server = createServer((socket) => {
      connection = socket;
      socket.on("data", (chunk) => received.push(chunk)).on("error", () => {});
    });
    await new Promise<void>((resolve) => server.listen(7001, HOST, resolve));
    const segment = (sequence: number, acknowledgement: number, flags: number, payload = new Uint8Array(0)) => {
      const bytes = tcp(6001, 7001, flags, payload);
      const view = new DataView(bytes.buffer);
      view.setUint32(4, sequence);
      view.setUint32(8, acknowledgement);
      view.setUint16(14, 65_535);
      const frame = toHost(ipv4(GUEST, HOST, 6, bytes));
      frame.checksum = "blank";
      return frame;
    };
    uplink.deliver(segment(1000, 0, FLAG.syn));
    await fromHost(({ sourcePort, tcpFlags }) => sourcePort === 7001 && tcpFlags === (FLAG.syn | FLAG.ack));
    let next = (headers.tcpSequence + 1) >>> 0;
    uplink.deliver(segment(1001, next, FLAG.ack));

    const upload = Uint8Array.from({ length: 20_000 }, (_, n) => n * 13);
    const long = segment(1001, next, FLAG.ack | FLAG.psh, upload);
    long.segmentation = "tcpv4";
    long.segmentSize = 1460;
    expect(uplink.deliver(long)).toBeUndefined();
    await eventually(() => Buffer.concat(received).length).toBe(upload.length);
    expect(Buffer.concat(received).equals(Buffer.from(upload))).toBe(true);

    const download = Buffer.from(Uint8Array.from({ length: 8000 }, (_, n) => n * 17));
    connection!.write(download);
    const got: Buffer[] = [];
    let segmented = 0;
    while (Buffer.concat(got).length < download.length) {
      const frame = await fromHost((found) => found.sourcePort === 7001 && found.payloadLength > 0);
      if (headers.tcpSequence !== next) continue;
      if (frame.segmentation === "tcpv4") {
        segmented++;
        expect(frame.segmentSize).toBeGreaterThan(0);
      }
      const payload = Buffer.alloc(headers.payloadLength);
      frame.copyTo(payload, 0, headers.payloadOffset, headers.payloadLength);
      got.push(payload);
      next = (next + payload.length) >>> 0;
      uplink.deliver(segment(1001 + upload.length, next, FLAG.ack));
    }
    expect(Buffer.concat(got).equals(download)).toBe(true);
    expect(segmented).toBeGreaterThan(0);
    connection!.destroy();
    await new Promise((resolve) => server.close(resolve));
  });

  test("what cannot be is dropped and counted; a device that is down says so", async () => {
    const nonsense = toHost(ipv4(GUEST, HOST, 17, udp(1, 2)));
    nonsense.segmentation = "tcpv4";
    nonsense.segmentSize = 100;
    const before = uplink.counters.malformed;
    expect(uplink.deliver(nonsense)).toBeUndefined();
    expect(uplink.counters.malformed).toBe(before + 1);
    namespace.ip("link", "set", "lab0", "down");
    expect(uplink.deliver(toHost(ipv4(GUEST, HOST, 17, udp(1, 2))))).toBe("down");
    namespace.ip("link", "set", "lab0", "up");
  });

  test("without root it is one line with what to do", async () => {
    process.seteuid?.(65_534);
    // The device is opened before start() returns.
    const started = new TapUplink(testContext(), { name: "x0" }, onReadable).start();
    process.seteuid?.(0);
    await expect(started).rejects.toThrow(/^tap x0: \S+ \S+ needs root; run as root, or [^\n]* uplink user$/);
  });

  test("becomes a member of a bridge", async () => {
    const other = new TapUplink(testContext(), { name: "member", bridge: "br0" }, onReadable);
    await other.start();
    expect(namespace.ip("link", "show", "member")).toContain("master br0");
    await other.close();
  });

  test.each<[string, TapOptions, RegExp]>([
    ["no such bridge", { name: "x0", bridge: "br9" }, /^tap x0: there is no bridge br9; make it: ip link add br9/],
    ["no bridge", { name: "x0", bridge: "lo" }, /^tap x0: lo is no bridge; name a bridge/],
    ["in use", { name: "lab0" }, /^tap lab0: another program uses it; choose another name$/],
    ["of another kind", { name: "br0" }, /^tap br0: an interface of another kind has this name; /],
    ["no name", { name: "a name" }, /^"a name" is no name of an interface; /],
    ["MTU", { name: "x0", mtu: 100_000 }, /^tap x0: the kernel refuses the MTU 100000; /],
  ])("%s is one line", async (_, options, message) => {
    await expect(new TapUplink(testContext(), options, onReadable).start()).rejects.toThrow(message);
    expect(namespace.ip("link")).not.toContain("x0");
  });
});
