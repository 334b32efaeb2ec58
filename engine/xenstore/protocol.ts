/**
 * XenStore wire protocol (xen/include/public/io/xs_wire.h, docs/misc/xenstore.txt): pure, no I/O.
 *
 * A message is a 16-byte header and a payload of at most 4096 bytes; texts in it are Latin-1 bytes, separated or
 * terminated by NUL.
 */
import type { ErrnoName } from "../abi/errors.ts";
import { XS_PAYLOAD_MAX, XsType, xsHeader } from "../abi/xs-wire.ts";

export interface Message {
  readonly type: number;
  readonly requestId: number;
  readonly transactionId: number;
  readonly payload: Uint8Array;
}

export type ParseEvent = Message | "too-long";

/** Takes a byte stream apart into messages, wherever it is cut. After "too-long" it must not be fed any more. */
export class MessageParser {
  private readonly buffer = new Uint8Array(xsHeader.size + XS_PAYLOAD_MAX);
  private filled = 0;

  /** Feeds bytes and returns the messages they complete. */
  push(bytes: Uint8Array): ParseEvent[] {
    const events: ParseEvent[] = [];
    let used = 0;
    while (used < bytes.length) {
      used += this.take(bytes.subarray(used), this.wanted());
      if (this.filled < xsHeader.size) continue;
      const header = xsHeader.read(new DataView(this.buffer.buffer));
      if (header.length > XS_PAYLOAD_MAX) {
        events.push("too-long");
        return events;
      }
      if (this.filled < xsHeader.size + header.length) continue;
      events.push({ ...header, payload: this.buffer.slice(xsHeader.size, this.filled) });
      this.filled = 0;
    }
    return events;
  }

  /** Bytes up to the end of the header, or of the message once its header is known. */
  private wanted(): number {
    if (this.filled < xsHeader.size) return xsHeader.size;
    return xsHeader.size + xsHeader.read(new DataView(this.buffer.buffer)).length;
  }

  private take(bytes: Uint8Array, until: number): number {
    const piece = bytes.subarray(0, until - this.filled);
    this.buffer.set(piece, this.filled);
    this.filled += piece.length;
    return piece.length;
  }
}

/** Encodes a message. */
export function encodeMessage(message: Message): Uint8Array {
  const bytes = new Uint8Array(xsHeader.size + message.payload.length);
  xsHeader.write(new DataView(bytes.buffer), 0, { ...message, length: message.payload.length });
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

/** The NUL-terminated strings of a payload; a last one without its NUL counts too. */
export function strings(payload: Uint8Array): string[] {
  const text = decodeText(payload);
  const parts = text.split("\0");
  if (parts.at(-1) === "") parts.pop();
  return parts;
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
