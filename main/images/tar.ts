/** A streaming reader of tar archives as dpkg-deb prints them: ustar with GNU long names. Source: POSIX.1-2017, pax. */

const BLOCK = 512;
const NAME = 0;
const NAME_SIZE = 100;
const SIZE = 124;
const SIZE_SIZE = 12;
const TYPE = 156;
const MAGIC = 257;
const PREFIX = 345;
const PREFIX_SIZE = 155;

const TYPE_FILE = "0";
const TYPE_OLD_FILE = "\0";
const TYPE_GNU_LONG_NAME = "L";
/** A path has at most this many bytes; a longer "long name" is damage. */
const LONGEST_NAME = 65536;

export interface TarFile {
  /** Without a leading "./" or "/". */
  readonly path: string;
  readonly data: Uint8Array;
}

/** Thrown for an archive that is cut or damaged. */
export class TarError extends Error {}

function text(block: Buffer, offset: number, size: number): string {
  const field = block.subarray(offset, offset + size);
  const end = field.indexOf(0);
  return field.toString("utf8", 0, end < 0 ? size : end);
}

/** Sizes are octal text, or base 256 with the top bit set for what does not fit. */
function sizeOf(block: Buffer): number {
  if (((block[SIZE] as number) & 0x80) !== 0) return block.readUIntBE(SIZE + SIZE_SIZE - 6, 6);
  const digits = text(block, SIZE, SIZE_SIZE).trim();
  if (!/^[0-7]*$/.test(digits)) throw new TarError("a size in the archive is not a number");
  return digits === "" ? 0 : Number.parseInt(digits, 8);
}

function pathOf(block: Buffer): string {
  const prefix = text(block, MAGIC, 6) === "ustar" ? text(block, PREFIX, PREFIX_SIZE) : "";
  const name = text(block, NAME, NAME_SIZE);
  return prefix === "" ? name : `${prefix}/${name}`;
}

/** Hands out exactly as many bytes as asked for, across the borders of the source's chunks. */
class ByteReader {
  private readonly source: AsyncIterator<Uint8Array>;
  private chunk: Buffer = Buffer.alloc(0);

  constructor(source: AsyncIterable<Uint8Array>) {
    this.source = source[Symbol.asyncIterator]();
  }

  /** Reads `size` bytes, or returns undefined at the end of the source; calls `sink` with the pieces. */
  private async each(size: number, sink: (piece: Buffer) => void): Promise<boolean> {
    let left = size;
    while (left > 0) {
      if (this.chunk.length === 0) {
        const next = await this.source.next();
        if (next.done === true) return false;
        this.chunk = Buffer.from(next.value.buffer, next.value.byteOffset, next.value.byteLength);
      }
      const piece = this.chunk.subarray(0, left);
      this.chunk = this.chunk.subarray(piece.length);
      left -= piece.length;
      sink(piece);
    }
    return true;
  }

  async read(size: number): Promise<Buffer | undefined> {
    const pieces: Buffer[] = [];
    return (await this.each(size, (piece) => pieces.push(piece))) ? Buffer.concat(pieces) : undefined;
  }

  async skip(size: number): Promise<boolean> {
    return this.each(size, () => undefined);
  }
}

const paddingOf = (size: number): number => (BLOCK - (size % BLOCK)) % BLOCK;

/**
 * Yields the regular files of an archive whose path `wanted` accepts; the rest is passed over without keeping it.
 *
 * @param limit greatest accepted size of one wanted file, in bytes
 * @throws TarError
 */
export async function* readTar(
  source: AsyncIterable<Uint8Array>,
  wanted: (path: string) => boolean,
  limit: number,
): AsyncGenerator<TarFile> {
  const reader = new ByteReader(source);
  let longName: string | undefined;
  for (;;) {
    const block = await reader.read(BLOCK);
    if (block === undefined) throw new TarError("the archive ends too early");
    if (block.every((byte) => byte === 0)) {
      // Two zero blocks end the archive; reading on lets the producer finish.
      await reader.skip(Number.MAX_SAFE_INTEGER);
      return;
    }
    const size = sizeOf(block);
    const type = String.fromCharCode(block[TYPE] as number);
    if (type === TYPE_GNU_LONG_NAME) {
      if (size > LONGEST_NAME) throw new TarError("a name in the archive is too long");
      const name = await reader.read(size);
      if (name === undefined || !(await reader.skip(paddingOf(size)))) throw new TarError("the archive ends too early");
      longName = name.toString("utf8").replace(/\0+$/, "");
      continue;
    }
    const path = (longName ?? pathOf(block)).replace(/^(\.?\/)+/, "");
    longName = undefined;
    if ((type === TYPE_FILE || type === TYPE_OLD_FILE) && wanted(path)) {
      if (size > limit) throw new TarError(`${path} is too large`);
      const data = await reader.read(size);
      if (data === undefined) throw new TarError("the archive ends too early");
      yield { path, data };
    } else if (!(await reader.skip(size))) {
      throw new TarError("the archive ends too early");
    }
    if (!(await reader.skip(paddingOf(size)))) throw new TarError("the archive ends too early");
  }
}
