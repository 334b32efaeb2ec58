/**
 * Which port a MAC address was last seen behind, per VLAN (IEEE 802.1D, 7.9: the filtering database's dynamic entries).
 *
 * A hash table in typed arrays: nothing is allocated per frame, and its size is fixed. Entries of one port hang on a list
 * from oldest to newest, so that a port that invents addresses pushes out its own.
 */
import { randomInt } from "node:crypto";

const NONE = -1;

export interface MacTableOptions {
  /** Most entries, 1 at least; default 4096. */
  readonly capacity?: number;
  /** Nanoseconds after which an entry that was not seen again is forgotten; Infinity keeps it. */
  readonly ageing: number;
}

/** One entry, for people. `port` as given to learn(); `age` in nanoseconds. */
export interface MacEntry {
  readonly vlan: number;
  readonly high: number;
  readonly low: number;
  readonly port: number;
  readonly age: number;
}

/** The list of one port's entries. */
class PortEntries {
  oldest = NONE;
  newest = NONE;
  count = 0;
}

export class MacTable {
  readonly capacity: number;
  readonly #ageing: number;
  readonly #bucketMask: number;
  readonly #seed: number;
  readonly #buckets: Int32Array;
  /** Next entry in the bucket, or in the list of free entries. */
  readonly #chain: Int32Array;
  /** VLAN and the address's first two bytes; its last four. */
  readonly #upper: Int32Array;
  readonly #lower: Int32Array;
  readonly #port: Int32Array;
  readonly #seen: Float64Array;
  readonly #older: Int32Array;
  readonly #newer: Int32Array;
  readonly #ports: PortEntries[] = [];
  #free = 0;
  #size = 0;

  constructor(options: MacTableOptions) {
    const capacity = Math.max(1, Math.trunc(options.capacity ?? 4096));
    const buckets = 2 ** Math.ceil(Math.log2(capacity * 2));
    this.capacity = capacity;
    this.#ageing = options.ageing;
    this.#bucketMask = buckets - 1;
    // A guest that knew the hash could make every frame walk one long chain.
    this.#seed = randomInt(0x1_0000_0000);
    this.#buckets = new Int32Array(buckets).fill(NONE);
    this.#chain = Int32Array.from({ length: capacity }, (_, n) => (n + 1 < capacity ? n + 1 : NONE));
    this.#upper = new Int32Array(capacity);
    this.#lower = new Int32Array(capacity);
    this.#port = new Int32Array(capacity);
    this.#seen = new Float64Array(capacity);
    this.#older = new Int32Array(capacity);
    this.#newer = new Int32Array(capacity);
  }

  get size(): number {
    return this.#size;
  }

  /** Entries of one port. */
  sizeOf(port: number): number {
    return this.#ports[port]?.count ?? 0;
  }

  /** The port behind which the address is, or -1. */
  lookup(vlan: number, high: number, low: number, now: number): number {
    const entry = this.#find(vlan, high, low);
    if (entry === NONE) return NONE;
    if (now - this.#seen[entry]! <= this.#ageing) return this.#port[entry]!;
    this.#remove(entry);
    return NONE;
  }

  /** The address was seen behind `port`, which may have `most` entries. What does not fit pushes out the oldest. */
  learn(vlan: number, high: number, low: number, port: number, most: number, now: number): void {
    const entry = this.#find(vlan, high, low);
    if (entry !== NONE) {
      this.#seen[entry] = now;
      if (this.#port[entry] === port) this.#makeNewest(entry);
      else this.#insert(this.#remove(entry), vlan, high, low, port, most, now);
      return;
    }
    if (this.#size === this.capacity) this.#remove(this.#oldestOfAll());
    this.#insert(this.#free, vlan, high, low, port, most, now);
  }

  /** The port is gone, or its link was down. */
  forgetPort(port: number): void {
    const entries = this.#ports[port];
    while (entries !== undefined && entries.oldest !== NONE) this.#remove(entries.oldest);
  }

  /** All entries that are still valid. */
  list(now: number): MacEntry[] {
    const result: MacEntry[] = [];
    for (const entries of this.#ports) {
      for (let entry = entries?.oldest ?? NONE; entry !== NONE; entry = this.#newer[entry]!) {
        const age = now - this.#seen[entry]!;
        if (age > this.#ageing) continue;
        const upper = this.#upper[entry]!;
        const address = { high: upper & 0xffff, low: this.#lower[entry]! >>> 0 };
        result.push({ vlan: upper >>> 16, ...address, port: this.#port[entry]!, age });
      }
    }
    return result;
  }

  #bucketOf(upper: number, lower: number): number {
    let hash = Math.imul(lower ^ this.#seed, 0x9e37_79b1);
    hash = Math.imul(hash ^ (hash >>> 15) ^ upper, 0x85eb_ca6b);
    return (hash ^ (hash >>> 13)) & this.#bucketMask;
  }

  #find(vlan: number, high: number, low: number): number {
    const upper = (vlan << 16) | high;
    const lower = low | 0;
    let entry = this.#buckets[this.#bucketOf(upper, lower)]!;
    while (entry !== NONE && (this.#lower[entry] !== lower || this.#upper[entry] !== upper)) {
      entry = this.#chain[entry]!;
    }
    return entry;
  }

  /** Fills in the first free entry, which `entry` is. */
  #insert(entry: number, vlan: number, high: number, low: number, port: number, most: number, now: number): void {
    let entries = this.#ports[port];
    if (entries === undefined) {
      // Filled up to the port: holes would make the array a slow one.
      while (this.#ports.length <= port) this.#ports.push(new PortEntries());
      entries = this.#ports[port]!;
    }
    const upper = (vlan << 16) | high;
    const bucket = this.#bucketOf(upper, low | 0);
    this.#free = this.#chain[entry]!;
    this.#upper[entry] = upper;
    this.#lower[entry] = low | 0;
    this.#port[entry] = port;
    this.#seen[entry] = now;
    this.#chain[entry] = this.#buckets[bucket]!;
    this.#buckets[bucket] = entry;
    this.#append(entries, entry);
    this.#size++;
    if (entries.count > most) this.#remove(entries.oldest);
  }

  /** @returns the entry, now the first free one */
  #remove(entry: number): number {
    const bucket = this.#bucketOf(this.#upper[entry]!, this.#lower[entry]!);
    if (this.#buckets[bucket] === entry) this.#buckets[bucket] = this.#chain[entry]!;
    else {
      let before = this.#buckets[bucket]!;
      while (this.#chain[before] !== entry) before = this.#chain[before]!;
      this.#chain[before] = this.#chain[entry]!;
    }
    this.#unlink(this.#ports[this.#port[entry]!]!, entry);
    this.#chain[entry] = this.#free;
    this.#free = entry;
    this.#size--;
    return entry;
  }

  #append(entries: PortEntries, entry: number): void {
    this.#older[entry] = entries.newest;
    this.#newer[entry] = NONE;
    if (entries.newest === NONE) entries.oldest = entry;
    else this.#newer[entries.newest] = entry;
    entries.newest = entry;
    entries.count++;
  }

  #unlink(entries: PortEntries, entry: number): void {
    const older = this.#older[entry]!;
    const newer = this.#newer[entry]!;
    if (older === NONE) entries.oldest = newer;
    else this.#newer[older] = newer;
    if (newer === NONE) entries.newest = older;
    else this.#older[newer] = older;
    entries.count--;
  }

  #makeNewest(entry: number): void {
    const entries = this.#ports[this.#port[entry]!]!;
    if (entries.newest === entry) return;
    this.#unlink(entries, entry);
    this.#append(entries, entry);
  }

  #oldestOfAll(): number {
    let oldest = NONE;
    for (const entries of this.#ports) {
      if (entries.oldest === NONE) continue;
      if (oldest === NONE || this.#seen[entries.oldest]! < this.#seen[oldest]!) oldest = entries.oldest;
    }
    return oldest;
  }
}
