/**
 * The guest's XenStore page (struct xenstore_domain_interface): the store's end of its two byte rings.
 *
 * The guest is hostile: each of its indexes is read once and checked; an impossible one ends the connection.
 */
import {
  XS_CONNECTION,
  XS_ERROR,
  XS_ERROR_RINGIDX,
  XS_REQUEST,
  XS_REQUEST_CONS,
  XS_REQUEST_PROD,
  XS_RESPONSE,
  XS_RESPONSE_CONS,
  XS_RESPONSE_PROD,
  XS_RING_LENGTH,
} from "../abi/xs-wire.ts";
import type { Mapping } from "../memory/guest-memory.ts";

export class XenstoreRing {
  private readonly mapping: Mapping;
  private readonly start: number;
  /** Our own indexes are private: what the guest writes into their fields is ignored. */
  private requestConsumer = 0;
  private responseProducer = 0;

  constructor(mapping: Mapping) {
    this.mapping = mapping;
    this.start = mapping.base + mapping.plan.xenstore;
    Atomics.store(mapping.words, (this.start + XS_CONNECTION) >>> 2, 0);
  }

  private index(field: number): number {
    return Atomics.load(this.mapping.words, (this.start + field) >>> 2) >>> 0;
  }

  /** Takes what the guest has written, or undefined for an impossible producer index. */
  read(): Uint8Array | undefined {
    const producer = this.index(XS_REQUEST_PROD);
    const length = (producer - this.requestConsumer) >>> 0;
    if (length > XS_RING_LENGTH) return undefined;
    const bytes = new Uint8Array(length);
    for (let i = 0; i < length; i++) {
      bytes[i] = this.mapping.bytes[this.start + XS_REQUEST + ((this.requestConsumer + i) % XS_RING_LENGTH)] ?? 0;
    }
    this.requestConsumer = producer;
    // The bytes are copied before the space is given back.
    Atomics.store(this.mapping.words, (this.start + XS_REQUEST_CONS) >>> 2, this.requestConsumer);
    return bytes;
  }

  /** Writes as much as there is room for; returns that many bytes, or undefined for an impossible consumer index. */
  write(bytes: Uint8Array): number | undefined {
    const used = (this.responseProducer - this.index(XS_RESPONSE_CONS)) >>> 0;
    if (used > XS_RING_LENGTH) return undefined;
    const length = Math.min(bytes.length, XS_RING_LENGTH - used);
    for (let i = 0; i < length; i++) {
      const position = (this.responseProducer + i) % XS_RING_LENGTH;
      this.mapping.bytes[this.start + XS_RESPONSE + position] = bytes[i] ?? 0;
    }
    this.responseProducer = (this.responseProducer + length) >>> 0;
    // The bytes are in place before the guest may look at them.
    Atomics.store(this.mapping.words, (this.start + XS_RESPONSE_PROD) >>> 2, this.responseProducer);
    return length;
  }

  /** Tells the guest that its connection is over and why. */
  fail(error: number = XS_ERROR_RINGIDX): void {
    Atomics.store(this.mapping.words, (this.start + XS_ERROR) >>> 2, error);
  }
}
