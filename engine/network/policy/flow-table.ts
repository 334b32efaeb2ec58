/**
 * A bounded table of connections, by both ends' addresses and ports. Every connection belongs to the interface that
 * opened it, and an interface has its share: one that floods pushes out its own half-open connections before anybody
 * else's.
 */

/** Numbers in a key: two addresses of four words, two ports, and what else tells connections apart. */
export const KEY_WORDS = 11;

/** One connection, in both directions. Times in ns. */
export class Flow {
  readonly key = new Int32Array(KEY_WORDS);
  readonly hash: number;
  /** Whether its first packet came from the end that stands first in the key. */
  readonly originFirst: boolean;
  readonly owner: Owner;
  seenReply = false;
  tcpState = 0;
  /** Ends that have sent a FIN (tcp-state.ts). */
  finished = 0;
  expires = 0;
  packets = 0;
  bytes = 0;
  /** Worth keeping when room is short: traffic went both ways. */
  assured = false;
  next: Flow | undefined = undefined;
  older: Flow | undefined = undefined;
  newer: Flow | undefined = undefined;

  constructor(key: Int32Array, hash: number, originFirst: boolean, owner: Owner) {
    this.key.set(key);
    this.hash = hash;
    this.originFirst = originFirst;
    this.owner = owner;
  }
}

/** An interface's connections. */
export interface Owner {
  readonly id: number;
  count: number;
  /** Both ends of the list of those that may be given up, by age. */
  oldest: Flow | undefined;
  newest: Flow | undefined;
}

/** Buckets looked through for dead connections with every new one. */
const SWEEP = 8;

export class FlowTable {
  readonly #buckets: (Flow | undefined)[];
  readonly #mask: number;
  readonly #most: number;
  readonly #mostPerOwner: number;
  readonly #seed: number;
  readonly #owners = new Map<number, Owner>();
  #sweepAt = 0;
  size = 0;
  /** Given up for others before their time. */
  evicted = 0;
  /** New ones that found no room. */
  refused = 0;

  constructor(most: number, mostPerOwner: number, seed: number) {
    const buckets = 1 << Math.max(4, 32 - Math.clz32(Math.max(1, most) - 1));
    this.#buckets = new Array<Flow | undefined>(buckets).fill(undefined);
    this.#mask = buckets - 1;
    this.#most = most;
    this.#mostPerOwner = mostPerOwner;
    this.#seed = seed;
  }

  /** The seed keeps guests from choosing keys that all land in one bucket. */
  hashOf(key: Int32Array): number {
    let hash = this.#seed;
    for (let n = 0; n < KEY_WORDS; n++) {
      hash = Math.imul(hash ^ key[n]!, 0x9e37_79b1);
      hash ^= hash >>> 15;
    }
    hash = Math.imul(hash, 0x85eb_ca6b);
    return (hash ^ (hash >>> 13)) >>> 0;
  }

  /** The living connection of a key; a dead one that is met is removed. */
  find(key: Int32Array, hash: number, now: number): Flow | undefined {
    let flow = this.#buckets[hash & this.#mask];
    while (flow !== undefined) {
      if (flow.hash === hash && sameKey(flow.key, key)) {
        if (flow.expires > now) return flow;
        this.remove(flow);
        return undefined;
      }
      flow = flow.next;
    }
    return undefined;
  }

  owner(id: number): Owner {
    let owner = this.#owners.get(id);
    if (owner === undefined) {
      owner = { id, count: 0, oldest: undefined, newest: undefined };
      this.#owners.set(id, owner);
    }
    return owner;
  }

  /** @returns false when there is no room and nothing to give up for it; counted */
  insert(flow: Flow, now: number): boolean {
    this.#sweep(now);
    if (!this.#makeRoom(flow.owner)) {
      this.refused++;
      return false;
    }
    const bucket = flow.hash & this.#mask;
    flow.next = this.#buckets[bucket];
    this.#buckets[bucket] = flow;
    this.size++;
    flow.owner.count++;
    link(flow);
    return true;
  }

  /** It is no more among those that are given up first. */
  assure(flow: Flow): void {
    if (flow.assured) return;
    flow.assured = true;
    unlink(flow);
  }

  remove(flow: Flow): void {
    const bucket = flow.hash & this.#mask;
    let before: Flow | undefined;
    let at = this.#buckets[bucket];
    while (at !== undefined && at !== flow) {
      before = at;
      at = at.next;
    }
    if (at === undefined) return;
    if (before === undefined) this.#buckets[bucket] = flow.next;
    else before.next = flow.next;
    flow.next = undefined;
    this.size--;
    flow.owner.count--;
    if (!flow.assured) unlink(flow);
  }

  /** Removes all connections that an interface opened, and the interface. */
  removeOwner(id: number): void {
    for (const flow of this.flows()) if (flow.owner.id === id) this.remove(flow);
    this.#owners.delete(id);
  }

  /** All connections, dead ones that nobody has met since included. A copy. */
  flows(): Flow[] {
    const all: Flow[] = [];
    for (const first of this.#buckets) for (let flow = first; flow !== undefined; flow = flow.next) all.push(flow);
    return all;
  }

  #makeRoom(owner: Owner): boolean {
    if (owner.count >= this.#mostPerOwner) return this.#evict(owner);
    if (this.size < this.#most) return true;
    if (this.#evict(owner)) return true;
    // Whoever has most gives first.
    const others = [...this.#owners.values()].filter(({ oldest }) => oldest !== undefined);
    const largest = others.sort((a, b) => b.count - a.count)[0];
    return largest !== undefined && this.#evict(largest);
  }

  #evict(owner: Owner): boolean {
    const { oldest } = owner;
    if (oldest === undefined) return false;
    this.remove(oldest);
    this.evicted++;
    return true;
  }

  #sweep(now: number): void {
    for (let n = 0; n < SWEEP; n++) {
      let flow = this.#buckets[this.#sweepAt];
      while (flow !== undefined) {
        const { next } = flow;
        if (flow.expires <= now) this.remove(flow);
        flow = next;
      }
      this.#sweepAt = (this.#sweepAt + 1) & this.#mask;
    }
  }
}

function sameKey(left: Int32Array, right: Int32Array): boolean {
  for (let n = 0; n < KEY_WORDS; n++) if (left[n] !== right[n]) return false;
  return true;
}

function link(flow: Flow): void {
  const { owner } = flow;
  flow.older = owner.newest;
  flow.newer = undefined;
  if (owner.newest === undefined) owner.oldest = flow;
  else owner.newest.newer = flow;
  owner.newest = flow;
}

function unlink(flow: Flow): void {
  const { owner, older, newer } = flow;
  if (older === undefined) owner.oldest = newer;
  else older.newer = newer;
  if (newer === undefined) owner.newest = older;
  else newer.older = older;
  flow.older = undefined;
  flow.newer = undefined;
}
