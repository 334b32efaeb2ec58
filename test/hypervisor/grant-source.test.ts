import { Worker } from "node:worker_threads";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { GrantStatus, GTF_PERMIT_ACCESS, GTF_READING, GTF_READONLY } from "../../engine/abi/grant-table.ts";
import { Hypercall } from "../../engine/abi/hypercalls.ts";
import { MemoryOp, memoryReservation } from "../../engine/abi/memory-op.ts";
import { DOMID_SELF } from "../../engine/abi/xen.ts";
import type { GrantMapper, GrantSource } from "../../engine/device/domain-interface.ts";
import { grantMapper } from "../../engine/hypervisor/grant-mapper.ts";
import { framePins, grantPins } from "../../engine/hypervisor/grant-pins.ts";
import { grantSource } from "../../engine/hypervisor/grant-source.ts";
import { GRANT_REFS } from "../../engine/memory/frame-plan.ts";
import { defaultMemoryKind } from "../../engine/memory/guest-memory.ts";
import { RAM_BYTES } from "./fake-domain.ts";
import { ARGS, entryFlags, GrantLab, type Service, writeEntry } from "./grant-domains.ts";

const FRONT = 5;
const BACK = 2;

describe.skipIf(defaultMemoryKind() !== "mapped")("grant source", () => {
  let lab: GrantLab;
  let front: Service;
  let back: Service;

  beforeEach(() => {
    lab = new GrantLab();
    front = lab.service(FRONT);
    back = lab.service(BACK);
  });
  afterEach(() => lab.close());

  it("hands out zeroed pages, each once, and has them again", () => {
    const source = grantSource({ mapping: front.mapping, firstFrame: 16 });
    const pages = new Set<number>();
    for (let page = source.allocatePage(); page !== undefined; page = source.allocatePage()) pages.add(page);
    expect(pages.size).toBe(RAM_BYTES / 4096 - 16);
    expect(Math.min(...pages)).toBe(front.mapping.base + 16 * 4096);
    const [page = 0] = pages;
    front.mapping.bytes.fill(0xaa, page, page + 4096);
    source.freePage(page);
    expect(source.allocatePage()).toBe(page);
    expect(front.mapping.bytes.subarray(page, page + 4096).every((byte) => byte === 0)).toBe(true);
    expect(source.allocatePage()).toBeUndefined();
    expect(() => source.freePage(page + 1)).toThrow(RangeError);
  });

  it("grants, and takes back only what is not mapped", () => {
    const source: GrantSource = grantSource({ mapping: front.mapping });
    const page = source.allocatePage() ?? -1;
    const ref = source.grantAccess(BACK, page, true) ?? -1;
    expect(ref).toBeGreaterThanOrEqual(8);
    expect(entryFlags(front, ref)).toBe(GTF_PERMIT_ACCESS | GTF_READONLY);
    const mapper: GrantMapper | undefined = grantMapper(back.maps, FRONT);
    expect(mapper?.map(ref, false)).toBe(GrantStatus.general_error);
    const handle = mapper?.map(ref, true) ?? -1;
    expect(source.endAccess(ref)).toBe(false);
    mapper?.unmap(handle);
    expect(source.endAccess(ref)).toBe(true);
    expect(source.endAccess(ref)).toBe(false);
    expect(mapper?.map(ref, true)).toBe(GrantStatus.general_error);
  });

  it("does not hand a freed page out again while a peer has it mapped", () => {
    const source = grantSource({ mapping: front.mapping, frames: 1 });
    const page = source.allocatePage() ?? -1;
    const ref = source.grantAccess(BACK, page, false) ?? -1;
    const handle = back.maps.map(FRONT, ref, false);
    source.freePage(page);
    expect(source.allocatePage()).toBeUndefined();
    back.maps.unmap(handle);
    expect(source.allocatePage()).toBe(page);
  });

  it("fills the table, keeps the reserved references and finds freed ones", () => {
    const source = grantSource({ mapping: front.mapping });
    const page = source.allocatePage() ?? -1;
    const refs = new Set<number>();
    for (
      let ref = source.grantAccess(BACK, page, false);
      ref !== undefined;
      ref = source.grantAccess(BACK, page, false)
    ) {
      refs.add(ref);
    }
    expect([refs.size, Math.min(...refs), Math.max(...refs)]).toEqual([GRANT_REFS - 8, 8, GRANT_REFS - 1]);
    expect(source.endAccess(5000)).toBe(true);
    expect(source.grantAccess(BACK, page, false)).toBe(5000);
    expect(source.endAccess(3)).toBe(false);
    expect(source.endAccess(GRANT_REFS)).toBe(false);
  });

  it("reclaims after a restart what nobody has mapped", () => {
    const before = grantSource({ mapping: front.mapping, frames: 4 });
    const pages = [0, 1, 2, 3].map(() => before.allocatePage() ?? -1);
    const [idle = -1, mapped = -1, kept = -1] = pages;
    const idleRef = before.grantAccess(BACK, idle, false) ?? -1;
    const mappedRef = before.grantAccess(BACK, mapped, false) ?? -1;
    const handle = back.maps.map(FRONT, mappedRef, false);
    const after = grantSource({ mapping: front.mapping, frames: 4 });
    after.reclaim([kept]);
    expect(entryFlags(front, idleRef)).toBe(0);
    expect(entryFlags(front, mappedRef) & GTF_READING).not.toBe(0);
    expect(new Set([after.allocatePage(), after.allocatePage(), after.allocatePage()])).toEqual(
      new Set([idle, pages[3], undefined]),
    );
    back.maps.unmap(handle);
    expect(after.endAccess(mappedRef)).toBe(true);
  });

  /** Runs `act` while two threads of the backend map and unmap a reference of `grantor`; it sees their flags. */
  async function whileHammered(grantor: Service, ref: number, act: (flag: Int32Array) => void): Promise<void> {
    const flag = new Int32Array(new SharedArrayBuffer(16));
    const workerData = {
      token: back.guest.token,
      directory: lab.directory.path,
      self: BACK,
      front: grantor.id,
      ref,
      flag,
    };
    const workers = [0, 1].map(() => new Worker(new URL("./grant-hammer.mjs", import.meta.url), { workerData }));
    const exits = workers.map((worker) => new Promise((resolve) => worker.once("exit", resolve)));
    const ready = (worker: Worker) =>
      new Promise((resolve, reject) => {
        worker.once("message", resolve);
        worker.once("error", reject);
      });
    try {
      await Promise.all(workers.map(ready));
      act(flag);
    } finally {
      Atomics.store(flag, 0, 1);
      await Promise.all(exits);
    }
    expect(Atomics.load(flag, 2)).toBe(0);
    expect(grantPins(grantor.mapping, ref)).toBe(0);
    expect(back.maps.listMaps()).toEqual([]);
  }

  it("never takes a grant back that two threads of the peer map and unmap meanwhile", async () => {
    const ref = 8;
    const source = grantSource({ mapping: front.mapping });
    const page = source.allocatePage() ?? -1;
    await whileHammered(front, ref, (flag) => {
      let refused = 0;
      // Until the two have met as well: on a busy host that may take a while.
      for (let ended = 0; ended < 2000 || Atomics.load(flag, 1) < 2000 || refused === 0; ended++) {
        if (source.grantAccess(BACK, page, false) !== ref) throw new Error("another reference");
        while (!source.endAccess(ref)) refused++;
        // Between a mapping's success and its end the in-use bits stand, so nobody holds the page now.
        if (Atomics.load(flag, 3) !== 0) throw new Error("revoked while mapped");
      }
    });
    expect(framePins(front.mapping, (page - front.mapping.base) / 4096)).toBe(0);
  });

  it("never lets a guest release a frame that two threads of the peer map and unmap meanwhile", async () => {
    const guest = lab.guest(7);
    const [ref, frame] = [9, 0x40];
    writeEntry(guest, ref, GTF_PERMIT_ACCESS, BACK, frame);
    guest.ram.setBigUint64(0x6000, BigInt(frame), true);
    const args = { extentStart: 0x6000n, nrExtents: 1n, domid: DOMID_SELF };
    memoryReservation.write(guest.ram, ARGS, args);
    await whileHammered(guest, ref, (flag) => {
      let released = 0;
      let refused = 0;
      while (released < 500 || Atomics.load(flag, 1) < 1000 || refused === 0) {
        if (guest.call(Hypercall.memory_op, MemoryOp.decrease_reservation, ARGS) === 0) {
          refused++;
          continue;
        }
        if (Atomics.load(flag, 3) !== 0) throw new Error("released while mapped");
        released++;
        expect(guest.call(Hypercall.memory_op, MemoryOp.populate_physmap, ARGS)).toBe(1);
      }
    });
    expect(framePins(guest.mapping, frame)).toBe(0);
    expect(guest.domain.ram.used).toBe(RAM_BYTES / 4096);
  });
});
