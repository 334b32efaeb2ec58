/** A domain's memory for captures: a fake vCPU with a TLB that writes as the core does, and a folder for files. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DIRTY_FLAG, FRAMES, PHYSMAP } from "../../engine/cpu/assembly/layout.ts";
import { createCpuMemory } from "../../engine/memory/cpu-memory.ts";
import { planFrames } from "../../engine/memory/frame-plan.ts";
import {
  createGuestMemory,
  type GuestMemory,
  type Mapping,
  type MemoryToken,
} from "../../engine/memory/guest-memory.ts";

export const PAGE = 4096;

/** What busy-writer.ts is given. */
export interface BusyInput {
  readonly memory: MemoryToken;
  readonly frames: number;
  /** Words: flushes asked for, flushes done, stop, stopped, writes so far. */
  readonly control: SharedArrayBuffer;
}
export const [ASKED, DONE, STOP, STOPPED, WRITES] = [0, 1, 2, 3, 4] as const;

/** Writes pages by the rules of the core: a page without a tag is marked when it gets one; flush() takes the tags away. */
export class TaggedWriter {
  private readonly tags = new Set<number>();
  private readonly mapping: Mapping;

  constructor(mapping: Mapping) {
    this.mapping = mapping;
  }

  write(frame: number, value: number): void {
    const { bytes, words, base, plan } = this.mapping;
    if (!this.tags.has(frame)) {
      bytes[base + plan.dirtyFlags + FRAMES / PAGE + frame] = 1;
      this.tags.add(frame);
    }
    words[(base + frame * PAGE) / 4 + (value & 1023)] = value;
  }

  flush(): void {
    this.tags.clear();
  }
}

export interface MemoryDomain {
  readonly guest: GuestMemory;
  /** The vCPU's mapping, with its private area in front. */
  readonly mapping: Mapping;
  readonly descriptor: number;
  readonly writer: TaggedWriter;
}

export function memoryDomain(ramBytes: number): MemoryDomain {
  const guest = createGuestMemory(planFrames(ramBytes), FRAMES, "mapped");
  if (guest.token.kind !== "mapped") throw new Error("mapped memory expected");
  const { mapping } = createCpuMemory(guest, { frames: FRAMES, physmap: PHYSMAP, dirtyFlags: DIRTY_FLAG });
  return { guest, mapping, descriptor: guest.token.descriptor, writer: new TaggedWriter(mapping) };
}

/** The part of a domain's memory that a snapshot covers. */
export function guestBytes({ mapping }: MemoryDomain): Uint8Array {
  return mapping.bytes.slice(mapping.base, mapping.base + mapping.plan.control);
}

/** A folder for the length of `action`. */
export async function withFolder(action: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "domlab-snapshot-"));
  try {
    await action(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
