/** The options of a rule: how each reads its words. Errors point at the word. */
import {
  findMatch,
  type Match,
  PROTOCOL_ARP,
  PROTOCOL_ICMP,
  PROTOCOL_ICMPV6,
  type RejectKind,
  type Target,
  TCP_ACK,
  TCP_FIN,
  TCP_RST,
  TCP_SYN,
} from "./rule.ts";
import {
  icmpVersion,
  parseAddressMatch,
  parseIcmpType,
  parseLengthRange,
  parseLimit,
  parseMacMatch,
  parsePortList,
  parsePortRange,
  parseProtocol,
  parseStates,
  parseTcpFlags,
} from "./rule-values.ts";
import { suggest, type Word, type WordReader } from "./words.ts";

/** What has been read so far, with the words for errors that are found only at the end. */
export interface Draft {
  readonly reader: WordReader;
  readonly matches: Match[];
  readonly words: Map<string, Word>;
  family: 0 | 4 | 6;
  familyWord: Word | undefined;
  familyWritten: boolean;
  target: Target | undefined;
  burst: number | undefined;
}

export type Handler = (draft: Draft, word: Word, not: boolean) => void;

const LONGEST_INTERFACE = 64;
const LONGEST_COMMENT = 255;
const LONGEST_PREFIX = 29;
const SYN_MASK = TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK;

const modules = new Set(
  "tcp udp icmp icmp6 icmpv6 state conntrack limit mac multiport length pkttype comment".split(" "),
);
const rejectKinds: ReadonlyMap<string, readonly [how: RejectKind, family: 0 | 4 | 6]> = new Map([
  ["icmp-net-unreachable", ["net-unreachable", 4]],
  ["icmp-host-unreachable", ["host-unreachable", 4]],
  ["icmp-proto-unreachable", ["proto-unreachable", 4]],
  ["icmp-port-unreachable", ["port-unreachable", 4]],
  ["icmp-net-prohibited", ["net-prohibited", 4]],
  ["icmp-host-prohibited", ["host-prohibited", 4]],
  ["icmp-admin-prohibited", ["admin-prohibited", 4]],
  ["icmp6-no-route", ["no-route", 6]],
  ["icmp6-adm-prohibited", ["admin-prohibited", 6]],
  ["icmp6-addr-unreachable", ["addr-unreachable", 6]],
  ["icmp6-port-unreachable", ["port-unreachable", 6]],
  ["icmp6-policy-fail", ["policy-fail", 6]],
  ["tcp-reset", ["tcp-reset", 0]],
]);
const levels = ["emerg", "alert", "crit", "error", "warning", "notice", "info", "debug"];

/** Sets the family that a word asks for, or says which other word asks for the other one. */
function family(draft: Draft, word: Word, version: 4 | 6): void {
  if (draft.family !== 0 && draft.family !== version) {
    throw draft.reader.error(
      word,
      `IPv${version} here, but IPv${draft.family} at "${draft.familyWord?.text}"`,
      "write one rule for each",
    );
  }
  draft.family = version;
  draft.familyWord ??= word;
}

/** Takes the option's value, with iptables' old place for "!" before it. */
function take(draft: Draft, word: Word, not: boolean, what: string, example: string): { value: Word; not: boolean } {
  const bang = draft.reader.peek()?.text === "!" ? draft.reader.take() : undefined;
  if (bang !== undefined && not) throw draft.reader.error(bang, "negated twice", "leave out one !");
  return { value: draft.reader.value(word, what, example), not: not || bang !== undefined };
}

/** Makes the handler of an option with one value. */
function valued(
  what: string,
  example: string,
  build: (draft: Draft, value: Word, not: boolean) => Match | undefined,
): Handler {
  return (draft, word, negated) => {
    const { value, not } = take(draft, word, negated, what, example);
    const match = build(draft, value, not);
    if (match !== undefined) draft.matches.push(match);
  };
}

function interfaceOption(kind: "in" | "out"): Handler {
  return valued("an interface", "vif1.0", (draft, value, not) => {
    const { text } = value;
    if (text.length > LONGEST_INTERFACE || !/^[^\s/+!]*\+?$/.test(text) || text === "") {
      throw draft.reader.error(
        value,
        `"${text}" is no interface name`,
        "write vif1.0, or vif1.+ for all that begin so",
      );
    }
    const wildcard = text.endsWith("+");
    return { kind, not, name: text, wildcard };
  });
}

function addressOption(kind: "source" | "destination"): Handler {
  return valued("an address", "10.0.0.0/24", (draft, value, not) => {
    const address = parseAddressMatch(draft.reader, value);
    family(draft, value, address.version);
    return { kind, not, address };
  });
}

const protocolOption = valued("a protocol", "tcp", (draft, value, not) => {
  const protocol = parseProtocol(draft.reader, value);
  if (protocol === undefined) {
    if (not) throw draft.reader.error(value, "not all protocols is none", "leave the rule out");
    return undefined;
  }
  if (!not && protocol === PROTOCOL_ICMP) family(draft, value, 4);
  if (!not && protocol === PROTOCOL_ICMPV6) family(draft, value, 6);
  if (not && protocol === PROTOCOL_ARP) {
    throw draft.reader.error(value, "-p arp cannot be negated", "IP rules do not see ARP: leave it out");
  }
  return { kind: "protocol", not, protocol };
});

function portOption(kind: "source-port" | "destination-port"): Handler {
  return valued("a port", "80", (draft, value, not) => ({ kind, not, range: parsePortRange(draft.reader, value) }));
}

function multiportOption(which: "sports" | "dports" | "ports"): Handler {
  return valued("ports", "80,443", (draft, value, not) => {
    return { kind: "multiport", not, which, ranges: parsePortList(draft.reader, value) };
  });
}

function icmpOption(version: 4 | 6): Handler {
  return valued("a type", "echo-request", (draft, value, not) => {
    const protocol = findMatch(draft.matches, "protocol")?.protocol;
    // ip6tables takes --icmp-type for neither, but people write it: the protocol tells what is meant.
    const meant = protocol === undefined ? version : icmpVersion(protocol);
    return { kind: "icmp", not, version: meant, ...parseIcmpType(draft.reader, value, meant) };
  });
}

function stateOption(module: "state" | "conntrack"): Handler {
  return valued("states", "ESTABLISHED,RELATED", (draft, value, not) => {
    return { kind: "state", not, module, states: parseStates(draft.reader, value) };
  });
}

const limitOption = valued("a rate", "5/second", (draft, value, not) => {
  if (not) throw draft.reader.error(value, "--limit cannot be negated", "turn the rule round");
  return { kind: "limit", not: false, ...parseLimit(draft.reader, value), burst: 5 };
});

const burstOption: Handler = (draft, word) => {
  const value = draft.reader.value(word, "a number", "10");
  if (!/^\d{1,5}$/.test(value.text) || Number(value.text) < 1 || Number(value.text) > 10_000) {
    throw draft.reader.error(value, `"${value.text}" is no burst`, "write a number from 1 to 10000");
  }
  draft.burst = Number(value.text);
};

const flagsOption: Handler = (draft, word, negated) => {
  const { value, not } = take(draft, word, negated, "a mask and the flags set", "SYN,ACK,FIN,RST SYN");
  const mask = parseTcpFlags(draft.reader, value);
  const set = parseTcpFlags(
    draft.reader,
    draft.reader.value(word, "the flags set behind the mask", "SYN,ACK,FIN,RST SYN"),
  );
  draft.matches.push({ kind: "tcp-flags", not, mask, set });
};

const synOption: Handler = (draft, _word, not) => {
  draft.matches.push({ kind: "tcp-flags", not, mask: SYN_MASK, set: TCP_SYN });
};

const fragmentOption: Handler = (draft, word, not) => {
  family(draft, word, 4);
  draft.matches.push({ kind: "fragment", not });
};

const moduleOption: Handler = (draft, word, not) => {
  const value = draft.reader.value(word, "a match", "state");
  if (not) throw draft.reader.error(value, "a match cannot be negated", "write ! before its option");
  if (!modules.has(value.text)) {
    throw draft.reader.error(
      value,
      `unknown match ${value.text}`,
      suggest(value.text, modules, `there are ${[...modules].join(", ")}`),
    );
  }
};

const packetTypeOption = valued("a kind", "broadcast", (draft, value, not) => {
  const type = value.text.toLowerCase();
  if (type !== "unicast" && type !== "broadcast" && type !== "multicast") {
    throw draft.reader.error(value, `unknown kind "${value.text}"`, "use unicast, broadcast or multicast");
  }
  return { kind: "packet-type", not, type };
});

const commentOption: Handler = (draft, word) => {
  const value = draft.reader.value(word, "a text", '"for the web"');
  draft.matches.push({ kind: "comment", not: false, text: printable(draft, value, LONGEST_COMMENT) });
};

function printable(draft: Draft, value: Word, most: number): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is being refused
  if (value.text.length > most || /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/.test(value.text)) {
    throw draft.reader.error(value, "text too long or not printable", `use up to ${most} printable characters`);
  }
  return value.text;
}

const jumpOption: Handler = (draft, word, not) => {
  const value = draft.reader.value(word, "a target", "ACCEPT");
  if (not) throw draft.reader.error(value, "a target cannot be negated", "leave out the !");
  const name = value.text;
  if (name === "ACCEPT" || name === "DROP" || name === "RETURN") draft.target = { kind: name };
  else if (name === "REJECT") draft.target = { kind: name, how: "default", with: "" };
  else if (name === "LOG") draft.target = { kind: name, prefix: "", level: "" };
  else draft.target = { kind: "JUMP", chain: name };
  draft.words.set("target", value);
};

/** The target of the kind that an option belongs to. */
function targetOf<K extends Target["kind"]>(draft: Draft, word: Word, kind: K): Extract<Target, { kind: K }> {
  const { target } = draft;
  if (target?.kind !== kind) {
    throw draft.reader.error(word, `${word.text} belongs to ${kind}`, `write it behind -j ${kind}`);
  }
  return target as Extract<Target, { kind: K }>;
}

const rejectOption: Handler = (draft, word) => {
  targetOf(draft, word, "REJECT");
  const value = draft.reader.value(word, "an answer", "icmp-port-unreachable");
  const known = rejectKinds.get(value.text);
  if (known === undefined) {
    const all = [...rejectKinds.keys()];
    throw draft.reader.error(
      value,
      `unknown answer ${value.text}`,
      suggest(value.text, all, `there are ${all.join(", ")}`),
    );
  }
  const [how, version] = known;
  if (version !== 0) family(draft, value, version);
  draft.target = { kind: "REJECT", how, with: value.text };
  draft.words.set("reject", value);
};

const prefixOption: Handler = (draft, word) => {
  const log = targetOf(draft, word, "LOG");
  const value = draft.reader.value(word, "a text", '"web: "');
  draft.target = { ...log, prefix: printable(draft, value, LONGEST_PREFIX) };
};

const levelOption: Handler = (draft, word) => {
  const log = targetOf(draft, word, "LOG");
  const value = draft.reader.value(word, "a level", "info");
  const known = /^[0-7]$/.test(value.text) || levels.includes(value.text);
  if (!known) {
    throw draft.reader.error(value, `unknown level ${value.text}`, suggest(value.text, levels, "use 0 to 7 or info"));
  }
  draft.target = { ...log, level: value.text };
};

/** Every option by all its names; the first name is the one that suggestions show. */
const optionRows: readonly (readonly [names: string, handler: Handler])[] = [
  ["-p --protocol --proto", protocolOption],
  ["-s --source --src", addressOption("source")],
  ["-d --destination --dst", addressOption("destination")],
  ["-i --in-interface", interfaceOption("in")],
  ["-o --out-interface", interfaceOption("out")],
  ["-f --fragment", fragmentOption],
  ["-m --match", moduleOption],
  ["-j --jump", jumpOption],
  ["--sport --source-port", portOption("source-port")],
  ["--dport --destination-port", portOption("destination-port")],
  ["--sports --source-ports", multiportOption("sports")],
  ["--dports --destination-ports", multiportOption("dports")],
  ["--ports", multiportOption("ports")],
  ["--tcp-flags", flagsOption],
  ["--syn", synOption],
  ["--icmp-type", icmpOption(4)],
  ["--icmpv6-type", icmpOption(6)],
  ["--state", stateOption("state")],
  ["--ctstate", stateOption("conntrack")],
  ["--limit", limitOption],
  ["--limit-burst", burstOption],
  [
    "--mac-source",
    valued("a MAC address", "00:16:3e:12:34:56", (draft, value, not) => ({
      kind: "mac",
      not,
      address: parseMacMatch(draft.reader, value),
    })),
  ],
  [
    "--length",
    valued("a length", "64:1500", (draft, value, not) => ({
      kind: "length",
      not,
      range: parseLengthRange(draft.reader, value),
    })),
  ],
  ["--pkt-type", packetTypeOption],
  ["--comment", commentOption],
  ["--reject-with", rejectOption],
  ["--log-prefix", prefixOption],
  ["--log-level", levelOption],
  ["-4 --ipv4", (draft, word) => writeFamily(draft, word, 4)],
  ["-6 --ipv6", (draft, word) => writeFamily(draft, word, 6)],
];

function writeFamily(draft: Draft, word: Word, version: 4 | 6): void {
  family(draft, word, version);
  draft.familyWritten = true;
}

export const handlers = new Map<string, { handler: Handler; name: string }>();
for (const [names, handler] of optionRows) {
  const [name = "", ...aliases] = names.split(" ");
  for (const alias of [name, ...aliases]) handlers.set(alias, { handler, name });
}
