/**
 * GNTTABOP_copy: bytes from one page to another, each a grant of some domain or a frame of the caller's own. A granted page is
 * mapped for the length of the copy, so that every rule of mapping holds here too.
 */
import * as abi from "../abi/grant-table.ts";
import { DOMID_SELF, PAGE_SIZE } from "../abi/xen.ts";
import { markWritten } from "../memory/dirty-log.ts";
import type { Mapping } from "../memory/guest-memory.ts";
import type { Grantor } from "./grant-map.ts";
import { wroteTo } from "./grant-map-op.ts";
import type { VcpuContext } from "./vcpu.ts";

const { GrantStatus } = abi;

type CopyArgs = ReturnType<typeof abi.grantCopy.read>;

/** One side of a copy. */
interface Side {
  readonly granted: boolean;
  /** A grant reference, or a guest frame of the caller. */
  readonly what: bigint;
  readonly domid: number;
}

/** A page that may be copied from or to, until `release`. */
interface Page {
  readonly owner: Grantor;
  readonly mapping: Mapping;
  /** Address in `mapping`. */
  readonly address: number;
  release(): void;
}

/** The page of a side, or a negative GrantStatus. */
function openSide(vcpu: VcpuContext, side: Side, write: boolean): Page | number {
  const { grantMaps, physmap, mapping, plan, ram } = vcpu.domain;
  if (!side.granted && side.domid !== DOMID_SELF) return GrantStatus.permission_denied;
  const owner = grantMaps.grantor(side.domid);
  if (owner === undefined) return GrantStatus.bad_domain;
  if (!side.granted) {
    const entry = physmap.get(Number(side.what));
    if (entry === undefined || (write && entry.readOnly)) return GrantStatus.bad_page;
    const ours = ram.isRam(entry.offset) || entry.offset === plan.console || entry.offset === plan.xenstore;
    if (!ours) return GrantStatus.bad_page;
    return { owner, mapping, address: mapping.base + entry.offset, release() {} };
  }
  // The reference is a 32-bit member of the union; the rest of the long is not the caller's to vouch for.
  const handle = grantMaps.mapFrom(owner, Number(BigInt.asUintN(32, side.what)), !write);
  if (handle < 0) return handle;
  const address = owner.mapping.base + grantMaps.offset(handle);
  return { owner, mapping: owner.mapping, address, release: () => void grantMaps.unmap(handle) };
}

/** Copies as `args` ask for. @returns a GrantStatus; nothing is copied unless it is okay */
export function copyGrant(vcpu: VcpuContext, args: CopyArgs): number {
  const { flags, len, sourceOffset, destOffset } = args;
  if ((flags & ~(abi.GNTCOPY_SOURCE_GREF | abi.GNTCOPY_DEST_GREF)) !== 0) return GrantStatus.bad_copy_arg;
  if (sourceOffset + len > PAGE_SIZE || destOffset + len > PAGE_SIZE) return GrantStatus.bad_copy_arg;
  const from = { granted: (flags & abi.GNTCOPY_SOURCE_GREF) !== 0, what: args.sourceRef, domid: args.sourceDomid };
  const source = openSide(vcpu, from, false);
  if (typeof source === "number") return source;
  const to = { granted: (flags & abi.GNTCOPY_DEST_GREF) !== 0, what: args.destRef, domid: args.destDomid };
  const dest = openSide(vcpu, to, true);
  if (typeof dest !== "number") {
    const start = source.address + sourceOffset;
    dest.mapping.bytes.set(source.mapping.bytes.subarray(start, start + len), dest.address + destOffset);
    markWritten(dest.mapping, dest.address - dest.mapping.base, len === 0 ? 0 : PAGE_SIZE);
    if (len > 0) wroteTo(vcpu, dest.owner, dest.address - dest.mapping.base + destOffset, len);
    dest.release();
  }
  source.release();
  return typeof dest === "number" ? dest : GrantStatus.okay;
}
