/**
 * Initrds: any sequence of cpio archives, plain or compressed, as the kernel accepts them. They are handed to the
 * guest uncompressed, since unpacking in the guest costs more instructions than the rest of its boot.
 */

import { isCpio, walkCpio } from "./cpio.ts";
import { decompressAt, detectCompression } from "./decompress.ts";
import { BuildError } from "./errors.ts";

/** Greatest accepted initrd in bytes, compressed or not: guests have at most 3.5 GiB of memory. */
export const INITRD_LIMIT = 2 * 1024 * 1024 * 1024;

const ALIGNMENT = 4;

function notAnInitrd(at: number): BuildError {
  const where = at === 0 ? "it starts with" : `at byte ${at} it has`;
  return new BuildError(
    "not-an-initrd",
    `the initrd cannot be used: ${where} neither a cpio archive nor a known compression`,
    "name an initramfs such as /boot/initrd.img-*",
  );
}

function skipZeros(bytes: Uint8Array, from: number): number {
  let at = from;
  while (at < bytes.length && bytes[at] === 0) at++;
  return at;
}

/** Position behind the plain archive at `at`. */
function archiveEnd(bytes: Uint8Array, at: number): number {
  const walk = walkCpio(bytes, at);
  if (walk.ok) return walk.end;
  const code = walk.failure === "truncated" ? "truncated-image" : "corrupt-image";
  const text = walk.failure === "truncated" ? "is truncated inside" : "is damaged inside";
  throw new BuildError(code, `the initrd ${text} a cpio archive`, "build or copy it again");
}

/** Joins archives so that each starts at a multiple of four, where the kernel looks for it. */
export function joinArchives(parts: readonly Uint8Array[]): Uint8Array {
  const padded = (part: Uint8Array): number => Math.ceil(part.length / ALIGNMENT) * ALIGNMENT;
  const out = new Uint8Array(parts.reduce((sum, part) => sum + padded(part), 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += padded(part);
  }
  return out;
}

/**
 * Decompresses an initrd of one or more archives (an uncompressed one with processor microcode often comes first).
 *
 * @throws BuildError `not-an-initrd`, `unknown-compression`, `truncated-image`, `corrupt-image`, `file-too-large`
 */
export async function unpackInitrd(bytes: Uint8Array, limit: number = INITRD_LIMIT): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let room = limit;
  let at = skipZeros(bytes, 0);
  if (at === bytes.length) throw new BuildError("not-an-initrd", "the initrd is empty", "name an initramfs");
  while (at < bytes.length) {
    let part: Uint8Array;
    if (isCpio(bytes, at)) {
      const end = archiveEnd(bytes, at);
      part = bytes.subarray(at, end);
      at = end;
    } else if (detectCompression(bytes, at) !== undefined) {
      const { data, end } = await decompressAt(bytes, at, room, "initrd");
      if (!isCpio(data, skipZeros(data, 0))) throw notAnInitrd(at);
      part = data;
      at = end;
    } else {
      throw notAnInitrd(at);
    }
    room -= part.length;
    if (room < 0) throw new BuildError("file-too-large", "the initrd is too large uncompressed", "use a smaller one");
    parts.push(part);
    at = skipZeros(bytes, at);
  }
  return joinArchives(parts);
}
