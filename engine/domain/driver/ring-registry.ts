/**
 * The rings that a driver domain serves, kept in the domain's own RAM: what the next process needs to go on when this one
 * is killed. RAM, event channels and maptrack outlive the process; this table says which of them belong together.
 *
 * An entry is written before its `used` word is set and freed by clearing that word, so a process that dies in between
 * leaves a port or a map that no entry names; adopt() tells which are named, and the rest can be let go.
 */
import { BLOCK_COUNTERS_SIZE } from "../../device/block/counters.ts";
import type { Mapping } from "../../memory/guest-memory.ts";

/** struct { u32 used, frontend, generation, vdev, queue, port, pages, handles[16], second port; } padded */
const ENTRY = 128;
const USED = 0;
const FRONTEND = 4;
const GENERATION = 8;
const VDEV = 12;
const QUEUE = 16;
const PORT = 20;
const PAGES = 24;
const HANDLES = 28;
const SECOND_PORT = 92;
/** Most pages of a ring: max-ring-page-order 4. */
export const MAX_RING_PAGES = 16;
/** Rings that a driver domain can serve at a time. */
export const MAX_RINGS = 256;

/** Where the regions begin, and the bytes of each: requests in flight of a ring of 512 slots, then counters. */
const REGIONS = 0x10000;
const REGION = 0x18000;
const COUNTERS = REGION - 0x1000;
/** Bytes for requests in flight. */
export const IN_FLIGHT_BYTES = COUNTERS;

/** Bytes of RAM that belong to this table; what lies behind is free for other uses. */
export const REGISTRY_BYTES = REGIONS + MAX_RINGS * REGION;
/** RAM that a driver domain needs. */
export const DRIVER_RAM_MIB = Math.ceil(REGISTRY_BYTES / (1 << 20)) + 1;

if (BLOCK_COUNTERS_SIZE > REGION - COUNTERS) throw new RangeError("the counters of a ring do not fit");

/** Which ring: a device and its queue. */
export interface RingName {
  readonly frontend: number;
  /** Generation of the frontend's domain, so that a reused number is not taken for it. */
  readonly generation: number;
  readonly vdev: number;
  readonly queue: number;
}

/** What belongs to it. */
export interface RingResources {
  readonly port: number;
  /** Of a pair of rings with an event channel each. */
  readonly secondPort?: number;
  readonly handles: readonly number[];
}

export interface RegisteredRing extends RingName, RingResources {
  readonly slot: number;
}

export class RingRegistry {
  private readonly mapping: Mapping;

  /** @param mapping the driver domain's own memory, of at least DRIVER_RAM_MIB */
  constructor(mapping: Mapping) {
    this.mapping = mapping;
  }

  private word(slot: number, field: number): number {
    return (this.mapping.base + slot * ENTRY + field) >>> 2;
  }

  private load(slot: number, field: number): number {
    return Atomics.load(this.mapping.words, this.word(slot, field)) >>> 0;
  }

  private store(slot: number, field: number, value: number): void {
    Atomics.store(this.mapping.words, this.word(slot, field), value);
  }

  /** Byte offset in the mapping of a ring's region for requests in flight. */
  inFlight(slot: number): number {
    return this.mapping.base + REGIONS + slot * REGION;
  }

  /** Byte offset in the mapping of a ring's counters. */
  counters(slot: number): number {
    return this.inFlight(slot) + COUNTERS;
  }

  /** Enters a ring with its region zeroed. @returns its slot, or undefined when the table is full */
  add(name: RingName, { port, secondPort = 0, handles }: RingResources): number | undefined {
    for (let slot = 0; slot < MAX_RINGS; slot++) {
      // 2: being filled in. Taken by compare-and-exchange, as several threads serve rings.
      if (Atomics.compareExchange(this.mapping.words, this.word(slot, USED), 0, 2) !== 0) continue;
      this.mapping.bytes.fill(0, this.inFlight(slot), this.inFlight(slot) + REGION);
      this.store(slot, FRONTEND, name.frontend);
      this.store(slot, GENERATION, name.generation);
      this.store(slot, VDEV, name.vdev);
      this.store(slot, QUEUE, name.queue);
      this.store(slot, PORT, port);
      this.store(slot, SECOND_PORT, secondPort);
      this.store(slot, PAGES, handles.length);
      for (const [i, handle] of handles.entries()) this.store(slot, HANDLES + i * 4, handle);
      this.store(slot, USED, 1);
      return slot;
    }
    return undefined;
  }

  remove(slot: number): void {
    this.store(slot, USED, 0);
  }

  /** After the death of the process that filled it: entries that were never finished are free again. */
  recover(): void {
    for (let slot = 0; slot < MAX_RINGS; slot++) if (this.load(slot, USED) === 2) this.remove(slot);
  }

  get(slot: number): RegisteredRing | undefined {
    if (this.load(slot, USED) !== 1) return undefined;
    const pages = Math.min(this.load(slot, PAGES), MAX_RING_PAGES);
    const secondPort = this.load(slot, SECOND_PORT);
    return {
      slot,
      frontend: this.load(slot, FRONTEND),
      generation: this.load(slot, GENERATION),
      vdev: this.load(slot, VDEV),
      queue: this.load(slot, QUEUE),
      port: this.load(slot, PORT),
      ...(secondPort !== 0 && { secondPort }),
      handles: Array.from({ length: pages }, (_, i) => this.load(slot, HANDLES + i * 4)),
    };
  }

  /** All rings that are entered. */
  list(): RegisteredRing[] {
    return Array.from({ length: MAX_RINGS }, (_, slot) => this.get(slot)).filter((ring) => ring !== undefined);
  }

  /** The ring of that name. */
  find(name: Pick<RingName, "frontend" | "vdev" | "queue">): RegisteredRing | undefined {
    return this.list().find(
      (ring) => ring.frontend === name.frontend && ring.vdev === name.vdev && ring.queue === name.queue,
    );
  }
}
