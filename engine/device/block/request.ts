/**
 * Reading and checking block requests. Everything here works on copies: of the request, and of the segments of an
 * indirect one. Nothing in shared memory is looked at (XSA-155).
 */
import {
  BlockOperation,
  type BlockProtocol,
  DISCARD_SECURE,
  LAST_SECTOR_OF_PAGE,
  MAX_DIRECT_SEGMENTS,
  MAX_INDIRECT_PAGES,
  MAX_INDIRECT_SEGMENTS,
  SECTOR,
  SEGMENTS_PER_INDIRECT_PAGE,
} from "./protocol.ts";

/** Sector numbers from 2^44 on (2^53 bytes) are beyond any disk; below, sums of bytes are exact. */
const HIGH_WORD_LIMIT = 2 ** 12;
const BEYOND = Number.POSITIVE_INFINITY;

/** A request taken apart. One object is used again and again. */
export class ParsedRequest {
  /** What to do; for an indirect request what it carries. Any byte that the frontend wrote. */
  operation = 0;
  indirect = false;
  /** The device number of the request (`handle`). */
  device = 0;
  /** Units of 512 bytes; infinite when absurd. */
  sector = 0;
  /** For discard: units of 512 bytes; for read and write: set by checkSegments(). */
  sectors = 0;
  secure = false;
  segments = 0;
  readonly refs = new Uint32Array(MAX_INDIRECT_SEGMENTS);
  readonly first = new Uint8Array(MAX_INDIRECT_SEGMENTS);
  readonly last = new Uint8Array(MAX_INDIRECT_SEGMENTS);
  indirectPages = 0;
  readonly indirectRefs = new Uint32Array(MAX_INDIRECT_PAGES);

  /**
   * Takes the copied request at words[at…] apart. Counts beyond what the message can carry are an error.
   *
   * @param maxIndirect most segments of an indirect request; 0 when they are not offered
   * @returns undefined, or what is wrong with it
   */
  parse(protocol: BlockProtocol, words: Int32Array, at: number, maxIndirect: number): string | undefined {
    const word = words[at]!;
    this.operation = word & 0xff;
    this.indirect = this.operation === BlockOperation.indirect && protocol.name !== "domlab-xen-2.0";
    this.device = word >>> 16;
    this.sector = wide(words, at + protocol.sectorWord);
    this.segments = 0;
    this.indirectPages = 0;
    if (this.indirect) return this.parseIndirect(protocol, words, at, word, maxIndirect);
    if (this.operation === BlockOperation.discard) {
      this.secure = ((word >>> 8) & DISCARD_SECURE) !== 0;
      this.sectors = wide(words, at + protocol.discardSectorsWord);
      return undefined;
    }
    const segments = (word >>> 8) & 0xff;
    if (segments > MAX_DIRECT_SEGMENTS) return `${segments} segments`;
    this.segments = segments;
    this.readSegments(words, at + protocol.segmentsWord, 0, segments);
    return undefined;
  }

  private parseIndirect(
    protocol: BlockProtocol,
    words: Int32Array,
    at: number,
    word: number,
    maxIndirect: number,
  ): string | undefined {
    this.operation = (word >>> 8) & 0xff;
    if (this.operation !== BlockOperation.read && this.operation !== BlockOperation.write) {
      return `indirect operation ${this.operation}`;
    }
    const segments = word >>> 16;
    if (segments === 0 || segments > maxIndirect || segments > MAX_INDIRECT_SEGMENTS) return `${segments} segments`;
    this.segments = segments;
    this.indirectPages = Math.ceil(segments / SEGMENTS_PER_INDIRECT_PAGE);
    for (let i = 0; i < this.indirectPages; i++) {
      this.indirectRefs[i] = words[at + protocol.indirectGrefsWord + i]!;
    }
    return undefined;
  }

  /**
   * Copies `count` segments from words[at…], which may be shared: each word is read once.
   *
   * @param from index of the first segment in this request
   */
  readSegments(words: Int32Array, at: number, from: number, count: number): void {
    for (let i = 0; i < count; i++) {
      this.refs[from + i] = words[at + 2 * i]!;
      const bounds = words[at + 2 * i + 1]!;
      this.first[from + i] = bounds & 0xff;
      this.last[from + i] = (bounds >>> 8) & 0xff;
    }
  }

  /**
   * Checks the bounds of all segments and sums their lengths up in `sectors`.
   *
   * @param sectorSize logical sector size of the disk in bytes: every segment is a multiple of it
   * @returns undefined, or what is wrong
   */
  checkSegments(sectorSize: number): string | undefined {
    const unit = sectorSize / SECTOR;
    let sectors = 0;
    for (let i = 0; i < this.segments; i++) {
      const first = this.first[i]!;
      const last = this.last[i]!;
      if (first > last || last > LAST_SECTOR_OF_PAGE) return `segment ${i} from ${first} to ${last}`;
      const length = last - first + 1;
      if (length % unit !== 0)
        return `segment ${i} of ${length * SECTOR} bytes on a disk with ${sectorSize}-byte sectors`;
      sectors += length;
    }
    this.sectors = sectors;
    return undefined;
  }

  /** Checks sector and sectors against a disk of `size` bytes. @returns undefined, or what is wrong */
  checkRange(size: number, sectorSize: number): string | undefined {
    // Both are below 2^44, so the sum is exact, and infinity fails.
    if (!(this.sector + this.sectors <= size / SECTOR))
      return `sectors ${this.sector} + ${this.sectors} beyond the end`;
    const unit = sectorSize / SECTOR;
    if (this.sector % unit !== 0 || this.sectors % unit !== 0) {
      return `sectors ${this.sector} + ${this.sectors} on a disk with ${sectorSize}-byte sectors`;
    }
    return undefined;
  }
}

/** A 64-bit number at words[at]; infinite from 2^44 on. */
function wide(words: Int32Array, at: number): number {
  const low = words[at]! >>> 0;
  const high = words[at + 1]! >>> 0;
  return high >= HIGH_WORD_LIMIT ? BEYOND : high * 2 ** 32 + low;
}

/** The operation that a response to the copied request at words[at] names: for an indirect one what it carries. */
export function responseOperation(protocol: BlockProtocol, word: number): number {
  const operation = word & 0xff;
  const indirect = operation === BlockOperation.indirect && protocol.name !== "domlab-xen-2.0";
  return indirect ? (word >>> 8) & 0xff : operation;
}
