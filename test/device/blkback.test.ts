import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { Blkback } from "../../engine/device/block/blkback.ts";
import type { VbdFacts, VbdResult } from "../../engine/device/block/channel.ts";
import { LegacyFront } from "../../engine/device/block/legacy-front.ts";
import { FakeStore, PAGE } from "./block-backend-harness.ts";
import { BACKEND, FRONTEND, Lab, settle, TestVbdService, XVDA } from "./xenbus-harness.ts";

const FRONT = `/local/domain/${FRONTEND}/device/vbd/${XVDA}`;
const BACK = `/local/domain/${BACKEND}/backend/vbd/${FRONTEND}/${XVDA}`;
const ERROR = `/local/domain/${BACKEND}/error/backend/vbd/${FRONTEND}/${XVDA}/error`;

let lab: Lab;
let service: TestVbdService;
beforeEach(() => {
  lab = new Lab();
  service = new TestVbdService(lab.frontend, lab.events);
  service.hollow = true;
});
afterEach(() => lab.close());

/** Writes the frontend's keys as the frontend. */
async function publish(nodes: Record<string, string>): Promise<void> {
  const store = lab.client(FRONTEND);
  for (const [key, value] of Object.entries(nodes)) await store.write(`${FRONT}/${key}`, value);
}

const GOOD = { "ring-ref": "8", "event-channel": "5", protocol: "x86_64-abi", state: "3" };

/** A backend whose device a frontend has connected to. */
async function connectedBlkback(): Promise<Blkback> {
  lab.addVbd();
  const blkback = lab.blkback(service);
  await blkback.start();
  await publish(GOOD);
  await lab.until(`${BACK}/state`, "4");
  return blkback;
}

describe("blkback", () => {
  it("publishes what it can do before the frontend connects", async () => {
    lab.addVbd({ persistent: true });
    await lab.blkback(service).start();
    const keys = ["feature-flush-cache", "feature-barrier", "feature-discard", "feature-persistent"];
    expect(keys.map((key) => lab.read(`${BACK}/${key}`))).toEqual(["1", "1", "1", "1"]);
    expect(lab.read(`${BACK}/feature-max-indirect-segments`)).toBe("256");
    expect(lab.read(`${BACK}/max-ring-page-order`)).toBe("4");
    expect(lab.read(`${BACK}/multi-queue-max-queues`)).toBe("4");
    expect(lab.read(`${BACK}/discard-granularity`)).toBe("4096");
    expect(lab.read(`${BACK}/sectors`)).toBe("2048");
    expect(lab.read(`${BACK}/sector-size`)).toBe("512");
    expect(lab.read(`${BACK}/info`)).toBe("0");
    expect(lab.read(`${BACK}/state`)).toBe("2");
    expect([...service.opened.values()]).toEqual([
      {
        key: `vbd/${FRONTEND}/${XVDA}`,
        frontendId: FRONTEND,
        vdev: XVDA,
        readOnly: false,
        deviceType: "disk",
        discard: true,
        persistent: true,
        params: "/images/disk.img",
        store: { kind: "file", path: "/images/disk.img" },
      },
    ]);
  });

  it.each([
    [{ readOnly: true }, "4", "0", "0"],
    [{ deviceType: "cdrom" as const, readOnly: true }, "7", "0", "0"],
    [{ discard: false }, "0", "0", "0"],
    [{ discard: true, persistent: true }, "0", "1", "1"],
  ])("offers %j as info %s, discard %s, persistent %s", async (options, info, discard, persistent) => {
    lab.addVbd(options);
    await lab.blkback(service).start();
    expect(lab.read(`${BACK}/info`)).toBe(info);
    expect(lab.read(`${BACK}/feature-discard`)).toBe(discard);
    expect(lab.read(`${BACK}/feature-persistent`)).toBe(persistent);
  });

  it("connects, closes and is removed", async () => {
    const blkback = await connectedBlkback();
    expect(blkback.connected().map(({ vdev }) => vdev)).toEqual([XVDA]);
    lab.detachVbd();
    await settle();
    // In use until the frontend says otherwise.
    expect(service.detaches).toBe(0);
    expect(lab.read(`${BACK}/state`)).toBe("5");
    await publish({ state: "5" });
    await publish({ state: "6" });
    await lab.until(`${BACK}/state`, "6");
    await settle();
    expect(service.detaches).toBe(1);
    expect(service.opened.size).toBe(0);
    lab.daemon.toolstack.remove(BACK);
    lab.daemon.toolstack.remove(FRONT);
    await blkback.idle();
    // The same name again.
    lab.addVbd();
    await lab.until(`${BACK}/state`, "2");
    expect(service.opened.size).toBe(1);
  });

  it("connects a frontend that starts over without waiting until it is closed", async () => {
    const blkback = await connectedBlkback();
    const { detach } = service;
    let letGo = () => {};
    const letting = new Promise<void>((resolve) => {
      service.detach = async (device) => {
        resolve();
        await new Promise<void>((release) => {
          letGo = release;
        });
        await detach.call(service, device);
      };
    });
    await publish({ state: "4" });
    await publish({ state: "6" });
    await letting;
    // It takes the state of before for the answer, as a driver does that is bound again at once.
    await publish({ state: "1" });
    await publish({ ...GOOD, "ring-ref": "9" });
    letGo();
    await lab.until(`${BACK}/state`, "6");
    await lab.until(`${BACK}/state`, "4");
    await publish({ state: "4" });
    await blkback.idle();
    expect(service.channels.map(({ rings }) => rings[0]?.refs)).toEqual([[8], [9]]);
    expect(service.detaches).toBe(1);
  });

  it.each([
    ["Connected", "4", "3"],
    ["Closing", "5", "3"],
    ["Closing", "5", "4"],
  ])("connects a frontend that starts over unseen, from %s (%s) to %s", async (_name, before, after) => {
    const blkback = await connectedBlkback();
    await publish({ state: "4" });
    await publish({ state: before });
    await lab.until(`${BACK}/state`, before);
    await blkback.idle();
    // In one turn: nobody can look in between.
    for (const state of ["6", "1", after]) lab.daemon.toolstack.write(`${FRONT}/state`, state);
    lab.daemon.toolstack.write(`${FRONT}/ring-ref`, "9");
    await lab.until(`${BACK}/state`, "6");
    await lab.until(`${BACK}/state`, "4");
    await blkback.idle();
    expect(service.channels.map(({ rings }) => rings[0]?.refs)).toEqual([[8], [9]]);
    expect(service.detaches).toBe(1);
  });

  it("does not connect a frontend again whose device is being taken away", async () => {
    const blkback = await connectedBlkback();
    lab.detachVbd();
    await lab.until(`${BACK}/state`, "5");
    await publish({ state: "5" });
    await blkback.idle();
    for (const state of ["6", "1", "3"]) lab.daemon.toolstack.write(`${FRONT}/state`, state);
    await lab.until(`${BACK}/state`, "6");
    await settle();
    expect([service.attaches, service.detaches, service.opened.size]).toEqual([1, 1, 0]);
    expect(lab.read(`${BACK}/state`)).toBe("6");
  });

  it("lets go when the frontend's domain is gone", async () => {
    await connectedBlkback();
    lab.daemon.toolstack.remove(`/local/domain/${FRONTEND}`);
    await lab.until(`${BACK}/state`, "6");
    expect(service.attached.size).toBe(0);
    expect(service.opened.size).toBe(0);
  });

  it("lets go when the toolstack removes the nodes under it, and writes nothing back", async () => {
    const blkback = await connectedBlkback();
    lab.daemon.toolstack.remove(BACK);
    await settle();
    await blkback.idle();
    expect(service.attached.size).toBe(0);
    expect(service.opened.size).toBe(0);
    expect(lab.daemon.toolstack.directory(BACK)).toBeUndefined();
  });

  it("goes on where an earlier life has stopped", async () => {
    const first = await connectedBlkback();
    await publish({ state: "4" });
    await first.idle();
    await first.close();
    const changes: (string | undefined)[] = [];
    const unwatch = lab.daemon.toolstack.watch(`${BACK}/state`, () => changes.push(lab.read(`${BACK}/state`)));
    await settle();
    changes.length = 0;
    // The new life serves the same image, which has grown.
    const next = new TestVbdService(lab.frontend, lab.events, new FakeStore(2 << 20));
    next.hollow = true;
    const second = lab.blkback(next);
    const found = await second.start();
    expect(found.map(({ key }) => key)).toEqual([`vbd/${FRONTEND}/${XVDA}`]);
    expect(next.channels).toMatchObject([{ resume: true, rings: [{ refs: [8], eventChannel: 5 }] }]);
    expect(lab.read(`${BACK}/sectors`)).toBe("4096");
    // Only the resize was announced.
    expect(new Set(changes)).toEqual(new Set(["4"]));
    unwatch();
  });

  it("reports an image that cannot be opened, and does not try again by itself", async () => {
    service.openFailure = { ok: false, errno: 13, message: "disk.img: no permission" };
    let opens = 0;
    const { open } = service;
    service.open = (device): Promise<VbdResult<VbdFacts>> => {
      opens++;
      return open.call(service, device);
    };
    lab.addVbd();
    await lab.blkback(service).start();
    await lab.until(`${BACK}/state`, "5");
    await settle();
    expect(lab.read(ERROR)).toBe("13 disk.img: no permission");
    expect(opens).toBe(1);
    lab.detachVbd();
    await lab.until(`${BACK}/state`, "6");
  });

  it("serves many devices at once", async () => {
    lab.daemon.quotas.nodes = 100_000;
    lab.daemon.domain(BACKEND).quotas.nodes = 100_000;
    const vdevs = Array.from({ length: 30 }, (_, i) => (1 << 28) | ((16 + i) << 8));
    for (const vdev of vdevs) lab.addVbd({ vdev });
    await lab.blkback(service).start();
    for (const vdev of vdevs) await lab.until(`/local/domain/${BACKEND}/backend/vbd/${FRONTEND}/${vdev}/state`, "2");
    expect(service.opened.size).toBe(30);
  });
});

describe("a hostile frontend", () => {
  const refs = (count: number, prefix = ""): Record<string, string> =>
    Object.fromEntries(Array.from({ length: count }, (_, i) => [`${prefix}ring-ref${i}`, String(8 + i)]));
  it.each<[string, Record<string, string>]>([
    ["no ring", { "event-channel": "5" }],
    ["no event channel", { "ring-ref": "8" }],
    ["port 0", { "ring-ref": "8", "event-channel": "0" }],
    ["port beyond the table", { "ring-ref": "8", "event-channel": "4096" }],
    ["negative port", { "ring-ref": "8", "event-channel": "-1" }],
    ["text for a port", { "ring-ref": "8", "event-channel": "five" }],
    ["huge grant", { "ring-ref": "4294967296", "event-channel": "5" }],
    ["text for a grant", { "ring-ref": "8; rm", "event-channel": "5" }],
    ["empty grant", { "ring-ref": "", "event-channel": "5" }],
    ["page order 5", { ...refs(32), "ring-page-order": "5", "event-channel": "5" }],
    ["page order 4294967295", { ...refs(4), "ring-page-order": "4294967295", "event-channel": "5" }],
    ["negative page order", { "ring-ref": "8", "ring-page-order": "-1", "event-channel": "5" }],
    ["too few pages", { ...refs(3), "ring-page-order": "2", "event-channel": "5" }],
    ["one page twice", { "ring-ref0": "8", "ring-ref1": "8", "ring-page-order": "1", "event-channel": "5" }],
    ["no queues", { "ring-ref": "8", "event-channel": "5", "multi-queue-num-queues": "0" }],
    ["a million queues", { "ring-ref": "8", "event-channel": "5", "multi-queue-num-queues": "1000000" }],
    ["queues without directories", { "ring-ref": "8", "event-channel": "5", "multi-queue-num-queues": "2" }],
    [
      "two queues with one port",
      {
        "multi-queue-num-queues": "2",
        "queue-0/ring-ref": "8",
        "queue-0/event-channel": "5",
        "queue-1/ring-ref": "9",
        "queue-1/event-channel": "5",
      },
    ],
    ["unknown protocol", { "ring-ref": "8", "event-channel": "5", protocol: "arm-abi\u001b[2J" }],
    [
      "old messages on a large ring",
      { ...refs(2), "ring-page-order": "1", "event-channel": "5", protocol: "domlab-xen-2.0" },
    ],
  ])("publishes %s: an error, Closing, nothing attached", async (_name, nodes) => {
    lab.addVbd();
    await lab.blkback(service).start();
    await publish({ ...nodes, state: "3" });
    await lab.until(`${BACK}/state`, "5");
    expect(lab.read(ERROR)).toMatch(/^22 [\x20-\x7e…]+$/);
    expect(service.attaches).toBe(0);
    await publish({ state: "6" });
    await lab.until(`${BACK}/state`, "6");
    // A new try with sound values works.
    await publish({ "ring-page-order": "0", "multi-queue-num-queues": "1", ...GOOD, state: "1" });
    await lab.until(`${BACK}/state`, "2");
    await publish({ state: "3" });
    await lab.until(`${BACK}/state`, "4");
    expect(lab.read(ERROR)).toBeUndefined();
  });

  it.each([
    ["a single page by number", { "ring-page-order": "0", "ring-ref0": "8", "event-channel": "5" }, [[8]]],
    ["four pages", { ...refs(4), "ring-page-order": "2", "event-channel": "5" }, [[8, 9, 10, 11]]],
    [
      "two queues",
      {
        "multi-queue-num-queues": "2",
        "ring-page-order": "1",
        ...refs(2, "queue-0/"),
        "queue-0/event-channel": "5",
        "queue-1/ring-ref0": "20",
        "queue-1/ring-ref1": "21",
        "queue-1/event-channel": "6",
      },
      [
        [8, 9],
        [20, 21],
      ],
    ],
  ])("but accepts %s", async (_name, nodes, expected) => {
    lab.addVbd();
    await lab.blkback(service).start();
    await publish({ ...nodes, state: "3" });
    await lab.until(`${BACK}/state`, "4");
    expect(service.channels[0]?.rings.map((ring) => ring.refs)).toEqual(expected);
    expect(service.channels[0]?.protocol).toBe("x86_64-abi");
    expect(service.channels[0]?.resume).toBe(false);
  });

  it("names grants and ports that are not its own: refused, nothing left behind", async () => {
    service.hollow = false;
    lab.addVbd();
    await lab.blkback(service).start();
    await publish({ ...GOOD, "ring-ref": "4000000000" });
    await lab.until(`${BACK}/state`, "5");
    expect(lab.read(ERROR)).toMatch(/cannot be mapped/);
    expect(service.grants.live).toBe(0);
  });

  it.each(["2", "7", "8"])("goes to state %s: reported, not followed", async (state) => {
    lab.addVbd();
    await lab.blkback(service).start();
    await publish({ state });
    await lab.until(
      ERROR,
      `22 saw state ${{ 2: "InitWait", 7: "Reconfiguring", 8: "Reconfigured" }[state]} at the frontend`,
    );
  });

  // XSA-350
  it("toggles its state ten thousand times: no growth, no use after close", async () => {
    lab.addVbd();
    const blkback = lab.blkback(service);
    await blkback.start();
    const { toolstack } = lab.daemon;
    for (const [key, value] of Object.entries(GOOD)) toolstack.write(`${FRONT}/${key}`, value);
    for (let i = 0; i < 10_000; i++) {
      toolstack.write(`${FRONT}/state`, ["1", "3", "4", "5", "6", "nonsense"][i % 6] ?? "1");
      if (i % 50 === 0) await settle(1);
    }
    await blkback.idle();
    expect(service.attached.size).toBeLessThanOrEqual(1);
    expect(service.opened.size).toBeLessThanOrEqual(1);
    expect(lab.log.length).toBeLessThan(1000);
    toolstack.write(`${FRONT}/state`, "6");
    await lab.until(`${BACK}/state`, "6");
    await blkback.idle();
    expect(service.attached.size).toBe(0);
    toolstack.write(`${FRONT}/state`, "1");
    await lab.until(`${BACK}/state`, "2");
    toolstack.write(`${FRONT}/state`, "3");
    await lab.until(`${BACK}/state`, "4");
    expect(service.attached.size).toBe(1);
    expect(service.attaches - service.detaches).toBe(1);
  });

  it("connects and closes a thousand times, in step: every attach has its detach", async () => {
    lab.addVbd();
    const blkback = lab.blkback(service);
    await blkback.start();
    const { toolstack } = lab.daemon;
    for (const [key, value] of Object.entries(GOOD)) toolstack.write(`${FRONT}/${key}`, value);
    for (let i = 0; i < 1000; i++) {
      await lab.until(`${BACK}/state`, "4");
      toolstack.write(`${FRONT}/state`, "6");
      await lab.until(`${BACK}/state`, "6");
      toolstack.write(`${FRONT}/state`, "1");
      await lab.until(`${BACK}/state`, "2");
      toolstack.write(`${FRONT}/state`, "3");
    }
    await lab.until(`${BACK}/state`, "4");
    await blkback.idle();
    expect([service.attaches, service.detaches]).toEqual([1001, 1000]);
  });
});

describe("the old message set", () => {
  it("lists, reads and writes the guest's disks", async () => {
    service.hollow = false;
    const disks = new Map([
      [XVDA, new FakeStore(1 << 20)],
      [XVDA + 16, new FakeStore(1 << 16)],
    ]);
    service.legacy = {
      listVbds: () => [...disks].map(([device, { size }], i) => ({ device, info: i * 4, sectors: size / 512 })),
      storeOf: (device) => {
        const store = disks.get(device);
        return store && { store, readOnly: device !== XVDA };
      },
    };
    lab.addVbd();
    await lab.blkback(service).start();
    const front = new LegacyFront({
      store: lab.client(FRONTEND),
      vdev: XVDA,
      grants: lab.frontend,
      events: lab.events.of(FRONTEND),
      listen: (port, handler) => lab.events.listen(FRONTEND, port, handler),
      log: () => undefined,
    });
    await front.connect();
    expect(await front.probe()).toEqual([
      { device: XVDA, info: 0, sectors: 2048 },
      { device: XVDA + 16, info: 4, sectors: 128 },
    ]);
    const page = lab.frontend.allocatePage() ?? 0;
    const segments = [{ page, first: 0, last: 7 }];
    lab.frontend.memory.bytes.fill(0x5a, page, page + PAGE);
    await front.write(XVDA, 8, segments);
    expect(
      disks
        .get(XVDA)
        ?.data.subarray(PAGE, 2 * PAGE)
        .every((byte) => byte === 0x5a),
    ).toBe(true);
    lab.frontend.memory.bytes.fill(0, page, page + PAGE);
    await Promise.all(Array.from({ length: 100 }, () => front.read(XVDA, 8, segments)));
    expect(lab.frontend.memory.bytes[page + PAGE - 1]).toBe(0x5a);
    await expect(front.write(XVDA + 16, 0, segments)).rejects.toThrow(/I\/O error/);
    await expect(front.read(1, 0, segments)).rejects.toThrow(/I\/O error/);
    lab.frontend.freePage(page);
    await front.close();
    await lab.until(`${BACK}/state`, "6");
    await settle();
    expect(front.reclaim()).toBe(0);
    expect(lab.frontend.allocated.size).toBe(0);
    expect(lab.events.open).toBe(0);
  });
});

describe("a frontend that was restored", () => {
  it("is Connected before the backend has ever been there, and does not move", async () => {
    lab.addVbd();
    await publish({ ...GOOD, state: "4" });
    const states: string[] = [];
    const watch = await lab.client(FRONTEND).watch(`${BACK}/state`, () => states.push(lab.read(`${BACK}/state`) ?? ""));
    await lab.blkback(service).start();
    await settle();
    expect(service.attaches).toBe(1);
    expect(service.channels[0]?.resume).toBe(false);
    expect(lab.read(`${FRONT}/state`)).toBe("4");
    expect(lab.read(`${BACK}/state`)).toBe("4");
    expect(lab.read(`${BACK}/sectors`)).toBe("2048");
    expect(states).not.toContain("5");
    await watch.close();
  });
});

describe("freeze", () => {
  it("takes no steps, and those that came up afterwards", async () => {
    lab.addVbd();
    const backend = lab.blkback(service);
    await backend.start();
    await backend.freeze(FRONTEND);
    await publish(GOOD);
    lab.addVbd({ vdev: XVDA + 16 });
    await settle();
    expect(service.attaches).toBe(0);
    expect(lab.read(`${BACK}/state`)).toBe("2");
    expect(lab.read(`/local/domain/${BACKEND}/backend/vbd/${FRONTEND}/${XVDA + 16}/state`)).toBe("1");
    backend.resized(`vbd/${FRONTEND}/${XVDA}`, 8 << 20);
    backend.thaw(FRONTEND);
    await settle();
    expect(service.attaches).toBe(1);
    expect(lab.read(`${BACK}/state`)).toBe("4");
    expect(lab.read(`${BACK}/sectors`)).toBe(String((8 << 20) / 512));
    expect(lab.read(`/local/domain/${BACKEND}/backend/vbd/${FRONTEND}/${XVDA + 16}/state`)).toBe("2");
  });

  it("waits for the step that is under way", async () => {
    lab.addVbd();
    const backend = lab.blkback(service);
    await publish(GOOD);
    const starting = backend.start();
    // Devices are found in the turns of the store's answers: freeze some way into it.
    for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve));
    await backend.freeze(FRONTEND);
    const [opened, attaches, state] = [service.opened.size, service.attaches, lab.read(`${BACK}/state`)];
    await settle();
    expect([service.opened.size, service.attaches, lab.read(`${BACK}/state`)]).toEqual([opened, attaches, state]);
    backend.thaw(FRONTEND);
    await starting;
    await settle();
    expect(lab.read(`${BACK}/state`)).toBe("4");
  });
});
