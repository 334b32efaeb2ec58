/**
 * GNTTABOP_map_grant_ref, unmap_grant_ref and unmap_and_replace for an auto-translated guest: the page appears at a guest
 * frame. RAM that lay there is given back, as nothing could reach it any more; after unmapping the guest frame is empty.
 *
 * The page is mapped over a slot of the window behind the vCPU's frames, and the physmap points there: guest accesses go to
 * the other domain's memory directly.
 */
import * as abi from "../abi/grant-table.ts";
import { PAGE_SHIFT, PAGE_SIZE } from "../abi/xen.ts";
import { fileOffset, gfn } from "../memory/types.ts";
import { CodeShootdown } from "./code-shootdown.ts";
import type { Domain } from "./domain.ts";
import { type Grantor, grantWritten } from "./grant-map.ts";
import { isSpecial, releaseFrame } from "./memory-op.ts";
import type { VcpuContext } from "./vcpu.ts";

const { GrantStatus } = abi;

type MapArgs = ReturnType<typeof abi.mapGrantRef.read>;

/**
 * Tells whoever decoded code from a page of `grantor` that it was written. While this vCPU waits for another domain's, it
 * answers such requests itself: the other may wait for this one.
 */
export function wroteTo(vcpu: VcpuContext, grantor: Grantor, offset: number, length: number): void {
  const { domain, cpu } = vcpu;
  const { grantMaps, mapping } = domain;
  if (grantMaps.isSelf(grantor.id)) {
    cpu.dropCode(mapping.base + (offset & ~(PAGE_SIZE - 1)));
    return;
  }
  const own = new CodeShootdown(mapping, vcpu.id, (address) => cpu.dropCode(address));
  grantWritten(grantor.mapping, offset, length, () => {
    own.service();
    return grantMaps.lives(grantor);
  });
}

/** Makes a guest frame empty for a page of another domain; false where something lies that cannot go. */
function clearTarget(vcpu: VcpuContext, frame: number): boolean {
  const { domain } = vcpu;
  if (isSpecial(frame) || !domain.physmap.covers(frame)) return false;
  if (domain.physmap.isEmpty(frame)) return true;
  if (!releaseFrame(domain, frame)) return false;
  vcpu.cpu.flushCode();
  return true;
}

/** Puts the page behind a handle at an empty guest frame. */
function place(domain: Domain, grantor: Grantor, handle: number, frame: number, readOnly: boolean): boolean {
  const { grantMaps, physmap, mapping, plan } = domain;
  let offset = fileOffset(grantMaps.offset(handle));
  if (!grantMaps.isSelf(grantor.id)) {
    const peer = domain.peers.known(grantor.id);
    if (peer !== grantor || handle >= mapping.windowPages) return false;
    mapping.mapForeign(handle, peer.descriptor, offset);
    offset = fileOffset(plan.length + handle * PAGE_SIZE);
  }
  physmap.map(gfn(frame), offset, readOnly);
  grantMaps.track.setHostFrame(handle, frame);
  return true;
}

/**
 * Maps one grant into the guest. Like Xen for translated guests: host mappings of whole pages only, no device mappings (there
 * is no IOMMU), no flags but GNTMAP_readonly.
 * @returns the handle, or a negative GrantStatus
 */
export function mapGrant(vcpu: VcpuContext, args: MapArgs): number {
  const { domain } = vcpu;
  if ((args.flags & (abi.GNTMAP_HOST_MAP | abi.GNTMAP_DEVICE_MAP)) === 0) return GrantStatus.bad_gntref;
  const grantor = domain.grantMaps.grantor(args.dom);
  if (grantor === undefined) return GrantStatus.bad_domain;
  if ((args.flags & ~abi.GNTMAP_READONLY) !== abi.GNTMAP_HOST_MAP) return GrantStatus.general_error;
  const readOnly = (args.flags & abi.GNTMAP_READONLY) !== 0;
  const handle = domain.grantMaps.mapFrom(grantor, args.ref, readOnly);
  if (handle < 0) return handle;
  const frame = Number(args.hostAddr >> BigInt(PAGE_SHIFT));
  if (!clearTarget(vcpu, frame) || !place(domain, grantor, handle, frame, readOnly)) {
    domain.grantMaps.unmap(handle);
    return GrantStatus.general_error;
  }
  vcpu.cpu.flushTlb();
  return handle;
}

/** Takes the page behind a handle out of the guest's physmap; nobody of this domain reaches it afterwards. */
function withdraw(vcpu: VcpuContext, handle: number, frame: number): void {
  const { domain, cpu } = vcpu;
  const { grantMaps, physmap, mapping, plan } = domain;
  const own = grantMaps.isSelf(grantMaps.track.domid(handle));
  const offset = own ? grantMaps.offset(handle) : plan.length + handle * PAGE_SIZE;
  if (physmap.get(frame)?.offset === offset) physmap.unmap(gfn(frame));
  cpu.flushTlb();
  if (!own) {
    mapping.unmapForeign(handle);
    cpu.dropCode(mapping.windowBase + handle * PAGE_SIZE);
  }
  const grantor = grantMaps.grantorOf(handle);
  if (grantor !== undefined && !grantMaps.track.readOnly(handle)) {
    wroteTo(vcpu, grantor, grantMaps.offset(handle), PAGE_SIZE);
  }
}

/**
 * Unmaps one grant from the guest. Like Xen: a host_addr of 0 asks for nothing to be unmapped.
 * @returns a GrantStatus
 */
export function unmapGrant(vcpu: VcpuContext, hostAddr: bigint, handle: number): number {
  const { grantMaps } = vcpu.domain;
  if (!grantMaps.track.isLive(handle)) return GrantStatus.bad_handle;
  const frame = grantMaps.track.hostFrame(handle);
  if (frame !== undefined) {
    if (hostAddr === 0n && frame !== 0) return GrantStatus.okay;
    if (hostAddr >> BigInt(PAGE_SHIFT) !== BigInt(frame)) return GrantStatus.general_error;
    withdraw(vcpu, handle, frame);
  }
  return grantMaps.unmap(handle);
}

/** Another address to show the page at afterwards is something for paravirtual guests. @returns a GrantStatus */
export function unmapAndReplace(vcpu: VcpuContext, hostAddr: bigint, newAddr: bigint, handle: number): number {
  if (!vcpu.domain.grantMaps.track.isLive(handle)) return GrantStatus.bad_handle;
  return newAddr === 0n ? unmapGrant(vcpu, hostAddr, handle) : GrantStatus.general_error;
}

/** Unmaps all that the guest has mapped: before its memory is used for another kernel. */
export function unmapEverything(vcpu: VcpuContext): void {
  for (const { handle } of vcpu.domain.grantMaps.listMaps()) {
    const frame = vcpu.domain.grantMaps.track.hostFrame(handle);
    if (frame !== undefined) withdraw(vcpu, handle, frame);
    vcpu.domain.grantMaps.unmap(handle);
  }
}
