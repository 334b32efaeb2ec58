import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { LabEvent } from "../../../../main/lab/machine-api.ts";
import { type Counted, sampleBetween } from "../../../../main/lab/server/metrics.ts";
import { LabFixture } from "../machines/lab-fixture.ts";

const counted = (change: Partial<Counted>): Counted => ({
  domid: 3,
  time: 1000,
  instructions: 5e6,
  busySeconds: 2,
  readBytes: 4096,
  writtenBytes: 512,
  requests: 10,
  receivedBytes: 100,
  sentBytes: 200,
  frames: 4,
  ...change,
});

describe("a sample", () => {
  it("has what was counted since the one before, per second", () => {
    const now = counted({ time: 3000, instructions: 25e6, busySeconds: 3, readBytes: 8192, requests: 30, frames: 5 });
    expect(sampleBetween("a", counted({}), now, 77)).toEqual({
      id: "a",
      cpu: 0.5,
      mips: 10,
      residentBytes: 77,
      disk: { readBytes: 2048, writtenBytes: 0, requests: 10 },
      net: { receivedBytes: 0, sentBytes: 0, frames: 0.5 },
    });
  });

  it("is never negative when counters began anew, and never more than a CPU", () => {
    const now = counted({ time: 2000, readBytes: 1024, sentBytes: 50, frames: 0, busySeconds: 9 });
    const { disk, net, cpu } = sampleBetween("a", counted({}), now, 0);
    expect([disk.readBytes, net.sentBytes, net.frames, cpu]).toEqual([1024, 50, 0, 1]);
  });

  it("is zero for the first count of a guest", () => {
    const first = sampleBetween("a", undefined, counted({}), 1);
    expect(sampleBetween("a", counted({ domid: 2 }), counted({ time: 9000, readBytes: 1e9 }), 1)).toEqual(first);
    expect([first.cpu, first.mips, first.disk.readBytes, first.net.frames]).toEqual([0, 0, 0, 0]);
  });
});

describe("live figures", () => {
  let lab: LabFixture;
  beforeEach(async () => {
    lab = await new LabFixture().open();
  });
  afterEach(() => lab.dispose());

  /** The next event of the topic that names so many machines. */
  const heard = (machines: number) =>
    new Promise<Extract<LabEvent, { kind: "metrics" }>>((resolve) => {
      const stop = lab.client.onEvent((event) => {
        if (event.kind !== "metrics" || event.machines.length !== machines) return;
        stop();
        resolve(event);
      });
    });

  it("come to who subscribed, of machines that run, and are kept", async () => {
    const id = await lab.create("web");
    await lab.create("off");
    await lab.call("machineStart", { machine: "web" });
    const event = heard(1);
    await lab.call("subscribe", { topics: ["metrics"] });
    const { machines, host } = await event;
    expect(machines).toMatchObject([{ id, residentBytes: 1 << 20, disk: { requests: expect.any(Number) } }]);
    expect(host.cpus).toBeGreaterThan(0);
    expect(host.diskFreeBytes).toBeGreaterThan(0);
    const history = await lab.call("metricsHistory", { machine: "web" });
    expect(history.machines).toHaveLength(1);
    const [series] = history.machines;
    expect(series?.id).toBe(id);
    expect(series?.time.length).toBeGreaterThan(0);
    for (const column of [series?.cpu, series?.readBytes, series?.frames])
      expect(column).toHaveLength(series!.time.length);
    expect((await lab.call("metricsHistory", { machine: "off" })).machines).toEqual([]);
  });

  it("name nobody when nothing runs, and are not sent to who did not ask", async () => {
    const other = await lab.connect();
    let told = 0;
    other.onEvent((event) => {
      if (event.kind === "metrics") told++;
    });
    const event = heard(0);
    await lab.call("subscribe", { topics: ["metrics"] });
    await event;
    // An answer comes after whatever was sent before it.
    await other.call("labSettings", {});
    expect(told).toBe(0);
  });

  it("count a network's frames as the guest sees them", async () => {
    const id = await lab.create("web", { vifs: [{ bridge: "lab0" }] });
    const { domid } = await lab.call("machineStart", { machine: "web" });
    const port = (bytesIn: number, framesIn: number) => ({
      showSwitches: [
        {
          name: "lab0",
          ports: [{ name: `vif${domid}.0`, up: true, counters: { bytesIn, framesIn, bytesOut: 0 }, impair: "" }],
          addresses: [],
          uplinkState: {},
          uplinkCounters: {},
          forwards: [],
        },
      ],
    });
    await lab.host.attachVif(domid, { bridge: "lab0" });
    lab.host.answers = port(1000, 1);
    const first = heard(1);
    await lab.call("subscribe", { topics: ["metrics"] });
    await first;
    lab.host.answers = port(500_000, 5);
    // The sample that was under way may have asked before.
    for (;;) {
      const { machines } = await heard(1);
      const [sample] = machines;
      if (sample?.net.sentBytes === 0) continue;
      expect(sample?.id).toBe(id);
      expect(sample?.net.receivedBytes).toBe(0);
      expect(sample?.net.frames).toBeGreaterThan(0);
      return;
    }
  });
});
