/**
 * XenStore wire protocol (xen/include/public/io/xs_wire.h, docs/misc/xenstore.txt): pure, no I/O.
 *
 * A message is a 16-byte header and a payload of at most 4096 bytes. Paths and tokens are Latin-1 bytes, each with a
 * NUL behind it; a value is any bytes.
 */
import type { ErrnoName } from "../abi/errors.ts";
import { XS_PAYLOAD_MAX, XsType, xsHeader } from "../abi/xs-wire.ts";

export interface Message {
  readonly type: number;
  readonly requestId: number;
  readonly transactionId: number;
  readonly payload: Uint8Array;
}

/** Longest message, header included, in bytes. */
export const MESSAGE_MAX = xsHeader.size + XS_PAYLOAD_MAX;

/** Takes a byte stream apart into messages, wherever it is cut. */
export class MessageParser {
  private readonly message = new Uint8Array(MESSAGE_MAX);
  private readonly header = new DataView(this.message.buffer);
  private filled = 0;
  private readonly chunks: Uint8Array[] = [];
  private tooLong = false;
  /** Bytes that were fed and are not yet part of a message that next() has returned. */
  buffered = 0;

  /** Feeds bytes; the array must not be changed afterwards. */
  push(bytes: Uint8Array): void {
    if (bytes.length > 0) this.chunks.push(bytes);
    this.buffered += bytes.length;
  }

  /** The next whole message, undefined until more bytes come, or "too-long", which is for good. */
  next(): Message | "too-long" | undefined {
    for (;;) {
      if (this.tooLong) return "too-long";
      const wanted = this.wanted();
      if (this.filled >= xsHeader.size && this.filled === wanted) return this.complete();
      const chunk = this.chunks[0];
      if (chunk === undefined) return undefined;
      const piece = chunk.subarray(0, wanted - this.filled);
      this.message.set(piece, this.filled);
      this.filled += piece.length;
      if (piece.length === chunk.length) this.chunks.shift();
      else this.chunks[0] = chunk.subarray(piece.length);
      if (this.filled === xsHeader.size) this.tooLong = xsHeader.read(this.header).length > XS_PAYLOAD_MAX;
    }
  }

  /** The bytes that next() has not returned. */
  rest(): Uint8Array {
    return Uint8Array.from(Buffer.concat([this.message.subarray(0, this.filled), ...this.chunks]));
  }

  /** Bytes up to the end of the header, or of the message once its header is known. */
  private wanted(): number {
    return this.filled < xsHeader.size ? xsHeader.size : xsHeader.size + xsHeader.read(this.header).length;
  }

  private complete(): Message {
    const { type, requestId, transactionId } = xsHeader.read(this.header);
    const payload = this.message.slice(xsHeader.size, this.filled);
    this.buffered -= this.filled;
    this.filled = 0;
    return { type, requestId, transactionId, payload };
  }
}

/** Encodes a message. */
export function encodeMessage(message: Message): Uint8Array {
  const bytes = new Uint8Array(xsHeader.size + message.payload.length);
  const { type, requestId, transactionId } = message;
  xsHeader.write(new DataView(bytes.buffer), 0, { type, requestId, transactionId, length: message.payload.length });
  bytes.set(message.payload, xsHeader.size);
  return bytes;
}

/** Bytes of a Latin-1 text. */
export function encodeText(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text, "latin1"));
}

export function decodeText(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("latin1");
}

/** Bytes of a value that programs write: UTF-8, as the paths and names of the host are. */
export function encodeValue(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text, "utf8"));
}

export function decodeValue(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("utf8");
}

/** The NUL-terminated strings that a payload consists of; undefined if bytes without a NUL follow them. */
export function strings(payload: Uint8Array): string[] | undefined {
  if (payload.length === 0) return [];
  return payload.at(-1) === 0 ? decodeText(payload.subarray(0, -1)).split("\0") : undefined;
}

/** Texts, each with a NUL behind it. */
export function encodeStrings(parts: readonly string[]): Uint8Array {
  return encodeText(parts.map((part) => `${part}\0`).join(""));
}

export function errorReply(request: Message, error: ErrnoName): Message {
  return { ...request, type: XsType.ERROR, payload: encodeStrings([error]) };
}

export function watchEvent(path: string, token: string): Message {
  return { type: XsType.WATCH_EVENT, requestId: 0, transactionId: 0, payload: encodeStrings([path, token]) };
}
