/**
 * Reads capture files: pcapng (draft-ietf-opsawg-pcapng) and pcap (draft-ietf-opsawg-pcap), of either byte order, with
 * times in any resolution. The file is a user's, or comes from anywhere: every length is checked before it is used.
 */
import { type FileHandle, open } from "node:fs/promises";
import { CaptureError, fileTrouble } from "./errors.ts";
import { BlockType, BYTE_ORDER_MAGIC, Option } from "./pcapng.ts";

/** Most bytes of a packet that are believed; other blocks may be longer and are skipped. */
const LONGEST_BLOCK = 1 << 20;
/** Most interfaces of one section. */
const MOST_INTERFACES = 65_536;
const READ_BYTES = 64 * 1024;
const MICROSECONDS = 6;

/** A packet of a file. */
export interface CapturedPacket {
  readonly kind: "packet";
  /** Nanoseconds since 1970. */
  readonly time: bigint;
  /** What was kept of it, and how long it was. */
  readonly data: Uint8Array;
  readonly length: number;
  /** Number of its interface in the section, and that interface's link type (1: Ethernet). */
  readonly interface: number;
  readonly linkType: number;
  readonly direction?: "in" | "out";
}

/** An interface that packets refer to by its number, counted from 0 in each section. */
export interface CapturedInterfaceFacts {
  readonly kind: "interface";
  readonly linkType: number;
  readonly snapLength: number;
  readonly name?: string;
  readonly filter?: string;
}

/** What an interface saw altogether. */
export interface CapturedStatistics {
  readonly kind: "statistics";
  readonly interface: number;
  readonly received?: bigint;
  readonly accepted?: bigint;
  readonly dropped?: bigint;
  readonly delivered?: bigint;
}

export type CaptureRecord =
  | CapturedPacket
  | CapturedInterfaceFacts
  | CapturedStatistics
  | { readonly kind: "section"; readonly application?: string };

/** A file as a stream of bytes, with only what is asked for in memory. */
class ByteSource {
  private readonly file: FileHandle;
  private buffer = new Uint8Array(READ_BYTES);
  private at = 0;
  private end = 0;

  constructor(file: FileHandle) {
    this.file = file;
  }

  /** The next `count` bytes, valid until the next call. Undefined when the file ends before. */
  async take(count: number): Promise<Uint8Array | undefined> {
    if (this.buffer.length < count) {
      const larger = new Uint8Array(count + READ_BYTES);
      larger.set(this.buffer.subarray(this.at, this.end));
      this.buffer = larger;
      this.end -= this.at;
      this.at = 0;
    } else if (this.at + count > this.buffer.length) {
      this.buffer.copyWithin(0, this.at, this.end);
      this.end -= this.at;
      this.at = 0;
    }
    while (this.end - this.at < count) {
      const { bytesRead } = await this.file.read(this.buffer, this.end, this.buffer.length - this.end);
      if (bytesRead === 0) return undefined;
      this.end += bytesRead;
    }
    this.at += count;
    return this.buffer.subarray(this.at - count, this.at);
  }

  /** False when the file ends before. */
  async skip(count: number): Promise<boolean> {
    for (let rest = count; rest > 0; rest -= READ_BYTES) {
      if ((await this.take(Math.min(rest, READ_BYTES))) === undefined) return false;
    }
    return true;
  }
}

/** How an interface counts time. */
interface TimeUnit {
  /** if_tsresol: a negative power of 10, or with bit 7 set of 2. */
  readonly resolution: number;
  /** if_tsoffset in seconds. */
  readonly offset: bigint;
}

function nanoseconds(high: number, low: number, unit: TimeUnit): bigint {
  const value = (BigInt(high) << 32n) | BigInt(low);
  const exponent = BigInt(unit.resolution & 0x7f);
  const billion = 1_000_000_000n;
  const scaled = unit.resolution & 0x80 ? (value * billion) >> exponent : (value * billion) / 10n ** exponent;
  return scaled + unit.offset * billion;
}

interface InterfaceState {
  readonly facts: CapturedInterfaceFacts;
  readonly unit: TimeUnit;
}

/** The options in `view` from `at` on, each code's first occurrence. Stops at what does not fit. */
function options(view: DataView, at: number, little: boolean): Map<number, Uint8Array> {
  const found = new Map<number, Uint8Array>();
  let next = at;
  while (next + 4 <= view.byteLength) {
    const code = view.getUint16(next, little);
    const length = view.getUint16(next + 2, little);
    if (code === Option.end || next + 4 + length > view.byteLength) break;
    if (!found.has(code)) found.set(code, new Uint8Array(view.buffer, view.byteOffset + next + 4, length).slice());
    next += 4 + ((length + 3) & ~3);
  }
  return found;
}

function textOf(value: Uint8Array | undefined): string | undefined {
  return value === undefined ? undefined : new TextDecoder().decode(value);
}

function numberOf(value: Uint8Array | undefined, little: boolean): bigint | undefined {
  if (value?.length !== 8) return undefined;
  return new DataView(value.buffer).getBigUint64(0, little);
}

/** The state of one pcapng section. A block's body is what lies between the two lengths. */
class Section {
  readonly little: boolean;
  private readonly interfaces: InterfaceState[] = [];

  constructor(little: boolean) {
    this.little = little;
  }

  /** What a block says; undefined for one of no interest. A string names what is wrong with it. */
  read(type: number, body: Uint8Array): CaptureRecord | undefined | string {
    const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
    switch (type) {
      case BlockType.interface:
        return this.description(view);
      case BlockType.packet:
        return this.packet(view, body);
      case BlockType.simplePacket:
        return this.simplePacket(view, body);
      case BlockType.statistics:
        return this.statistics(view);
      default:
        return undefined;
    }
  }

  private description(view: DataView): CaptureRecord | string {
    if (view.byteLength < 8) return "an interface description is too short";
    if (this.interfaces.length === MOST_INTERFACES) return "there are too many interfaces";
    const found = options(view, 8, this.little);
    const name = textOf(found.get(Option.name));
    const filter = textOf(found.get(Option.filter)?.subarray(1));
    const offset = numberOf(found.get(Option.offset), this.little);
    const facts: CapturedInterfaceFacts = {
      kind: "interface",
      linkType: view.getUint16(0, this.little),
      snapLength: view.getUint32(4, this.little),
      ...(name === undefined ? {} : { name }),
      ...(filter === undefined ? {} : { filter }),
    };
    const resolution = found.get(Option.resolution)?.[0] ?? MICROSECONDS;
    this.interfaces.push({ facts, unit: { resolution, offset: BigInt.asIntN(64, offset ?? 0n) } });
    return facts;
  }

  private packet(view: DataView, body: Uint8Array): CaptureRecord | string {
    if (view.byteLength < 20) return "a packet block is too short";
    const number = view.getUint32(0, this.little);
    const captured = view.getUint32(12, this.little);
    const state = this.interfaces[number];
    if (state === undefined) return `a packet is of interface ${number}, which is not described`;
    if (captured > view.byteLength - 20) return "a packet is longer than its block";
    const found = options(view, 20 + ((captured + 3) & ~3), this.little).get(Option.flags);
    const flags = found?.length === 4 ? new DataView(found.buffer).getUint32(0, this.little) & 3 : 0;
    return {
      kind: "packet",
      time: nanoseconds(view.getUint32(4, this.little), view.getUint32(8, this.little), state.unit),
      data: body.slice(20, 20 + captured),
      length: view.getUint32(16, this.little),
      interface: number,
      linkType: state.facts.linkType,
      ...(flags === 1 ? { direction: "in" as const } : flags === 2 ? { direction: "out" as const } : {}),
    };
  }

  /** A packet without a time, of the first interface, and as long as that one's snap length allows. */
  private simplePacket(view: DataView, body: Uint8Array): CaptureRecord | string {
    const state = this.interfaces[0];
    if (state === undefined || view.byteLength < 4) return "a simple packet block has no interface";
    const length = view.getUint32(0, this.little);
    const captured = Math.min(length, state.facts.snapLength || length, body.length - 4);
    const { linkType } = state.facts;
    return { kind: "packet", time: 0n, data: body.slice(4, 4 + captured), length, interface: 0, linkType };
  }

  private statistics(view: DataView): CaptureRecord | string {
    if (view.byteLength < 12) return "an interface statistics block is too short";
    const found = options(view, 12, this.little);
    const received = numberOf(found.get(Option.received), this.little);
    const accepted = numberOf(found.get(Option.accepted), this.little);
    const dropped = numberOf(found.get(Option.dropped), this.little);
    const delivered = numberOf(found.get(Option.delivered), this.little);
    return {
      kind: "statistics",
      interface: view.getUint32(0, this.little),
      ...(received === undefined ? {} : { received }),
      ...(accepted === undefined ? {} : { accepted }),
      ...(dropped === undefined ? {} : { dropped }),
      ...(delivered === undefined ? {} : { delivered }),
    };
  }
}

function broken(path: string, what: string): CaptureError {
  return new CaptureError(
    "not-a-capture",
    `capture file ${path}: ${what}`,
    "write it again as pcapng, e.g. by tshark -w",
  );
}

/** The blocks behind a pcapng file's first word. A file that was cut off ends with its last whole block. */
async function* readBlocks(path: string, source: ByteSource): AsyncGenerator<CaptureRecord> {
  let section: Section | undefined;
  let type: number = BlockType.section;
  for (;;) {
    const sized = await source.take(4);
    if (sized === undefined) return;
    const lengthWord = new DataView(sized.buffer, sized.byteOffset, 4);
    let little = section?.little ?? true;
    let length = lengthWord.getUint32(0, little);
    let consumed = 8;
    if (type === BlockType.section) {
      // The magic tells the byte order of the length before it.
      const both = [lengthWord.getUint32(0, true), lengthWord.getUint32(0, false)] as const;
      const magic = await source.take(4);
      if (magic === undefined) return;
      consumed = 12;
      const word = new DataView(magic.buffer, magic.byteOffset, 4);
      little = word.getUint32(0, true) === BYTE_ORDER_MAGIC;
      if (!little && word.getUint32(0, false) !== BYTE_ORDER_MAGIC) throw broken(path, "its byte order cannot be told");
      length = little ? both[0] : both[1];
      section = new Section(little);
    }
    if (section === undefined) throw broken(path, "it has no section header");
    if (length < consumed + 4 || length % 4 !== 0) throw broken(path, `a block has the length ${length}`);
    const rest = length - consumed;
    if (rest > LONGEST_BLOCK) {
      if (type === BlockType.packet) throw broken(path, `a packet block has the length ${length}`);
      if (!(await source.skip(rest))) return;
    } else {
      const body = await source.take(rest);
      if (body === undefined) return;
      const record =
        type === BlockType.section ? sectionRecord(body, little) : section.read(type, body.subarray(0, rest - 4));
      if (typeof record === "string") throw broken(path, record);
      if (record !== undefined) yield record;
    }
    const next = await source.take(4);
    if (next === undefined) return;
    type = new DataView(next.buffer, next.byteOffset, 4).getUint32(0, little);
  }
}

/** A section header's options: behind version and section length, before the length that closes the block. */
function sectionRecord(body: Uint8Array, little: boolean): CaptureRecord {
  const most = Math.max(0, body.length - 4);
  const found = options(new DataView(body.buffer, body.byteOffset, most), Math.min(12, most), little);
  const application = textOf(found.get(Option.application));
  return { kind: "section", ...(application === undefined ? {} : { application }) };
}

const PCAP_MICROSECONDS = 0xa1b2c3d4;
const PCAP_NANOSECONDS = 0xa1b23c4d;

/** The records of a pcap file, behind its magic. */
async function* readPcap(
  path: string,
  source: ByteSource,
  little: boolean,
  perUnit: bigint,
): AsyncGenerator<CaptureRecord> {
  const header = await source.take(20);
  if (header === undefined) throw broken(path, "it ends in its header");
  const view = new DataView(header.buffer, header.byteOffset, 20);
  const snapLength = view.getUint32(12, little);
  // The upper half has the frame check sequence's length and reserved bits.
  const linkType = view.getUint32(16, little) & 0xffff;
  yield { kind: "interface", linkType, snapLength };
  for (;;) {
    const record = await source.take(16);
    if (record === undefined) return;
    const words = new DataView(record.buffer, record.byteOffset, 16);
    const captured = words.getUint32(8, little);
    const length = words.getUint32(12, little);
    const seconds = BigInt(words.getUint32(0, little));
    const time = seconds * 1_000_000_000n + BigInt(words.getUint32(4, little)) * perUnit;
    if (captured > LONGEST_BLOCK) throw broken(path, `a packet has the length ${captured}`);
    const data = await source.take(captured);
    if (data === undefined) return;
    yield { kind: "packet", time, data: data.slice(), length, interface: 0, linkType };
  }
}

function records(path: string, source: ByteSource, magic: Uint8Array): AsyncGenerator<CaptureRecord> {
  const view = new DataView(magic.buffer, magic.byteOffset, 4);
  if (view.getUint32(0, true) === BlockType.section) return readBlocks(path, source);
  for (const little of [true, false]) {
    const word = view.getUint32(0, little);
    if (word === PCAP_MICROSECONDS) return readPcap(path, source, little, 1000n);
    if (word === PCAP_NANOSECONDS) return readPcap(path, source, little, 1n);
  }
  throw broken(path, "it is neither pcapng nor pcap");
}

/**
 * Reads a capture file from its beginning, one record at a time. What is yielded is the caller's.
 * @throws CaptureError "unreadable-file", "not-a-capture"
 */
export async function* readCapture(path: string): AsyncGenerator<CaptureRecord, void> {
  let file: FileHandle;
  try {
    file = await open(path, "r");
  } catch (error) {
    const { what, remedy } = fileTrouble(error);
    throw new CaptureError("unreadable-file", `capture file ${path}: cannot be read, ${what}`, remedy, error);
  }
  try {
    const source = new ByteSource(file);
    const magic = await source.take(4);
    if (magic === undefined) throw broken(path, "it is too short");
    yield* records(path, source, magic);
  } catch (error) {
    if (error instanceof CaptureError) throw error;
    const { what, remedy } = fileTrouble(error);
    throw new CaptureError("unreadable-file", `capture file ${path}: cannot be read, ${what}`, remedy, error);
  } finally {
    await file.close();
  }
}
