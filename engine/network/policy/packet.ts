/**
 * A frame as rules look at it. One object is filled again and again: nothing is allocated for a frame.
 */
import type { Frame } from "../../device/net/frame.ts";
import { EtherType, type Headers } from "../headers.ts";
import type { PortFacts } from "../types.ts";
import { PROTOCOL_ARP, STATE_UNTRACKED } from "./rule.ts";

/** Numbers for the interface names that rules name, so that rules compare numbers. 0: no rule names it. */
export class InterfaceNumbers {
  readonly #numbers = new Map<string, number>();

  /** The number of a name that a rule has. */
  assign(name: string): number {
    let number = this.#numbers.get(name);
    if (number === undefined) {
      number = this.#numbers.size + 1;
      this.#numbers.set(name, number);
    }
    return number;
  }

  find(name: string): number {
    return this.#numbers.get(name) ?? 0;
  }
}

const NO_HEAD = new Uint8Array(0);

export class Packet {
  frame: Frame | undefined;
  headers: Headers | undefined;
  head: Uint8Array = NO_HEAD;
  /** Bytes of the frame. */
  length = 0;
  /** Nanoseconds. */
  now = 0;
  /** 4, 6, or 0. ARP is 0, with its IPv4 addresses in source4 and destination4. */
  version = 0;
  /** IP protocol, PROTOCOL_ARP, or -1. */
  protocol = -1;
  source4 = 0;
  destination4 = 0;
  sourcePort = -1;
  destinationPort = -1;
  /** -1 where there is no TCP header. */
  tcpFlags = -1;
  laterFragment = false;
  /** STATE_* as conntrack found it. */
  state = STATE_UNTRACKED;
  in: PortFacts | undefined;
  out: PortFacts | undefined;
  /** Their numbers among the names in rules (InterfaceNumbers); 0 for others. */
  inNumber = 0;
  outNumber = 0;

  /** Takes over what the headers say. Ports and state are the caller's to set. */
  load(frame: Frame, headers: Headers): void {
    this.frame = frame;
    this.headers = headers;
    this.head = frame.head;
    this.length = frame.length;
    this.version = headers.ipVersion;
    this.laterFragment = headers.fragmentOffset !== 0;
    this.sourcePort = headers.sourcePort;
    this.destinationPort = headers.destinationPort;
    this.protocol = headers.protocol;
    this.source4 = headers.source4;
    this.destination4 = headers.destination4;
    this.tcpFlags = headers.protocol === 6 && headers.l4Offset !== 0 ? headers.tcpFlags : -1;
    if (headers.etherType === EtherType.arp) {
      this.protocol = PROTOCOL_ARP;
      this.source4 = headers.arpSenderAddress;
      this.destination4 = headers.arpTargetAddress;
    }
  }
}
