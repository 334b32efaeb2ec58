/** Disks of a unikernel, served by the storage domain: every form of the protocol, in processes of their own. */
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { VDISK_READONLY } from "../../engine/device/block/protocol.ts";
import { imageDisk, xvd } from "../disk-config.ts";
import { KernelLab, RUNS, type Unikernel } from "./kernel-lab.ts";
import type { ConnectArgument } from "./kernels/disk.ts";

const MIB = 1 << 20;
const DISK = 4 * MIB;
const SECTOR = 512;

interface Form {
  readonly name: string;
  readonly connect: Omit<ConnectArgument, "vdev">;
  readonly persistent?: boolean;
  readonly nodes: Readonly<Record<string, string | undefined>>;
}

const FORMS: readonly Form[] = [
  { name: "as it is by default", connect: {}, nodes: { "ring-page-order": undefined, protocol: "x86_64-abi" } },
  {
    name: "with a ring of 16 pages",
    connect: { wishes: { ringPageOrder: 4 } },
    nodes: { "ring-page-order": "4", "ring-ref15": expect.any(String) as string },
  },
  {
    name: "with persistent grants",
    connect: { wishes: { persistent: true } },
    persistent: true,
    nodes: { "feature-persistent": "1" },
  },
  { name: "with direct segments only", connect: { wishes: { indirectSegments: 0 } }, nodes: {} },
  {
    name: "with four queues",
    connect: { wishes: { queues: 4, ringPageOrder: 1 } },
    nodes: { "multi-queue-num-queues": "4", "queue-3/event-channel": expect.any(String) as string },
  },
  { name: "in the 32-bit layout", connect: { protocol: "x86_32-abi" }, nodes: { protocol: "x86_32-abi" } },
];

describe.runIf(RUNS)("a unikernel's disk", () => {
  const lab = new KernelLab();
  const images = FORMS.map((_, i) => lab.image(`${i}.img`, DISK));
  let kernel: Unikernel;
  let storage = 0;

  beforeAll(async () => {
    const disks = FORMS.map(({ persistent = false }, i) => imageDisk(images[i] ?? "", { vdev: xvd(i), persistent }));
    kernel = await lab.start("disk", { memoryMiB: 64, disks });
    storage = (await lab.host.storageDomain()).id;
  });
  afterAll(() => lab.end());

  const counters = (vdev: number) => lab.host.vbdStatistics(kernel.id).find((each) => each.vdev === vdev)?.counters;

  it.each(FORMS.map((form, i) => ({ ...form, vdev: xvd(i), i })))(
    "keeps what is written, $name",
    async ({ connect, vdev, i, nodes, persistent }) => {
      const connected = await kernel.call("connect", { vdev, ...connect });
      expect(connected).toMatchObject({
        geometry: { sectors: DISK / SECTOR, sectorSize: SECTOR, readOnly: false, discard: expect.anything() },
        negotiated: {
          flush: true,
          barrier: true,
          persistent: persistent ?? false,
          indirectSegments: connect.wishes?.indirectSegments ?? 256,
        },
      });
      const front = `/local/domain/${kernel.id}/device/vbd/${vdev}`;
      for (const [key, value] of Object.entries(nodes)) {
        expect(lab.host.xenstore.toolstack.read(`${front}/${key}`), key).toEqual(value);
      }
      await kernel.call("fill", { vdev, seed: i });
      await kernel.call("scatter", { vdev });
      await kernel.call("exercise", { vdev, requests: 200 });
      const counted = counters(vdev);
      expect(counted).toMatchObject({ errors: 0, refused: 0, replayed: 0 });
      expect(counted?.wr_sect).toBeGreaterThanOrEqual(DISK / SECTOR);
      expect(counted?.rd_sect).toBeGreaterThanOrEqual(DISK / SECTOR);
      expect(counted?.f_req).toBeGreaterThanOrEqual(2);
      if (connect.wishes?.indirectSegments === 0) expect(counted?.indirect_req).toBe(0);
      else expect(counted?.indirect_req).toBeGreaterThan(DISK / MIB);
      if (persistent) expect(counted?.grants_persistent).toBeGreaterThan(0);
      else expect(counted?.grants_mapped).toBe(0);

      expect(await kernel.call("discard", { vdev, sector: 2048, sectors: 2048 })).toBe(true);
      await kernel.call("fill", { vdev, seed: 100 + i });
      // Closed and connected again, in another form.
      expect(await kernel.call("close", { vdev })).toBe(0);
      expect(lab.holdings(storage, kernel.id)).toEqual({ rings: [], maps: [] });
      await kernel.call("connect", { vdev });
      await kernel.call("check", { vdev, seed: 100 + i });
      expect(await kernel.call("close", { vdev })).toBe(0);
      expect(lab.holdings(storage)).toEqual({ rings: [], maps: [] });
    },
  );

  it("answers what cannot be done with an error, and goes on", async () => {
    const vdev = xvd(0);
    await kernel.call("connect", { vdev });
    const attempt = (command: object) => kernel.call("attempt", { vdev, command });
    const segments = [{ first: 0, last: 7 }];
    const sectors = DISK / SECTOR;
    expect(await attempt({ operation: "read", sector: sectors - 8, segments })).toBe("success");
    expect(await attempt({ operation: "read", sector: sectors - 7, segments })).toBe("io-error");
    expect(await attempt({ operation: "write", sector: 2 ** 50, segments })).toBe("io-error");
    expect(await attempt({ operation: "write_barrier", sector: 0, segments })).toBe("success");
    expect(await attempt({ operation: "discard", sector: sectors - 1, sectors: 2 })).toBe("io-error");
    expect(await attempt({ operation: "discard", sector: 0, sectors: 8, secure: true })).toBe("unsupported");
    expect(await attempt({ operation: "flush" })).toBe("success");
    await kernel.call("exercise", { vdev, requests: 50 });
  });
});

describe.runIf(RUNS)("the message set of Xen 2.0", () => {
  const lab = new KernelLab();
  afterAll(() => lab.end());

  it("lists all disks of a domain and serves them on one ring", async () => {
    const sizes = [2 * MIB, MIB, 3 * MIB];
    const images = sizes.map((size, i) => lab.image(`${i}.img`, size));
    const disks = images.map((image, i) => imageDisk(image, { vdev: xvd(i), readOnly: i === 1 }));
    const kernel = await lab.start("disk", { disks });
    // Another domain's disk is nobody else's business.
    await lab.start("disk", { disks: [imageDisk(lab.image("other.img", MIB))] });
    const list = sizes.map((size, i) => ({
      device: xvd(i),
      info: i === 1 ? VDISK_READONLY : 0,
      sectors: size / SECTOR,
    }));
    const answer = await kernel.call<{ list: unknown[]; again: unknown[] }>("legacy", { vdev: xvd(0) });
    expect(answer).toEqual({
      list: expect.arrayContaining(list),
      results: { [xvd(0)]: "kept", [xvd(1)]: "the backend reports an I/O error", [xvd(2)]: "kept" },
      unknown: "the backend reports an I/O error",
      again: answer.list,
    });
    expect(answer.list.length).toBe(3);
    for (const [i, image] of images.entries()) {
      const tail = readFileSync(image).subarray(-11 * 4096);
      expect(tail.some((byte) => byte !== 0)).toBe(i !== 1);
    }
  });
});
