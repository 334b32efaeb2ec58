/**
 * The guest's XenStore page (struct xenstore_domain_interface): the store's end of its two byte rings.
 *
 * The guest is hostile: each of its indexes is read once and checked; an impossible one ends the connection. Layout,
 * reconnection and the error word are those of docs/misc/xenstore-ring.txt.
 */
import {
  XS_CONNECTED,
  XS_CONNECTION,
  XS_ERROR,
  XS_ERROR_NONE,
  XS_ERROR_RINGIDX,
  XS_FEATURES,
  XS_RECONNECT,
  XS_REQUEST,
  XS_REQUEST_CONS,
  XS_REQUEST_PROD,
  XS_RESPONSE,
  XS_RESPONSE_CONS,
  XS_RESPONSE_PROD,
  XS_RING_LENGTH,
  XS_SERVER_FEATURES,
} from "../abi/xs-wire.ts";
import type { Mapping } from "../memory/guest-memory.ts";

/** The store's own positions in the two rings. */
export interface RingIndexes {
  readonly requestConsumer: number;
  readonly responseProducer: number;
}

export class XenstoreRing {
  private readonly mapping: Mapping;
  private readonly start: number;
  /** Our own indexes are private: what the guest writes into their fields is ignored. */
  private requestConsumer = 0;
  private responseProducer = 0;

  /**
   * Serves the XenStore page of the domain behind `mapping` and offers the feature bits to it. With `indexes`, goes on
   * in a page that has been restored, which is left as it is: the guest may just be asking for a new connection.
   */
  constructor(mapping: Mapping, features: number = XS_FEATURES, indexes?: RingIndexes) {
    this.mapping = mapping;
    this.start = mapping.base + mapping.plan.xenstore;
    if (indexes !== undefined) {
      this.requestConsumer = indexes.requestConsumer;
      this.responseProducer = indexes.responseProducer;
      return;
    }
    this.store(XS_SERVER_FEATURES, features);
    this.store(XS_CONNECTION, XS_CONNECTED);
  }

  private store(field: number, value: number): void {
    Atomics.store(this.mapping.words, (this.start + field) >>> 2, value);
  }

  get indexes(): RingIndexes {
    return { requestConsumer: this.requestConsumer, responseProducer: this.responseProducer };
  }

  /** Whether the guest waits for a new connection; until reconnected() nothing else in the page counts. */
  get wantsReconnect(): boolean {
    return this.index(XS_CONNECTION) === XS_RECONNECT;
  }

  /** Empties both rings and tells the guest that its connection is as new. */
  reconnected(): void {
    this.requestConsumer = 0;
    this.responseProducer = 0;
    for (const field of [XS_REQUEST_CONS, XS_REQUEST_PROD, XS_RESPONSE_CONS, XS_RESPONSE_PROD]) this.store(field, 0);
    this.store(XS_ERROR, XS_ERROR_NONE);
    // Last: the guest looks at the rest once it sees this.
    this.store(XS_CONNECTION, XS_CONNECTED);
  }

  private index(field: number): number {
    return Atomics.load(this.mapping.words, (this.start + field) >>> 2) >>> 0;
  }

  /** Takes at most `limit` bytes of what the guest has written, or undefined for an impossible producer index. */
  read(limit: number = XS_RING_LENGTH): Uint8Array | undefined {
    const written = (this.index(XS_REQUEST_PROD) - this.requestConsumer) >>> 0;
    if (written > XS_RING_LENGTH) return undefined;
    const length = Math.min(written, limit);
    const bytes = new Uint8Array(length);
    for (let i = 0; i < length; i++) {
      bytes[i] = this.mapping.bytes[this.start + XS_REQUEST + ((this.requestConsumer + i) % XS_RING_LENGTH)] ?? 0;
    }
    this.requestConsumer = (this.requestConsumer + length) >>> 0;
    // The bytes are copied before the space is given back.
    this.store(XS_REQUEST_CONS, this.requestConsumer);
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
    this.store(XS_RESPONSE_PROD, this.responseProducer);
    return length;
  }

  /** Tells the guest that its connection is over and why. */
  fail(error: number = XS_ERROR_RINGIDX): void {
    this.store(XS_ERROR, error);
  }
}
