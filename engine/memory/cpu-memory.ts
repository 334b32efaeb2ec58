import type { GuestMemory, Mapping } from "./guest-memory.ts";
import { Physmap } from "./physmap.ts";

/** Where the CPU wants the guest's frames and the physmap in its linear memory. */
export interface CpuMemoryLayout {
  /** Bytes private to the vCPU, and address of the first guest frame. */
  readonly frames: number;
  /** Address of the physmap, and its number of u32 entries. */
  readonly physmap: number;
  readonly physmapFrames: number;
}

export interface CpuMemory {
  readonly mapping: Mapping;
  readonly physmap: Physmap;
}

/** The linear memory of one vCPU: its private area, the domain's frames behind it, and the physmap filled in. */
export function createCpuMemory(guest: GuestMemory, layout: CpuMemoryLayout): CpuMemory {
  const mapping = guest.attach(layout.frames);
  const physmap = new Physmap(mapping, layout.physmap, layout.physmapFrames);
  physmap.mapInitial(guest.plan);
  return { mapping, physmap };
}
