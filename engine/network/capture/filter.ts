/**
 * Capture filters in the language of pcap-filter(7): the part of it that speaks of Ethernet, ARP, IP, TCP, UDP and ICMP.
 *
 *     [tcp|udp|ip|ip6|arp|rarp|ether] [src|dst|src or dst|src and dst] [host|net|port|portrange|proto] value
 *     vlan [id]   broadcast   multicast   less n   greater n   tcp[tcpflags] & (tcp-syn|tcp-ack) != 0
 *     and or not ( )
 *
 * As there, `and` and `or` bind alike and from left to right, and a value alone repeats the words before the last one
 * ("port 80 or 443"). Other than there, what stands behind a VLAN tag needs no `vlan` before it to be seen, and names of
 * hosts are not looked up.
 */
import type { Frame } from "../../device/net/frame.ts";
import type { Headers } from "../headers.ts";
import { parseFilter } from "./filter-parser.ts";
import type { FrameTest } from "./filter-value.ts";
import { FilterError } from "./filter-words.ts";

export { FilterError } from "./filter-words.ts";

/** A compiled filter: stateless, allocates nothing per frame. */
export interface CaptureFilter {
  /** As the user wrote it. */
  readonly text: string;
  /** `headers` has parsed `frame`. */
  matches(frame: Frame, headers: Headers): boolean;
}

export type FilterResult =
  | { readonly ok: true; readonly value: CaptureFilter | undefined }
  | { readonly ok: false; readonly error: FilterError };

/** Compiles a filter; an empty one lets everything through and is undefined. The error points at a word. */
export function compileFilter(text: string): FilterResult {
  if (text.trim() === "") return { ok: true, value: undefined };
  let matches: FrameTest;
  try {
    matches = parseFilter(text);
  } catch (error) {
    if (error instanceof FilterError) return { ok: false, error };
    throw error;
  }
  return { ok: true, value: { text, matches } };
}
