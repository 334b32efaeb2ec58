/** What the block devices of guests have counted, read from shared memory by the control plane. */
import { BLOCK_COUNTERS_SIZE, type BlockCounterName, BlockCounters } from "../../device/block/counters.ts";
import { DEVICE_STATISTICS_BYTES } from "../../memory/frame-plan.ts";
import type { Mapping } from "../../memory/guest-memory.ts";
import { RingRegistry } from "./ring-registry.ts";

/** A device of a guest, and the sums over its rings. */
export interface VbdStatistics {
  readonly frontendId: number;
  readonly vdev: number;
  readonly counters: Record<BlockCounterName, number>;
}

/** struct { u32 used, vdev, queue, pad; double counters[]; } a ring of a backend in the guest's process */
const SLOT = 512;
const HEADER = 16;
const SLOTS = DEVICE_STATISTICS_BYTES / SLOT;

if (HEADER + BLOCK_COUNTERS_SIZE > SLOT) throw new RangeError("the counters of a ring do not fit");

/** The slots for rings that are served in a guest's own process, in that guest's control frames. */
export class GuestRingStatistics {
  private readonly mapping: Mapping;

  constructor(mapping: Mapping) {
    this.mapping = mapping;
  }

  private address(slot: number): number {
    return this.mapping.base + this.mapping.plan.deviceStatistics + slot * SLOT;
  }

  private word(slot: number, index: number): number {
    return (this.address(slot) >>> 2) + index;
  }

  /** Byte offset of the counters of a new ring, zeroed; undefined when no slot is left. */
  add(vdev: number, queue: number): number | undefined {
    const { words, bytes } = this.mapping;
    for (let slot = 0; slot < SLOTS; slot++) {
      if (Atomics.load(words, this.word(slot, 0)) !== 0) continue;
      bytes.fill(0, this.address(slot), this.address(slot) + SLOT);
      words[this.word(slot, 1)] = vdev;
      words[this.word(slot, 2)] = queue;
      Atomics.store(words, this.word(slot, 0), 1);
      return this.address(slot) + HEADER;
    }
    return undefined;
  }

  /** Frees the slot whose counters lie there. */
  remove(counters: number): void {
    Atomics.store(this.mapping.words, (counters - HEADER) >>> 2, 0);
  }

  list(): { readonly vdev: number; readonly counters: BlockCounters }[] {
    const { words, bytes } = this.mapping;
    const used = Array.from({ length: SLOTS }, (_, slot) => slot).filter(
      (slot) => Atomics.load(words, this.word(slot, 0)) === 1,
    );
    return used.map((slot) => ({
      vdev: (words[this.word(slot, 1)] ?? 0) >>> 0,
      counters: new BlockCounters(bytes.buffer, this.address(slot) + HEADER),
    }));
  }
}

/** The rings that a domain serves: its own if it is a guest, those of others if it is a driver domain. */
export function readStatistics(domain: number, mapping: Mapping): VbdStatistics[] {
  const own = new GuestRingStatistics(mapping)
    .list()
    .map(({ vdev, counters }) => ({ frontendId: domain, vdev, counters: counters.read() }));
  if (own.length > 0) return own;
  const registry = new RingRegistry(mapping);
  return registry.list().map(({ slot, frontend, vdev }) => ({
    frontendId: frontend,
    vdev,
    counters: new BlockCounters(mapping.bytes.buffer, registry.counters(slot)).read(),
  }));
}

/** The statistics of a device: the sums over all rings that were found of it. */
export function sumStatistics(
  device: Pick<VbdStatistics, "frontendId" | "vdev">,
  rings: readonly VbdStatistics[],
): VbdStatistics {
  const counters = new BlockCounters(new ArrayBuffer(BLOCK_COUNTERS_SIZE)).read();
  for (const ring of rings) {
    if (ring.frontendId !== device.frontendId || ring.vdev !== device.vdev) continue;
    for (const [name, value] of Object.entries(ring.counters)) counters[name as BlockCounterName] += value;
  }
  return { ...device, counters };
}
