/** Numbers and messages of the NBD protocol (NetworkBlockDevice/nbd, doc/proto.md). Everything is big-endian. */
import { constants } from "node:os";

export const DEFAULT_PORT = 10809;

/** "NBDMAGIC", "IHAVEOPT": how a newstyle server begins. */
export const INIT_MAGIC = 0x4e42444d41474943n;
export const OPTION_MAGIC = 0x49484156454f5054n;
export const OPTION_REPLY_MAGIC = 0x0003e889045565a9n;
export const REQUEST_MAGIC = 0x25609513;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;

export const HandshakeFlag = { fixedNewstyle: 1, noZeroes: 2 } as const;

export const Option = { exportName: 1, abort: 2, list: 3, startTls: 5, info: 6, go: 7, structuredReply: 8 } as const;

export const OptionReply = {
  ack: 1,
  server: 2,
  info: 3,
  /** Set in every error. */
  errorBit: 0x80000000,
  unsupported: 0x80000001,
  policy: 0x80000002,
  invalid: 0x80000003,
  platform: 0x80000004,
  tlsRequired: 0x80000005,
  unknownExport: 0x80000006,
  shuttingDown: 0x80000007,
  blockSizeRequired: 0x80000008,
} as const;

export const Info = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

export const ExportFlag = { hasFlags: 1, readOnly: 2, sendFlush: 4, sendFua: 8, sendTrim: 32 } as const;

export const Command = { read: 0, write: 1, disconnect: 2, flush: 3, trim: 4 } as const;
export type CommandNumber = (typeof Command)[keyof typeof Command];

export const ChunkFlag = { done: 1 } as const;
export const Chunk = { none: 0, data: 1, hole: 2, error: 32769, errorOffset: 32770 } as const;
/** Set in every chunk type that is an error. */
export const CHUNK_ERROR_BIT = 0x8000;

export const REQUEST_LENGTH = 28;
export const SIMPLE_REPLY_LENGTH = 16;
export const STRUCTURED_REPLY_LENGTH = 20;

/** The longest text or information that a server may answer an option with. */
export const MAX_OPTION_REPLY = 65_536;
/** Payload that every server takes when it says nothing else. */
export const DEFAULT_MAX_PAYLOAD = 32 * 1024 * 1024;

export function optionRequest(option: number, data: Uint8Array = new Uint8Array(0)): Buffer {
  const message = Buffer.alloc(16 + data.length);
  message.writeBigUInt64BE(OPTION_MAGIC, 0);
  message.writeUInt32BE(option, 8);
  message.writeUInt32BE(data.length, 12);
  message.set(data, 16);
  return message;
}

/** Data of NBD_OPT_GO: the export's name and the information wanted. */
export function goData(name: string): Buffer {
  const bytes = Buffer.from(name, "utf8");
  const data = Buffer.alloc(4 + bytes.length + 4);
  data.writeUInt32BE(bytes.length, 0);
  bytes.copy(data, 4);
  data.writeUInt16BE(1, 4 + bytes.length);
  data.writeUInt16BE(Info.blockSize, 6 + bytes.length);
  return data;
}

/** A request's header. Cookies are ours to choose; below 2^53 here. */
export function requestHeader(command: CommandNumber, cookie: number, offset: number, length: number): Buffer {
  const header = Buffer.alloc(REQUEST_LENGTH);
  header.writeUInt32BE(REQUEST_MAGIC, 0);
  header.writeUInt16BE(command, 6);
  header.writeBigUInt64BE(BigInt(cookie), 8);
  header.writeBigUInt64BE(BigInt(offset), 16);
  header.writeUInt32BE(length, 24);
  return header;
}

/** NBD's error numbers are Linux's; hosts that number differently need them translated. */
const errors: Readonly<Record<number, number>> = {
  1: constants.errno.EPERM,
  5: constants.errno.EIO,
  12: constants.errno.ENOMEM,
  22: constants.errno.EINVAL,
  28: constants.errno.ENOSPC,
  75: constants.errno.EOVERFLOW,
  95: constants.errno.EOPNOTSUPP,
};
/** The server is going away; the request is to be sent to the next one. */
export const NBD_ESHUTDOWN = 108;

/** An errno of the host for an error of the wire; EIO for one we do not know. */
export function hostErrno(error: number): number {
  return errors[error] ?? constants.errno.EIO;
}
