/**
 * DHCP messages: what a client says, and what a server answers.
 *
 * Sources: RFC 2131 (figure 1, section 2), RFC 2132 (options).
 */
import { formatMac, type MacAddress, macFromBytes } from "../../address.ts";
import { put16, put32 } from "./guest-link.ts";

export const DhcpType = {
  discover: 1,
  offer: 2,
  request: 3,
  decline: 4,
  ack: 5,
  nak: 6,
  release: 7,
  inform: 8,
} as const;

/** Numbers of RFC 2132's options that are used here. */
export const DhcpOption = {
  pad: 0,
  mask: 1,
  router: 3,
  nameServer: 6,
  hostName: 12,
  domain: 15,
  mtu: 26,
  broadcast: 28,
  requested: 50,
  leaseTime: 51,
  type: 53,
  server: 54,
  renewal: 58,
  rebinding: 59,
  end: 255,
} as const;

const FIXED = 236;
const COOKIE = 0x6382_5363;
const REQUEST = 1;
const REPLY = 2;
const ETHERNET = 1;
/** Clients may expect BOOTP's length at least. */
const LEAST_LENGTH = 300;
const BROADCAST_FLAG = 0x8000;

/** What a client's message says. */
export interface DhcpRequest {
  readonly type: number;
  readonly transaction: number;
  readonly isBroadcast: boolean;
  /** ciaddr: the address that the client has already; 0 for none. */
  readonly clientAddress: number;
  readonly mac: MacAddress;
  /** In text, as leases are listed. */
  readonly macText: string;
  /** Options 50 and 54; undefined where not given. */
  readonly requested: number | undefined;
  readonly server: number | undefined;
  readonly hostName: string | undefined;
}

function readOptions(message: Buffer): Map<number, Buffer> {
  const options = new Map<number, Buffer>();
  let at = FIXED + 4;
  while (at < message.length) {
    const kind = message[at]!;
    if (kind === DhcpOption.end) break;
    if (kind === DhcpOption.pad) {
      at++;
      continue;
    }
    const length = message[at + 1];
    if (length === undefined || at + 2 + length > message.length) break;
    if (!options.has(kind)) options.set(kind, message.subarray(at + 2, at + 2 + length));
    at += 2 + length;
  }
  return options;
}

function addressIn(option: Buffer | undefined): number | undefined {
  return option?.length === 4 ? option.readUInt32BE(0) : undefined;
}

/** Letters, digits, hyphens and dots only: the name is shown and logged. */
function nameIn(option: Buffer | undefined): string | undefined {
  const text = option?.toString("latin1").replace(/\0+$/, "") ?? "";
  return /^[a-z0-9][a-z0-9.-]{0,62}$/i.test(text) ? text : undefined;
}

/** @returns undefined for what is no message of an Ethernet client, or went through a relay */
export function readDhcp(message: Buffer): DhcpRequest | undefined {
  if (message.length < FIXED + 4 || message.readUInt32BE(FIXED) !== COOKIE) return undefined;
  if (message[0] !== REQUEST || message[1] !== ETHERNET || message[2] !== 6) return undefined;
  if (message.readUInt32BE(24) !== 0) return undefined;
  const options = readOptions(message);
  const type = options.get(DhcpOption.type);
  if (type?.length !== 1) return undefined;
  const mac = macFromBytes(message, 28);
  return {
    type: type[0]!,
    transaction: message.readUInt32BE(4),
    isBroadcast: (message.readUInt16BE(10) & BROADCAST_FLAG) !== 0,
    clientAddress: message.readUInt32BE(12),
    mac,
    macText: formatMac(mac),
    requested: addressIn(options.get(DhcpOption.requested)),
    server: addressIn(options.get(DhcpOption.server)),
    hostName: nameIn(options.get(DhcpOption.hostName)),
  };
}

/** An option's value: bytes, text, or addresses (u32). */
export type DhcpValue = readonly [option: number, value: Uint8Array | string | { readonly address: number }];

export function uint32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  put32(bytes, 0, value);
  return bytes;
}

export function uint16(value: number): Uint8Array {
  const bytes = new Uint8Array(2);
  put16(bytes, 0, value);
  return bytes;
}

/** The answer to a request. `yourAddress` is 0 where none is given. */
export function writeDhcp(
  request: DhcpRequest,
  type: number,
  yourAddress: number,
  server: number,
  values: readonly DhcpValue[],
): Buffer {
  const message = Buffer.alloc(576);
  message[0] = REPLY;
  message[1] = ETHERNET;
  message[2] = 6;
  message.writeUInt32BE(request.transaction, 4);
  message.writeUInt16BE(request.isBroadcast ? BROADCAST_FLAG : 0, 10);
  message.writeUInt32BE(type === DhcpType.ack ? request.clientAddress : 0, 12);
  message.writeUInt32BE(yourAddress, 16);
  message.writeUInt32BE(yourAddress === 0 ? 0 : server, 20);
  put16(message, 28, request.mac.high);
  put32(message, 30, request.mac.low);
  message.writeUInt32BE(COOKIE, FIXED);
  let at = FIXED + 4;
  const add = ([option, value]: DhcpValue): void => {
    const bytes =
      typeof value === "string" ? Buffer.from(value, "latin1") : "address" in value ? uint32(value.address) : value;
    message[at] = option;
    message[at + 1] = bytes.length;
    message.set(bytes, at + 2);
    at += 2 + bytes.length;
  };
  add([DhcpOption.type, Uint8Array.of(type)]);
  add([DhcpOption.server, { address: server }]);
  for (const value of values) add(value);
  message[at] = DhcpOption.end;
  return message.subarray(0, Math.max(LEAST_LENGTH, at + 1));
}
