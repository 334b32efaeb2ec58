/**
 * HYPERVISOR_grant_table_op (xen/include/public/grant_table.h), version 1 tables.
 *
 * The guest's own table works (setup, sizes, version). A domain here has no peer domain whose grants it could map, so
 * the operations on foreign grants answer GNTST_bad_domain for each element.
 */
import { Errno } from "../abi/errors.ts";
import * as abi from "../abi/grant-table.ts";
import type { Fields, Struct } from "../abi/struct.ts";
import { DOMID_SELF, PAGE_SIZE } from "../abi/xen.ts";
import { fileOffset } from "../memory/types.ts";
import { low32 } from "./arguments.ts";
import type { HypercallHandler } from "./hypercall.ts";
import type { VcpuContext } from "./vcpu.ts";

type SubOperation = (vcpu: VcpuContext, pointer: bigint, count: number) => number;

/** Elements one call may name; Xen continues such calls, Linux never makes them this long. */
const MAX_ELEMENTS = 4096;

function isSelf(vcpu: VcpuContext, dom: number): boolean {
  return dom === DOMID_SELF || dom === vcpu.domain.id;
}

/** Writes one status into every element of an array of `struct`. */
function answerEach<F extends Fields>(struct: Struct<F & { status: "i16" }>, status: number): SubOperation {
  const value = new Uint8Array(new Int16Array([status]).buffer);
  return (vcpu, pointer, count) => {
    const { size, offsets } = vcpu.copy.layout(struct);
    for (let i = 0; i < count; i++) {
      const element = pointer + BigInt(i * size);
      if (vcpu.copy.read(element, size) === undefined) return -Errno.EFAULT;
      if (!vcpu.copy.write(element + BigInt(offsets.status), value)) return -Errno.EFAULT;
    }
    return 0;
  };
}

function querySize(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.querySize);
  if (args === undefined) return -Errno.EFAULT;
  const answer = isSelf(vcpu, args.dom)
    ? { nrFrames: vcpu.domain.grantFrames, maxNrFrames: abi.GRANT_TABLE_FRAMES, status: abi.GrantStatus.okay }
    : { status: abi.GrantStatus.bad_domain };
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
  let status: number = abi.GrantStatus.okay;
  if (!isSelf(vcpu, args.dom)) status = abi.GrantStatus.bad_domain;
  else if (args.nrFrames > abi.GRANT_TABLE_FRAMES) status = abi.GrantStatus.general_error;
  else {
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
  if (!isSelf(vcpu, args.dom)) return -Errno.ESRCH;
  return vcpu.copy.writeStruct(pointer, abi.getVersion, { ...args, version: 1 }) ? 0 : -Errno.EFAULT;
}

const SUB_OPERATIONS = new Map<number, SubOperation>([
  [abi.GrantTableOp.map_grant_ref, answerEach(abi.mapGrantRef, abi.GrantStatus.bad_domain)],
  [abi.GrantTableOp.unmap_grant_ref, answerEach(abi.unmapGrantRef, abi.GrantStatus.bad_handle)],
  [abi.GrantTableOp.transfer, answerEach(abi.transferGrant, abi.GrantStatus.bad_domain)],
  [abi.GrantTableOp.copy, answerEach(abi.grantCopy, abi.GrantStatus.bad_domain)],
  [abi.GrantTableOp.setup_table, setupTable],
  [abi.GrantTableOp.query_size, querySize],
  [abi.GrantTableOp.set_version, setVersion],
  [abi.GrantTableOp.get_version, getVersion],
]);

export const grantTableOp: HypercallHandler = (vcpu, [operation, pointer, count]) => {
  if (low32(count) > MAX_ELEMENTS) return -Errno.EINVAL;
  return SUB_OPERATIONS.get(low32(operation))?.(vcpu, pointer, low32(count)) ?? -Errno.ENOSYS;
};
