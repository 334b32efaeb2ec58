/** Lines of the firewall's log as people read them. The lab writes them in netfilter's format (nf_log_syslog). */

export interface PacketLine {
  /** Name of the interface that it came in by and is to go out by; empty where the line has none. */
  readonly in: string;
  readonly out: string;
  /** What the rule or class writes in front. */
  readonly prefix: string;
  readonly source: string;
  readonly destination: string;
  /** "TCP", "ICMP", "ARP"; empty when it is not told. */
  readonly protocol: string;
  /** Flags, type and code, and the length. */
  readonly more: string;
}

const withPort = (address: string, port: string | undefined): string =>
  port === undefined ? address : address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;

/** netfilter writes IPv6 addresses with all their zeros; people leave out the longest row of them. */
function shortAddress(address: string): string {
  if (!/^([0-9a-f]{4}:){7}[0-9a-f]{4}$/.test(address)) return address;
  const short = address
    .split(":")
    .map((group) => group.replace(/^0{1,3}/, ""))
    .join(":");
  const [longest = ""] = [...short.matchAll(/(?:^|:)0(?::0)+(?=:|$)/g)]
    .map(([zeros]) => zeros)
    .sort((a, b) => b.length - a.length);
  if (longest === "") return short;
  const at = short.indexOf(longest);
  return `${short.slice(0, at)}::${short.slice(at + longest.length + 1)}`;
}

const FLAGS = ["SYN", "ACK", "FIN", "RST", "PSH", "URG"];

function moreOf(words: ReadonlyMap<string, string>, marks: ReadonlySet<string>): string {
  const parts = FLAGS.filter((flag) => marks.has(flag));
  const [type, code] = [words.get("TYPE"), words.get("CODE")];
  if (type !== undefined) parts.push(`type ${type}${code === undefined || code === "0" ? "" : ` code ${code}`}`);
  const length = words.get("LEN");
  if (length !== undefined) parts.push(`${length} bytes`);
  return parts.join(" ");
}

/** @returns undefined for a line that is about no packet, such as how many were left out */
export function readPacketLine(text: string): PacketLine | undefined {
  const found = /(^|.*?)IN=(\S*) OUT=(\S*) (MAC=.*)$/.exec(text);
  if (found === null) return undefined;
  const [, prefix = "", into = "", out = "", rest = ""] = found;
  const words = new Map<string, string>();
  const marks = new Set<string>();
  for (const word of rest.split(" ")) {
    const equals = word.indexOf("=");
    // The first length is the packet's; UDP has one of its own.
    if (equals < 0) marks.add(word);
    else if (!words.has(word.slice(0, equals))) words.set(word.slice(0, equals), word.slice(equals + 1));
  }
  const isArp = words.has("OPCODE");
  const address = (key: string) => shortAddress(words.get(isArp ? `IP${key}` : key) ?? "");
  return {
    in: into,
    out,
    prefix: prefix.trim(),
    source: withPort(address("SRC"), words.get("SPT")),
    destination: withPort(address("DST"), words.get("DPT")),
    protocol: isArp ? "ARP" : (words.get("PROTO") ?? ""),
    more: isArp ? (words.get("OPCODE") === "1" ? "who has" : "reply") : moreOf(words, marks),
  };
}

/** Whether a line of a switch is about that switch as a whole, or about one of its interfaces. */
export function concerns(
  line: { readonly on: string; readonly packet: PacketLine | undefined },
  on: string,
  about: string,
): boolean {
  if (line.on !== on) return false;
  // How many lines were left out is everybody's.
  return about === on || line.packet === undefined || line.packet.in === about || line.packet.out === about;
}
