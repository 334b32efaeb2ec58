import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Errno } from "../../engine/abi/errors.ts";
import * as abi from "../../engine/abi/grant-table.ts";
import { Hypercall } from "../../engine/abi/hypercalls.ts";
import * as memory from "../../engine/abi/memory-op.ts";
import { DOMID_SELF } from "../../engine/abi/xen.ts";
import { CodeShootdown, codeWritten } from "../../engine/hypervisor/code-shootdown.ts";
import { unmapEverything, wroteTo } from "../../engine/hypervisor/grant-map-op.ts";
import { entryWord, framePins, grantPins } from "../../engine/hypervisor/grant-pins.ts";
import { releaseMapsOf } from "../../engine/hypervisor/grant-recovery.ts";
import { defaultMemoryKind } from "../../engine/memory/guest-memory.ts";
import { ARGS, entryFlags, GrantLab, type Guest, writeEntry } from "./grant-domains.ts";

const { GrantStatus, GrantTableOp, GTF_PERMIT_ACCESS: PERMIT, GTF_READONLY } = abi;
const A = 3;
const B = 4;
const REF = 20;
const FRAME = 40;
/** Above the guest's RAM, where nothing lies. */
const HOLE = 0x20000;
const READ_ONLY = abi.GNTMAP_HOST_MAP | abi.GNTMAP_READONLY;

describe.skipIf(defaultMemoryKind() !== "mapped")("grant_table_op between guests", () => {
  let lab: GrantLab;
  let a: Guest;
  let b: Guest;

  beforeEach(() => {
    lab = new GrantLab();
    a = lab.guest(A);
    b = lab.guest(B);
  });
  afterEach(() => lab.close());

  const physmap = (guest: Guest, op: number, frame: number): number => {
    guest.ram.setBigUint64(0x6000, BigInt(frame), true);
    memory.memoryReservation.write(guest.ram, ARGS, {
      extentStart: 0x6000n,
      nrExtents: 1n,
      extentOrder: 0,
      memFlags: 0,
      domid: DOMID_SELF,
    });
    return guest.call(Hypercall.memory_op, op, ARGS);
  };
  const remove = (guest: Guest, frame: number): number => {
    memory.removeFromPhysmap.write(guest.ram, ARGS, { domid: DOMID_SELF, gpfn: BigInt(frame) });
    return guest.call(Hypercall.memory_op, memory.MemoryOp.remove_from_physmap, ARGS);
  };
  const add = (guest: Guest, space: number, idx: number, frame: number): number => {
    memory.addToPhysmap.write(guest.ram, ARGS, {
      domid: DOMID_SELF,
      size: 0,
      space,
      idx: BigInt(idx),
      gpfn: BigInt(frame),
    });
    return guest.call(Hypercall.memory_op, memory.MemoryOp.add_to_physmap, ARGS);
  };

  it("lets a guest read and write the other's page through its own physmap", () => {
    writeEntry(a, REF, PERMIT, B, FRAME);
    a.write32(FRAME * 4096, 0x1111);
    const { status, handle } = b.map(HOLE * 4096, A, REF);
    expect(status).toBe(GrantStatus.okay);
    expect(b.cpu.flushes).toBeGreaterThan(0);
    expect(b.read32(HOLE * 4096)).toBe(0x1111);
    b.write32(HOLE * 4096 + 4092, 0x2222);
    expect(a.read32(FRAME * 4096 + 4092)).toBe(0x2222);
    expect(b.unmap(HOLE * 4096, handle)).toBe(GrantStatus.okay);
    expect(() => b.read32(HOLE * 4096)).toThrow("page fault");
    expect(b.cpu.dropped).toContain(b.mapping.windowBase + handle * 4096);
    expect([grantPins(a.mapping, REF), framePins(a.mapping, FRAME), entryFlags(a, REF)]).toEqual([0, 0, PERMIT]);
    expect(b.unmap(HOLE * 4096, handle)).toBe(GrantStatus.bad_handle);
  });

  it("replaces the RAM at the host address and leaves a hole there", () => {
    writeEntry(a, REF, PERMIT | GTF_READONLY, B, FRAME);
    a.write32(FRAME * 4096, 7);
    const used = b.domain.ram.used;
    const { handle } = b.map(0x80000, A, REF, READ_ONLY);
    expect(b.read32(0x80000)).toBe(7);
    expect(() => b.write32(0x80000, 1)).toThrow("page fault");
    expect(b.domain.ram.used).toBe(used - 1);
    expect(b.unmap(0x80000, handle)).toBe(GrantStatus.okay);
    expect(b.domain.physmap.get(0x80)).toBeUndefined();
    expect(physmap(b, memory.MemoryOp.populate_physmap, 0x80)).toBe(1);
    expect(b.read32(0x80000)).toBe(0);
  });

  it.each<[string, number, Partial<{ host: number; dom: number; ref: number; flags: number }>]>([
    ["neither host nor device map", GrantStatus.bad_gntref, { flags: 0 }],
    ["a device map", GrantStatus.general_error, { flags: 3 }],
    ["a mapping by page table entry", GrantStatus.general_error, { flags: 2 | 16 }],
    ["an unknown domain", GrantStatus.bad_domain, { dom: 77 }],
    ["a reference past the table", GrantStatus.bad_gntref, { ref: 1 << 20 }],
    ["a grant to somebody else", GrantStatus.general_error, { ref: REF + 1 }],
    ["a host address past the physmap", GrantStatus.general_error, { host: 2 ** 40 }],
    ["a host address at a special frame", GrantStatus.general_error, { host: 0xfefff000 }],
  ])("refuses %s", (_name, status, { host = HOLE * 4096, dom = A, ref = REF, flags = 2 }) => {
    writeEntry(a, REF, PERMIT, B, FRAME);
    writeEntry(a, REF + 1, PERMIT, 9, FRAME);
    expect(b.map(host, dom, ref, flags).status).toBe(status);
    expect([grantPins(a.mapping, REF), framePins(a.mapping, FRAME), b.maps.listMaps()]).toEqual([0, 0, []]);
    expect(entryFlags(a, REF)).toBe(PERMIT);
  });

  it("does not unmap at another address, and at none for address 0", () => {
    writeEntry(a, REF, PERMIT, B, FRAME);
    const { handle } = b.map(HOLE * 4096, A, REF);
    expect(b.unmap((HOLE + 1) * 4096, handle)).toBe(GrantStatus.general_error);
    expect(b.unmap(0, handle)).toBe(GrantStatus.okay);
    const replace = { hostAddr: BigInt(HOLE * 4096), newAddr: 0x1000n, handle };
    const replaced = b.grantOp(GrantTableOp.unmap_and_replace, abi.unmapAndReplace, replace);
    expect(replaced.status).toBe(GrantStatus.general_error);
    expect(b.maps.listMaps()).toHaveLength(1);
    expect(b.grantOp(GrantTableOp.unmap_and_replace, abi.unmapAndReplace, { ...replace, newAddr: 0n }).status).toBe(0);
    expect(b.maps.listMaps()).toEqual([]);
  });

  it("maps a second page over neither a mapped page nor a special frame", () => {
    writeEntry(a, REF, PERMIT, B, FRAME);
    b.map(HOLE * 4096, A, REF);
    expect(b.map(HOLE * 4096, A, REF).status).toBe(GrantStatus.general_error);
    expect(grantPins(a.mapping, REF)).toBe(0x10001);
  });

  it("keeps a mapped page where it is: the owner can neither release, remove nor move it", () => {
    writeEntry(a, REF, PERMIT, B, FRAME);
    const { handle } = b.map(HOLE * 4096, A, REF);
    a.write32(FRAME * 4096, 5);
    expect(physmap(a, memory.MemoryOp.decrease_reservation, FRAME)).toBe(0);
    expect(remove(a, FRAME)).toBe(-Errno.EBUSY);
    expect(add(a, memory.MapSpace.gmfn, FRAME, HOLE)).toBe(-Errno.EBUSY);
    expect(add(a, memory.MapSpace.shared_info, 0, FRAME)).toBe(-Errno.EBUSY);
    expect([a.read32(FRAME * 4096), b.read32(HOLE * 4096)]).toEqual([5, 5]);
    b.unmap(HOLE * 4096, handle);
    expect(physmap(a, memory.MemoryOp.decrease_reservation, FRAME)).toBe(1);
    expect(b.map(HOLE * 4096, A, REF).status).toBe(GrantStatus.bad_page);
  });

  it("does not let the mapper treat a foreign page as RAM", () => {
    writeEntry(a, REF, PERMIT, B, FRAME);
    b.map(HOLE * 4096, A, REF);
    writeEntry(b, REF, PERMIT, A, HOLE);
    expect(a.map(HOLE * 4096, B, REF).status).toBe(GrantStatus.bad_page);
    expect(physmap(b, memory.MemoryOp.decrease_reservation, HOLE)).toBe(0);
    expect(physmap(b, memory.MemoryOp.populate_physmap, HOLE)).toBe(0);
    expect(remove(b, HOLE)).toBe(-Errno.EINVAL);
    expect(add(b, memory.MapSpace.gmfn, HOLE, HOLE + 1)).toBe(-Errno.EINVAL);
    expect(add(b, memory.MapSpace.gmfn, 5, HOLE)).toBe(-Errno.EINVAL);
    expect(b.maps.listMaps()).toHaveLength(1);
  });

  it("maps one's own grant: the same RAM at a second guest frame, which pins it", () => {
    writeEntry(a, REF, PERMIT, DOMID_SELF, FRAME);
    const { status, handle } = a.map(HOLE * 4096, DOMID_SELF, REF);
    expect(status).toBe(GrantStatus.okay);
    a.write32(HOLE * 4096, 0xabcd);
    expect(a.read32(FRAME * 4096)).toBe(0xabcd);
    expect(physmap(a, memory.MemoryOp.decrease_reservation, HOLE)).toBe(0);
    expect(physmap(a, memory.MemoryOp.decrease_reservation, FRAME)).toBe(0);
    expect(a.unmap(HOLE * 4096, handle)).toBe(GrantStatus.okay);
    expect(a.domain.physmap.get(HOLE)).toBeUndefined();
    expect(a.read32(FRAME * 4096)).toBe(0xabcd);
  });

  it("survives the owner: the page stays until it is unmapped", () => {
    writeEntry(a, REF, PERMIT, B, FRAME);
    a.write32(FRAME * 4096, 99);
    const { handle } = b.map(HOLE * 4096, A, REF);
    lab.end(a);
    expect(b.read32(HOLE * 4096)).toBe(99);
    expect(b.map((HOLE + 1) * 4096, A, REF).status).toBe(GrantStatus.bad_domain);
    expect(b.unmap(HOLE * 4096, handle)).toBe(GrantStatus.okay);
    expect(() => b.read32(HOLE * 4096)).toThrow("page fault");
  });

  it("gives everything back when the mapper resets or dies", () => {
    for (const [i, give] of [() => unmapEverything(b.vcpu), () => releaseMapsOf(b, [a])].entries()) {
      writeEntry(a, REF, PERMIT, B, FRAME);
      expect(b.map((HOLE + i) * 4096, A, REF).status).toBe(0);
      give();
      expect([grantPins(a.mapping, REF), framePins(a.mapping, FRAME), entryFlags(a, REF)]).toEqual([0, 0, PERMIT]);
    }
    expect(() => b.read32(HOLE * 4096)).toThrow("page fault");
  });

  it("serves 32-bit callers", () => {
    writeEntry(a, REF, PERMIT, B, FRAME);
    a.write32(FRAME * 4096, 0x32);
    b.cpu.longMode = false;
    const { status, handle } = b.map(HOLE * 4096, A, REF);
    expect([status, b.read32(HOLE * 4096)]).toEqual([0, 0x32]);
    expect(b.unmap(HOLE * 4096, handle)).toBe(0);
    const copy = { sourceRef: BigInt(REF), sourceDomid: A, destRef: 0x41n, destDomid: DOMID_SELF, len: 4, flags: 1 };
    expect(b.grantOp(GrantTableOp.copy, abi.grantCopy, copy).status).toBe(0);
    expect(b.read32(0x41000)).toBe(0x32);
  });

  it("answers EFAULT before it does anything whose answer could not be written", () => {
    writeEntry(a, REF, PERMIT, B, FRAME);
    writeEntry(a, REF + 1, PERMIT | GTF_READONLY, B, FRAME + 1);
    abi.mapGrantRef.write(a.ram, (FRAME + 1) * 4096, { hostAddr: 0x30000000n, dom: A, ref: REF, flags: 2 });
    b.map(HOLE * 4096, A, REF + 1, READ_ONLY);
    expect(b.call(Hypercall.grant_table_op, GrantTableOp.map_grant_ref, HOLE * 4096, 1)).toBe(-Errno.EFAULT);
    expect(grantPins(a.mapping, REF)).toBe(0);
  });

  describe("copy", () => {
    const copy = (guest: Guest, args: Partial<ReturnType<typeof abi.grantCopy.read>>): number =>
      guest.grantOp(GrantTableOp.copy, abi.grantCopy, { len: 16, ...args }).status;

    it("copies between grants and own frames, in either direction", () => {
      writeEntry(a, REF, PERMIT | GTF_READONLY, B, FRAME);
      writeEntry(a, REF + 1, PERMIT, B, FRAME + 1);
      a.write32(FRAME * 4096 + 8, 0x600d);
      const source = { sourceRef: BigInt(REF), sourceDomid: A, sourceOffset: 8 };
      expect(copy(b, { ...source, destRef: 0x41n, destDomid: DOMID_SELF, destOffset: 4080, flags: 1 })).toBe(0);
      expect(b.read32(0x41000 + 4080)).toBe(0x600d);
      expect(b.cpu.dropped).toContain(b.mapping.base + 0x41000);
      expect(copy(b, { ...source, destRef: BigInt(REF + 1), destDomid: A, destOffset: 0, flags: 3 })).toBe(0);
      expect(a.read32((FRAME + 1) * 4096)).toBe(0x600d);
      b.write32(0x42000, 0xbeef);
      const own = { sourceRef: 0x42n, sourceDomid: DOMID_SELF, destRef: BigInt(REF + 1), destDomid: A, flags: 2 };
      expect(copy(b, own)).toBe(0);
      expect(a.read32((FRAME + 1) * 4096)).toBe(0xbeef);
      expect([grantPins(a.mapping, REF), grantPins(a.mapping, REF + 1), b.maps.listMaps()]).toEqual([0, 0, []]);
      expect([entryFlags(a, REF), entryFlags(a, REF + 1)]).toEqual([PERMIT | GTF_READONLY, PERMIT]);
    });

    it.each<[string, number, Partial<ReturnType<typeof abi.grantCopy.read>>]>([
      ["past the end of the source", GrantStatus.bad_copy_arg, { sourceOffset: 4081 }],
      ["past the end of the destination", GrantStatus.bad_copy_arg, { destOffset: 4081 }],
      ["more than a page", GrantStatus.bad_copy_arg, { len: 4097 }],
      ["unknown flags", GrantStatus.bad_copy_arg, { flags: 5 }],
      ["to a frame of another domain", GrantStatus.permission_denied, { destDomid: A }],
      ["from a frame of another domain", GrantStatus.permission_denied, { flags: 0 }],
      ["to no frame", GrantStatus.bad_page, { destRef: 1n << 60n }],
      ["from an unknown domain", GrantStatus.bad_domain, { sourceDomid: 77 }],
      ["to a grant it may only read", GrantStatus.general_error, { destRef: BigInt(REF), destDomid: A, flags: 3 }],
      ["from no grant", GrantStatus.general_error, { sourceRef: BigInt(REF + 9) }],
    ])("refuses %s, and copies nothing", (_name, status, change) => {
      writeEntry(a, REF, PERMIT | GTF_READONLY, B, FRAME);
      a.write32(FRAME * 4096, 0xbad);
      const args = { sourceRef: BigInt(REF), sourceDomid: A, destRef: 0x41n, destDomid: DOMID_SELF, flags: 1 };
      expect(copy(b, { ...args, ...change })).toBe(status);
      expect(b.read32(0x41000)).toBe(0);
      expect([grantPins(a.mapping, REF), b.maps.listMaps()]).toEqual([0, []]);
    });
  });

  describe("transfer", () => {
    const give = (change: Partial<ReturnType<typeof abi.transferGrant.read>> = {}): number =>
      b.grantOp(GrantTableOp.transfer, abi.transferGrant, { mfn: 0x50n, domid: A, ref: REF, ...change }).status;

    it("moves a page to where the receiver wants it", () => {
      physmap(a, memory.MemoryOp.decrease_reservation, 0x60);
      expect(a.domain.ram.used).toBe(255);
      writeEntry(a, REF, abi.GTF_ACCEPT_TRANSFER, B, HOLE);
      b.write32(0x50000, 0x7777);
      expect(give()).toBe(GrantStatus.okay);
      expect(a.read32(HOLE * 4096)).toBe(0x7777);
      expect([a.domain.ram.used, b.domain.ram.used]).toEqual([256, 255]);
      expect(() => b.read32(0x50000)).toThrow("page fault");
      const done = abi.GTF_ACCEPT_TRANSFER | abi.GTF_TRANSFER_COMMITTED | abi.GTF_TRANSFER_COMPLETED;
      expect(entryFlags(a, REF)).toBe(done);
      // The receiver's pool does not hand the frame out a second time.
      expect(physmap(a, memory.MemoryOp.populate_physmap, 0x60)).toBe(0);
      // And the sender's new page is empty.
      expect(physmap(b, memory.MemoryOp.populate_physmap, 0x50)).toBe(1);
      expect(b.read32(0x50000)).toBe(0);
    });

    it.each<[string, number, (guests: { a: Guest; b: Guest }) => number]>([
      ["no RAM of its own", GrantStatus.bad_page, () => give({ mfn: 0xfefffn })],
      ["a frame out of range", GrantStatus.bad_page, () => give({ mfn: 1n << 50n })],
      ["an unknown domain", GrantStatus.bad_domain, () => give({ domid: 99 })],
      ["itself", GrantStatus.bad_domain, () => give({ domid: DOMID_SELF })],
      ["past the table", GrantStatus.bad_gntref, () => give({ ref: 1 << 20 })],
      ["an entry for access", GrantStatus.bad_gntref, () => give({ ref: REF + 1 })],
      ["an entry for another domain", GrantStatus.bad_gntref, () => give({ ref: REF + 2 })],
      ["a guest frame that is not empty", GrantStatus.bad_gntref, () => give({ ref: REF + 3 })],
      ["an entry that was used", GrantStatus.bad_gntref, () => [give(), give({ mfn: 0x51n })][1] ?? 1],
    ])("refuses %s, and nobody loses a page", (_name, status, act) => {
      physmap(a, memory.MemoryOp.decrease_reservation, 0x60);
      physmap(a, memory.MemoryOp.decrease_reservation, 0x61);
      writeEntry(a, REF, abi.GTF_ACCEPT_TRANSFER, B, HOLE);
      writeEntry(a, REF + 1, PERMIT, B, HOLE);
      writeEntry(a, REF + 2, abi.GTF_ACCEPT_TRANSFER, 9, HOLE);
      writeEntry(a, REF + 3, abi.GTF_ACCEPT_TRANSFER, B, FRAME);
      b.write32(0x51000, 0x5151);
      expect(act({ a, b })).toBe(status);
      expect(b.read32(0x51000)).toBe(0x5151);
      expect(a.domain.ram.used + b.domain.ram.used).toBe(510);
    });

    it("refuses without room, and for a page that is mapped", () => {
      writeEntry(a, REF, abi.GTF_ACCEPT_TRANSFER, B, HOLE);
      expect(give()).toBe(GrantStatus.general_error);
      physmap(a, memory.MemoryOp.decrease_reservation, 0x60);
      writeEntry(b, REF, PERMIT, A, 0x50);
      const { handle } = a.map((HOLE + 1) * 4096, B, REF);
      expect(give()).toBe(GrantStatus.bad_page);
      expect(entryFlags(a, REF)).toBe(abi.GTF_ACCEPT_TRANSFER);
      a.unmap((HOLE + 1) * 4096, handle);
      expect(give()).toBe(GrantStatus.okay);
    });
  });

  it("swaps entries that are not in use", () => {
    writeEntry(a, REF, PERMIT, B, FRAME);
    writeEntry(a, REF + 1, PERMIT | GTF_READONLY, 9, FRAME + 1);
    const swap = (refA: number, refB: number) =>
      a.grantOp(GrantTableOp.swap_grant_ref, abi.swapGrantRef, { refA, refB }).status;
    expect(swap(REF, REF + 1)).toBe(GrantStatus.okay);
    expect([entryFlags(a, REF), entryFlags(a, REF + 1)]).toEqual([PERMIT | GTF_READONLY, PERMIT]);
    expect(Atomics.load(a.mapping.words, entryWord(a.mapping, REF + 1) + 1)).toBe(FRAME);
    expect(swap(REF, 1 << 20)).toBe(GrantStatus.bad_gntref);
    expect(b.map(HOLE * 4096, A, REF + 1).status).toBe(0);
    expect(swap(REF, REF + 1)).toBe(GrantStatus.eagain);
    expect(swap(REF, REF + 2)).toBe(GrantStatus.okay);
  });

  it("tells the owner's vCPU to forget code it decoded from a page that was written, and answers its own meanwhile", () => {
    writeEntry(a, REF, PERMIT, B, FRAME);
    const decode = (guest: Guest, frame: number): CodeShootdown => {
      const { mapping } = guest;
      mapping.bytes[mapping.base + mapping.plan.codeFlags + (mapping.base + frame * 4096) / 4096] = 1;
      return new CodeShootdown(mapping, 0, (address) => guest.cpu.dropCode(address));
    };
    const [ofA, ofB] = [decode(a, FRAME), decode(b, 0x41)];
    // Nobody waits for a vCPU that does not run.
    codeWritten(b.mapping, 0x41000, 4, () => true);
    const { handle } = b.map(HOLE * 4096, A, REF);
    b.write32(HOLE * 4096, 0x90);
    // From here on A runs; it ends while B waits for it, after B has dealt with what A wants of it.
    ofA.decodes = true;
    lab.end(a);
    expect([ofA.wanted, ofB.wanted]).toEqual([false, true]);
    wroteTo(b.vcpu, { id: A, generation: a.generation, mapping: a.mapping }, FRAME * 4096, 4);
    expect([ofA.wanted, ofB.wanted]).toEqual([true, false]);
    expect(b.cpu.dropped).toContain(b.mapping.base + 0x41000);
    ofA.service();
    expect(a.cpu.dropped).toEqual([a.mapping.base + FRAME * 4096]);
    expect(b.unmap(HOLE * 4096, handle)).toBe(GrantStatus.okay);
  });

  it("has no version 2, with pages mapped or without", () => {
    writeEntry(a, REF, PERMIT, B, FRAME);
    b.map(HOLE * 4096, A, REF);
    abi.setVersion.write(a.ram, ARGS, { version: 2 });
    expect(a.call(Hypercall.grant_table_op, GrantTableOp.set_version, ARGS, 1)).toBe(-Errno.ENOSYS);
    expect(grantPins(a.mapping, REF)).toBe(0x10001);
    const frames = a.grantOp(GrantTableOp.get_status_frames, abi.getStatusFrames, { dom: DOMID_SELF, nrFrames: 1 });
    expect(frames.status).toBe(GrantStatus.general_error);
  });

  it.each([
    [{ offset: 0, length: 4096, op: 1 }, 0],
    [{ offset: 1, length: 4096, op: 1 }, -Errno.EINVAL],
    [{ offset: 0, length: 64, op: 8 }, -Errno.EINVAL],
  ])("cache_flush %j answers %i", (args, result) => {
    abi.cacheFlush.write(a.ram, ARGS, args);
    expect(a.call(Hypercall.grant_table_op, GrantTableOp.cache_flush, ARGS, 1)).toBe(result);
  });
});
