/**
 * Grants that stay mapped between requests (feature-persistent): the frontend uses the same pages again and again, so
 * mapping them each time would be waste. A bounded cache from reference to handle; the least recently used grant goes
 * first, never one that a running request uses. So a frontend that names ever new references costs no more than the
 * cap, and close() leaves nothing mapped that could keep a dead domain alive (XSA-371).
 *
 * Persistent grants are mapped for writing, whatever the request: the next one may be a read.
 */
import type { GrantMapper } from "../domain-interface.ts";
import { BlockCounter, type BlockCounters } from "./counters.ts";

/** Most grants a ring keeps by default: every page of a full one-page ring with 256 segments would be 8192. */
export const DEFAULT_PERSISTENT_GRANTS = 1056;

const NONE = -1;

export class PersistentGrants {
  private readonly grants: GrantMapper;
  private readonly counters: BlockCounters;
  private readonly capacity: number;
  private readonly slots = new Map<number, number>();
  private readonly refs: Uint32Array;
  private readonly handles: Int32Array;
  private readonly addresses: Float64Array;
  private readonly users: Uint32Array;
  /** A doubly linked list over the slots, least recently used first. */
  private readonly next: Int32Array;
  private readonly previous: Int32Array;
  private oldest = NONE;
  private newest = NONE;
  private readonly free: number[];

  constructor(grants: GrantMapper, counters: BlockCounters, capacity = DEFAULT_PERSISTENT_GRANTS) {
    this.grants = grants;
    this.counters = counters;
    this.capacity = capacity;
    this.refs = new Uint32Array(capacity);
    this.handles = new Int32Array(capacity);
    this.addresses = new Float64Array(capacity);
    this.users = new Uint32Array(capacity);
    this.next = new Int32Array(capacity).fill(NONE);
    this.previous = new Int32Array(capacity).fill(NONE);
    this.free = Array.from({ length: capacity }, (_, i) => capacity - 1 - i);
  }

  get size(): number {
    return this.slots.size;
  }

  /**
   * Finds or maps a reference and marks it used, until release().
   *
   * @returns a slot (≥ 0); a negative GrantStatus when it cannot be mapped; undefined when every kept grant is in use
   */
  acquire(ref: number): number | undefined {
    const known = this.slots.get(ref);
    if (known !== undefined) {
      this.users[known] = this.users[known]! + 1;
      if (known !== this.newest) {
        this.unlink(known);
        this.append(known);
      }
      return known;
    }
    if (this.free.length === 0 && !this.evict()) return undefined;
    const handle = this.grants.map(ref, false);
    if (handle < 0) return handle;
    const slot = this.free.pop()!;
    this.slots.set(ref, slot);
    this.refs[slot] = ref;
    this.handles[slot] = handle;
    this.addresses[slot] = this.grants.address(handle);
    this.users[slot] = 1;
    this.append(slot);
    this.counters.add(BlockCounter.grants_mapped);
    this.counters.add(BlockCounter.grants_total);
    this.counters.add(BlockCounter.grants_persistent);
    return slot;
  }

  /** Byte offset in the peer's memory of a slot's page. */
  address(slot: number): number {
    return this.addresses[slot]!;
  }

  release(slot: number): void {
    this.users[slot] = this.users[slot]! - 1;
  }

  /** Unmaps up to `count` grants that nobody uses, oldest first. @returns how many */
  shrink(count: number): number {
    let done = 0;
    while (done < count && this.evict()) done++;
    return done;
  }

  /** Unmaps everything that is not in use. */
  close(): void {
    this.shrink(this.capacity);
  }

  private evict(): boolean {
    let slot = this.oldest;
    while (slot !== NONE && this.users[slot]! > 0) slot = this.next[slot]!;
    if (slot === NONE) return false;
    this.unlink(slot);
    this.slots.delete(this.refs[slot]!);
    this.grants.unmap(this.handles[slot]!);
    this.free.push(slot);
    this.counters.add(BlockCounter.grants_mapped, -1);
    this.counters.add(BlockCounter.grants_persistent, -1);
    return true;
  }

  private unlink(slot: number): void {
    const before = this.previous[slot]!;
    const after = this.next[slot]!;
    if (before === NONE) this.oldest = after;
    else this.next[before] = after;
    if (after === NONE) this.newest = before;
    else this.previous[after] = before;
  }

  private append(slot: number): void {
    this.previous[slot] = this.newest;
    this.next[slot] = NONE;
    if (this.newest === NONE) this.oldest = slot;
    else this.next[this.newest] = slot;
    this.newest = slot;
  }
}
