/**
 * Which frames an interface may send. A guest speaks for its own addresses only: MAC, IPv4, IPv6, and what ARP and neighbour
 * discovery say about them. What is refused is named, so that it can be counted.
 *
 * Sources: RFC 826 and 5227 (ARP and its probes), 2131 (DHCP), 4861, 4862 and 3810 (neighbour discovery, duplicate address
 * detection, MLD), IEEE 802.1D table 7-10 (groups that no bridge forwards), netif.h (offload metadata).
 */
import type { Frame } from "../device/net/frame.ts";
import {
  type Cidr,
  type Cidr4,
  type Cidr6,
  contains4,
  contains6,
  isLinkLocal6,
  linkLocalOf,
  type MacAddress,
  sameIpv6,
  sameMac,
} from "./address.ts";
import { EtherType, type HeaderError, type Headers, NdType, Protocol } from "./headers.ts";
import { canFinishChecksum, segmentCount } from "./offload.ts";

/** Why a frame was refused; HeaderError where its headers are malformed. */
export type ValidationError =
  | HeaderError
  /** A group address, or all zeros, as source. */
  | "mac-group-source"
  | "mac-spoofed"
  /** To 01:80:c2:00:00:00 … :0f: bridges keep these to the wire that they came from. */
  | "mac-reserved"
  | "arp-operation"
  | "arp-mac-spoofed"
  | "arp-address-spoofed"
  | "ip4-spoofed"
  | "ip6-spoofed"
  | "nd-mac-spoofed"
  /** Link-layer options that could not all be seen, or stood there twice. */
  | "nd-unclear"
  | "nd-address-spoofed"
  /** A router's message from an interface that has a list of addresses, so is no router. */
  | "nd-router"
  /** Neither ARP nor IP, from an interface that has a list of addresses. */
  | "other-protocol"
  /** Checksum or segmentation metadata that does not fit the packet. */
  | "offload";

/** Which IPv6 link-local sources an interface with a list of addresses may use besides those. */
export type LinkLocalRule = "derived" | "any" | "none";

/** What is known about an interface. */
export interface ValidationRules {
  readonly mac: MacAddress;
  /** Any source MAC may be used: bridges and nested hosts inside the guest. */
  readonly allowMac?: boolean;
  /**
   * Addresses and networks that may be claimed (xl's `ip=`). Without the list only MAC addresses are checked; with it, only
   * ARP, IPv4 and IPv6 pass. An empty list allows none.
   */
  readonly addresses?: readonly Cidr[];
  /** Default "derived": the address made of the MAC (modified EUI-64), as kernels make it. */
  readonly linkLocal?: LinkLocalRule;
}

const DHCP_CLIENT = 68;
const DHCP_SERVER = 67;
const ARP_REQUEST = 1;
const ARP_REPLY = 2;
const RESERVED_GROUP_HIGH = 0x0180;
const RESERVED_GROUP_LOW = 0xc200_0000;
/** Multicast listener reports (MLD versions 1 and 2) and "done". */
const MLD_REPORT = 131;
const MLD_DONE = 132;
const MLD2_REPORT = 143;

/** What every frame must satisfy, whoever sent it. @param headers of this frame, parsed without error */
export function checkFrame(frame: Frame, headers: Headers): ValidationError | undefined {
  if ((headers.sourceHigh & 0x100) !== 0 || (headers.sourceHigh === 0 && headers.sourceLow === 0)) {
    return "mac-group-source";
  }
  // >>> 0: bit operations give signed numbers.
  if (
    headers.destinationHigh === RESERVED_GROUP_HIGH &&
    (headers.destinationLow & 0xffff_fff0) >>> 0 === RESERVED_GROUP_LOW
  ) {
    return "mac-reserved";
  }
  if (frame.segmentation !== "none" && segmentCount(frame, headers) === 0) return "offload";
  if (frame.checksum === "blank" && !canFinishChecksum(headers)) return "offload";
  return undefined;
}

function isUnspecified6(bytes: Uint8Array, at: number): boolean {
  for (let n = 0; n < 16; n++) if (bytes[at + n] !== 0) return false;
  return true;
}

/** The checks of one interface. Checking allocates nothing. */
export class Validator {
  readonly rules: ValidationRules;
  readonly #mac: MacAddress;
  readonly #anyMac: boolean;
  readonly #isListed: boolean;
  readonly #networks4: readonly Cidr4[];
  readonly #networks6: readonly Cidr6[];
  readonly #linkLocal: LinkLocalRule;
  readonly #derived: Uint8Array;

  constructor(rules: ValidationRules) {
    const addresses = rules.addresses ?? [];
    this.rules = rules;
    this.#mac = rules.mac;
    this.#anyMac = rules.allowMac ?? false;
    this.#isListed = rules.addresses !== undefined;
    this.#networks4 = addresses.filter((cidr): cidr is Cidr4 => cidr.version === 4);
    this.#networks6 = addresses.filter((cidr): cidr is Cidr6 => cidr.version === 6);
    this.#linkLocal = rules.linkLocal ?? "derived";
    this.#derived = linkLocalOf(rules.mac);
  }

  /**
   * Whether the interface may send this frame; checkFrame() is for the rest.
   * @param headers of this frame, parsed without error
   * @returns undefined, or why not
   */
  check(frame: Frame, headers: Headers): ValidationError | undefined {
    const mac = this.#mac;
    if (!this.#anyMac && (headers.sourceLow !== mac.low || headers.sourceHigh !== mac.high)) return "mac-spoofed";
    switch (headers.etherType) {
      case EtherType.arp:
      case EtherType.reverseArp:
        return this.#checkArp(frame.head, headers);
      case EtherType.ipv4:
        return this.#isListed ? this.#checkIpv4(headers) : undefined;
      case EtherType.ipv6:
        return this.#checkIpv6(frame.head, headers);
      default:
        // Protocols that nobody looks into could carry IP past the list (LLC/SNAP does).
        return this.#isListed ? "other-protocol" : undefined;
    }
  }

  #owns4(address: number): boolean {
    for (const network of this.#networks4) if (contains4(network, address)) return true;
    return false;
  }

  #owns6(bytes: Uint8Array, at: number): boolean {
    for (const network of this.#networks6) if (contains6(network, bytes, at)) return true;
    if (this.#linkLocal === "any") return isLinkLocal6(bytes, at);
    return this.#linkLocal === "derived" && sameIpv6(this.#derived, bytes, at);
  }

  #checkArp(head: Uint8Array, headers: Headers): ValidationError | undefined {
    if (!this.#anyMac && !sameMac(this.#mac, head, headers.arpSenderHardware)) return "arp-mac-spoofed";
    if (!this.#isListed) return undefined;
    const operation = headers.arpOperation;
    const isKnown = headers.etherType === EtherType.arp && (operation === ARP_REQUEST || operation === ARP_REPLY);
    if (!isKnown) return "arp-operation";
    const isProbe = operation === ARP_REQUEST && headers.arpSenderAddress === 0;
    return isProbe || this.#owns4(headers.arpSenderAddress) ? undefined : "arp-address-spoofed";
  }

  #checkIpv4(headers: Headers): ValidationError | undefined {
    if (this.#owns4(headers.source4)) return undefined;
    // Who has no address yet asks a DHCP server for one.
    const isDhcp =
      headers.source4 === 0 &&
      headers.destination4 === 0xffff_ffff &&
      headers.protocol === Protocol.udp &&
      headers.sourcePort === DHCP_CLIENT &&
      headers.destinationPort === DHCP_SERVER &&
      !headers.isFragment;
    return isDhcp ? undefined : "ip4-spoofed";
  }

  #checkIpv6(head: Uint8Array, headers: Headers): ValidationError | undefined {
    const wrongMac = this.#anyMac ? undefined : this.#checkLinkOptions(head, headers);
    if (wrongMac !== undefined || !this.#isListed) return wrongMac;
    if (!this.#owns6(head, headers.source6)) {
      const mayBeNobody = isUnspecified6(head, headers.source6) && this.#mayComeFromNobody(headers);
      if (!mayBeNobody) return "ip6-spoofed";
    }
    if (headers.protocol !== Protocol.icmp6) return undefined;
    switch (headers.icmpType) {
      case NdType.routerAdvert:
      case NdType.redirect:
        return "nd-router";
      case NdType.advert:
        return this.#owns6(head, headers.ndTarget) ? undefined : "nd-address-spoofed";
      case NdType.solicit: {
        // Asking for another's address without having one is duplicate detection: it would keep the other from using it.
        const isDetection = isUnspecified6(head, headers.source6);
        return !isDetection || this.#owns6(head, headers.ndTarget) ? undefined : "nd-address-spoofed";
      }
      default:
        return undefined;
    }
  }

  /** The link-layer addresses in neighbour discovery's options are the sender's, but for a redirect's: that is the target's. */
  #checkLinkOptions(head: Uint8Array, headers: Headers): ValidationError | undefined {
    if (headers.ndUnclear) return "nd-unclear";
    const { ndSourceLink, ndTargetLink } = headers;
    if (ndSourceLink !== 0 && !sameMac(this.#mac, head, ndSourceLink)) return "nd-mac-spoofed";
    const isOwnTarget = ndTargetLink !== 0 && headers.icmpType !== NdType.redirect;
    return isOwnTarget && !sameMac(this.#mac, head, ndTargetLink) ? "nd-mac-spoofed" : undefined;
  }

  /** What is sent from "::" while an address is still being tried. */
  #mayComeFromNobody(headers: Headers): boolean {
    if (headers.protocol !== Protocol.icmp6) return false;
    switch (headers.icmpType) {
      case NdType.solicit:
      case NdType.routerSolicit:
        return headers.ndSourceLink === 0;
      case MLD_REPORT:
      case MLD_DONE:
      case MLD2_REPORT:
        return true;
      default:
        return false;
    }
  }
}
