import type { MacAddress } from "../../address.ts";
import type { TcpConnection, TcpState } from "./tcp-connection.ts";

/** Connections of a guest whose handshake is not over; one more SYN pushes the oldest out. */
export const MOST_HALF_OPEN = 128;

/** The connections of one guest, told by its MAC address, which it cannot choose. Sets keep the order of arrival. */
interface Guest {
  readonly all: Set<TcpConnection>;
  readonly halfOpen: Set<TcpConnection>;
  readonly timeWait: Set<TcpConnection>;
}

function isHalfOpen(state: TcpState): boolean {
  return state === "connecting" || state === "syn-received" || state === "syn-sent";
}

function keyOf({ high, low }: MacAddress): number {
  return high * 0x1_0000_0000 + low;
}

/** Finds connections by their ends, counts them by guest. */
export class ConnectionTable {
  size = 0;
  private readonly byGuestEnd = new Map<number, Map<number, TcpConnection>>();
  private readonly guests = new Map<number, Guest>();
  /** The connection found last: frames come in runs. */
  private last: TcpConnection | undefined;

  find(guestAddress: number, guestPort: number, address: number, port: number): TcpConnection | undefined {
    const ends = this.last?.endpoints;
    if (
      ends !== undefined &&
      ends.guestPort === guestPort &&
      ends.guestAddress === guestAddress &&
      ends.port === port &&
      ends.address === address
    ) {
      return this.last;
    }
    const found = this.byGuestEnd.get(guestAddress * 0x1_0000 + guestPort)?.get(address * 0x1_0000 + port);
    if (found !== undefined) this.last = found;
    return found;
  }

  add(connection: TcpConnection): void {
    const { guestMac, guestAddress, guestPort, address, port } = connection.endpoints;
    const guestEnd = guestAddress * 0x1_0000 + guestPort;
    let ends = this.byGuestEnd.get(guestEnd);
    if (ends === undefined) {
      ends = new Map();
      this.byGuestEnd.set(guestEnd, ends);
    }
    ends.set(address * 0x1_0000 + port, connection);
    const key = keyOf(guestMac);
    let guest = this.guests.get(key);
    if (guest === undefined) {
      guest = { all: new Set(), halfOpen: new Set(), timeWait: new Set() };
      this.guests.set(key, guest);
    }
    guest.all.add(connection);
    guest.halfOpen.add(connection);
    this.size++;
  }

  /** Keeps count of a connection that changed its state; forgets one that is closed. */
  changed(connection: TcpConnection): void {
    const { guestMac, guestAddress, guestPort, address, port } = connection.endpoints;
    const key = keyOf(guestMac);
    const guest = this.guests.get(key);
    if (guest?.all.has(connection) !== true) return;
    if (!isHalfOpen(connection.state)) guest.halfOpen.delete(connection);
    if (connection.state === "time-wait") guest.timeWait.add(connection);
    if (connection.state !== "closed") return;
    guest.all.delete(connection);
    guest.timeWait.delete(connection);
    if (guest.all.size === 0) this.guests.delete(key);
    if (this.last === connection) this.last = undefined;
    const guestEnd = guestAddress * 0x1_0000 + guestPort;
    const ends = this.byGuestEnd.get(guestEnd);
    ends?.delete(address * 0x1_0000 + port);
    if (ends?.size === 0) this.byGuestEnd.delete(guestEnd);
    this.size--;
  }

  countOf(mac: MacAddress): number {
    return this.guests.get(keyOf(mac))?.all.size ?? 0;
  }

  /** The oldest half-open connection of a guest that has its fill of them. */
  halfOpenToEvict(mac: MacAddress): TcpConnection | undefined {
    const guest = this.guests.get(keyOf(mac));
    if (guest === undefined || guest.halfOpen.size < MOST_HALF_OPEN) return undefined;
    return guest.halfOpen.values().next().value;
  }

  /** The connection of a guest that has been over for longest and only waits. */
  waitingToEvict(mac: MacAddress): TcpConnection | undefined {
    return this.guests.get(keyOf(mac))?.timeWait.values().next().value;
  }

  /** All of them; they may change and go while one looks. */
  *[Symbol.iterator](): Generator<TcpConnection> {
    for (const guest of this.guests.values()) yield* guest.all;
  }
}
