import { CONTROL_PHYSMAP_BASE, LINEAR_PAGES, MAPTRACK_ENTRIES, PHYSMAP_ENTRIES } from "./frame-plan.ts";
import type { GuestMemory, Mapping } from "./guest-memory.ts";
import { Physmap } from "./physmap.ts";

/** Where the CPU wants the guest's frames and its tables about them in its linear memory. */
export interface CpuMemoryLayout {
  /** Bytes private to the vCPU, and address of the first guest frame. */
  readonly frames: number;
  /** Address of the physmap, PHYSMAP_ENTRIES entries of u32. */
  readonly physmap: number;
  /** Address of the code flags, LINEAR_PAGES bytes. Without it nobody else learns where decoded code lies. */
  readonly codeFlags?: number;
  /** Address of the dirty flags, LINEAR_PAGES bytes. Without it nobody else learns what the vCPU writes. */
  readonly dirtyFlags?: number;
  /** The physmap shows nothing at first, instead of RAM one to one. */
  readonly empty?: boolean;
}

export interface CpuMemory {
  readonly mapping: Mapping;
  readonly physmap: Physmap;
}

/**
 * The linear memory of one vCPU: its private area, the domain's frames behind it, and the physmap filled in. Physmap, code
 * flags and dirty flags are parts of the shared file, mapped to where the CPU looks for them, so that other domains' backends
 * and a snapshot's capture see them too.
 */
export function createCpuMemory(guest: GuestMemory, layout: CpuMemoryLayout): CpuMemory {
  const { plan } = guest;
  const overlays = [{ address: layout.physmap, offset: plan.physmap, length: PHYSMAP_ENTRIES * 4 }];
  if (layout.codeFlags !== undefined) {
    overlays.push({ address: layout.codeFlags, offset: plan.codeFlags, length: LINEAR_PAGES });
  }
  if (layout.dirtyFlags !== undefined) {
    overlays.push({ address: layout.dirtyFlags, offset: plan.dirtyFlags, length: LINEAR_PAGES });
  }
  const windowPages = guest.kind === "mapped" ? MAPTRACK_ENTRIES : 0;
  const mapping = guest.attach({ privateBytes: layout.frames, windowPages, overlays });
  mapping.view.setUint32(mapping.base + plan.control + CONTROL_PHYSMAP_BASE, mapping.base, true);
  const physmap = new Physmap(mapping, layout.physmap);
  if (layout.empty !== true) physmap.mapInitial(plan);
  return { mapping, physmap };
}
