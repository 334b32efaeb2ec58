/** Hostile frontends against the storage domain: it lives on in the same process, holds nothing of theirs, and serves others. */
import { readdirSync } from "node:fs";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { imageDisk, xvd } from "../disk-config.ts";
import { eventually, KernelLab, RUNS, type Unikernel, usage } from "./kernel-lab.ts";

const MIB = 1 << 20;
const SECTORS = MIB / 512;
const vdev = xvd(0);

describe.runIf(RUNS)("a hostile frontend", () => {
  const lab = new KernelLab();
  let hostile: Unikernel;
  let honest: Unikernel;
  let storage: { readonly id: number; readonly pid: number };

  beforeAll(async () => {
    hostile = await lab.start("hostile", { memoryMiB: 16, disks: [imageDisk(lab.image("hostile.img", MIB))] });
    honest = await lab.start("disk", { disks: [imageDisk(lab.image("honest.img", MIB))] });
    const { id, pid } = await lab.host.storageDomain();
    storage = { id, pid };
    await honest.call("connect", { vdev });
    await honest.call("exercise", { vdev, requests: 100 });
  });
  afterAll(() => lab.end());

  /** After each attack: the same process serves the other unikernel. */
  afterEach(async () => {
    expect((await lab.host.storageDomain()).pid).toBe(storage.pid);
    await honest.call("exercise", { vdev, requests: 40 });
    const counters = lab.host.vbdStatistics(honest.id)[0]?.counters;
    expect(counters).toMatchObject({ errors: 0, refused: 0, replayed: 0 });
  });

  const expectNothingHeld = async () => {
    expect(lab.holdings(storage.id, hostile.id)).toEqual({ rings: [], maps: [] });
    expect(await hostile.call("pinned")).toBe(0);
  };

  it("shows indexes that cannot be", async () => {
    expect(await hostile.call("indexes", { vdev })).toBe(true);
    await expectNothingHeld();
  });

  it("sends requests with bad references in every position, and with every other fault: each is answered once", async () => {
    const answer = await hostile.call<{ requests: number; refused: number }>("nonsense", { vdev, sectors: SECTORS });
    expect(answer).toEqual({ requests: answer.requests, refused: answer.requests, right: 0, free: true });
    expect(answer.requests).toBeGreaterThan(150);
    await expectNothingHeld();
  });

  it("publishes nonsense in XenStore", async () => {
    const bad: Record<string, string>[] = [
      { "ring-ref": "" },
      { "ring-ref": "eight" },
      { "ring-ref": "-1" },
      { "ring-ref": "0" },
      { "ring-ref": "4294967296" },
      { "ring-ref": "3999" },
      { "event-channel": "0" },
      { "event-channel": "4095" },
      { "event-channel": "99999999999999999999" },
      { protocol: "sparc-abi" },
      { "ring-page-order": "5" },
      { "ring-page-order": "1", "ring-ref0": "8", "ring-ref1": "8" },
      { "multi-queue-num-queues": "5" },
      { "multi-queue-num-queues": "2", "queue-0/ring-ref": "8", "queue-0/event-channel": "1" },
    ];
    const said = await hostile.call<string[]>("nodes", { vdev, bad });
    expect(said.map((state) => state === "5" || state === "6")).toEqual(bad.map(() => true));
    await expectNothingHeld();
  });

  it("changes requests while they are taken", async () => {
    const answer = await hostile.call("flip", { vdev, requests: 6000, entries: false });
    expect(answer).toEqual({ flipped: true, refused: true, strange: 0, kept: true, free: true });
    await expectNothingHeld();
  });

  it("changes grants while they are mapped, and revokes them in flight", async () => {
    const answer = await hostile.call("flip", { vdev, requests: 4000, entries: true });
    expect(answer).toEqual({ flipped: true, refused: true, strange: 0, kept: true, free: true });
    expect(await hostile.call("revoke", { vdev, rounds: 500 })).toBe(4000);
    await expectNothingHeld();
  });

  it("sends a million events, and the other unikernel's requests are served meanwhile", async () => {
    const [sent, served] = await Promise.all([
      hostile.call("storm", { vdev, events: 1_000_000 }),
      honest.call("exercise", { vdev, requests: 200 }),
    ]);
    expect([sent, served]).toEqual([1_000_000, 400]);
    await expectNothingHeld();
  });

  it("connects and closes again and again: the backend's process does not grow", async () => {
    const descriptors = () => readdirSync(`/proc/${storage.pid}/fd`).length;
    expect(await hostile.call("cycle", { vdev, times: 40 })).toBe(40);
    const before = { ...usage(storage.pid), descriptors: descriptors() };
    await hostile.call("toggle", { vdev, times: 2000 });
    expect(await hostile.call("cycle", { vdev, times: 80 })).toBe(80);
    await expectNothingHeld();
    const after = { ...usage(storage.pid), descriptors: descriptors() };
    expect(after.MiB - before.MiB).toBeLessThan(64);
    expect(after.threads).toBe(before.threads);
    expect(after.descriptors - before.descriptors).toBeLessThan(5);
  });

  it("writes a node that the backend watches a hundred thousand times", async () => {
    const before = usage(storage.pid).MiB;
    await hostile.call("scribble", { vdev, times: 6000 });
    // The rest in one turn of the daemon, so that no event is taken meanwhile: faster than a domain can be.
    const path = `/local/domain/${hostile.id}/device/vbd/${vdev}/state`;
    for (let n = 0; n < 94_000; n++) lab.host.xenstore.toolstack.write(path, n % 2 === 0 ? "5" : "6");
    expect(await hostile.call("cycle", { vdev, times: 1 })).toBe(1);
    await expectNothingHeld();
    expect(usage(storage.pid).MiB - before).toBeLessThan(64);
  });

  it("dies with its pages mapped: nothing of it is left", async () => {
    const image = lab.image("killed.img", MIB);
    for (let round = 0; round < 3; round++) {
      const victim = await lab.start("hostile", { disks: [imageDisk(image, { persistent: true })] });
      await victim.call("hold", { vdev });
      const held = lab.holdings(storage.id, victim.id);
      expect(held.rings.length).toBe(1);
      expect(held.maps.length).toBeGreaterThan(10);
      await victim.handle.kill();
      await eventually("its disk is free", () => lab.host.vbds.list(victim.id).length === 0);
      expect(lab.holdings(storage.id, victim.id)).toEqual({ rings: [], maps: [] });
    }
  });
});
