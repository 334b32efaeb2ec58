/**
 * The fields of one frame's headers. Headers.parse() alone writes them; everybody else reads.
 *
 * Offsets count from the frame's first byte; 0 means that there is no such thing. After a parse() that returned an error,
 * the fields describe what was understood before it.
 */
export abstract class HeaderFields {
  /** MAC addresses as numbers: the first two bytes, the last four. In the head they are at 0 and 6. */
  destinationHigh: number = 0;
  destinationLow: number = 0;
  sourceHigh: number = 0;
  sourceLow: number = 0;
  /** What follows the tags; below EtherType.least a length. */
  etherType: number = 0;
  /** VLAN id of the outermost tag (0: only a priority); -1 without a tag. */
  vlan: number = -1;
  /** The outermost tag: TPID (0x8100 or 0x88a8; 0 without a tag), and priority, DEI and id together. */
  vlanType: number = 0;
  vlanTag: number = 0;
  /** VLAN id of the second tag, -1 without one. */
  innerVlan: number = -1;
  /** How many tags: 0 to 2. */
  vlanTags: number = 0;
  /** Where the tags end: the network header. */
  l3Offset: number = 0;
  /** Where the network packet ends; padding of the frame may follow. For what is not IP the frame's length. */
  l3End: number = 0;

  /** ARP and RARP. Offsets of hardware addresses; IPv4 addresses as unsigned numbers. */
  arpOperation: number = 0;
  arpSenderHardware: number = 0;
  arpSenderAddress: number = 0;
  arpTargetHardware: number = 0;
  arpTargetAddress: number = 0;

  /** 4, 6, or 0 for what is not IP. */
  ipVersion: number = 0;
  source4: number = 0;
  destination4: number = 0;
  /** Offsets of the 16 bytes. */
  source6: number = 0;
  destination6: number = 0;
  /** TTL or hop limit. */
  hopLimit: number = 0;
  /** Type of service or traffic class. */
  trafficClass: number = 0;
  /** IPv4: the identification field. IPv6: the fragment header's, an unsigned number. */
  identification: number = 0;
  /** Part of a fragmented packet (offset not 0, or more fragments follow). */
  isFragment: boolean = false;
  /** In bytes. */
  fragmentOffset: number = 0;
  moreFragments: boolean = false;
  /** Transport protocol, also of later fragments; -1 for what is not IP. */
  protocol: number = -1;

  /** Transport header; 0 for later fragments and for protocols that are not looked into. */
  l4Offset: number = 0;
  /** Ports of TCP and UDP, else -1. */
  sourcePort: number = -1;
  destinationPort: number = -1;
  /** The eight flags of TcpFlag. */
  tcpFlags: number = 0;
  tcpSequence: number = 0;
  tcpAcknowledgement: number = 0;
  tcpWindow: number = 0;
  /** ICMP or ICMPv6, else -1. */
  icmpType: number = -1;
  icmpCode: number = -1;
  /** Of echo requests and answers, else 0. */
  icmpIdentifier: number = 0;
  /** Offset of the 16 bytes of a solicitation's, an advertisement's or a redirect's target. */
  ndTarget: number = 0;
  /** Offsets of the six bytes in neighbour discovery's link-layer address options. */
  ndSourceLink: number = 0;
  ndTargetLink: number = 0;
  /** Options of neighbour discovery went on past the head and could not be seen, or one was there twice. */
  ndUnclear: boolean = false;
  /** First byte after the transport header (or after the IP header where that is not looked into). */
  payloadOffset: number = 0;
  /** Bytes from there to the packet's end. */
  payloadLength: number = 0;

  /** Whether the destination is a group address; broadcast is one. */
  get isMulticast(): boolean {
    return (this.destinationHigh & 0x100) !== 0;
  }

  get isBroadcast(): boolean {
    return this.destinationHigh === 0xffff && this.destinationLow === 0xffff_ffff;
  }

  /** As before the first frame. */
  protected clear(): void {
    this.vlan = -1;
    this.vlanType = 0;
    this.vlanTag = 0;
    this.innerVlan = -1;
    this.vlanTags = 0;
    this.etherType = 0;
    this.l3Offset = 0;
    this.l3End = 0;
    this.arpOperation = 0;
    this.arpSenderHardware = 0;
    this.arpSenderAddress = 0;
    this.arpTargetHardware = 0;
    this.arpTargetAddress = 0;
    this.ipVersion = 0;
    this.source4 = 0;
    this.destination4 = 0;
    this.source6 = 0;
    this.destination6 = 0;
    this.hopLimit = 0;
    this.trafficClass = 0;
    this.identification = 0;
    this.isFragment = false;
    this.fragmentOffset = 0;
    this.moreFragments = false;
    this.protocol = -1;
    this.l4Offset = 0;
    this.sourcePort = -1;
    this.destinationPort = -1;
    this.tcpFlags = 0;
    this.tcpSequence = 0;
    this.tcpAcknowledgement = 0;
    this.tcpWindow = 0;
    this.icmpType = -1;
    this.icmpCode = -1;
    this.icmpIdentifier = 0;
    this.ndTarget = 0;
    this.ndSourceLink = 0;
    this.ndTargetLink = 0;
    this.ndUnclear = false;
    this.payloadOffset = 0;
    this.payloadLength = 0;
    this.destinationHigh = 0;
    this.destinationLow = 0;
    this.sourceHigh = 0;
    this.sourceLow = 0;
  }
}
