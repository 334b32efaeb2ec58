/**
 * HYPERVISOR_grant_table_op (xen/include/public/grant_table.h), version 1 tables: dispatch, and the operations on one's own
 * table. Mapping, copies and transfers are files of their own.
 */
import { Errno } from "../abi/errors.ts";
import * as abi from "../abi/grant-table.ts";
import type { Fields, Struct, StructValue } from "../abi/struct.ts";
import { PAGE_SIZE } from "../abi/xen.ts";
import { GRANT_REFS } from "../memory/frame-plan.ts";
import { fileOffset } from "../memory/types.ts";
import { low32 } from "./arguments.ts";
import { copyGrant } from "./grant-copy.ts";
import { mapGrant, unmapAndReplace, unmapGrant } from "./grant-map-op.ts";
import { entryWord, lockGrant, unlockGrant } from "./grant-pins.ts";
import { transferGrant } from "./grant-transfer.ts";
import type { HypercallHandler } from "./hypercall.ts";
import { checkSelf } from "./target-domain.ts";
import type { VcpuContext } from "./vcpu.ts";

type SubOperation = (vcpu: VcpuContext, pointer: bigint, count: number) => number;

/** Elements one call may name: as many as Linux's gntdev lets a program map at once. */
const MAX_ELEMENTS = 65536;

/** What an operation on the table of a domain other than the caller is answered; okay for the caller itself. */
function tableStatus(vcpu: VcpuContext, dom: number): number {
  switch (checkSelf(vcpu.domain, dom)) {
    case 0:
      return abi.GrantStatus.okay;
    case -Errno.ESRCH:
      return abi.GrantStatus.bad_domain;
    default:
      return abi.GrantStatus.permission_denied;
  }
}

type Statused<F extends Fields> = F & { readonly status: "i16" };

/**
 * Performs `one` for each element of an array and writes its answer back. EFAULT ends the call at an element that cannot be
 * read or written; those before it are done.
 */
function forEach<F extends Fields>(
  struct: Struct<Statused<F>>,
  one: (vcpu: VcpuContext, args: StructValue<Statused<F>>) => Partial<StructValue<Statused<F>>>,
): SubOperation {
  return (vcpu, pointer, count) => {
    const { size } = vcpu.copy.layout(struct);
    for (let i = 0; i < count; i++) {
      const element = pointer + BigInt(i * size);
      const args = vcpu.copy.readStruct(element, struct);
      if (args === undefined) return -Errno.EFAULT;
      if (!vcpu.copy.writable(element, size)) return -Errno.EFAULT;
      // Checked first, because what is done cannot be undone; a page that the operation itself took away still fails.
      if (!vcpu.copy.writeStruct(element, struct, { ...args, ...one(vcpu, args) })) return -Errno.EFAULT;
    }
    return 0;
  };
}

const mapEach = forEach(abi.mapGrantRef, (vcpu, args) => {
  const handle = mapGrant(vcpu, args);
  return handle < 0 ? { status: handle } : { status: abi.GrantStatus.okay, handle, devBusAddr: 0n };
});

const unmapEach = forEach(abi.unmapGrantRef, (vcpu, args) => ({
  status: unmapGrant(vcpu, args.hostAddr, args.handle),
}));

const replaceEach = forEach(abi.unmapAndReplace, (vcpu, args) => ({
  status: unmapAndReplace(vcpu, args.hostAddr, args.newAddr, args.handle),
}));

const transferEach = forEach(abi.transferGrant, (vcpu, args) => ({ status: transferGrant(vcpu, args) }));

const copyEach = forEach(abi.grantCopy, (vcpu, args) => ({ status: copyGrant(vcpu, args) }));

/** Exchanges two entries of one's own table that nobody uses. @returns a GrantStatus */
function swapEntries(vcpu: VcpuContext, first: number, second: number): number {
  const { mapping } = vcpu.domain;
  if (first >= GRANT_REFS || second >= GRANT_REFS) return abi.GrantStatus.bad_gntref;
  if (first === second) return abi.GrantStatus.okay;
  // In ascending order, as everybody who locks two.
  const refs = first < second ? [first, second] : [second, first];
  const counts = refs.map((ref) => lockGrant(mapping, ref));
  const unused = counts.every((count) => count === 0);
  if (unused) {
    const [a, b] = [entryWord(mapping, first), entryWord(mapping, second)];
    for (const word of [0, 1]) {
      const kept = Atomics.exchange(mapping.words, a + word, Atomics.load(mapping.words, b + word));
      Atomics.store(mapping.words, b + word, kept);
    }
  }
  for (const [i, ref] of refs.entries()) {
    const count = counts[i] ?? -1;
    if (count >= 0) unlockGrant(mapping, ref, count);
  }
  return unused ? abi.GrantStatus.okay : abi.GrantStatus.eagain;
}

const swapEach = forEach(abi.swapGrantRef, (vcpu, args) => ({ status: swapEntries(vcpu, args.refA, args.refB) }));

/** Version 1 tables have no status frames. */
function getStatusFrames(vcpu: VcpuContext, pointer: bigint, count: number): number {
  if (count !== 1) return -Errno.EINVAL;
  const args = vcpu.copy.readStruct(pointer, abi.getStatusFrames);
  if (args === undefined) return -Errno.EFAULT;
  const status = tableStatus(vcpu, args.dom) || abi.GrantStatus.general_error;
  return vcpu.copy.writeStruct(pointer, abi.getStatusFrames, { ...args, status }) ? 0 : -Errno.EFAULT;
}

/** Memory is coherent here: there is nothing to do but to refuse what makes no sense. */
function cacheFlush(vcpu: VcpuContext, pointer: bigint, count: number): number {
  const { size } = vcpu.copy.layout(abi.cacheFlush);
  const known = abi.GNTTAB_CACHE_CLEAN | abi.GNTTAB_CACHE_INVAL | abi.GNTTAB_CACHE_SOURCE_GREF;
  for (let i = 0; i < count; i++) {
    const args = vcpu.copy.readStruct(pointer + BigInt(i * size), abi.cacheFlush);
    if (args === undefined) return -Errno.EFAULT;
    if (args.offset + args.length > PAGE_SIZE || (args.op & ~known) !== 0) return -Errno.EINVAL;
  }
  return 0;
}

function querySize(vcpu: VcpuContext, pointer: bigint, count: number): number {
  if (count !== 1) return -Errno.EINVAL;
  const args = vcpu.copy.readStruct(pointer, abi.querySize);
  if (args === undefined) return -Errno.EFAULT;
  const status = tableStatus(vcpu, args.dom);
  const sizes = { nrFrames: vcpu.domain.grantFrames, maxNrFrames: abi.GRANT_TABLE_FRAMES };
  const answer = status === abi.GrantStatus.okay ? { ...sizes, status } : { status };
  return vcpu.copy.writeStruct(pointer, abi.querySize, { ...args, ...answer }) ? 0 : -Errno.EFAULT;
}

/** Guest frames at which the grant table's frames are mapped; all ones for those that are not. */
function tableFrames(vcpu: VcpuContext, count: number): bigint[] {
  return Array.from({ length: count }, (_, i) => {
    const place = vcpu.domain.specialFrames.get(fileOffset(vcpu.domain.plan.grantTable + i * PAGE_SIZE));
    return place === undefined ? BigInt.asUintN(64, -1n) : BigInt(place);
  });
}

function setupTable(vcpu: VcpuContext, pointer: bigint, count: number): number {
  if (count !== 1) return -Errno.EINVAL;
  const args = vcpu.copy.readStruct(pointer, abi.setupTable);
  if (args === undefined) return -Errno.EFAULT;
  let status = tableStatus(vcpu, args.dom);
  if (args.nrFrames > abi.GRANT_TABLE_FRAMES) status = abi.GrantStatus.general_error;
  if (status === abi.GrantStatus.okay) {
    vcpu.domain.grantFrames = Math.max(vcpu.domain.grantFrames, args.nrFrames);
    if (!vcpu.copy.writeLongs(args.frameList, tableFrames(vcpu, args.nrFrames))) return -Errno.EFAULT;
  }
  return vcpu.copy.writeStruct(pointer, abi.setupTable, { ...args, status }) ? 0 : -Errno.EFAULT;
}

/** Version 1 is the only one; asking for another gets told so, as Xen does with `gnttab=max-ver:1`. */
function setVersion(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.setVersion);
  if (args === undefined) return -Errno.EFAULT;
  if (args.version === 1) return 0;
  if (!vcpu.copy.writeStruct(pointer, abi.setVersion, { version: 1 })) return -Errno.EFAULT;
  return args.version === 2 ? -Errno.ENOSYS : -Errno.EINVAL;
}

function getVersion(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.getVersion);
  if (args === undefined) return -Errno.EFAULT;
  const refused = checkSelf(vcpu.domain, args.dom);
  if (refused !== 0) return refused;
  return vcpu.copy.writeStruct(pointer, abi.getVersion, { ...args, version: 1 }) ? 0 : -Errno.EFAULT;
}

const SUB_OPERATIONS = new Map<number, SubOperation>([
  [abi.GrantTableOp.map_grant_ref, mapEach],
  [abi.GrantTableOp.unmap_grant_ref, unmapEach],
  [abi.GrantTableOp.unmap_and_replace, replaceEach],
  [abi.GrantTableOp.transfer, transferEach],
  [abi.GrantTableOp.copy, copyEach],
  [abi.GrantTableOp.swap_grant_ref, swapEach],
  [abi.GrantTableOp.get_status_frames, getStatusFrames],
  [abi.GrantTableOp.cache_flush, cacheFlush],
  [abi.GrantTableOp.setup_table, setupTable],
  [abi.GrantTableOp.query_size, querySize],
  [abi.GrantTableOp.set_version, setVersion],
  [abi.GrantTableOp.get_version, getVersion],
]);

export const grantTableOp: HypercallHandler = (vcpu, [operation, pointer, count]) => {
  if (low32(count) > MAX_ELEMENTS) return -Errno.EINVAL;
  return SUB_OPERATIONS.get(low32(operation))?.(vcpu, pointer, low32(count)) ?? -Errno.ENOSYS;
};
