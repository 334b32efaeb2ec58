/** Hypercalls that give frames away whose contents are still on their way: nothing of a snapshot comes back later. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { GrantStatus, GrantTableOp, GTF_ACCEPT_TRANSFER, transferGrant } from "../../engine/abi/grant-table.ts";
import { Hypercall } from "../../engine/abi/hypercalls.ts";
import * as abi from "../../engine/abi/memory-op.ts";
import { DOMID_SELF } from "../../engine/abi/xen.ts";
import { Arrivals, windowOf } from "../../engine/memory/arrival.ts";
import { WINDOW_BYTES } from "../../engine/memory/frame-plan.ts";
import { defaultMemoryKind } from "../../engine/memory/guest-memory.ts";
import { fileOffset, gfn } from "../../engine/memory/types.ts";
import { BackgroundLoader } from "../../engine/snapshot/background-loader.ts";
import { DemandLoader } from "../../engine/snapshot/demand-loader.ts";
import { openSnapshot } from "../../engine/snapshot/file-reader.ts";
import { writeSnapshot } from "../../engine/snapshot/file-writer.ts";
import { RAM_BYTES } from "../hypervisor/fake-domain.ts";
import { ARGS, GrantLab, type Guest, writeEntry } from "../hypervisor/grant-domains.ts";
import { memoryDomain, PAGE } from "./memory-domain.ts";

const SELF = 5;
const PEER = 9;
const REF = 30;
/** Frames in windows of their own. */
const FRAME = 0x81;
const OTHER = 0xc3;
/** Of the other domain. */
const ROOM = 0x20;
const LIST = 0x6000;

/** What the snapshot has at a place. */
const saved = (offset: number): number => Math.imul(offset, 0x9e3779b1) >>> 0;
const place = (frame: number, within = 8): number => frame * PAGE + within;

let folder: string;
let lab: GrantLab;
let guest: Guest;
let peer: Guest;
let finish: () => Promise<void>;
const closers: (() => unknown)[] = [];

describe.skipIf(defaultMemoryKind() !== "mapped")("a frame on its way that the guest", () => {
  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), "domlab-calls-"));
    const from = memoryDomain(RAM_BYTES);
    const { words, base } = from.mapping;
    for (let at = 0; at < RAM_BYTES; at += 4) words[(base + at) >>> 2] = saved(at);
    const path = join(folder, "a.dsnap");
    await writeSnapshot(path, from.descriptor, from.guest.plan, {});
    from.guest.close();

    lab = new GrantLab();
    guest = lab.guest(SELF);
    peer = lab.guest(PEER);
    const { token } = guest.guest;
    const descriptor = token.kind === "mapped" ? token.descriptor : -1;
    const file = await openSnapshot(path);
    const background = new BackgroundLoader(file, guest.mapping, descriptor);
    background.begin();
    const demand = await DemandLoader.open({ path, mapping: guest.mapping, descriptor });
    const { physmap } = guest.domain;
    physmap.fetch = (offset) => demand.fetch(offset);
    physmap.mapRun(gfn(0), fileOffset(0), RAM_BYTES / PAGE, { later: true });
    // Where the calls' arguments are.
    await background.loadNow(0, WINDOW_BYTES);
    expect(new Arrivals(guest.mapping).isPresent(windowOf(place(FRAME)))).toBe(false);
    finish = async () => {
      await background.loadRest();
      physmap.arrived();
    };
    closers.push(
      () => lab.close(),
      () => file.close(),
      () => demand.close(),
    );
  });

  afterEach(async () => {
    for (const close of closers.splice(0).reverse()) await close();
    rmSync(folder, { recursive: true, force: true });
  });

  function reservation(op: number, frame: number, by: Guest): number {
    by.ram.setBigUint64(LIST, BigInt(frame), true);
    const extents = { extentStart: BigInt(LIST), nrExtents: 1n, extentOrder: 0, memFlags: 0 };
    abi.memoryReservation.write(by.ram, ARGS, { ...extents, domid: DOMID_SELF });
    return by.call(Hypercall.memory_op, op, ARGS);
  }
  const giveBack = (frame: number, by = guest) => reservation(abi.MemoryOp.decrease_reservation, frame, by);
  const takeAgain = (frame: number) => reservation(abi.MemoryOp.populate_physmap, frame, guest);

  function add(space: number, idx: number, frame: number): number {
    abi.addToPhysmap.write(guest.ram, ARGS, { domid: DOMID_SELF, space, idx: BigInt(idx), gpfn: BigInt(frame) });
    return guest.call(Hypercall.memory_op, abi.MemoryOp.add_to_physmap, ARGS);
  }

  /** The rest of its window is as it was saved. */
  function wantNeighbours(): void {
    for (const frame of [FRAME - 1, FRAME + 1, OTHER - 1, OTHER + 1]) {
      expect(guest.read32(place(frame))).toBe(saved(place(frame)));
    }
  }

  const ways: [string, () => number][] = [
    ["gives back", () => giveBack(FRAME) - 1],
    [
      "takes out",
      () => {
        abi.removeFromPhysmap.write(guest.ram, ARGS, { domid: DOMID_SELF, gpfn: BigInt(FRAME) });
        return guest.call(Hypercall.memory_op, abi.MemoryOp.remove_from_physmap, ARGS);
      },
    ],
  ];

  it.each(ways)("%s and takes again holds what it has written then", async (_, give) => {
    expect(give()).toBe(0);
    expect(guest.domain.physmap.get(FRAME)).toBeUndefined();
    expect(takeAgain(FRAME)).toBe(1);
    expect(guest.read32(place(FRAME))).toBe(0);
    guest.write32(place(FRAME), 0xabcd);
    await finish();
    expect(guest.read32(place(FRAME))).toBe(0xabcd);
    expect(guest.read32(place(FRAME, 0))).toBe(0);
    expect(guest.domain.physmap.get(FRAME)?.offset).toBe(FRAME * PAGE);
    wantNeighbours();
  });

  it("has shown elsewhere keeps its contents, and that in its place is given back", async () => {
    expect(add(abi.MapSpace.gmfn, FRAME, OTHER)).toBe(0);
    expect(guest.read32(place(OTHER))).toBe(saved(place(FRAME)));
    expect(guest.domain.physmap.get(FRAME)).toBeUndefined();
    // The only one that is free is the one that was in its place.
    expect(takeAgain(FRAME)).toBe(1);
    expect(guest.domain.physmap.get(FRAME)?.offset).toBe(OTHER * PAGE);
    guest.write32(place(FRAME), 0xabcd);
    await finish();
    expect(guest.read32(place(FRAME))).toBe(0xabcd);
    expect(guest.read32(place(FRAME, 0))).toBe(0);
    expect(guest.read32(place(OTHER))).toBe(saved(place(FRAME)));
    wantNeighbours();
  });

  it("covers with a special frame is zero when it comes back", async () => {
    expect(add(abi.MapSpace.shared_info, 0, FRAME)).toBe(0);
    expect(takeAgain(OTHER)).toBe(1);
    await finish();
    expect(guest.domain.physmap.get(FRAME)?.offset).toBe(guest.domain.plan.sharedInfo);
    const { bytes, base } = guest.mapping;
    const start = base + FRAME * PAGE;
    expect(bytes.subarray(start, start + PAGE).every((byte) => byte === 0)).toBe(true);
    expect(guest.read32(place(OTHER))).toBe(saved(place(OTHER)));
    wantNeighbours();
  });

  it("transfers arrives at the other domain, and is empty here", async () => {
    expect(giveBack(ROOM, peer)).toBe(1);
    writeEntry(peer, REF, GTF_ACCEPT_TRANSFER, SELF, ROOM);
    const { status } = guest.grantOp(GrantTableOp.transfer, transferGrant, {
      mfn: BigInt(FRAME),
      domid: PEER,
      ref: REF,
    });
    expect(status).toBe(GrantStatus.okay);
    expect(peer.read32(place(ROOM))).toBe(saved(place(FRAME)));
    expect(takeAgain(FRAME)).toBe(1);
    await finish();
    expect(guest.read32(place(FRAME))).toBe(0);
    wantNeighbours();
  });

  it("has made room with holds what another domain has put there", async () => {
    expect(giveBack(FRAME)).toBe(1);
    writeEntry(guest, REF, GTF_ACCEPT_TRANSFER, PEER, FRAME);
    peer.write32(place(ROOM), 0x7777);
    const { status } = peer.grantOp(GrantTableOp.transfer, transferGrant, { mfn: BigInt(ROOM), domid: SELF, ref: REF });
    expect(status).toBe(GrantStatus.okay);
    await finish();
    expect(guest.domain.physmap.get(FRAME)?.offset).toBe(FRAME * PAGE);
    expect(guest.read32(place(FRAME))).toBe(0x7777);
    wantNeighbours();
  });
});
