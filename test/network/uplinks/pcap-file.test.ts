import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { Capture } from "../../../engine/network/capture/capture.ts";
import { openCaptureFile } from "../../../engine/network/capture/file.ts";
import { type CapturedPacket, readCapture } from "../../../engine/network/capture/reader.ts";
import type { Clock } from "../../../engine/network/types.ts";
import { PcapFileUplink } from "../../../engine/network/uplink/pcap-file.ts";
import { arp, ethernet, lent } from "../capture/frames.ts";
import { bytesOf, eventually, testContext } from "./context.ts";

const folder = mkdtempSync(join(tmpdir(), "domlab-pcap-"));
afterAll(() => rmSync(folder, { recursive: true }));

const frames = ["10.0.0.2", "10.0.0.3", "10.0.0.4"].map((target) => ethernet(0x0806, arp(1, "10.0.0.1", target)));

async function packets(path: string): Promise<CapturedPacket[]> {
  const found: CapturedPacket[] = [];
  for await (const record of readCapture(path)) if (record.kind === "packet") found.push(record);
  return found;
}

/** A file with the frames, `gap` nanoseconds apart. */
async function recorded(name: string, gap: number, snapLength = 100): Promise<string> {
  const path = join(folder, name);
  let now = 0;
  const clock: Clock = { now: () => now, after: () => ({ cancel() {} }) };
  const capture = new Capture({ sink: await openCaptureFile(path), clock, snapLength });
  for (const bytes of frames) {
    capture.tap(lent(bytes), { name: "vif1.0", id: 1 }, "in");
    now += gap;
  }
  await capture.close();
  return path;
}

/** A clock that jumps to whatever is waited for. */
function jumpingClock(): Clock & { time: number; readonly waits: number[] } {
  const clock = {
    time: 1000,
    waits: [] as number[],
    now: () => clock.time,
    after(ns: number, call: () => void) {
      if (ns > 0) clock.waits.push(ns);
      const immediate = setImmediate(() => {
        clock.time += ns;
        call();
      });
      return { cancel: () => clearImmediate(immediate) };
    },
  };
  return clock;
}

describe("a pcap file as uplink", () => {
  test("has what went out", async () => {
    const write = join(folder, "out.pcapng");
    const uplink = new PcapFileUplink(testContext(), { write });
    expect(uplink.deliver(lent(frames[0]!))).toBe("down");
    await uplink.start();
    for (const bytes of frames) expect(uplink.deliver(lent(bytes))).toBeUndefined();
    await uplink.close();
    const found = await packets(write);
    expect(found.map(({ data }) => Buffer.from(data))).toEqual(frames.map((bytes) => Buffer.from(bytes)));
    expect(found.map(({ direction }) => direction)).toEqual(["out", "out", "out"]);
    expect(uplink.counters).toMatchObject({ framesIn: 4, droppedDown: 1, droppedFull: 0 });
    expect(uplink.describe()).toMatchObject({ kind: "pcap", writing: false });
  });

  test("plays a file with its pauses", async () => {
    const play = await recorded("pauses.pcapng", 250_000_000);
    const clock = jumpingClock();
    const context = { ...testContext(), clock };
    const uplink = new PcapFileUplink(context, { play });
    await uplink.start();
    await eventually(() => uplink.describe().state).toBe("done");
    expect(context.frames.map(bytesOf)).toEqual(frames.map((bytes) => Buffer.from(bytes)));
    expect(clock.waits).toEqual([250_000_000, 250_000_000]);
    expect(uplink.deliver(lent(frames[0]!))).toBeUndefined();
    await uplink.close();
  });

  test("plays a file fast, and again", async () => {
    const play = await recorded("again.pcapng", 1e15);
    const context = testContext();
    const uplink = new PcapFileUplink(context, { play, timing: "fast", times: 3 });
    await uplink.start();
    await eventually(() => uplink.describe().state).toBe("done");
    expect(context.frames).toHaveLength(9);
    expect(uplink.counters.framesOut).toBe(9);
    await uplink.close();
  });

  test("close() ends a file that is played for ever, and one in a long pause", async () => {
    for (const options of [{ timing: "fast", times: 0 }, { timing: "recorded" }] as const) {
      const context = testContext();
      const uplink = new PcapFileUplink(context, { play: await recorded("long.pcapng", 1e15), ...options });
      await uplink.start();
      await eventually(() => context.frames.length).toBeGreaterThan(0);
      await uplink.close();
      const count = context.frames.length;
      await new Promise((resolve) => setImmediate(resolve));
      expect(context.frames).toHaveLength(count);
    }
  });

  test("packets that are not whole are not played", async () => {
    const context = testContext();
    const uplink = new PcapFileUplink(context, { play: await recorded("cut.pcapng", 0, 20) });
    await uplink.start();
    await eventually(() => uplink.describe().state).toBe("done");
    expect(context.frames).toHaveLength(0);
    expect(uplink.counters.skipped).toBe(3);
    await uplink.close();
  });

  test("a wrong file is one line, and costs no other", async () => {
    const wrong = join(folder, "wrong");
    const write = join(folder, "precious.pcapng");
    writeFileSync(wrong, "no capture at all");
    writeFileSync(write, "precious");
    await expect(new PcapFileUplink(testContext(), { play: wrong, write }).start()).rejects.toThrow(/neither .*; /);
    expect(readFileSync(write).toString()).toBe("precious");
    await expect(new PcapFileUplink(testContext(), {}).start()).rejects.toThrow(/does nothing; /);
    await expect(new PcapFileUplink(testContext(), { play: write, write }).start()).rejects.toThrow(/two files/);
    await expect(new PcapFileUplink(testContext(), { play: wrong, times: -1 }).start()).rejects.toThrow(/no count; /);
  });

  test("damage further on ends the playing, not the process", async () => {
    const path = await recorded("damaged.pcapng", 0);
    const bytes = readFileSync(path);
    // The second packet's block says it is of 13 bytes.
    const second = bytes.indexOf(frames[1]!) - 24;
    bytes.writeUInt32LE(13, second);
    writeFileSync(path, bytes);
    const context = testContext();
    const uplink = new PcapFileUplink(context, { play: path });
    await uplink.start();
    await eventually(() => uplink.describe().state).toBe("failed");
    expect(context.frames).toHaveLength(1);
    expect(context.lines.join()).toMatch(/a block has the length 13/);
    await uplink.close();
  });
});
