import type { MacAddress } from "../../address.ts";

interface Entry<Flow> {
  readonly mac: MacAddress;
  readonly key: string;
  readonly flow: Flow;
  lastUsed: number;
}

function guestKey({ high, low }: MacAddress): number {
  return high * 0x1_0000_0000 + low;
}

/** Flows without a connection, by guest and a key; what has been idle for longest makes room for what is new. */
export class FlowTable<Flow> {
  private readonly guests = new Map<number, Map<string, Entry<Flow>>>();
  private readonly mostPerGuest: number;
  private readonly most: number;
  private readonly now: () => number;
  private readonly dropped: (flow: Flow) => void;
  size = 0;

  /** `dropped` is called for each flow that leaves the table, for whatever reason; `now` gives milliseconds. */
  constructor(mostPerGuest: number, most: number, now: () => number, dropped: (flow: Flow) => void) {
    this.mostPerGuest = mostPerGuest;
    this.most = most;
    this.now = now;
    this.dropped = dropped;
  }

  /** The flow, which counts as used by that. */
  find(mac: MacAddress, key: string): Flow | undefined {
    const guest = this.guests.get(guestKey(mac));
    const entry = guest?.get(key);
    if (guest === undefined || entry === undefined) return undefined;
    entry.lastUsed = this.now();
    // The order in the map is that of use: the first is the one idle for longest.
    guest.delete(key);
    guest.set(key, entry);
    return entry.flow;
  }

  add(mac: MacAddress, key: string, flow: Flow): void {
    const id = guestKey(mac);
    let guest = this.guests.get(id);
    if (guest === undefined) {
      guest = new Map();
      this.guests.set(id, guest);
    }
    if (guest.size >= this.mostPerGuest) this.dropOldest(guest);
    else if (this.size >= this.most) this.dropOldest(this.largest());
    guest.set(key, { mac, key, flow, lastUsed: this.now() });
    // Making room may have emptied and removed the very guest that the flow is for.
    this.guests.set(id, guest);
    this.size++;
  }

  remove(mac: MacAddress, key: string): void {
    const guest = this.guests.get(guestKey(mac));
    const entry = guest?.get(key);
    if (guest === undefined || entry === undefined) return;
    guest.delete(key);
    this.size--;
    if (guest.size === 0) this.guests.delete(guestKey(mac));
    this.dropped(entry.flow);
  }

  /** Drops the flows that have been idle for longer than `idle` says, in milliseconds. */
  expire(idle: (flow: Flow) => number): void {
    const now = this.now();
    for (const guest of this.guests.values()) {
      for (const { mac, key, flow, lastUsed } of guest.values()) {
        if (now - lastUsed > idle(flow)) this.remove(mac, key);
      }
    }
  }

  clear(): void {
    this.expire(() => -1);
  }

  private dropOldest(guest: Map<string, Entry<Flow>>): void {
    const oldest = guest.values().next().value;
    if (oldest !== undefined) this.remove(oldest.mac, oldest.key);
  }

  /** The guest with most flows pays when all together are too many. */
  private largest(): Map<string, Entry<Flow>> {
    let largest = new Map<string, Entry<Flow>>();
    for (const guest of this.guests.values()) if (guest.size > largest.size) largest = guest;
    return largest;
  }
}
