/**
 * The "newc" cpio archive of initrds, written and measured.
 * Source: Documentation/driver-api/early-userspace/buffer-format.rst of the Linux kernel.
 */

const HEADER_SIZE = 110;
const TRAILER = "TRAILER!!!";
const ALIGNMENT = 4;
/** Whole archives are padded to this, so that another one or a compressed one can follow. */
const ARCHIVE_ALIGNMENT = 512;

const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;
const S_IFCHR = 0o020000;

/** One member of an archive. Paths are relative, without a leading slash; a directory comes before its content. */
export type CpioEntry =
  | { readonly kind: "directory"; readonly path: string; readonly mode?: number }
  | { readonly kind: "file"; readonly path: string; readonly data: Uint8Array | string; readonly mode?: number }
  | { readonly kind: "symlink"; readonly path: string; readonly target: string }
  | {
      readonly kind: "character-device";
      readonly path: string;
      readonly major: number;
      readonly minor: number;
      readonly mode?: number;
    };

interface Member {
  readonly name: Uint8Array;
  readonly mode: number;
  readonly data: Uint8Array;
  readonly major: number;
  readonly minor: number;
}

const encoder = new TextEncoder();
const aligned = (size: number, to: number): number => Math.ceil(size / to) * to;

function memberOf(entry: CpioEntry): Member {
  const name = encoder.encode(`${entry.path}\0`);
  const empty = { name, data: new Uint8Array(0), major: 0, minor: 0 };
  switch (entry.kind) {
    case "directory":
      return { ...empty, mode: S_IFDIR | (entry.mode ?? 0o755) };
    case "file": {
      const data = typeof entry.data === "string" ? encoder.encode(entry.data) : entry.data;
      return { ...empty, data, mode: S_IFREG | (entry.mode ?? 0o644) };
    }
    case "symlink":
      return { ...empty, data: encoder.encode(entry.target), mode: S_IFLNK | 0o777 };
    case "character-device":
      return { ...empty, major: entry.major, minor: entry.minor, mode: S_IFCHR | (entry.mode ?? 0o600) };
  }
}

function header(member: Member, inode: number): Uint8Array {
  const links = (member.mode & S_IFDIR) === S_IFDIR && (member.mode & S_IFREG) === 0 ? 2 : 1;
  const fields = [
    inode,
    member.mode,
    0, // uid
    0, // gid
    links,
    0, // mtime: the same archive for the same content
    member.data.length,
    0, // device of the archived file, major and minor
    0,
    member.major,
    member.minor,
    member.name.length,
    0, // checksum, unused in this variant
  ];
  return encoder.encode(`070701${fields.map((field) => field.toString(16).padStart(8, "0")).join("")}`);
}

/** Writes an archive with its trailer, padded with zeros to a multiple of 512 bytes. All files belong to root. */
export function writeCpio(entries: readonly CpioEntry[]): Uint8Array {
  const trailer: Member = {
    name: encoder.encode(`${TRAILER}\0`),
    mode: 0,
    data: new Uint8Array(0),
    major: 0,
    minor: 0,
  };
  const members = [...entries.map(memberOf), trailer];
  const sizeOf = (m: Member): number =>
    aligned(HEADER_SIZE + m.name.length, ALIGNMENT) + aligned(m.data.length, ALIGNMENT);
  const total = members.reduce((sum, member) => sum + sizeOf(member), 0);
  const out = new Uint8Array(aligned(total, ARCHIVE_ALIGNMENT));
  let at = 0;
  for (const [index, member] of members.entries()) {
    out.set(header(member, member === trailer ? 0 : index + 1), at);
    out.set(member.name, at + HEADER_SIZE);
    out.set(member.data, at + aligned(HEADER_SIZE + member.name.length, ALIGNMENT));
    at += sizeOf(member);
  }
  return out;
}

/** True if a newc header (with or without checksums) starts at `at`. */
export function isCpio(bytes: Uint8Array, at: number): boolean {
  const magic = Buffer.from(bytes.buffer, bytes.byteOffset + at, Math.min(6, bytes.length - at)).toString("latin1");
  return magic === "070701" || magic === "070702";
}

/** One member as found in an archive. `mode` includes the file type. */
export interface CpioMember {
  readonly path: string;
  readonly mode: number;
  readonly data: Uint8Array;
}

/** What walking an archive found: its members and the position behind its trailer, or why it cannot be walked. */
export type CpioWalk =
  | { readonly ok: true; readonly members: readonly CpioMember[]; readonly end: number }
  | { readonly ok: false; readonly failure: "truncated" | "corrupt" };

/** Walks the archive at `start` up to and including its trailer, or to the end of the bytes if it has none. */
export function walkCpio(bytes: Uint8Array, start: number): CpioWalk {
  const members: CpioMember[] = [];
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = start;
  while (at < bytes.length) {
    if (at + HEADER_SIZE > bytes.length) return { ok: false, failure: "truncated" };
    const text = buffer.toString("latin1", at, at + HEADER_SIZE);
    if (!/^07070[12][0-9a-fA-F]{104}$/.test(text)) return { ok: false, failure: "corrupt" };
    const field = (index: number): number => Number.parseInt(text.slice(6 + 8 * index, 14 + 8 * index), 16);
    const nameSize = field(11);
    const size = field(6);
    const dataAt = start + aligned(at - start + HEADER_SIZE + nameSize, ALIGNMENT);
    if (nameSize === 0) return { ok: false, failure: "corrupt" };
    if (dataAt + size > bytes.length) return { ok: false, failure: "truncated" };
    const path = buffer.toString("utf8", at + HEADER_SIZE, at + HEADER_SIZE + nameSize - 1);
    at = Math.min(bytes.length, start + aligned(dataAt - start + size, ALIGNMENT));
    if (path === TRAILER) break;
    members.push({ path, mode: field(1), data: bytes.subarray(dataAt, dataAt + size) });
  }
  return { ok: true, members, end: at };
}
