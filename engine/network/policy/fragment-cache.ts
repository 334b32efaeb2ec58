/**
 * The states of fragmented packets: later fragments have no ports, so they share what was found for the first one.
 * A bounded memory in which newer packets replace older ones; a fragment that is not found there is INVALID.
 */
import type { Packet } from "./packet.ts";

const SLOTS = 1024;
/** As long as hosts keep fragments (RFC 791 and Linux: 30 s). */
const KEPT_NS = 30e9;

export class FragmentCache {
  readonly #tags = new Uint32Array(SLOTS);
  readonly #states = new Uint8Array(SLOTS);
  readonly #expires = new Float64Array(SLOTS);
  readonly #seed: number;
  #slot = 0;
  #tag = 0;

  /** With a seed that nobody knows nobody can make packets meet in a slot. */
  constructor(seed: number) {
    this.#seed = seed;
  }

  /** The first fragment's state. */
  remember(packet: Packet, state: number): void {
    this.#locate(packet);
    this.#tags[this.#slot] = this.#tag;
    this.#states[this.#slot] = state;
    this.#expires[this.#slot] = packet.now + KEPT_NS;
  }

  /** The state of the first fragment of the same packet; 0 when it was not seen. */
  find(packet: Packet): number {
    this.#locate(packet);
    const fits = this.#tags[this.#slot] === this.#tag && (this.#expires[this.#slot] ?? 0) > packet.now;
    return fits ? (this.#states[this.#slot] ?? 0) : 0;
  }

  #locate(packet: Packet): void {
    const { headers, head } = packet;
    if (headers === undefined) return;
    let hash = mix(mix(this.#seed, headers.identification), packet.protocol | (packet.version << 8));
    if (packet.version === 4) hash = mix(mix(hash, packet.source4), packet.destination4);
    else {
      const from = headers.source6;
      for (let at = from; at < from + 32; at += 4) {
        const word = (head[at]! << 24) | (head[at + 1]! << 16) | (head[at + 2]! << 8) | head[at + 3]!;
        hash = mix(hash, word);
      }
    }
    this.#slot = hash & (SLOTS - 1);
    this.#tag = mix(hash, this.#seed) >>> 0;
  }
}

function mix(hash: number, word: number): number {
  const mixed = Math.imul(hash ^ word, 0x9e37_79b1);
  return mixed ^ (mixed >>> 15);
}
