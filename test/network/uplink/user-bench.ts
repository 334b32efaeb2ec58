/**
 * How fast the `user` uplink moves TCP between a guest and a server on the host: a frontend in TypeScript that sends and takes
 * 64 KiB GSO frames, the server in a process of its own. Not a test: `node test/network/uplink/user-bench.ts [seconds]`.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { Frame } from "../../../engine/device/net/frame.ts";
import { foldSum, ipv4HeaderChecksum, pseudoHeader4 } from "../../../engine/network/checksum.ts";
import { Headers, Protocol, TcpFlag } from "../../../engine/network/headers.ts";
import { monotonicClock } from "../../../engine/network/types.ts";
import { put32 } from "../../../engine/network/uplink/user/guest-link.ts";
import { UserUplink } from "../../../engine/network/uplink/user/user-uplink.ts";
import { GATEWAY, tcpFrame } from "./user-guest.ts";

const SECONDS = Number(process.argv[2] ?? 3);
const GUEST = 0x0a00_020f;
const MSS = 1460;
const PAYLOAD = 44 * MSS;
const HEADER = 54;
const SERVER = `
  const { createServer } = require("node:net");
  const block = Buffer.alloc(1 << 20);
  createServer((socket) => {
    socket.on("error", () => undefined);
    if (process.argv[1] === "sink") socket.resume();
    else {
      const more = () => { while (socket.write(block)); };
      socket.on("drain", more);
      more();
    }
  }).listen(0, "127.0.0.1", function () { process.send(this.address().port); });
`;

async function server(kind: "sink" | "source"): Promise<{ port: number; child: ChildProcess }> {
  const child = spawn(process.execPath, ["-e", SERVER, kind], { stdio: ["ignore", "inherit", "inherit", "ipc"] });
  const port = await new Promise<number>((resolve) => child.once("message", (message) => resolve(Number(message))));
  return { port, child };
}

/** The guest's end: as little TCP as will do without loss. */
class Frontend {
  readonly uplink: UserUplink;
  readonly port: number;
  received = 0;
  acknowledged = 0;
  isOpen = false;
  private readonly headers = new Headers();
  private readonly memory = new Uint8Array(PAYLOAD);
  private readonly frame = new Frame();
  private readonly sink = new Uint8Array(65_536);
  private sent = 0;
  private window = 0;
  private next = 0;
  private isAcknowledgementDue = false;

  constructor(port: number) {
    this.port = port;
    this.uplink = new UserUplink(
      { send: (frame) => this.take(frame), log: console.error, clock: monotonicClock },
      { hostLoopback: [port] },
    );
  }

  connect(): void {
    const options = Uint8Array.of(2, 4, MSS >> 8, MSS & 0xff, 1, 3, 3, 7);
    this.uplink.deliver(Frame.of(this.bytes(0, TcpFlag.syn, { options })));
  }

  private bytes(sequence: number, flags: number, more: { options?: Uint8Array; window?: number }): Buffer {
    const ends = { source: GUEST, destination: GATEWAY, from: 1000, to: this.port };
    return tcpFrame({ ...ends, sequence: sequence >>> 0, acknowledgement: this.next, flags, window: 8192, ...more });
  }

  private take(frame: Frame): void {
    const { headers } = this;
    headers.parse(frame);
    if ((headers.tcpFlags & TcpFlag.rst) !== 0) throw new Error("reset");
    if ((headers.tcpFlags & TcpFlag.syn) !== 0) {
      this.next = (headers.tcpSequence + 1) >>> 0;
      this.window = headers.tcpWindow;
      this.isOpen = true;
      this.isAcknowledgementDue = true;
      return;
    }
    this.acknowledged += (headers.tcpAcknowledgement - ((this.acknowledged + 1) >>> 0)) | 0;
    this.window = headers.tcpWindow << 7;
    if (headers.payloadLength === 0) return;
    // What netback does: the one copy into the guest's buffers.
    frame.copyTo(this.sink, 0, headers.payloadOffset, headers.payloadLength);
    this.next = (this.next + headers.payloadLength) >>> 0;
    this.received += headers.payloadLength;
    this.isAcknowledgementDue = true;
  }

  acknowledge(): void {
    if (!this.isAcknowledgementDue) return;
    this.isAcknowledgementDue = false;
    this.uplink.deliver(Frame.of(this.bytes(this.sent + 1, TcpFlag.ack, {})));
  }

  /** Prepares the frame that send() sends again and again, with other numbers. */
  private prepare(): void {
    const { frame } = this;
    const head = this.bytes(0, TcpFlag.ack, {});
    head.writeUInt16BE(40 + PAYLOAD, 16);
    head.writeUInt16BE(ipv4HeaderChecksum(head, 14, 20), 24);
    head.writeUInt16BE(foldSum(pseudoHeader4(GUEST, GATEWAY, Protocol.tcp, 20 + PAYLOAD)), 50);
    frame.reset(HEADER + PAYLOAD);
    frame.head.set(head);
    frame.headLength = HEADER;
    frame.add(this.memory, 0, PAYLOAD);
    frame.checksum = "blank";
    frame.segmentation = "tcpv4";
    frame.segmentSize = MSS;
  }

  /** As much as the window takes. */
  send(): void {
    if (!this.isOpen) return;
    if (this.sent === 0) this.prepare();
    while (this.sent + PAYLOAD - this.acknowledged <= this.window) {
      put32(this.frame.head, 38, (this.sent + 1) >>> 0);
      put32(this.frame.head, 42, this.next);
      this.sent += PAYLOAD;
      this.uplink.deliver(this.frame);
    }
  }
}

async function measure(kind: "sink" | "source"): Promise<void> {
  const { port, child } = await server(kind);
  const guest = new Frontend(port);
  await guest.uplink.start();
  guest.connect();
  const cpu = process.cpuUsage();
  const end = performance.now() + SECONDS * 1000;
  while (performance.now() < end) {
    if (kind === "sink") guest.send();
    guest.acknowledge();
    await new Promise(setImmediate);
  }
  const bytes = kind === "sink" ? guest.acknowledged : guest.received;
  const { user, system } = process.cpuUsage(cpu);
  const perCpu = (bytes / ((user + system) / 1e6) / 1e9).toFixed(2);
  const way = kind === "sink" ? "guest to host" : "host to guest";
  const split = `${(user / 1e6).toFixed(2)} s user, ${(system / 1e6).toFixed(2)} s system`;
  console.log(
    `${way}: ${(bytes / SECONDS / 1e9).toFixed(2)} GB/s; a CPU second (${split}): ${perCpu} GB`,
    guest.uplink.counters,
  );
  await guest.uplink.close();
  child.kill();
}

await measure("sink");
await measure("source");
