/**
 * Reads archives, and believes nothing that they say: a member is one that the manifest declares, of the size that it declares,
 * a plain file, there once; whatever else comes ends the reading, as does more data than was declared.
 */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { open, stat } from "node:fs/promises";
import { Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGunzip } from "node:zlib";
import { type Header, extract as tarExtract } from "tar-stream";
import { errnoOf } from "../../../engine/builder/errors.ts";
import { InputError } from "../../../engine/errors/input-error.ts";
import { writeError } from "../store/errors.ts";
import { ArchiveError, badArchive } from "./errors.ts";
import {
  type ArchiveManifest,
  type DeclaredMember,
  declaredMembers,
  MANIFEST_LIMIT,
  MANIFEST_NAME,
  parseManifest,
  SUMS_LIMIT,
  SUMS_NAME,
} from "./manifest.ts";

/** What tar may take besides the members' content: headers, padding, the end, and what another tar adds to these. */
const TAR_ROOM = { bytes: 1 << 20, perMember: 4096 } as const;
const CHUNK = 256 << 10;
const GZIP_MAGIC = [0x1f, 0x8b];

/** Whether a file begins as an archive does. @throws the system's error */
export async function looksLikeArchive(path: string): Promise<boolean> {
  // What is read from a pipe would be gone.
  if (!(await stat(path)).isFile()) return false;
  const handle = await open(path, "r");
  try {
    const { bytesRead, buffer } = await handle.read(Buffer.alloc(2), 0, 2, 0);
    return bytesRead === 2 && GZIP_MAGIC.every((byte, index) => buffer[index] === byte);
  } finally {
    await handle.close();
  }
}

export interface UnpackOptions {
  readonly signal: AbortSignal;
  readonly progress: (name: string, done: number, total: number) => void;
  /**
   * Called with the manifest, before anything else is read. @returns where a member goes: a file that is not there
   */
  readonly accept: (manifest: ArchiveManifest) => Promise<(member: DeclaredMember) => string>;
}

/** A member as it comes. */
type Entry = AsyncIterable<Buffer> & { readonly header: Header };

/** Ends a stream that holds more than it may. */
class Meter extends Transform {
  most = MANIFEST_LIMIT + TAR_ROOM.bytes;
  private passed = 0;
  private readonly path: string;

  constructor(path: string) {
    super();
    this.path = path;
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: (error: Error | null, data?: Buffer) => void) {
    this.passed += chunk.length;
    if (this.passed > this.most) done(badArchive(this.path, "it holds more than it declares"));
    else done(null, chunk);
  }
}

async function textOf(path: string, entry: Entry, limit: number): Promise<{ text: string; sum: string }> {
  const { name, size = 0 } = entry.header;
  if (size > limit) throw badArchive(path, `${name} is larger than any`);
  const chunks: Buffer[] = [];
  for await (const chunk of entry) chunks.push(chunk);
  const bytes = Buffer.concat(chunks);
  return { text: bytes.toString("utf8"), sum: createHash("sha256").update(bytes).digest("hex") };
}

/** Writes a member to a new file; durable. @returns its checksum */
async function writeMember(entry: Entry, target: string, tell: (done: number) => void): Promise<string> {
  const hash = createHash("sha256");
  let done = 0;
  const guarded = async <Result>(action: Promise<Result>): Promise<Result> => {
    try {
      return await action;
    } catch (error) {
      throw writeError(target, error);
    }
  };
  const handle = await guarded(open(target, "wx", 0o600));
  try {
    for await (const chunk of entry) {
      hash.update(chunk);
      await guarded(handle.writeFile(chunk));
      done += chunk.length;
      tell(done);
    }
    await guarded(handle.sync());
  } finally {
    await handle.close();
  }
  return hash.digest("hex");
}

/** @throws ArchiveError unless these are exactly the members' checksums */
function checkSums(path: string, text: string, sums: ReadonlyMap<string, string>): void {
  const lines = text.split("\n").filter((line) => line !== "");
  const said = new Map(
    lines.map((line) => {
      const [, sum, name] = /^([0-9a-f]{64}) [ *](.+)$/.exec(line) ?? [];
      if (sum === undefined || name === undefined) throw badArchive(path, `${SUMS_NAME} holds no checksums`);
      return [name, sum];
    }),
  );
  for (const [name, sum] of sums) {
    if (said.get(name) === undefined) throw badArchive(path, `${SUMS_NAME} lacks ${name}`);
    if (said.get(name) !== sum) throw badArchive(path, `the checksum of ${name} is wrong`);
  }
  const extra = lines.length > sums.size ? [...said.keys()].find((name) => !sums.has(name)) : undefined;
  if (lines.length > sums.size) throw badArchive(path, `${SUMS_NAME} names ${extra ?? "a file twice"}`);
}

/** A failed stream's reason, for the user. */
function streamFailure(path: string, error: unknown): Error {
  if (error instanceof InputError) return error;
  if (error instanceof Error && error.name === "AbortError") return error;
  const code = errnoOf(error) ?? "";
  if (/^E[A-Z]+$/.test(code)) {
    return new ArchiveError("unreadable", `${path} cannot be read (${code})`, "check the disk that it lies on", error);
  }
  return badArchive(path, "it is damaged or cut short", error);
}

class Unpacking {
  manifest: ArchiveManifest | undefined;
  private readonly path: string;
  private readonly options: UnpackOptions;
  private readonly meter: Meter;
  private waiting = new Map<string, DeclaredMember>();
  private place: (member: DeclaredMember) => string = () => "";
  private readonly sums = new Map<string, string>();
  private sumsText: string | undefined;

  constructor(path: string, options: UnpackOptions, meter: Meter) {
    this.path = path;
    this.options = options;
    this.meter = meter;
  }

  async take(entry: Entry): Promise<void> {
    const { name, type, size = 0 } = entry.header;
    if (type !== "file") throw badArchive(this.path, `${name} is no plain file`);
    if (this.manifest === undefined) return await this.takeManifest(entry);
    if (name === SUMS_NAME && this.sumsText === undefined) {
      this.sumsText = (await textOf(this.path, entry, SUMS_LIMIT)).text;
      return;
    }
    const member = this.waiting.get(name);
    if (member === undefined) throw badArchive(this.path, `it holds ${name}, which it does not declare or has twice`);
    if (size !== member.bytes) throw badArchive(this.path, `${name} has ${size} bytes and not ${member.bytes}`);
    this.waiting.delete(name);
    const tell = (done: number) => this.options.progress(name, done, size);
    this.sums.set(name, await writeMember(entry, this.place(member), tell));
  }

  private async takeManifest(entry: Entry): Promise<void> {
    if (entry.header.name !== MANIFEST_NAME) throw badArchive(this.path, `it does not begin with ${MANIFEST_NAME}`);
    const { text, sum } = await textOf(this.path, entry, MANIFEST_LIMIT);
    const manifest = parseManifest(this.path, text);
    const members = declaredMembers(manifest);
    const content = members.reduce((total, { bytes }) => total + bytes, SUMS_LIMIT);
    this.meter.most += content + members.length * TAR_ROOM.perMember;
    this.waiting = new Map(members.map((member) => [member.name, member]));
    this.sums.set(MANIFEST_NAME, sum);
    this.place = await this.options.accept(manifest);
    this.manifest = manifest;
  }

  /** @throws ArchiveError for what is missing or not what was packed */
  finish(): ArchiveManifest {
    const [missing] = this.waiting.keys();
    if (this.manifest === undefined) throw badArchive(this.path, "it is empty");
    if (missing !== undefined) throw badArchive(this.path, `${missing} is missing`);
    if (this.sumsText === undefined) throw badArchive(this.path, `${SUMS_NAME} is missing`);
    checkSums(this.path, this.sumsText, this.sums);
    return this.manifest;
  }
}

/**
 * Reads an archive and writes its members where `accept` says. What was written when this fails is the caller's to remove.
 * @throws ArchiveError; StoreError "not-written" of a full disk; an AbortError; what `accept` throws
 */
export async function unpackArchive(path: string, options: UnpackOptions): Promise<ArchiveManifest> {
  const extract = tarExtract();
  const meter = new Meter(path);
  const unpacking = new Unpacking(path, options, meter);
  const source = createReadStream(path, { highWaterMark: CHUNK });
  const feeding = pipeline(source, createGunzip({ chunkSize: CHUNK }), meter, extract, { signal: options.signal });
  const fed = feeding.then(
    () => undefined,
    (error: unknown) => error,
  );
  try {
    for await (const entry of extract) await unpacking.take(entry as Entry);
    const failed = await fed;
    if (failed !== undefined) throw failed;
  } catch (error) {
    source.destroy();
    extract.destroy();
    // Who reads members learns only that the stream ended: why is known where it is fed.
    throw streamFailure(path, error instanceof InputError ? error : ((await fed) ?? error));
  }
  return unpacking.finish();
}
