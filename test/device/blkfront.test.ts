import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { Blkfront } from "../../engine/device/block/blkfront.ts";
import { readBytes, writeBytes } from "../../engine/device/block/front-bytes.ts";
import type { BlockFailure } from "../../engine/device/block/front-request.ts";
import { FakeStore, PAGE } from "./block-backend-harness.ts";
import { BACKEND, FRONTEND, Lab, settle, TestVbdService, XVDA } from "./xenbus-harness.ts";

let lab: Lab;
let service: TestVbdService;

beforeEach(() => {
  lab = new Lab();
  service = new TestVbdService(lab.frontend, lab.events, new FakeStore(4 << 20));
});
afterEach(() => lab.close());

const FRONT = `/local/domain/${FRONTEND}/device/vbd/${XVDA}`;
const BACK = `/local/domain/${BACKEND}/backend/vbd/${FRONTEND}/${XVDA}`;

function pattern(length: number, seed: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 7 + (i >> 9) * 13 + seed) & 0xff);
}

async function connected(options: Parameters<Lab["blkfront"]>[0] = {}): Promise<Blkfront> {
  lab.addVbd({ persistent: true });
  await lab.blkback(service).start();
  const front = lab.blkfront(options);
  await front.connect();
  return front;
}

/** Nothing may be left: no page, no grant, no port. */
async function expectClean(front: Blkfront): Promise<void> {
  await front.close();
  await lab.until(`${BACK}/state`, "6");
  await settle();
  expect(front.reclaim()).toBe(0);
  expect(lab.frontend.entries.size).toBe(0);
  expect(lab.frontend.allocated.size).toBe(0);
  expect(lab.events.open).toBe(0);
  expect(service.grants.live).toBe(0);
}

describe("blkfront against blkback", () => {
  it("describes the disk", async () => {
    const front = await connected();
    expect(front.geometry).toEqual({
      sectors: 8192,
      sectorSize: 512,
      physicalSectorSize: 4096,
      readOnly: false,
      info: 0,
      discard: { granularity: 4096, alignment: 0, secure: false },
    });
    expect(lab.read(`${FRONT}/state`)).toBe("4");
    expect(lab.read(`${BACK}/state`)).toBe("4");
    await expectClean(front);
  });

  for (const wishes of [
    { indirectSegments: 0 },
    { indirectSegments: 256 },
    { indirectSegments: 32, ringPageOrder: 2 },
    { queues: 3, ringPageOrder: 1 },
    { persistent: true },
    { persistent: true, queues: 2, ringPageOrder: 4, indirectSegments: 256 },
  ]) {
    it(`moves the right bytes with ${JSON.stringify(wishes)}`, async () => {
      const front = await connected({ wishes, holdOff: 3 });
      const data = pattern(3 * 1024 * 1024 + 1536, 5);
      await writeBytes(front, lab.frontend, 17, data);
      expect(Buffer.compare(service.disk.data.subarray(17 * 512, 17 * 512 + data.length), data)).toBe(0);
      await front.flush();
      expect(service.disk.calls.some(({ kind }) => kind === "flush")).toBe(true);
      expect(Buffer.compare(await readBytes(front, lab.frontend, 17, data.length), data)).toBe(0);
      await front.discard(0, 16);
      expect(service.disk.data.subarray(0, 8192).every((byte) => byte === 0)).toBe(true);
      expect(front.negotiated?.persistent).toBe(wishes.persistent === true);
      await expectClean(front);
    });
  }

  it("speaks the 32-bit layout", async () => {
    const front = await connected({ protocol: "x86_32-abi" });
    const data = pattern(100 * PAGE, 9);
    await writeBytes(front, lab.frontend, 8, data);
    expect(Buffer.compare(await readBytes(front, lab.frontend, 8, data.length), data)).toBe(0);
    await expectClean(front);
  });

  it("writes from the caller's own pages, with and without a grant of his", async () => {
    const front = await connected();
    const pages = [lab.frontend.allocatePage() ?? 0, lab.frontend.allocatePage() ?? 0];
    for (const page of pages) lab.frontend.memory.bytes.fill(page / PAGE, page, page + PAGE);
    const ref = front.grantPage(pages[1] ?? 0) ?? 0;
    await front.write(0, [
      { page: pages[0] ?? 0, first: 2, last: 7 },
      { page: pages[1] ?? 0, ref, first: 0, last: 1 },
    ]);
    expect(service.disk.data[0]).toBe((pages[0] ?? 0) / PAGE);
    expect(service.disk.data[6 * 512]).toBe((pages[1] ?? 0) / PAGE);
    // The caller's grant is still his.
    expect(lab.frontend.entries.has(ref)).toBe(true);
    expect(lab.frontend.endAccess(ref)).toBe(true);
    for (const page of pages) lab.frontend.freePage(page);
    await expectClean(front);
  });

  it("pushes everything of one turn at once", async () => {
    const front = await connected();
    const page = lab.frontend.allocatePage() ?? 0;
    await front.read(0, [{ page, first: 0, last: 7 }]);
    await settle();
    const before = lab.events.sent;
    await Promise.all(Array.from({ length: 30 }, (_, i) => front.read(i * 8, [{ page, first: 0, last: 7 }])));
    // One event each way.
    expect(lab.events.sent - before).toBeLessThanOrEqual(2);
    lab.frontend.freePage(page);
    await expectClean(front);
  });

  it("queues more than the ring holds, in order", async () => {
    const front = await connected();
    const page = lab.frontend.allocatePage() ?? 0;
    const order: number[] = [];
    await Promise.all(
      Array.from({ length: 500 }, async (_, i) => {
        await front.read(i, [{ page, first: 0, last: 0 }]);
        order.push(i);
      }),
    );
    expect(order).toEqual(Array.from({ length: 500 }, (_, i) => i));
    lab.frontend.freePage(page);
    await expectClean(front);
  });

  it("waits for grants when the table is full, and says so when none will come", async () => {
    const front = await connected();
    const pages = Array.from({ length: 8 }, () => lab.frontend.allocatePage() ?? 0);
    lab.frontend.grantLimit = lab.frontend.entries.size + 3;
    await Promise.all(pages.map((page, i) => front.write(i * 8, [{ page, first: 0, last: 7 }])));
    lab.frontend.grantLimit = 0;
    await expect(front.write(0, [{ page: pages[0] ?? 0, first: 0, last: 7 }])).rejects.toMatchObject({
      code: "no-grants",
    });
    for (const page of pages) lab.frontend.freePage(page);
    await expectClean(front);
  });

  it("reports I/O errors, for the request they belong to", async () => {
    const front = await connected();
    service.disk.bad.add(100);
    const page = lab.frontend.allocatePage() ?? 0;
    const results = await Promise.allSettled([
      front.read(0, [{ page, first: 0, last: 7 }]),
      front.read(100, [{ page, first: 0, last: 7 }]),
      front.read(1 << 30, [{ page, first: 0, last: 7 }]),
    ]);
    expect(results.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "rejected"]);
    expect(results[1]).toMatchObject({ reason: { code: "io-error" } });
    lab.frontend.freePage(page);
    await expectClean(front);
  });

  it("learns of a resize", async () => {
    lab.addVbd();
    const blkback = lab.blkback(service);
    await blkback.start();
    const sizes: number[] = [];
    const front = lab.blkfront({ onResize: ({ sectors }) => sizes.push(sectors) });
    await front.connect();
    blkback.resized(`vbd/${FRONTEND}/${XVDA}`, 8 << 20);
    await blkback.idle();
    await settle();
    expect(sizes).toEqual([16384]);
    expect(front.geometry?.sectors).toBe(16384);
    await expectClean(front);
  });

  it("sends unanswered requests again, in order, when the backend comes back", async () => {
    const front = await connected();
    service.deaf = true;
    const pages = Array.from({ length: 60 }, () => lab.frontend.allocatePage() ?? 0);
    pages.forEach((page, i) => {
      lab.frontend.memory.bytes.fill(i + 1, page, page + PAGE);
    });
    // All to one place: the last one must win.
    const writes = pages.map((page) => front.write(0, [{ page, first: 0, last: 7 }]));
    await settle();
    expect(service.disk.calls.length).toBe(0);
    service.deaf = false;
    // The backend closes, and is still online.
    lab.daemon.toolstack.write(`${BACK}/state`, "5");
    await Promise.all(writes);
    expect(service.disk.data[0]).toBe(60);
    expect(service.attaches).toBe(2);
    for (const page of pages) lab.frontend.freePage(page);
    await expectClean(front);
  });

  it("fails what is left when the device is detached", async () => {
    const front = await connected();
    service.deaf = true;
    const page = lab.frontend.allocatePage() ?? 0;
    const read = front.read(0, [{ page, first: 0, last: 7 }]);
    read.catch(() => undefined);
    await settle();
    lab.detachVbd();
    await expect(read).rejects.toMatchObject({ code: "closed" });
    await expect(front.flush()).rejects.toMatchObject({ code: "closed" });
    await lab.until(`${BACK}/state`, "6");
    await settle();
    front.reclaim();
    if (lab.frontend.allocated.has(page)) lab.frontend.freePage(page);
    expect(front.pool.heldPages).toBe(0);
    expect(lab.frontend.entries.size).toBe(0);
    expect(lab.frontend.allocated.size).toBe(0);
  });

  it("rejects connect() when the backend cannot open the image", async () => {
    service.openFailure = { ok: false, errno: 2, message: "no such image" };
    lab.addVbd();
    await lab.blkback(service).start();
    const front = lab.blkfront();
    const connecting = front.connect();
    connecting.catch(() => undefined);
    await expect(connecting).rejects.toMatchObject({ code: "closed" });
    expect(lab.read(`/local/domain/${BACKEND}/error/backend/vbd/${FRONTEND}/${XVDA}/error`)).toBe("2 no such image");
    // Neither side asks again and again.
    const opens = service.opened.size;
    await settle();
    expect(service.opened.size).toBe(opens);
    lab.detachVbd();
    await lab.until(`${BACK}/state`, "6");
  });
});

describe("a hostile backend", () => {
  /** Connects to a backend that answers as `answer` says. */
  async function hostile(
    tamper: (words: Int32Array, header: number, slotWords: number) => void,
  ): Promise<BlockFailure> {
    const front = await connected();
    service.deaf = true;
    const page = lab.frontend.allocatePage() ?? 0;
    const failure = new Promise<BlockFailure>((resolve) => {
      front.submit({ operation: "read", sector: 0, segments: [{ page, first: 0, last: 7 }] }, (result) => {
        resolve(result ?? { code: "closed", message: "succeeded" });
      });
    });
    await settle();
    const ref = service.channels[0]?.rings[0]?.refs[0] ?? 0;
    const ring = lab.frontend.entries.get(ref)?.address ?? 0;
    tamper(lab.frontend.memory.words, ring / 4, 112 / 4);
    // Any event makes the frontend look.
    const events = lab.events.of(BACKEND);
    for (let port = 1; port < 10; port++) events.notify(port as Parameters<typeof events.notify>[0]);
    return await failure;
  }

  it.each<[string, (words: Int32Array, header: number) => void]>([
    ["claims more responses than requests", (words, header) => words.fill(7, header + 2, header + 3)],
    ["goes back behind what it has answered", (words, header) => words.fill(-1, header + 2, header + 3)],
    [
      "answers a request that does not exist",
      (words, header) => {
        words[header + 16] = 5;
        words[header + 2] = 1;
      },
    ],
    [
      "answers with a huge id",
      (words, header) => {
        words[header + 16] = -1;
        words[header + 2] = 1;
      },
    ],
    [
      "answers an earlier request of the same slot",
      (words, header) => {
        // The request still stands in the slot: id and generation are there; word 2 and 3 are the id.
        words[header + 16] = words[header + 18] ?? 0;
        words[header + 17] = 77;
        words[header + 18] = 0;
        words[header + 2] = 1;
      },
    ],
    [
      "answers with another operation",
      (words, header) => {
        words[header + 16] = words[header + 18] ?? 0;
        words[header + 17] = words[header + 19] ?? 0;
        words[header + 18] = 1;
        words[header + 2] = 1;
      },
    ],
    [
      "answers with a positive status",
      (words, header) => {
        words[header + 16] = words[header + 18] ?? 0;
        words[header + 17] = words[header + 19] ?? 0;
        words[header + 18] = 1 << 16;
        words[header + 2] = 1;
      },
    ],
  ])("%s: the frontend gives up", async (_name, tamper) => {
    expect((await hostile(tamper)).code).toBe("backend-broken");
    await lab.until(`${FRONT}/state`, "6");
    expect(lab.read(`/local/domain/${FRONTEND}/error/device/vbd/${XVDA}/error`)).toMatch(/^22 the backend broke/);
  });

  it("keeps a page mapped: it is not reused until it lets go", async () => {
    const front = await connected();
    const page = lab.frontend.allocatePage() ?? 0;
    const second = service.grants;
    service.deaf = true;
    const failure = new Promise<BlockFailure | undefined>((resolve) => {
      front.submit({ operation: "read", sector: 0, segments: [{ page, first: 0, last: 7 }] }, resolve);
    });
    await settle();
    const ref = [...lab.frontend.entries].find(([, entry]) => entry.address === page)?.[0] ?? -1;
    const handle = second.map(ref, false);
    expect(handle).toBeGreaterThanOrEqual(0);
    service.deaf = false;
    for (const { services } of service.attached.values()) for (const ring of services) ring.service();
    expect(await failure).toMatchObject({ code: "page-held", heldPages: [page] });
    expect(front.reclaim()).toBe(1);
    second.unmap(handle);
    expect(front.reclaim()).toBe(0);
    expect(lab.frontend.allocated.has(page)).toBe(false);
    await expectClean(front);
  });

  it.each([
    ["sectors", "minus one"],
    ["sectors", "99999999999999999999"],
    ["sector-size", "3000"],
    ["sector-size", "1048576"],
  ])("publishes %s = %s: the frontend does not connect", async (key, value) => {
    lab.addVbd();
    const directory = BACK;
    const { toolstack } = lab.daemon;
    const front = lab.blkfront();
    const connecting = front.connect();
    connecting.catch(() => undefined);
    toolstack.write(`${directory}/sectors`, "8");
    toolstack.write(`${directory}/sector-size`, "512");
    toolstack.write(`${directory}/${key}`, value);
    toolstack.write(`${directory}/state`, "2");
    await lab.until(`${FRONT}/state`, "3");
    toolstack.write(`${directory}/state`, "4");
    await expect(connecting).rejects.toMatchObject({ code: "backend-broken" });
    await settle();
    expect(lab.frontend.allocated.size).toBe(0);
    expect(lab.events.open).toBe(0);
  });

  it("offers absurd rings and queues: the frontend takes what it wants", async () => {
    lab.addVbd();
    const { toolstack } = lab.daemon;
    toolstack.write(`${BACK}/max-ring-page-order`, "4294967295");
    toolstack.write(`${BACK}/multi-queue-max-queues`, "1000000");
    toolstack.write(`${BACK}/feature-max-indirect-segments`, "4000000000");
    const front = lab.blkfront({ wishes: { ringPageOrder: 1, queues: 2 } });
    front.connect().catch(() => undefined);
    toolstack.write(`${BACK}/state`, "2");
    await lab.until(`${FRONT}/state`, "3");
    expect(lab.frontend.allocated.size).toBe(4);
    expect(lab.read(`${FRONT}/multi-queue-num-queues`)).toBe("2");
    expect(lab.read(`${FRONT}/queue-1/ring-ref1`)).toMatch(/^\d+$/);
  });

  it("toggles its state ten thousand times: nothing grows", async () => {
    lab.addVbd();
    const { toolstack } = lab.daemon;
    const front = lab.blkfront();
    front.connect().catch(() => undefined);
    toolstack.write(`${BACK}/sectors`, "8");
    for (let i = 0; i < 10_000; i++) {
      toolstack.write(`${BACK}/state`, ["1", "2", "4", "5", "6"][i % 5] ?? "1");
      if (i % 100 === 0) await settle(1);
    }
    await front.idle();
    expect(lab.frontend.allocated.size).toBeLessThanOrEqual(1);
    expect(lab.events.open).toBeLessThanOrEqual(1);
    await front.close();
    expect(lab.read(`${FRONT}/state`)).toBe("6");
    expect(lab.frontend.allocated.size).toBe(0);
    expect(lab.events.open).toBe(0);
  });
});
