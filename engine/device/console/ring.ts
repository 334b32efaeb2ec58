/**
 * The host's end of the console page (xen/include/public/io/console.h). Our indexes are private; the guest's are read
 * once each and checked. An impossible index counts as an empty, or a full, ring.
 */
import {
  CONSOLE_IN,
  CONSOLE_IN_CONS,
  CONSOLE_IN_LENGTH,
  CONSOLE_IN_PROD,
  CONSOLE_OUT,
  CONSOLE_OUT_CONS,
  CONSOLE_OUT_LENGTH,
  CONSOLE_OUT_PROD,
} from "../../abi/console.ts";
import type { Mapping } from "../../memory/guest-memory.ts";

export class ConsoleRing {
  private readonly mapping: Mapping;
  private readonly start: number;
  private outConsumer = 0;
  private inProducer = 0;

  constructor(mapping: Mapping) {
    this.mapping = mapping;
    this.start = mapping.base + mapping.plan.console;
  }

  /** Goes on where the ring of a restored guest was left. */
  adopt(): void {
    this.outConsumer = this.index(CONSOLE_OUT_CONS);
    this.inProducer = this.index(CONSOLE_IN_PROD);
  }

  private index(field: number): number {
    return Atomics.load(this.mapping.words, (this.start + field) >>> 2) >>> 0;
  }

  /** Takes all output that the guest has written; empty if there is none. */
  read(): Uint8Array {
    const producer = this.index(CONSOLE_OUT_PROD);
    const length = (producer - this.outConsumer) >>> 0;
    if (length === 0 || length > CONSOLE_OUT_LENGTH) return new Uint8Array(0);
    const bytes = new Uint8Array(length);
    for (let i = 0; i < length; i++) {
      bytes[i] = this.mapping.bytes[this.start + CONSOLE_OUT + ((this.outConsumer + i) % CONSOLE_OUT_LENGTH)] ?? 0;
    }
    this.outConsumer = producer;
    // The bytes are copied before the space is given back.
    Atomics.store(this.mapping.words, (this.start + CONSOLE_OUT_CONS) >>> 2, producer);
    return bytes;
  }

  /** Writes as much input as there is room for and returns how much that was. */
  write(bytes: Uint8Array): number {
    const used = (this.inProducer - this.index(CONSOLE_IN_CONS)) >>> 0;
    if (used > CONSOLE_IN_LENGTH) return 0;
    const length = Math.min(bytes.length, CONSOLE_IN_LENGTH - used);
    for (let i = 0; i < length; i++) {
      const position = (this.inProducer + i) % CONSOLE_IN_LENGTH;
      this.mapping.bytes[this.start + CONSOLE_IN + position] = bytes[i] ?? 0;
    }
    this.inProducer = (this.inProducer + length) >>> 0;
    // The bytes are in place before the guest may look at them.
    Atomics.store(this.mapping.words, (this.start + CONSOLE_IN_PROD) >>> 2, this.inProducer);
    return length;
  }
}
