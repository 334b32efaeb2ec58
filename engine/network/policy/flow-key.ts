/**
 * The key of a connection: the same numbers for both directions, and which end the packet at hand came from.
 */
import { u16, u32 } from "../headers.ts";
import { KEY_WORDS } from "./flow-table.ts";
import type { Packet } from "./packet.ts";
import { PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP } from "./rule.ts";

/** Queries of ICMP that are answered, and their answers: echo and timestamp; of ICMPv6 only echo. */
const queries4: readonly (readonly [request: number, reply: number])[] = [
  [8, 0],
  [13, 14],
];
const queries6: readonly (readonly [request: number, reply: number])[] = [[128, 129]];

const QUERY_SHIFT = 16;
const REQUEST = 1;
const REPLY = 2;

/** Whether an ICMP type asks (1) or answers (2); 0 when it is neither. The upper bits tell kinds of queries apart. */
export function queryRole(version: number, type: number): number {
  const rows = version === 4 ? queries4 : queries6;
  for (let n = 0; n < rows.length; n++) {
    const row = rows[n]!;
    if (row[0] === type) return REQUEST | (n << 2);
    if (row[1] === type) return REPLY | (n << 2);
  }
  return 0;
}

/** Whether a role is a request's. */
export function isRequest(role: number): boolean {
  return (role & 3) === REQUEST;
}

export class FlowKey {
  /** Words 0 to 3 and 4 to 7: the ends' addresses; 8 and 9 their ports; 10 version, protocol and kind of query. */
  readonly words = new Int32Array(KEY_WORDS);
  /** Whether the packet's source is the end that stands first. */
  sourceFirst = true;

  /** The key of a packet's own addresses. `role`: see queryRole; 0 for what is no query. */
  setPacket(packet: Packet, sourcePort: number, destinationPort: number, role: number): void {
    if (packet.version === 4) this.#addresses4(packet.source4, packet.destination4);
    else this.#addresses6(packet.head, packet.headers?.source6 ?? 0, packet.headers?.destination6 ?? 0);
    this.#finish(packet.version, packet.protocol, sourcePort, destinationPort, role);
  }

  /**
   * The key of the packet that an ICMP error quotes, as that packet went. Only what lies in the head is looked at.
   * @returns false when there is too little of it, or the error does not go to the quoted packet's sender
   */
  setQuoted(packet: Packet): boolean {
    const { headers, head, frame } = packet;
    if (headers === undefined || frame === undefined) return false;
    const end = Math.min(frame.headLength, headers.l3End);
    const at = headers.payloadOffset;
    return packet.version === 4 ? this.#quoted4(packet, head, at, end) : this.#quoted6(packet, head, at, end);
  }

  #quoted4(packet: Packet, head: Uint8Array, at: number, end: number): boolean {
    if (at + 20 > end || head[at]! >> 4 !== 4) return false;
    const size = (head[at]! & 15) * 4;
    const source = u32(head, at + 12);
    // A later fragment has no ports; and errors about packets of others are nobody's business.
    if (size < 20 || (u16(head, at + 6) & 0x1fff) !== 0 || source !== packet.destination4) return false;
    this.#addresses4(source, u32(head, at + 16));
    return this.#quotedTransport(4, head[at + 9]!, head, at + size, end);
  }

  #quoted6(packet: Packet, head: Uint8Array, at: number, end: number): boolean {
    const { headers } = packet;
    if (headers === undefined || at + 40 > end || head[at]! >> 4 !== 6) return false;
    for (let n = 0; n < 16; n++) if (head[at + 8 + n] !== head[headers.destination6 + n]) return false;
    this.#addresses6(head, at + 8, at + 24);
    return this.#quotedTransport(6, head[at + 6]!, head, at + 40, end);
  }

  /**
   * Of the transport header eight bytes are sure to be quoted (RFC 792). Packets with extension headers are not found.
   */
  #quotedTransport(version: number, protocol: number, head: Uint8Array, at: number, end: number): boolean {
    if (protocol === PROTOCOL_TCP || protocol === PROTOCOL_UDP) {
      if (at + 4 > end) return false;
      this.#finish(version, protocol, u16(head, at), u16(head, at + 2), 0);
      return true;
    }
    if (protocol === (version === 4 ? PROTOCOL_ICMP : PROTOCOL_ICMPV6)) {
      if (at + 6 > end) return false;
      const role = queryRole(version, head[at]!);
      const identifier = u16(head, at + 4);
      this.#finish(version, protocol, identifier, identifier, role);
      return role !== 0;
    }
    this.#finish(version, protocol, 0, 0, 0);
    return true;
  }

  #addresses4(source: number, destination: number): void {
    this.words.fill(0);
    this.words[3] = source;
    this.words[7] = destination;
  }

  #addresses6(head: Uint8Array, source: number, destination: number): void {
    for (let n = 0; n < 4; n++) {
      this.words[n] = u32(head, source + n * 4);
      this.words[4 + n] = u32(head, destination + n * 4);
    }
  }

  #finish(version: number, protocol: number, sourcePort: number, destinationPort: number, role: number): void {
    const { words } = this;
    words[8] = sourcePort;
    words[9] = destinationPort;
    this.sourceFirst = this.#isOrdered();
    if (!this.sourceFirst) this.#swap();
    // Two hosts may ping one another with the same identifier: who asks is a part of the key.
    const asker = role === 0 ? 0 : isRequest(role) === this.sourceFirst ? REQUEST : REPLY;
    words[10] = (version << 8) | protocol | ((asker | (role & ~3)) << QUERY_SHIFT);
  }

  #isOrdered(): boolean {
    const { words } = this;
    for (let n = 0; n < 4; n++) if (words[n] !== words[4 + n]) return words[n]! < words[4 + n]!;
    return words[8]! <= words[9]!;
  }

  #swap(): void {
    const { words } = this;
    for (let n = 0; n < 4; n++) {
      const word = words[n]!;
      words[n] = words[4 + n]!;
      words[4 + n] = word;
    }
    const port = words[8]!;
    words[8] = words[9]!;
    words[9] = port;
  }
}
