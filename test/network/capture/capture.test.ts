import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { FRAME_MOST } from "../../../engine/device/net/frame.ts";
import { BUFFER_LEAST, Capture, type CaptureSink } from "../../../engine/network/capture/capture.ts";
import { CaptureError } from "../../../engine/network/capture/errors.ts";
import { openCaptureFile } from "../../../engine/network/capture/file.ts";
import { compileFilter } from "../../../engine/network/capture/filter.ts";
import { type CapturedPacket, type CaptureRecord, readCapture } from "../../../engine/network/capture/reader.ts";
import type { Clock } from "../../../engine/network/types.ts";
import { eventually } from "../uplinks/context.ts";
import { ethernet, ipv4, lent, tcp } from "./frames.ts";

const folder = mkdtempSync(join(tmpdir(), "domlab-capture-"));
afterAll(() => rmSync(folder, { recursive: true }));

const EPOCH = 1_800_000_000_000_000_000n;
const GUEST = { name: "vif1.0", id: 1 };
const OTHER = { name: "vif2.0", id: 2 };
const syn = ethernet(0x0800, ipv4("10.0.0.1", "10.0.0.2", 6, tcp(4000, 80, 2)));
const data = ethernet(0x0800, ipv4("10.0.0.2", "10.0.0.1", 6, tcp(80, 4000, 16, new Uint8Array(1200).fill(0x61))));

/** A clock that a test moves. */
function stoppedClock(): Clock & { time: number } {
  return { time: 0, now: () => stopped.time, after: () => ({ cancel() {} }) };
}
let stopped = stoppedClock();

/** A sink that keeps copies, and whose writes end when the test says so. */
class SlowSink implements CaptureSink {
  readonly chunks: Uint8Array[] = [];
  closed = 0;
  private waiting: (() => void)[] = [];
  private held = false;

  write(bytes: Uint8Array): Promise<void> {
    this.chunks.push(bytes.slice());
    return this.held ? new Promise((resolve) => this.waiting.push(resolve)) : Promise.resolve();
  }

  close(): Promise<void> {
    this.closed++;
    return Promise.resolve();
  }

  hold(): void {
    this.held = true;
  }

  release(): void {
    this.held = false;
    for (const resolve of this.waiting.splice(0)) resolve();
  }

  bytes(): Uint8Array {
    return Buffer.concat(this.chunks);
  }
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

async function readAll(path: string): Promise<CaptureRecord[]> {
  const records: CaptureRecord[] = [];
  for await (const record of readCapture(path)) records.push(record);
  return records;
}

async function readBytes(bytes: Uint8Array): Promise<CaptureRecord[]> {
  const path = join(folder, "bytes");
  writeFileSync(path, bytes);
  return readAll(path);
}

function packets(records: CaptureRecord[]): CapturedPacket[] {
  return records.filter((record) => record.kind === "packet");
}

function clockAt(time: number): Clock {
  stopped = stoppedClock();
  stopped.time = time;
  return stopped;
}

describe("a capture", () => {
  test("is read back: interfaces, nanoseconds, directions, lengths, statistics", async () => {
    const path = join(folder, "plain.pcapng");
    const filter = compileFilter("tcp");
    if (!filter.ok || filter.value === undefined) throw new Error("filter");
    const sink = await openCaptureFile(path);
    const capture = new Capture({ sink, clock: clockAt(1), filter: filter.value, snapLength: 100, epoch: EPOCH });
    capture.tap(lent(syn), GUEST, "in");
    stopped.time = 2_000_000_003;
    capture.tap(lent(data), OTHER, "out");
    capture.tap(lent(ethernet(0x0806, new Uint8Array(28))), OTHER, "in");
    await expect(capture.close()).resolves.toEqual({ reason: "closed" });
    capture.tap(lent(syn), GUEST, "in");

    const facts = (name: string) => ({ kind: "interface", linkType: 1, snapLength: 100, name, filter: "tcp" });
    const counts = (number: number, received: bigint) => {
      return { kind: "statistics", interface: number, received, accepted: 1n, dropped: 0n, delivered: 1n };
    };
    const common = { kind: "packet", linkType: 1 };
    expect((await readAll(path)).map((record) => (record.kind === "packet" ? { ...record, data: 0 } : record))).toEqual(
      [
        { kind: "section", application: "Domlab" },
        facts("vif1.0"),
        { ...common, time: EPOCH + 1n, data: 0, length: syn.length, interface: 0, direction: "in" },
        facts("vif2.0"),
        { ...common, time: EPOCH + 2_000_000_003n, data: 0, length: data.length, interface: 1, direction: "out" },
        counts(0, 1n),
        counts(1, 2n),
      ],
    );
    const [first, second] = packets(await readAll(path));
    expect(Buffer.from(first!.data)).toEqual(Buffer.from(syn));
    expect(Buffer.from(second!.data)).toEqual(Buffer.from(data.subarray(0, 100)));
  });

  test("takes the longest frame as it is", async () => {
    const sink = new SlowSink();
    const capture = new Capture({ sink, clock: clockAt(0), bufferBytes: BUFFER_LEAST });
    const bytes = Uint8Array.from({ length: FRAME_MOST }, (_, n) => n * 7);
    const frame = lent(bytes);
    frame.segmentation = "tcpv4";
    frame.segmentSize = 1448;
    capture.tap(frame, GUEST, "in");
    await capture.close();
    const [packet] = packets(await readBytes(sink.bytes()));
    expect(Buffer.from(packet!.data).equals(Buffer.from(bytes))).toBe(true);
  });

  test("a slow file makes nobody wait: what does not fit is dropped and counted", async () => {
    const sink = new SlowSink();
    const capture = new Capture({ sink, clock: clockAt(0), bufferBytes: BUFFER_LEAST });
    capture.tap(lent(data), GUEST, "in");
    await turn();
    sink.hold();
    for (let n = 0; n < 1000; n++) capture.tap(lent(data), GUEST, "in");
    // Nobody has heard of this interface yet, and there is no room to describe it either.
    capture.tap(lent(data), OTHER, "in");
    const [vif, other] = capture.statistics();
    expect(vif).toMatchObject({ received: 1001, accepted: 1001 });
    expect(vif!.dropped).toBeGreaterThan(500);
    expect(vif!.captured).toBeGreaterThan(100);
    expect(vif!.captured + vif!.dropped).toBe(1001);
    expect(other).toMatchObject({ received: 1, captured: 0, dropped: 1 });
    sink.release();
    await turn();
    await turn();
    capture.tap(lent(data), OTHER, "in");
    await capture.close();
    const records = await readBytes(sink.bytes());
    expect(packets(records)).toHaveLength(vif!.captured + 1);
    const ends = records.filter((record) => record.kind === "statistics");
    expect(ends.map(({ dropped }) => dropped)).toEqual([BigInt(vif!.dropped), 1n]);
  });

  test("what was written is a valid file at every moment", async () => {
    const path = join(folder, "live.pcapng");
    const capture = new Capture({ sink: await openCaptureFile(path), clock: clockAt(0) });
    capture.addInterface("vif1.0");
    for (let n = 1; n <= 3; n++) {
      capture.tap(lent(syn), GUEST, "in");
      await eventually(async () => packets(await readAll(path)).length).toBe(n);
    }
    await capture.close();
  });

  test("one direction only, so many frames only", async () => {
    const sink = new SlowSink();
    const capture = new Capture({ sink, clock: clockAt(0), direction: "out", frameLimit: 2 });
    for (let n = 0; n < 5; n++) {
      capture.tap(lent(syn), GUEST, "in");
      capture.tap(lent(data), GUEST, "out");
    }
    await expect(capture.ended).resolves.toEqual({ reason: "complete" });
    expect(packets(await readBytes(sink.bytes())).map(({ length }) => length)).toEqual([data.length, data.length]);
    expect(sink.closed).toBe(1);
  });

  test("ends when nothing can be written any more", async () => {
    const full = new CaptureError("unwritable-file", "no space", "free some");
    const sink: CaptureSink = { write: () => Promise.reject(full), close: () => Promise.resolve() };
    const capture = new Capture({ sink, clock: clockAt(0) });
    capture.tap(lent(syn), GUEST, "in");
    await expect(capture.ended).resolves.toEqual({ reason: "failed", error: full });
    await expect(capture.close()).resolves.toEqual({ reason: "failed", error: full });
  });

  test("a file that cannot be made is one line", async () => {
    await expect(openCaptureFile(join(folder, "none", "x.pcapng"))).rejects.toThrow(
      /^capture file .*x\.pcapng: cannot be written, there is no such file or directory; check the path$/,
    );
  });
});

describe("capture files of others", () => {
  function words(little: boolean, ...values: number[]): Uint8Array {
    const bytes = new Uint8Array(values.length * 4);
    for (const [n, value] of values.entries()) new DataView(bytes.buffer).setUint32(n * 4, value, little);
    return bytes;
  }

  test.each([
    ["pcap, microseconds", true, 0xa1b2c3d4, 1_000n],
    ["pcap, nanoseconds", true, 0xa1b23c4d, 1n],
    ["pcap of the other byte order", false, 0xa1b2c3d4, 1_000n],
  ])("%s", async (_, little, magic, unit) => {
    const header = words(little, magic, little ? 0x0004_0002 : 0x0002_0004, 0, 0, 65_535, 1);
    const record = words(little, 1_700_000_000, 42, syn.length, 1500);
    const [packet] = packets(await readBytes(Buffer.concat([header, record, syn])));
    expect(packet).toMatchObject({ length: 1500, linkType: 1, time: 1_700_000_000_000_000_000n + 42n * unit });
    expect(Buffer.from(packet!.data)).toEqual(Buffer.from(syn));
  });

  test("pcapng: other byte order, other resolutions, blocks that are skipped", async () => {
    const block = (type: number, body: Uint8Array) =>
      Buffer.concat([words(false, type, body.length + 12), body, words(false, body.length + 12)]);
    const option = (code: number, value: number) => Uint8Array.from([0, code, 0, 1, value, 0, 0, 0, 0, 0, 0, 0]);
    const four = words(true, 0x64636261);
    const file = Buffer.concat([
      block(0x0a0d0d0a, words(false, 0x1a2b3c4d, 0x0001_0000, 0xffff_ffff, 0xffff_ffff)),
      block(1, Buffer.concat([words(false, 0x0001_0000, 2)])),
      block(1, Buffer.concat([words(false, 0x0001_0000, 0), option(9, 0x81)])),
      block(0x0bad, new Uint8Array(3 << 20)),
      block(6, Buffer.concat([words(false, 0, 0, 5, 4, 4), four])),
      block(6, Buffer.concat([words(false, 1, 0, 5, 4, 4), four])),
      block(3, Buffer.concat([words(false, 4), four])),
    ]);
    const found = packets(await readBytes(file));
    expect(found.map(({ time }) => time)).toEqual([5_000n, 2_500_000_000n, 0n]);
    expect(found.map((packet) => Buffer.from(packet.data).toString())).toEqual(["abcd", "abcd", "ab"]);
  });

  test("a file that was cut off gives its whole packets", async () => {
    const sink = new SlowSink();
    const capture = new Capture({ sink, clock: clockAt(0) });
    for (let n = 0; n < 3; n++) capture.tap(lent(syn), GUEST, "in");
    await turn();
    const whole = sink.bytes();
    await capture.close();
    expect(packets(await readBytes(whole.subarray(0, whole.length - 5)))).toHaveLength(2);
  });

  test("a file that is none is one line", async () => {
    await expect(readBytes(new TextEncoder().encode("GIF89a and more"))).rejects.toThrow(/neither pcapng nor pcap; /);
    await expect(readBytes(new Uint8Array(3))).rejects.toThrow(/too short; /);
    await expect(readAll(join(folder, "absent"))).rejects.toThrow(/there is no such file or directory; /);
  });

  test("damage is an error of one line or fewer packets, never another exception", async () => {
    const sink = new SlowSink();
    const capture = new Capture({ sink, clock: clockAt(0) });
    for (let n = 0; n < 4; n++) capture.tap(lent(n % 2 === 0 ? syn : data), n < 2 ? GUEST : OTHER, "in");
    await capture.close();
    const good = sink.bytes();
    const damage = fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { minLength: 1, maxLength: 8 });
    await fc.assert(
      fc.asyncProperty(damage, fc.nat(good.length), async (changes, length) => {
        const bytes = good.slice();
        for (const [at, value] of changes) bytes[at] = value;
        try {
          await readBytes(bytes.subarray(0, length));
        } catch (error) {
          if (!(error instanceof CaptureError) || error.message.includes("\n")) throw error;
        }
      }),
      { numRuns: 300 },
    );
  });
});

const hasTshark = ["tshark", "capinfos"].every((tool) => spawnSync(tool, ["--version"]).status === 0);

describe.skipIf(!hasTshark)("Wireshark's tools, when they are installed", () => {
  test("read the same", async () => {
    const path = join(folder, "wireshark.pcapng");
    const capture = new Capture({ sink: await openCaptureFile(path), clock: clockAt(5), epoch: EPOCH });
    capture.tap(lent(syn), GUEST, "in");
    capture.tap(lent(data), OTHER, "out");
    await capture.close();
    const fields = [
      "frame.time_epoch",
      "frame.interface_name",
      "frame.len",
      "frame.packet_flags_direction",
      "tcp.dstport",
    ];
    const out = execFileSync("tshark", ["-r", path, "-T", "fields", ...fields.flatMap((field) => ["-e", field])], {
      stdio: ["ignore", "pipe", "ignore"],
    });
    expect(
      out
        .toString()
        .trim()
        .split("\n")
        .map((line) => line.split("\t")),
    ).toEqual([
      ["1800000000.000000005", "vif1.0", String(syn.length), "0x00000001", "80"],
      ["1800000000.000000005", "vif2.0", String(data.length), "0x00000002", "4000"],
    ]);
    const infos = execFileSync("capinfos", ["-M", path]).toString();
    expect(infos).toMatch(/Number of packets:\s+2/);
    expect(infos).toMatch(/Number of interfaces in file:\s+2/);
    expect(readFileSync(path).length % 4).toBe(0);
  });
});
