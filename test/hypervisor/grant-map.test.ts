import * as fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import * as abi from "../../engine/abi/grant-table.ts";
import { DOMID_SELF } from "../../engine/abi/xen.ts";
import { GrantMaps } from "../../engine/hypervisor/grant-map.ts";
import { grantMapper } from "../../engine/hypervisor/grant-mapper.ts";
import { framePins, grantPins, lockGrant, unlockGrant } from "../../engine/hypervisor/grant-pins.ts";
import { releaseMapsOf, settleMapsOf } from "../../engine/hypervisor/grant-recovery.ts";
import { Maptrack } from "../../engine/hypervisor/maptrack.ts";
import {
  CONSOLE_GFN,
  CONTROL_MAPTRACK,
  CONTROL_PHYSMAP_BASE,
  GRANT_REFS,
  MAPTRACK_ENTRIES,
} from "../../engine/memory/frame-plan.ts";
import { defaultMemoryKind } from "../../engine/memory/guest-memory.ts";
import { Peers } from "../../engine/memory/peers.ts";
import { removeFromPhysmap } from "../../engine/memory/physmap.ts";
import { entryFlags, GrantLab, type Service, writeEntry } from "./grant-domains.ts";

const { GrantStatus, GTF_PERMIT_ACCESS: PERMIT, GTF_READONLY, GTF_READING, GTF_WRITING } = abi;
const FRONT = 5;
const BACK = 2;
const OTHER = 9;
const REF = 20;
const FRAME = 40;

describe.skipIf(defaultMemoryKind() !== "mapped")("grant maps", () => {
  let lab: GrantLab;
  let front: Service;
  let back: Service;

  beforeEach(() => {
    lab = new GrantLab();
    front = lab.service(FRONT);
    back = lab.service(BACK);
  });
  afterEach(() => lab.close());

  const pins = () => ({ ref: grantPins(front.mapping, REF), frame: framePins(front.mapping, FRAME) });
  const inUse = () => entryFlags(front, REF) & (GTF_READING | GTF_WRITING);

  it("shows the frontend's page itself, counts it, and marks the entry while it is in use", () => {
    writeEntry(front, REF, PERMIT, BACK, FRAME);
    const mapper = grantMapper(back.maps, FRONT);
    if (mapper === undefined) throw new Error("the frontend lives");
    const handle = mapper.map(REF, false);
    expect(handle).toBeGreaterThanOrEqual(0);
    expect(pins()).toEqual({ ref: 0x10001, frame: 1 });
    expect(inUse()).toBe(GTF_READING | GTF_WRITING);
    mapper.memory.view.setUint32(mapper.address(handle) + 8, 0xc0ffee, true);
    mapper.written(mapper.address(handle), 4096);
    expect(front.mapping.view.getUint32(front.mapping.base + FRAME * 4096 + 8, true)).toBe(0xc0ffee);
    expect(mapper.unmap(handle)).toBe(GrantStatus.okay);
    expect(pins()).toEqual({ ref: 0, frame: 0 });
    expect(entryFlags(front, REF)).toBe(PERMIT);
    expect(mapper.unmap(handle)).toBe(GrantStatus.bad_handle);
  });

  it("maps and unmaps many, up to the first that cannot be", () => {
    for (let n = 0; n < 8; n++) writeEntry(front, REF + n, n === 5 ? 0 : PERMIT, BACK, FRAME + n);
    const mapper = grantMapper(back.maps, FRONT);
    if (mapper === undefined) throw new Error("the frontend lives");
    const refs = Uint32Array.from({ length: 8 }, (_, n) => REF + n);
    const handles = new Int32Array(9).fill(77);
    expect(mapper.mapMany(refs, 8, false, handles, 1)).toBe(5);
    expect([handles[0], handles[6], handles[7]]).toEqual([77, GrantStatus.general_error, 77]);
    const addresses = [...handles.subarray(1, 6)].map((handle) => mapper.address(handle));
    expect(addresses).toEqual([0, 1, 2, 3, 4].map((n) => mapper.memory.base + (FRAME + n) * 4096));
    expect(back.maps.listMaps(FRONT)).toHaveLength(5);
    mapper.unmapMany(handles, 2, 4);
    expect(back.maps.listMaps(FRONT).map((map) => map.ref - REF)).toEqual([0, 3, 4]);
    // A second time, with handles that are none among them.
    mapper.unmapMany(handles, 1, 9);
    expect(back.maps.listMaps(FRONT)).toEqual([]);
    expect([pins(), inUse()]).toEqual([{ ref: 0, frame: 0 }, 0]);
  });

  it("maps none, and unmaps all, of a domain that has ended", () => {
    writeEntry(front, REF, PERMIT, BACK, FRAME);
    const mapper = grantMapper(back.maps, FRONT);
    const handles = new Int32Array(2);
    expect(mapper?.mapMany(Uint32Array.of(REF, REF), 2, true, handles, 0)).toBe(2);
    lab.end(front);
    const none = new Int32Array(1);
    expect(mapper?.mapMany(Uint32Array.of(REF), 1, true, none, 0)).toBe(0);
    expect(none[0]).toBe(GrantStatus.bad_domain);
    mapper?.unmapMany(handles, 0, 2);
    expect(back.maps.listMaps()).toEqual([]);
  });

  it("refuses a frame that its owner takes away between the look and the pin", () => {
    writeEntry(front, REF, PERMIT, BACK, FRAME);
    const { mapping } = front;
    const { add } = Atomics;
    const take: typeof Atomics.add = (words, at, value) => {
      removeFromPhysmap(mapping, FRAME);
      return add(words as Int32Array, at, value as number) as never;
    };
    Object.assign(Atomics, { add: take });
    try {
      expect(back.maps.map(FRONT, REF, false)).toBe(GrantStatus.bad_page);
    } finally {
      Object.assign(Atomics, { add });
    }
    expect([pins(), inUse(), back.maps.listMaps()]).toEqual([{ ref: 0, frame: 0 }, 0, []]);
  });

  it("refuses a grant that its owner takes back between the look and the claim", () => {
    writeEntry(front, REF, PERMIT, BACK, FRAME);
    const { add } = Atomics;
    const take: typeof Atomics.add = (words, at, value) => {
      writeEntry(front, REF, 0, 0, 0);
      return add(words as Int32Array, at, value as number) as never;
    };
    Object.assign(Atomics, { add: take });
    try {
      expect(back.maps.map(FRONT, REF, false)).toBe(GrantStatus.general_error);
    } finally {
      Object.assign(Atomics, { add });
    }
    expect([pins(), entryFlags(front, REF), back.maps.listMaps()]).toEqual([{ ref: 0, frame: 0 }, 0, []]);
  });

  it("keeps reading and writing apart", () => {
    writeEntry(front, REF, PERMIT, BACK, FRAME);
    const reader = back.maps.map(FRONT, REF, true);
    expect(inUse()).toBe(GTF_READING);
    const writer = back.maps.map(FRONT, REF, false);
    expect([inUse(), pins().ref, pins().frame]).toEqual([GTF_READING | GTF_WRITING, 0x10002, 2]);
    back.maps.unmap(writer);
    expect([inUse(), pins().ref]).toEqual([GTF_READING, 1]);
    back.maps.unmap(reader);
    expect([inUse(), pins().ref]).toEqual([0, 0]);
  });

  it.each<[string, number, (lab: { front: Service; back: Service }) => number]>([
    ["no such domain", GrantStatus.bad_domain, ({ back: b }) => b.maps.map(1234, REF, true)],
    ["a reserved domain", GrantStatus.bad_domain, ({ back: b }) => b.maps.map(0x7ff2, REF, true)],
    ["past the table", GrantStatus.bad_gntref, ({ back: b }) => b.maps.map(FRONT, GRANT_REFS, true)],
    ["a negative reference", GrantStatus.bad_gntref, ({ back: b }) => b.maps.map(FRONT, -1, true)],
    ["a fraction", GrantStatus.bad_gntref, ({ back: b }) => b.maps.map(FRONT, 1.5, true)],
    ["an empty entry", GrantStatus.general_error, ({ back: b }) => b.maps.map(FRONT, REF, true)],
  ])("refuses %s", (_name, status, map) => {
    expect(map({ front, back })).toBe(status);
    expect(pins()).toEqual({ ref: 0, frame: 0 });
    expect(back.maps.listMaps()).toEqual([]);
  });

  it.each<[string, number, number, number, number, boolean]>([
    ["for another domain", GrantStatus.general_error, PERMIT, OTHER, FRAME, true],
    ["to DOMID_SELF", GrantStatus.general_error, PERMIT, DOMID_SELF, FRAME, true],
    ["of type accept_transfer", GrantStatus.general_error, abi.GTF_ACCEPT_TRANSFER, BACK, FRAME, true],
    ["of type transitive", GrantStatus.general_error, 3, BACK, FRAME, true],
    ["of a part of a page", GrantStatus.general_error, PERMIT | abi.GTF_SUB_PAGE, BACK, FRAME, true],
    ["read-only, for writing", GrantStatus.general_error, PERMIT | GTF_READONLY, BACK, FRAME, false],
    ["of a frame past RAM", GrantStatus.bad_page, PERMIT, BACK, 256, true],
    ["of a frame past the physmap", GrantStatus.bad_page, PERMIT, BACK, 0xffffffff, true],
    ["of a special frame that is no page of the guest", GrantStatus.bad_page, PERMIT, BACK, 0xfeffe, true],
  ])("refuses a grant %s", (_name, status, flags, domid, frame, readOnly) => {
    writeEntry(front, REF, flags, domid, frame);
    expect(back.maps.map(FRONT, REF, readOnly)).toBe(status);
    expect(grantPins(front.mapping, REF)).toBe(0);
    expect(entryFlags(front, REF)).toBe(flags);
    expect(back.maps.listMaps()).toEqual([]);
  });

  it("never maps shared_info, the grant table or the control frames, whatever the physmap says", () => {
    const { mapping } = front;
    const { plan } = mapping;
    const linear = mapping.view.getUint32(mapping.base + plan.control + CONTROL_PHYSMAP_BASE, true);
    for (const offset of [plan.sharedInfo, plan.grantTable, plan.control, plan.physmap, plan.length]) {
      mapping.view.setUint32(mapping.base + plan.physmap + 4 * FRAME, linear + offset, true);
      writeEntry(front, REF, PERMIT, BACK, FRAME);
      expect(back.maps.map(FRONT, REF, true)).toBe(GrantStatus.bad_page);
    }
  });

  it("maps the console page, which is nobody's RAM, and one's own grants", () => {
    writeEntry(front, 0, PERMIT, BACK, CONSOLE_GFN);
    const handle = back.maps.map(FRONT, 0, false);
    expect(back.maps.offset(handle)).toBe(front.mapping.plan.console);
    writeEntry(back, REF, PERMIT, BACK, FRAME);
    const own = back.maps.map(DOMID_SELF, REF, false);
    expect(back.maps.offset(own)).toBe(FRAME * 4096);
    expect(framePins(back.mapping, FRAME)).toBe(1);
    expect(back.maps.releaseAll()).toBe(2);
    expect([framePins(back.mapping, FRAME), grantPins(front.mapping, 0)]).toEqual([0, 0]);
  });

  it("refuses handles that are stale, foreign or absurd, and leaves the others alone", () => {
    writeEntry(front, REF, PERMIT, BACK, FRAME);
    const handle = back.maps.map(FRONT, REF, false);
    for (const bad of [handle + 1, -1, MAPTRACK_ENTRIES, 2 ** 32, 0.5, Number.NaN]) {
      expect(back.maps.unmap(bad)).toBe(GrantStatus.bad_handle);
    }
    expect(front.maps.unmap(handle)).toBe(GrantStatus.bad_handle);
    const second = new GrantMaps(back.mapping, BACK, back.peers);
    expect(grantMapper(second, FRONT)?.unmap(handle)).toBe(GrantStatus.bad_handle);
    expect(pins()).toEqual({ ref: 0x10001, frame: 1 });
    // Another thread of the same domain may unmap what this one mapped.
    expect(second.unmap(handle)).toBe(GrantStatus.okay);
    expect(pins()).toEqual({ ref: 0, frame: 0 });
  });

  it("runs out of handles with no_space, and has them again", () => {
    writeEntry(front, REF, PERMIT, BACK, FRAME);
    const mapper = grantMapper(back.maps, FRONT);
    let last = 0;
    for (let i = 0; i < MAPTRACK_ENTRIES; i++) last = mapper?.map(REF, true) ?? -1;
    expect(last).toBeGreaterThanOrEqual(0);
    expect(mapper?.map(REF, true)).toBe(GrantStatus.no_space);
    expect(pins().ref).toBe(MAPTRACK_ENTRIES);
    mapper?.close();
    expect(pins()).toEqual({ ref: 0, frame: 0 });
    expect(inUse()).toBe(0);
  });

  it("unmaps when the frontend has ended, and does not touch a later domain with its number", () => {
    writeEntry(front, REF, PERMIT, BACK, FRAME);
    const mapper = grantMapper(back.maps, FRONT);
    const [handle = -1, later = -1] = [mapper?.map(REF, false), mapper?.map(REF, false)];
    lab.end(front);
    expect(mapper?.map(REF, false)).toBe(GrantStatus.bad_domain);
    expect(mapper?.unmap(handle)).toBe(GrantStatus.okay);
    const reborn = lab.service(FRONT);
    writeEntry(reborn, REF, PERMIT, BACK, FRAME);
    const fresh = back.maps.map(FRONT, REF, false);
    expect(grantPins(reborn.mapping, REF)).toBe(0x10001);
    expect(mapper?.map(REF, false)).toBe(GrantStatus.bad_domain);
    expect(mapper?.unmap(later)).toBe(GrantStatus.okay);
    expect(grantPins(reborn.mapping, REF)).toBe(0x10001);
    expect(mapper?.adopt(fresh)).toBe(false);
    expect(back.maps.unmap(fresh)).toBe(GrantStatus.okay);
    expect(grantPins(reborn.mapping, REF)).toBe(0);
  });

  it("finds its maps again after a restart", () => {
    writeEntry(front, REF, PERMIT, BACK, FRAME);
    const handle = back.maps.map(FRONT, REF, true);
    const mapping = back.guest.attach();
    const restarted = new GrantMaps(mapping, BACK, new Peers(lab.directory, BACK, mapping));
    expect(restarted.listMaps(FRONT)).toEqual([
      { handle, domid: FRONT, ref: REF, offset: FRAME * 4096, readOnly: true },
    ]);
    expect(restarted.listMaps(OTHER)).toEqual([]);
    const mapper = grantMapper(restarted, FRONT);
    expect(mapper?.adopt(handle)).toBe(true);
    expect(mapper?.unmap(handle)).toBe(GrantStatus.okay);
    expect(pins()).toEqual({ ref: 0, frame: 0 });
  });

  it("gives every pin of a killed mapper back, and none of the others'", () => {
    const other = lab.service(OTHER);
    writeEntry(front, REF, PERMIT, BACK, FRAME);
    writeEntry(front, REF + 1, PERMIT, OTHER, FRAME);
    for (let i = 0; i < 10; i++) back.maps.map(FRONT, REF, i % 2 === 0);
    const kept = other.maps.map(FRONT, REF + 1, false);
    expect(releaseMapsOf(back, [front, other])).toBe(10);
    expect(pins()).toEqual({ ref: 0, frame: 1 });
    expect(inUse()).toBe(0);
    expect(grantPins(front.mapping, REF + 1)).toBe(0x10001);
    expect(other.maps.unmap(kept)).toBe(GrantStatus.okay);
    expect(pins().frame).toBe(0);
  });

  describe("a mapper killed between two steps", () => {
    /** Words of the mapper's maptrack that it writes plainly, between its atomic operations. */
    const TRACKED = 4096;

    /**
     * Leaves the state behind that a kill at that step leaves: what runs afterwards is as if it never ran. Steps are atomic
     * operations; of the plain writes since the last one, in ascending order of place, those are undone whose bit is set in
     * `undone`: a kill comes between these too.
     * @returns whether the act was cut short, and how many plain writes there were
     */
    function killAt(step: number, undone: number, act: () => void): { killed: boolean; plain: number } {
      const { words, base, plan } = back.mapping;
      const start = (base + plan.control + CONTROL_MAPTRACK) >>> 2;
      const track = () => words.slice(start, start + TRACKED);
      let before = track();
      let killed = false;
      let steps = 0;
      const stop = new Error("killed");
      const natives = { store: Atomics.store, add: Atomics.add, sub: Atomics.sub, and: Atomics.and, or: Atomics.or };
      const { compareExchange } = Atomics;
      const guarded = (native: (...args: never[]) => unknown) =>
        ((...args: never[]) => {
          if (steps++ === step) throw stop;
          const result = native(...args);
          before = track();
          return result;
        }) as never;
      try {
        for (const [name, native] of Object.entries(natives)) Object.assign(Atomics, { [name]: guarded(native) });
        Object.assign(Atomics, { compareExchange: guarded(compareExchange) });
        act();
      } catch (error) {
        if (error !== stop) throw error;
        killed = true;
      } finally {
        Object.assign(Atomics, natives, { compareExchange });
      }
      let plain = 0;
      for (const [index, word] of track().entries()) {
        const earlier = before[index] ?? 0;
        if (word !== earlier && (undone & (1 << plain++)) !== 0) words[start + index] = earlier;
      }
      return { killed, plain };
    }

    it.each(["map", "unmap"] as const)(
      "in %s: dead, nothing is left; restarted, what it had is",
      (operation) => {
        for (const restart of [false, true]) {
          let end = { killed: true, plain: 0 };
          let step = 0;
          let undone = 0;
          let states = 0;
          for (; end.killed || undone > 0; states++) {
            writeEntry(front, REF, PERMIT, BACK, FRAME);
            const kept = back.maps.map(FRONT, REF, true);
            const handle = operation === "unmap" ? back.maps.map(FRONT, REF, false) : -1;
            end = killAt(step, undone, () => {
              if (operation === "unmap") back.maps.unmap(handle);
              else back.maps.map(FRONT, REF, false);
            });
            if (restart) {
              settleMapsOf(back, [front]);
              const live = back.maps.listMaps();
              expect(live.map((map) => map.handle)).toContain(kept);
              const writers = live.length - 1;
              expect(pins(), `step ${step}`).toEqual({ ref: (writers << 16) | live.length, frame: live.length });
              expect(inUse()).toBe(GTF_READING | (writers > 0 ? GTF_WRITING : 0));
            }
            releaseMapsOf(back, [front]);
            expect(pins(), `step ${step}`).toEqual({ ref: 0, frame: 0 });
            expect(inUse(), `step ${step}`).toBe(0);
            expect(lockGrant(front.mapping, REF)).toBe(0);
            unlockGrant(front.mapping, REF, 0);
            expect(new Maptrack(back.mapping).isLive(kept)).toBe(false);
            undone++;
            if (undone < 1 << end.plain) continue;
            undone = 0;
            step++;
          }
          expect(step).toBeGreaterThan(5);
          expect(states).toBeGreaterThan(10);
        }
      },
      60_000,
    );
  });

  it("counts what a model counts", () => {
    const step = fc.record({
      kind: fc.constantFrom("map", "unmap", "revoke", "grant", "release", "kill"),
      who: fc.constantFrom(0, 1),
      ref: fc.integer({ min: 0, max: 3 }),
      readOnly: fc.boolean(),
      pick: fc.nat(),
    });
    const other = lab.service(OTHER);
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const mappers = [back, other];
        const model: { who: number; ref: number; handle: number; readOnly: boolean }[] = [];
        for (let ref = 0; ref < 4; ref++) writeEntry(front, ref, 0, 0, 0);
        for (const { kind, who, ref, readOnly, pick } of steps) {
          const mapper = mappers[who] ?? back;
          const used = model.some((map) => map.ref === ref);
          const frame = FRAME + (ref >> 1);
          if (kind === "grant" && !used) {
            writeEntry(front, ref, PERMIT | (readOnly ? GTF_READONLY : 0), mapper.id, frame);
          } else if (kind === "revoke") {
            const busy = (entryFlags(front, ref) & (GTF_READING | GTF_WRITING)) !== 0;
            expect(busy).toBe(used);
            if (!busy) writeEntry(front, ref, 0, 0, 0);
          } else if (kind === "map") {
            const handle = mapper.maps.map(FRONT, ref, readOnly);
            if (handle >= 0) model.push({ who, ref, handle, readOnly });
          } else if (kind === "unmap" && model.length > 0) {
            const [map] = model.splice(pick % model.length, 1);
            expect(mappers[map?.who ?? 0]?.maps.unmap(map?.handle ?? -1)).toBe(GrantStatus.okay);
          } else if (kind === "release" || kind === "kill") {
            const mine = model.filter((map) => map.who === who).length;
            const freed = kind === "kill" ? releaseMapsOf(mapper, [front, back, other]) : mapper.maps.releaseAll(FRONT);
            expect(freed).toBe(mine);
            model.splice(0, model.length, ...model.filter((map) => map.who !== who));
          }
          for (let r = 0; r < 4; r++) {
            const maps = model.filter((map) => map.ref === r);
            const writers = maps.filter((map) => !map.readOnly).length;
            expect(grantPins(front.mapping, r)).toBe((writers << 16) | maps.length);
          }
          for (const f of [0, 1]) {
            expect(framePins(front.mapping, FRAME + f)).toBe(model.filter((map) => map.ref >> 1 === f).length);
          }
        }
        for (const mapper of mappers) mapper.maps.releaseAll();
      }),
      { numRuns: 60 },
    );
  });
});
