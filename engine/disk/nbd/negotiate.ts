/** The handshake with an NBD server: fixed newstyle, TLS if wanted, structured replies if offered, NBD_OPT_GO. */
import { readFileSync } from "node:fs";
import { connect as connectSocket, isIP, type Socket } from "node:net";
import { type ConnectionOptions, connect as connectTls } from "node:tls";
import { oneLine } from "../../errors/input-error.ts";
import { DiskError, errnoName, errnoOf } from "../errors.ts";
import type { NbdSpec } from "../spec.ts";
import {
  DEFAULT_MAX_PAYLOAD,
  ExportFlag,
  goData,
  HandshakeFlag,
  INIT_MAGIC,
  Info,
  MAX_OPTION_REPLY,
  OPTION_MAGIC,
  OPTION_REPLY_MAGIC,
  Option,
  OptionReply,
  optionRequest,
} from "./protocol.ts";

const HANDSHAKE_TIMEOUT_MS = 10_000;
/** Information replies that a server may send before it must come to an end. */
const MAX_REPLIES = 64;

/** What the server said about its export. Sizes in bytes. */
export interface ExportInfo {
  readonly size: number;
  readonly readOnly: boolean;
  readonly canFlush: boolean;
  readonly canTrim: boolean;
  /** Smallest unit of offsets and lengths. */
  readonly minimumBlock: number;
  readonly preferredBlock: number;
  readonly maximumPayload: number;
}

/** A connection that is ready for requests. */
export interface NbdSession {
  readonly socket: Socket;
  readonly info: ExportInfo;
}

/** "host:port/export" or "socket/export", for messages. */
export function nbdName(spec: NbdSpec): string {
  const place = "socket" in spec.address ? spec.address.socket : `${spec.address.host}:${spec.address.port}`;
  return `NBD export "${spec.export}" of ${place}`;
}

/** Hands out a socket's bytes in the amounts asked for. */
class ByteReader {
  readonly #socket: Socket;
  #chunks: Buffer[] = [];
  #have = 0;
  #wanted = 0;
  #resolve: ((bytes: Buffer) => void) | undefined;
  #reject: ((error: Error) => void) | undefined;
  #failure: Error | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", this.#onData);
    socket.on("error", this.#onEnd);
    socket.on("close", this.#onClosed);
  }

  read(length: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      if (this.#failure) return reject(this.#failure);
      this.#wanted = length;
      this.#resolve = resolve;
      this.#reject = reject;
      this.#serve();
    });
  }

  /** Lets go of the socket. @returns bytes that have come and were not asked for */
  detach(): Buffer {
    this.#socket.pause();
    this.#socket.off("data", this.#onData);
    this.#socket.off("error", this.#onEnd);
    this.#socket.off("close", this.#onClosed);
    return Buffer.concat(this.#chunks);
  }

  #onData = (chunk: Buffer): void => {
    this.#chunks.push(chunk);
    this.#have += chunk.length;
    // Nobody reads ahead of the handshake: a server that sends without being asked is not served more memory.
    if (this.#have > 2 * MAX_OPTION_REPLY) this.#socket.destroy(new Error("sent too much"));
    this.#serve();
  };

  #onEnd = (error: Error): void => {
    this.#failure ??= error;
    this.#reject?.(this.#failure);
  };

  #onClosed = (): void => this.#onEnd(new Error("closed the connection"));

  #serve(): void {
    if (!this.#resolve || this.#have < this.#wanted) return;
    const all = Buffer.concat(this.#chunks);
    const resolve = this.#resolve;
    this.#resolve = undefined;
    this.#reject = undefined;
    this.#have -= this.#wanted;
    this.#chunks = this.#have > 0 ? [all.subarray(this.#wanted)] : [];
    resolve(all.subarray(0, this.#wanted));
  }
}

interface Reply {
  readonly type: number;
  readonly data: Buffer;
}

function protocolError(spec: NbdSpec, what: string): DiskError {
  return new DiskError("nbd-protocol", `${nbdName(spec)}: the server ${what}`, "check that it is an NBD server");
}

async function readReply(spec: NbdSpec, reader: ByteReader, option: number): Promise<Reply> {
  const header = await reader.read(20);
  if (header.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC || header.readUInt32BE(8) !== option) {
    throw protocolError(spec, "answered something else than was asked");
  }
  const length = header.readUInt32BE(16);
  if (length > MAX_OPTION_REPLY) throw protocolError(spec, `announced an answer of ${length} bytes`);
  return { type: header.readUInt32BE(12), data: length > 0 ? await reader.read(length) : Buffer.alloc(0) };
}

function refusal(spec: NbdSpec, reply: Reply): DiskError {
  const said = reply.data.length > 0 ? ` (${oneLine(reply.data.toString("utf8")).slice(0, 200)})` : "";
  const refused = (what: string, remedy: string) =>
    new DiskError("nbd-refused", `${nbdName(spec)}: ${what}${said}`, remedy);
  switch (reply.type) {
    case OptionReply.unknownExport:
      return refused("the server has no export of this name", "check the name behind the last slash");
    case OptionReply.tlsRequired:
      return refused("the server wants TLS", "write nbds:// in place of nbd://");
    case OptionReply.policy:
      return refused("the server does not allow it", "check the server's configuration");
    case OptionReply.shuttingDown:
      return refused("the server is shutting down", "try again later");
    default:
      return refused("the server refused", "check the server's configuration");
  }
}

function tlsOptions(spec: NbdSpec, socket: Socket): ConnectionOptions {
  const tls = spec.tls ?? {};
  const file = (path: string): Buffer => {
    try {
      return readFileSync(path);
    } catch (error) {
      throw new DiskError(
        "bad-nbd-address",
        `${path} cannot be read (${errnoName(errnoOf(error))})`,
        "check the path",
        error,
      );
    }
  };
  const name = tls.serverName ?? ("host" in spec.address ? spec.address.host : "localhost");
  return {
    socket,
    rejectUnauthorized: tls.verify !== false,
    host: name,
    ...(isIP(name) === 0 && { servername: name }),
    ...(tls.ca !== undefined && { ca: file(tls.ca) }),
    ...(tls.certificate !== undefined && { cert: file(tls.certificate) }),
    ...(tls.key !== undefined && { key: file(tls.key) }),
  };
}

async function startTls(spec: NbdSpec, socket: Socket, reader: ByteReader): Promise<Socket> {
  socket.write(optionRequest(Option.startTls));
  const reply = await readReply(spec, reader, Option.startTls);
  if (reply.type !== OptionReply.ack) {
    throw new DiskError("nbd-refused", `${nbdName(spec)}: the server offers no TLS`, "write nbd:// or set up its TLS");
  }
  // Whatever came in the clear behind the answer could be somebody else's words in the server's mouth.
  if (reader.detach().length > 0) throw protocolError(spec, "went on in the clear after agreeing on TLS");
  const secure = connectTls(tlsOptions(spec, socket));
  await new Promise<void>((resolve, reject) => {
    secure.once("secureConnect", resolve);
    secure.once("error", (error) => {
      const remedy = "check tls-ca, the server's certificate and its name";
      reject(new DiskError("nbd-refused", `${nbdName(spec)}: TLS failed (${error.message})`, remedy, error));
    });
    secure.once("close", () => reject(protocolError(spec, "ended the connection during the TLS handshake")));
  });
  secure.removeAllListeners("close");
  return secure;
}

function readInfo(spec: NbdSpec, data: Buffer, info: { -readonly [Key in keyof ExportInfo]: ExportInfo[Key] }): void {
  if (data.length < 2) throw protocolError(spec, "described its export in the wrong length");
  const kind = data.readUInt16BE(0);
  if (kind === Info.export) {
    if (data.length !== 12) throw protocolError(spec, "described its export in the wrong length");
    const size = data.readBigUInt64BE(2);
    if (size > BigInt(Number.MAX_SAFE_INTEGER)) throw protocolError(spec, `claims an export of ${size} bytes`);
    const flags = data.readUInt16BE(10);
    const has = (flag: number) => (flags & ExportFlag.hasFlags) !== 0 && (flags & flag) !== 0;
    info.size = Number(size);
    info.readOnly = has(ExportFlag.readOnly);
    info.canFlush = has(ExportFlag.sendFlush);
    info.canTrim = has(ExportFlag.sendTrim);
  } else if (kind === Info.blockSize) {
    if (data.length !== 14) throw protocolError(spec, "described its block size in the wrong length");
    const [minimum, preferred, maximum] = [data.readUInt32BE(2), data.readUInt32BE(6), data.readUInt32BE(10)];
    const powers = [minimum, preferred].every((value) => value > 0 && (value & (value - 1)) === 0);
    if (!powers || minimum > 65_536 || preferred < minimum || maximum < minimum) {
      throw protocolError(spec, `claims blocks of ${minimum}, ${preferred}, ${maximum} bytes`);
    }
    info.minimumBlock = minimum;
    info.preferredBlock = preferred;
    // Requests are cut at this length, so it must be whole blocks.
    info.maximumPayload = Math.min(DEFAULT_MAX_PAYLOAD, maximum - (maximum % Math.max(minimum, 512)));
  }
}

async function go(spec: NbdSpec, socket: Socket, reader: ByteReader): Promise<ExportInfo> {
  const info = {
    size: -1,
    readOnly: false,
    canFlush: false,
    canTrim: false,
    minimumBlock: 1,
    preferredBlock: 4096,
    maximumPayload: DEFAULT_MAX_PAYLOAD,
  };
  socket.write(optionRequest(Option.go, goData(spec.export)));
  for (let i = 0; i < MAX_REPLIES; i++) {
    const reply = await readReply(spec, reader, Option.go);
    if (reply.type === OptionReply.info) readInfo(spec, reply.data, info);
    else if (reply.type !== OptionReply.ack) throw refusal(spec, reply);
    else if (info.size < 0) throw protocolError(spec, "did not say how large its export is");
    else return info;
  }
  throw protocolError(spec, "does not come to an end");
}

async function handshake(spec: NbdSpec, plain: Socket): Promise<NbdSession> {
  let socket = plain;
  let reader = new ByteReader(socket);
  const greeting = await reader.read(18);
  const flags = greeting.readUInt16BE(16);
  const newstyle = greeting.readBigUInt64BE(0) === INIT_MAGIC && greeting.readBigUInt64BE(8) === OPTION_MAGIC;
  if (!newstyle || (flags & HandshakeFlag.fixedNewstyle) === 0) {
    throw protocolError(spec, "does not speak the fixed newstyle protocol");
  }
  const clientFlags = Buffer.alloc(4);
  clientFlags.writeUInt32BE(flags & (HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes));
  socket.write(clientFlags);
  if (spec.tls) {
    socket = await startTls(spec, socket, reader);
    reader = new ByteReader(socket);
  }
  // Structured replies let a server send holes without their zeros, and report an error in the middle of a read.
  socket.write(optionRequest(Option.structuredReply));
  await readReply(spec, reader, Option.structuredReply);
  const info = await go(spec, socket, reader);
  if (reader.detach().length > 0) throw protocolError(spec, "answered before it was asked");
  return { socket, info };
}

/**
 * Connects and negotiates. The socket is paused and without listeners; whoever gets it adds his own.
 * @throws DiskError when the server is away, refuses, or does not keep to the protocol
 */
export async function connectNbd(spec: NbdSpec): Promise<NbdSession> {
  const { address } = spec;
  const socket = "socket" in address ? connectSocket(address.socket) : connectSocket(address.port, address.host);
  // The listener stays: an error after the handshake's own listeners have gone must not end the process.
  socket.on("error", () => {});
  socket.setNoDelay(true);
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    socket.destroy();
  }, HANDSHAKE_TIMEOUT_MS);
  try {
    return await handshake(spec, socket);
  } catch (error) {
    socket.destroy();
    if (error instanceof DiskError) throw error;
    const named =
      error instanceof Error && "code" in error ? errnoName(errnoOf(error)) : String((error as Error).message);
    throw new DiskError(
      "nbd-unreachable",
      `${nbdName(spec)} cannot be reached (${late ? "no answer" : named})`,
      "check that the server runs there",
      error,
    );
  } finally {
    clearTimeout(timer);
  }
}
