/**
 * The server's side of the transmission phase, read chunk by chunk as the socket delivers it. Payload goes from the socket's
 * buffer straight to where the guest wants it: one copy. None would need read(2) into the guest's pages, but a stream's
 * reply headers and data arrive mixed, and TLS decrypts into buffers of its own.
 */
import {
  CHUNK_ERROR_BIT,
  Chunk,
  ChunkFlag,
  SIMPLE_REPLY_LENGTH,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_LENGTH,
  STRUCTURED_REPLY_MAGIC,
} from "./protocol.ts";

/** A request that a reply may belong to. */
export interface Expectation {
  /** Where on the export it begins; structured replies name places so. */
  readonly offset: number;
  /** Bytes to be read; 0 for a request without payload in its reply. */
  readonly readLength: number;
  /** Takes bytes that belong `at` bytes into the request. */
  data(at: number, bytes: Uint8Array): void;
  /** Zeros from `at` on. */
  zeros(at: number, length: number): void;
}

/** Longest error text of a structured reply. */
const MAX_ERROR_PAYLOAD = 4096 + 14;

export interface ReplyHandler {
  /** The request with this cookie, if it is under way. */
  find(cookie: number): Expectation | undefined;
  /** The reply is complete; `error` is an NBD error number, 0 for success. */
  finish(cookie: number, error: number): void;
}

/** A structured reply may come in parts; what is known of those that are not complete. */
interface Progress {
  received: number;
  error: number;
}

/** Incremental parser. push() answers why the server is not to be trusted any further, or undefined. */
export class ReplyParser {
  readonly #handler: ReplyHandler;
  readonly #header = Buffer.alloc(64);
  #headerLength = 0;
  /** Payload of data that is still to come, and where it goes. */
  #payload: { expectation: Expectation; at: number; left: number } | undefined;
  #afterPayload: (() => void) | undefined;
  /** Bytes to be passed over: an error's text. */
  #skip = 0;
  readonly #progress = new Map<number, Progress>();

  constructor(handler: ReplyHandler) {
    this.#handler = handler;
  }

  push(chunk: Uint8Array): string | undefined {
    let at = 0;
    while (at < chunk.length) {
      if (this.#payload) {
        const count = Math.min(this.#payload.left, chunk.length - at);
        this.#payload.expectation.data(this.#payload.at, chunk.subarray(at, at + count));
        this.#payload.at += count;
        this.#payload.left -= count;
        at += count;
        if (this.#payload.left === 0) this.#endPayload();
      } else if (this.#skip > 0) {
        const count = Math.min(this.#skip, chunk.length - at);
        this.#skip -= count;
        at += count;
        if (this.#skip === 0) this.#endPayload();
      } else {
        this.#header[this.#headerLength++] = chunk[at++]!;
        const problem = this.#headerLength >= 4 ? this.#parse() : undefined;
        if (problem !== undefined) return problem;
      }
    }
    return undefined;
  }

  #endPayload(): void {
    this.#payload = undefined;
    const after = this.#afterPayload;
    this.#afterPayload = undefined;
    after?.();
  }

  #parse(): string | undefined {
    const magic = this.#header.readUInt32BE(0);
    if (magic === SIMPLE_REPLY_MAGIC) return this.#headerLength < SIMPLE_REPLY_LENGTH ? undefined : this.#simple();
    if (magic === STRUCTURED_REPLY_MAGIC) {
      return this.#headerLength < STRUCTURED_REPLY_LENGTH ? undefined : this.#structured();
    }
    return "sent something that is no reply";
  }

  #cookie(): number {
    const cookie = this.#header.readBigUInt64BE(8);
    return cookie <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(cookie) : -1;
  }

  #simple(): string | undefined {
    const error = this.#header.readUInt32BE(4);
    const cookie = this.#cookie();
    this.#headerLength = 0;
    const expectation = this.#handler.find(cookie);
    if (!expectation) return "answered a request that was not made";
    if (this.#progress.has(cookie)) return "answered one request in two ways";
    if (error !== 0 || expectation.readLength === 0) {
      this.#handler.finish(cookie, error);
      return undefined;
    }
    this.#payload = { expectation, at: 0, left: expectation.readLength };
    this.#afterPayload = () => this.#handler.finish(cookie, 0);
    return undefined;
  }

  #structured(): string | undefined {
    const flags = this.#header.readUInt16BE(4);
    const type = this.#header.readUInt16BE(6);
    const length = this.#header.readUInt32BE(16);
    const cookie = this.#cookie();
    const expectation = this.#handler.find(cookie);
    if (!expectation) return "answered a request that was not made";
    const inline = type === Chunk.data ? 8 : type === Chunk.hole ? 12 : (type & CHUNK_ERROR_BIT) !== 0 ? 6 : 0;
    const bounds =
      type === Chunk.data
        ? length > 8 && length - 8 <= expectation.readLength
        : type === Chunk.hole
          ? length === 12
          : inline === 6
            ? length >= 6 && length <= MAX_ERROR_PAYLOAD
            : type === Chunk.none && length === 0 && (flags & ChunkFlag.done) !== 0;
    if (!bounds) return `sent a reply of type ${type} and ${length} bytes`;
    if (this.#headerLength < STRUCTURED_REPLY_LENGTH + inline) return undefined;
    this.#headerLength = 0;
    return this.#chunk(type, length, cookie, (flags & ChunkFlag.done) !== 0, expectation);
  }

  #chunk(type: number, length: number, cookie: number, last: boolean, expectation: Expectation): string | undefined {
    const progress = this.#progress.get(cookie) ?? { received: 0, error: 0 };
    this.#progress.set(cookie, progress);
    const inline = this.#header.subarray(STRUCTURED_REPLY_LENGTH);
    if ((type & CHUNK_ERROR_BIT) !== 0) {
      const error = inline.readUInt32BE(0);
      if (error === 0) return "reported an error without a number";
      progress.error ||= error;
      this.#skip = length - 6;
    } else if (type === Chunk.data || type === Chunk.hole) {
      const size = type === Chunk.data ? length - 8 : inline.readUInt32BE(8);
      const start = inline.readBigUInt64BE(0);
      const offset = expectation.readLength > 0 ? this.#offsetIn(expectation, start, size) : -1;
      if (offset < 0 || progress.received + size > expectation.readLength) return "sent data that was not asked for";
      progress.received += size;
      if (type === Chunk.hole) expectation.zeros(offset, size);
      else this.#payload = { expectation, at: offset, left: size };
    }
    const missing = last && progress.error === 0 && progress.received < expectation.readLength;
    // Data that is still on its way counts as received: #payload waits for all of it.
    if (missing) return "sent less data than was asked for";
    const finish = () => {
      if (!last) return;
      this.#progress.delete(cookie);
      this.#handler.finish(cookie, progress.error);
    };
    if (this.#payload || this.#skip > 0) this.#afterPayload = finish;
    else finish();
    return undefined;
  }

  #offsetIn(expectation: Expectation, start: bigint, size: number): number {
    const at = start - BigInt(expectation.offset);
    return at >= 0n && at + BigInt(size) <= BigInt(expectation.readLength) && size > 0 ? Number(at) : -1;
  }
}
