/** HYPERVISOR_memory_op (xen/include/public/memory.h) for an auto-translated guest. */
import { Errno } from "../abi/errors.ts";
import { GRANT_TABLE_FRAMES } from "../abi/grant-table.ts";
import * as abi from "../abi/memory-op.ts";
import { PAGE_SIZE } from "../abi/xen.ts";
import { SPECIAL_GFN, SPECIAL_GFNS } from "../memory/frame-plan.ts";
import { type FileOffset, fileOffset, gfn } from "../memory/types.ts";
import type { Domain } from "./domain.ts";
import { framePins } from "./grant-pins.ts";
import type { HypercallHandler } from "./hypercall.ts";
import { checkSelf } from "./target-domain.ts";
import type { VcpuContext } from "./vcpu.ts";

type SubOperation = (vcpu: VcpuContext, pointer: bigint, startExtent: number) => number;

/** Extents handled in one call at most; the answer tells the guest how far it got, so it asks again. */
const EXTENTS_PER_CALL = 65536;

interface Reservation {
  readonly frames: readonly number[];
  readonly order: number;
}

/** Copies a reservation and its list of frames; a number is a negated Errno. */
function readReservation(vcpu: VcpuContext, pointer: bigint, startExtent: number): Reservation | number {
  const args = vcpu.copy.readStruct(pointer, abi.memoryReservation);
  if (args === undefined) return -Errno.EFAULT;
  const refused = checkSelf(vcpu.domain, args.domid);
  if (refused !== 0) return refused;
  if (args.extentOrder > 9) return -Errno.EINVAL;
  const count = Number(args.nrExtents) - startExtent;
  if (count < 0) return -Errno.EINVAL;
  const most = Math.min(count, EXTENTS_PER_CALL >> args.extentOrder);
  const frames = vcpu.copy.readLongs(args.extentStart, startExtent, most);
  return frames === undefined ? -Errno.EFAULT : { frames, order: args.extentOrder };
}

/** True for the guest frames of the toolstack's pages. */
export function isSpecial(frame: number): boolean {
  return frame >= SPECIAL_GFN && frame < SPECIAL_GFN + SPECIAL_GFNS;
}

/** Puts RAM at 2^order guest frames from `first`; false (and nothing kept) when a frame or RAM is not to be had. */
function populateExtent(domain: Domain, first: number, order: number): boolean {
  const done: number[] = [];
  for (let frame = first; frame < first + (1 << order); frame++) {
    const usable = domain.physmap.covers(frame) && !isSpecial(frame);
    const present = domain.physmap.get(frame);
    if (usable && present !== undefined && domain.ram.isRam(present.offset)) continue;
    const offset = usable && domain.physmap.isEmpty(frame) ? domain.ram.take(frame) : undefined;
    if (offset === undefined) {
      for (const undo of done) releaseFrame(domain, undo);
      return false;
    }
    domain.physmap.map(gfn(frame), offset);
    done.push(frame);
  }
  return true;
}

/**
 * Gives a RAM frame back. Its contents are gone then, decoded code among them: the caller calls flushCode.
 * False, and nothing changed, for what is no RAM of the domain and for a frame that another domain has mapped.
 */
export function releaseFrame(domain: Domain, frame: number): boolean {
  const entry = domain.physmap.get(frame);
  if (entry === undefined || !domain.ram.isRam(entry.offset)) return false;
  // Out of the physmap first: who is mapping the frame now looks there again after pinning it.
  domain.physmap.unmap(gfn(frame));
  if (domain.ram.release(entry.offset)) return true;
  domain.physmap.map(gfn(frame), entry.offset, entry.readOnly);
  return false;
}

/** Whether a guest frame shows a page of another domain. */
function isForeign(domain: Domain, frame: number): boolean {
  return (domain.physmap.get(frame)?.offset ?? 0) >= domain.plan.length;
}

/** Whether a guest frame shows RAM that some domain has mapped by a grant. */
function isPinned(domain: Domain, frame: number): boolean {
  const offset = domain.physmap.get(frame)?.offset;
  return offset !== undefined && domain.ram.isRam(offset) && framePins(domain.mapping, offset / PAGE_SIZE) !== 0;
}

/** Both answer the number of extents done, counted from the first of the list. */
function populatePhysmap(vcpu: VcpuContext, pointer: bigint, startExtent: number): number {
  const reservation = readReservation(vcpu, pointer, startExtent);
  if (typeof reservation === "number") return reservation;
  let done = 0;
  for (const frame of reservation.frames) {
    if (!populateExtent(vcpu.domain, frame, reservation.order)) break;
    done++;
  }
  vcpu.cpu.flushTlb();
  return startExtent + done;
}

function decreaseReservation(vcpu: VcpuContext, pointer: bigint, startExtent: number): number {
  const reservation = readReservation(vcpu, pointer, startExtent);
  if (typeof reservation === "number") return reservation;
  let done = 0;
  for (const frame of reservation.frames) {
    let released = 0;
    while (released < 1 << reservation.order && releaseFrame(vcpu.domain, frame + released)) released++;
    if (released < 1 << reservation.order) break;
    done++;
  }
  vcpu.cpu.flushCode();
  return startExtent + done;
}

/** File offset of what a guest may map with add_to_physmap, or a negated Errno. */
function mapSource(domain: Domain, space: number, index: bigint): FileOffset | number {
  switch (space) {
    case abi.MapSpace.shared_info:
      return index === 0n ? domain.plan.sharedInfo : -Errno.EINVAL;
    case abi.MapSpace.grant_table: {
      if (index >= BigInt(GRANT_TABLE_FRAMES)) return -Errno.EINVAL; // the status bit included: version 1 only
      domain.grantFrames = Math.max(domain.grantFrames, Number(index) + 1);
      return fileOffset(domain.plan.grantTable + Number(index) * PAGE_SIZE);
    }
    case abi.MapSpace.gmfn: {
      const entry = domain.physmap.get(Number(index));
      return entry === undefined || !domain.ram.isRam(entry.offset) ? -Errno.EINVAL : entry.offset;
    }
    default:
      return -Errno.ENOSYS;
  }
}

/** Puts one page at a guest frame; the caller flushes. @returns 0, 1 where RAM was released for it, or a negated Errno */
function addOne(domain: Domain, space: number, index: bigint, target: number): number {
  if (!domain.physmap.covers(target) || isSpecial(target)) return -Errno.EINVAL;
  const source = mapSource(domain, space, index);
  if (source < 0) return source;
  if (isForeign(domain, target)) return -Errno.EINVAL;
  const move = space === abi.MapSpace.gmfn;
  if (move && Number(index) === target) return 0;
  if (isPinned(domain, target) || (move && isPinned(domain, Number(index)))) return -Errno.EBUSY;
  const occupied = domain.physmap.get(target);
  const released = releaseFrame(domain, target);
  if (!released && occupied !== undefined && domain.ram.isRam(occupied.offset)) return -Errno.EBUSY;
  if (move)
    domain.physmap.unmap(gfn(Number(index))); // a RAM frame lies at one guest frame only
  else moveSpecial(domain, fileOffset(source), target);
  domain.physmap.map(gfn(target), fileOffset(source));
  return released ? 1 : 0;
}

function addToPhysmap(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.addToPhysmap);
  if (args === undefined) return -Errno.EFAULT;
  const refused = checkSelf(vcpu.domain, args.domid);
  if (refused !== 0) return refused;
  const range = args.space === abi.MapSpace.gmfn_range;
  const space = range ? abi.MapSpace.gmfn : args.space;
  const count = range ? args.size : 1;
  let released = false;
  let result = 0;
  for (let i = 0; i < count && result >= 0; i++) {
    result = addOne(vcpu.domain, space, args.idx + BigInt(i), Number(args.gpfn) + i);
    released ||= result > 0;
  }
  if (released) vcpu.cpu.flushCode();
  else vcpu.cpu.flushTlb();
  return Math.min(result, 0);
}

/** Another domain's page by its frame number is for who controls that domain; grants are for all others. */
function addForeign(domain: Domain, owner: number): number {
  return checkSelf(domain, owner) || -Errno.EINVAL;
}

type BatchArgs = ReturnType<typeof abi.addToPhysmapBatch.read>;

/** The same for a list of pages, each with a result of its own. */
function addToPhysmapBatch(vcpu: VcpuContext, pointer: bigint, startExtent: number): number {
  const args = vcpu.copy.readStruct(pointer, abi.addToPhysmapBatch);
  if (args === undefined) return -Errno.EFAULT;
  const refused = checkSelf(vcpu.domain, args.domid);
  if (refused !== 0) return refused;
  if (args.space === abi.MapSpace.gmfn_range) return -Errno.EOPNOTSUPP;
  const done = addEach(vcpu, args, startExtent);
  vcpu.cpu.flushCode();
  return done;
}

function addEach(vcpu: VcpuContext, args: BatchArgs, first: number): number {
  for (let i = first; i < args.size; i++) {
    const [index] = vcpu.copy.readLongs(args.idxs, i, 1) ?? [];
    const [target] = vcpu.copy.readLongs(args.gpfns, i, 1) ?? [];
    const place = args.errs + BigInt(4 * i);
    if (index === undefined || target === undefined || !vcpu.copy.writable(place, 4)) return -Errno.EFAULT;
    const foreign = args.space === abi.MapSpace.gmfn_foreign;
    const { domain } = vcpu;
    const result = foreign ? addForeign(domain, args.foreignDomid) : addOne(domain, args.space, BigInt(index), target);
    if (!vcpu.copy.write(place, new Uint8Array(Int32Array.of(Math.min(result, 0)).buffer))) return -Errno.EFAULT;
  }
  return 0;
}

/** Like Xen: mapping a special frame a second time takes it away from its first place. */
function moveSpecial(domain: Domain, source: FileOffset, target: number): void {
  const before = domain.specialFrames.get(source);
  if (before !== undefined && domain.physmap.get(before)?.offset === source) domain.physmap.unmap(gfn(before));
  domain.specialFrames.set(source, target);
}

function removeFromPhysmap(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.removeFromPhysmap);
  if (args === undefined) return -Errno.EFAULT;
  const { domain } = vcpu;
  const refused = checkSelf(domain, args.domid);
  if (refused !== 0) return refused;
  const frame = Number(args.gpfn);
  const entry = domain.physmap.get(frame);
  if (entry === undefined || isSpecial(frame) || isForeign(domain, frame)) return -Errno.EINVAL;
  if (!domain.ram.isRam(entry.offset)) domain.physmap.unmap(gfn(frame));
  else if (!releaseFrame(domain, frame)) return -Errno.EBUSY;
  vcpu.cpu.flushCode();
  return 0;
}

/** The map the domain was built with: RAM below 640 KiB, RAM from 1 MiB up, the special frames. */
function e820(domain: Domain): readonly (readonly [start: number, end: number, type: number])[] {
  return [
    [0, 0x9f000, abi.E820_RAM],
    [0x100000, domain.plan.ramBytes, abi.E820_RAM],
    [SPECIAL_GFN * PAGE_SIZE, (SPECIAL_GFN + SPECIAL_GFNS) * PAGE_SIZE, abi.E820_RESERVED],
  ];
}

function memoryMap(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.memoryMap);
  if (args === undefined) return -Errno.EFAULT;
  const entries = e820(vcpu.domain);
  const count = Math.min(args.nrEntries, entries.length);
  const bytes = new Uint8Array(count * abi.E820_ENTRY_SIZE);
  const view = new DataView(bytes.buffer);
  for (const [i, [start, end, type]] of entries.slice(0, count).entries()) {
    view.setBigUint64(i * abi.E820_ENTRY_SIZE, BigInt(start), true);
    view.setBigUint64(i * abi.E820_ENTRY_SIZE + 8, BigInt(end - start), true);
    view.setUint32(i * abi.E820_ENTRY_SIZE + 16, type, true);
  }
  if (args.buffer !== 0n && !vcpu.copy.write(args.buffer, bytes)) return -Errno.EFAULT;
  return vcpu.copy.writeStruct(pointer, abi.memoryMap, { ...args, nrEntries: count }) ? 0 : -Errno.EFAULT;
}

/** These three take a domain id by pointer. */
function withDomain(answer: (domain: Domain) => number): SubOperation {
  return (vcpu, pointer) => {
    const copy = vcpu.copy.read(pointer, 2);
    if (copy === undefined) return -Errno.EFAULT;
    const id = new DataView(copy.buffer).getUint16(0, true);
    return checkSelf(vcpu.domain, id) || answer(vcpu.domain);
  };
}

/** The machine_* operations ask for things only a privileged or a paravirtual guest has: ENOSYS by absence. */
const SUB_OPERATIONS = new Map<number, SubOperation>([
  // RAM that lies at no guest frame does not exist for an auto-translated guest: no extent can be allocated.
  [abi.MemoryOp.increase_reservation, (_vcpu, _pointer, startExtent) => startExtent],
  [abi.MemoryOp.maximum_ram_page, (vcpu) => vcpu.domain.ram.frames - 1],
  [abi.MemoryOp.decrease_reservation, decreaseReservation],
  [abi.MemoryOp.populate_physmap, populatePhysmap],
  [abi.MemoryOp.add_to_physmap, addToPhysmap],
  [abi.MemoryOp.add_to_physmap_batch, addToPhysmapBatch],
  [abi.MemoryOp.exchange, () => -Errno.EOPNOTSUPP], // for paravirtual guests
  [abi.MemoryOp.get_vnumainfo, () => -Errno.EOPNOTSUPP], // a domain without virtual NUMA nodes
  [abi.MemoryOp.remove_from_physmap, removeFromPhysmap],
  [abi.MemoryOp.memory_map, memoryMap],
  [abi.MemoryOp.current_reservation, withDomain((domain) => domain.ram.used)],
  [abi.MemoryOp.maximum_reservation, withDomain((domain) => domain.ram.frames)],
  [abi.MemoryOp.maximum_gpfn, withDomain(() => SPECIAL_GFN + SPECIAL_GFNS - 1)],
]);

export const memoryOp: HypercallHandler = (vcpu, [command, pointer]) => {
  const operation = Number(command & BigInt(abi.MEMOP_CMD_MASK));
  const startExtent = Number(BigInt.asUintN(32, command) >> BigInt(abi.MEMOP_EXTENT_SHIFT));
  return SUB_OPERATIONS.get(operation)?.(vcpu, pointer, startExtent) ?? -Errno.ENOSYS;
};
