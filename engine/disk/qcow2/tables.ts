/**
 * Entries of L1 tables, L2 tables and refcount blocks of qcow2 (QEMU's docs/interop/qcow2.txt). An entry has 64 bits and is
 * handled as its two halves, high and low, as they stand in the file: no BigInt is made per entry.
 */

const TWO_TO_32 = 2 ** 32;

/** Bit 63: exactly one reference, so the cluster may be written in place. */
export const COPIED_HIGH = 0x8000_0000;
/** Bit 62 of an L2 entry: a descriptor of compressed data. */
export const COMPRESSED_HIGH = 0x4000_0000;
/** Bit 0 of an L2 entry (version 3): reads as zero whatever the cluster holds. */
export const ZERO_LOW = 1;
/** Bits 32–55 of the offset. Bits 56–61 are reserved. */
const OFFSET_HIGH = 0x00ff_ffff;
const OFFSET_LOW = 0xffff_fe00;

/** The host offset in an L1 entry, in an L2 entry of a standard cluster, or in an entry of the refcount table. */
export function entryOffset(high: number, low: number): number {
  return (high & OFFSET_HIGH) * TWO_TO_32 + ((low & OFFSET_LOW) >>> 0);
}

export function isCopied(high: number): boolean {
  return (high & COPIED_HIGH) !== 0;
}

export function isCompressed(high: number): boolean {
  return (high & COMPRESSED_HIGH) !== 0;
}

/** Of an entry that is not compressed. */
export function isZero(low: number): boolean {
  return (low & ZERO_LOW) !== 0;
}

/** Bits that must be 0 in an L1 entry are set. */
export function hasReservedL1Bits(high: number, low: number): boolean {
  return (high & 0x7f00_0000) !== 0 || (low & 0x1ff) !== 0;
}

/** Bits that must be 0 in an L2 entry of a standard cluster are set. Version 2 has no zero flag. */
export function hasReservedL2Bits(high: number, low: number, version: 2 | 3): boolean {
  return (high & 0x3f00_0000) !== 0 || (low & (version === 2 ? 0x1ff : 0x1fe)) !== 0;
}

/** Both halves of an entry for `offset`. */
export function entryHigh(offset: number, copied: boolean): number {
  return (Math.floor(offset / TWO_TO_32) | (copied ? COPIED_HIGH : 0)) >>> 0;
}

export function entryLow(offset: number, zero = false): number {
  return ((offset >>> 0) | (zero ? ZERO_LOW : 0)) >>> 0;
}

/**
 * Where compressed data begins: bits 0 to 61 − (clusterBits − 8). It is not aligned.
 * @returns bytes; above 2^53 not exact, which no file reaches
 */
export function compressedOffset(high: number, low: number, clusterBits: number): number {
  // 62 − (clusterBits − 8) bits of offset: between 49 and 61, so the limit lies in the high half.
  const highBits = 62 - (clusterBits - 8) - 32;
  return (high & (2 ** highBits - 1)) * TWO_TO_32 + (low >>> 0);
}

/** Bytes from compressedOffset() to the end of the last sector that the compressed data touches. */
export function compressedLength(high: number, low: number, clusterBits: number): number {
  const highBits = 62 - (clusterBits - 8) - 32;
  const sectors = ((high & 0x3fff_ffff) >>> highBits) + 1;
  return sectors * 512 - (low & 511);
}

/** Refcounts that one block of a cluster holds. */
export function refcountsPerBlock(clusterBits: number, refcountOrder: number): number {
  return 2 ** (clusterBits + 3 - refcountOrder);
}

/** The largest refcount; of 64 bits the largest exact number. */
export function largestRefcount(refcountOrder: number): number {
  return refcountOrder === 6 ? Number.MAX_SAFE_INTEGER : 2 ** (2 ** refcountOrder) - 1;
}

/**
 * Refcount number `index` of a block. Widths below a byte count from the least significant bit; wider ones are big-endian.
 * @returns of 64 bits: not exact above 2^53
 */
export function getRefcount(block: DataView, index: number, refcountOrder: number): number {
  switch (refcountOrder) {
    case 4:
      return block.getUint16(index * 2);
    case 3:
      return block.getUint8(index);
    case 5:
      return block.getUint32(index * 4);
    case 6:
      return block.getUint32(index * 8) * TWO_TO_32 + block.getUint32(index * 8 + 4);
    default: {
      const width = 1 << refcountOrder;
      const perByte = 8 >> refcountOrder;
      const byte = block.getUint8(Math.floor(index / perByte));
      return (byte >> ((index % perByte) * width)) & ((1 << width) - 1);
    }
  }
}

/** Sets refcount number `index`; `value` is at most largestRefcount(). */
export function setRefcount(block: DataView, index: number, refcountOrder: number, value: number): void {
  switch (refcountOrder) {
    case 4:
      block.setUint16(index * 2, value);
      return;
    case 3:
      block.setUint8(index, value);
      return;
    case 5:
      block.setUint32(index * 4, value);
      return;
    case 6:
      block.setUint32(index * 8, Math.floor(value / TWO_TO_32));
      block.setUint32(index * 8 + 4, value % TWO_TO_32);
      return;
    default: {
      const width = 1 << refcountOrder;
      const perByte = 8 >> refcountOrder;
      const at = Math.floor(index / perByte);
      const shift = (index % perByte) * width;
      const mask = ((1 << width) - 1) << shift;
      block.setUint8(at, (block.getUint8(at) & ~mask) | (value << shift));
    }
  }
}
