/**
 * The Internet checksum (RFC 1071): 16-bit words added in ones' complement, in full over bytes or frames, and kept up to date
 * when a word changes (RFC 1624).
 *
 * A sum is an ordinary number that may hold carries above 16 bits; foldSum() brings it down, and the checksum that a header
 * carries is its complement.
 */
import type { Frame } from "../device/net/frame.ts";
import { u16 } from "./headers.ts";

/** Carries folded in until 16 bits are left. Takes sums up to 2^47. */
export function foldSum(sum: number): number {
  // What is above 32 bits comes first: bit operations see 32 only.
  let rest = sum > 0xffff_ffff ? (sum % 0x1_0000_0000) + Math.floor(sum / 0x1_0000_0000) : sum;
  while (rest > 0xffff) rest = (rest & 0xffff) + Math.floor(rest / 0x1_0000);
  return rest;
}

/** The sum of the same bytes moved by one: in ones' complement that swaps its two halves. */
function swapped(sum: number): number {
  const folded = foldSum(sum);
  return ((folded & 0xff) << 8) | (folded >> 8);
}

/** Pieces from this length on are worth a view of their memory in words. */
const LONG = 256;
const isLittleEndian = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1;

/** Adds `length` bytes at `at`, big-endian words, an odd last byte as a word's first half. At most 64 KiB a call. */
export function sumBytes(bytes: Uint8Array, at: number, length: number, sum = 0): number {
  if (length < LONG) return sum + sumShort(bytes, at, length);
  // The order of bytes in a word does not matter to the sum but for a swap of the result (RFC 1071, 2.B): so the middle is
  // added in the machine's own words.
  const front = -(bytes.byteOffset + at) & 3;
  const words = (length - front) >> 2;
  const middle = sumWords(new Uint32Array(bytes.buffer, bytes.byteOffset + at + front, words));
  const back = at + front + words * 4;
  const rest = sumShort(bytes, back, at + length - back);
  const total = (isLittleEndian ? swapped(middle) : foldSum(middle)) + rest;
  return sum + sumShort(bytes, at, front) + (front & 1 ? swapped(total) : total);
}

function sumWords(words: Uint32Array): number {
  let upper = 0;
  let lower = 0;
  for (let n = 0; n < words.length; n++) {
    const word = words[n]!;
    upper += word >>> 16;
    lower += word & 0xffff;
  }
  return upper + lower;
}

function sumShort(bytes: Uint8Array, at: number, length: number): number {
  const even = at + (length & ~1);
  let high = 0;
  let low = 0;
  for (let n = at; n < even; n += 2) {
    high += bytes[n]!;
    low += bytes[n + 1]!;
  }
  if (length & 1) high += bytes[even]!;
  return high * 256 + low;
}

/** Adds bytes `from` to `from + length` of a frame, wherever they lie; a word may begin in one segment and end in the next. */
export function sumFrame(frame: Frame, from: number, length: number, sum = 0): number {
  const end = Math.min(frame.length, from + length);
  let total = sum;
  let position = from;
  if (position < frame.headLength) {
    const count = Math.min(frame.headLength, end) - position;
    total = sumBytes(frame.head, position, count, total);
    position += count;
  }
  let start = frame.headLength;
  for (let n = 0; n < frame.segments && position < end; n++) {
    const size = frame.size[n]!;
    if (position < start + size) {
      const skip = position - start;
      const count = Math.min(size - skip, end - position);
      const piece = sumBytes(frame.memory[n]!, frame.address[n]! + skip, count);
      total += (position - from) & 1 ? swapped(piece) : piece;
      position += count;
    }
    start += size;
  }
  return total;
}

/** The checksum to write for a sum. */
export function checksumOf(sum: number): number {
  return ~foldSum(sum) & 0xffff;
}

/** The pseudo header's sum over IPv4: addresses as unsigned numbers, `length` of transport header and data. */
export function pseudoHeader4(source: number, destination: number, protocol: number, length: number): number {
  const addresses = (source >>> 16) + (source & 0xffff) + (destination >>> 16) + (destination & 0xffff);
  return addresses + protocol + length;
}

/** The same over IPv6 (RFC 8200, 8.1): both addresses, 32 bytes at `addresses`, as they stand in the header. */
export function pseudoHeader6(bytes: Uint8Array, addresses: number, protocol: number, length: number): number {
  return sumBytes(bytes, addresses, 32, protocol + length);
}

/** The checksum of an IPv4 header of `size` bytes at `at`, whose checksum field counts as zero. */
export function ipv4HeaderChecksum(bytes: Uint8Array, at: number, size: number): number {
  return checksumOf(sumBytes(bytes, at, size) - u16(bytes, at + 10));
}

/** A checksum after a 16-bit word that it covers has changed (RFC 1624, equation 3). */
export function updateChecksum(checksum: number, before: number, after: number): number {
  return checksumOf((~checksum & 0xffff) + (~before & 0xffff) + after);
}

/** The same for 32-bit fields at even offsets: IPv4 addresses, sequence numbers. */
export function updateChecksum32(checksum: number, before: number, after: number): number {
  const upper = updateChecksum(checksum, before >>> 16, after >>> 16);
  return updateChecksum(upper, before & 0xffff, after & 0xffff);
}
