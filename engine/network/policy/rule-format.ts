/** Rules as text again: as `iptables -S` prints them, so that what is printed can be read in. */
import { formatMac, macFromBytes } from "../address.ts";
import { icmpTypeName } from "./icmp-types.ts";
import { findMatch, type Match, type PortRange, protocolName, type Rule, type Target } from "./rule.ts";
import { formatStates, formatTcpFlags } from "./rule-values.ts";

/** In quotes where blanks or quotes ask for them. */
export function quoted(text: string): string {
  return /^[\w.:/+-]+$/.test(text) ? text : `"${text.replace(/["\\]/g, "\\$&")}"`;
}

/** "80" or "1024:65535". */
export function formatRange(range: PortRange): string {
  return range.from === range.to ? String(range.from) : `${range.from}:${range.to}`;
}

/** The words of one condition, without its module. */
function option(match: Match): string {
  switch (match.kind) {
    case "in":
      return `-i ${match.name}`;
    case "out":
      return `-o ${match.name}`;
    case "source":
      return `-s ${match.address.text}`;
    case "destination":
      return `-d ${match.address.text}`;
    case "protocol":
      return `-p ${protocolName(match.protocol)}`;
    case "fragment":
      return "-f";
    case "source-port":
      return `--sport ${formatRange(match.range)}`;
    case "destination-port":
      return `--dport ${formatRange(match.range)}`;
    case "multiport":
      return `--${match.which} ${match.ranges.map(formatRange).join(",")}`;
    case "tcp-flags":
      return `--tcp-flags ${formatTcpFlags(match.mask)} ${formatTcpFlags(match.set)}`;
    case "icmp": {
      const name = match.type < 0 ? "any" : icmpTypeName(match.version, match.type, match.code);
      return `--${match.version === 4 ? "icmp" : "icmpv6"}-type ${name}`;
    }
    case "state":
      return `--${match.module === "state" ? "state" : "ctstate"} ${formatStates(match.states)}`;
    case "limit":
      return `--limit ${match.text} --limit-burst ${match.burst}`;
    case "mac":
      return `--mac-source ${formatMac(macFromBytes(match.address))}`;
    case "length":
      return `--length ${formatRange(match.range)}`;
    case "packet-type":
      return `--pkt-type ${match.type}`;
    case "comment":
      return `--comment ${quoted(match.text)}`;
  }
}

/** The `-m` that a condition needs; undefined for those that are built in. */
function moduleOf(match: Match, protocol: string): string | undefined {
  switch (match.kind) {
    case "source-port":
    case "destination-port":
      return protocol;
    case "tcp-flags":
      return "tcp";
    case "icmp":
      return match.version === 4 ? "icmp" : "icmp6";
    case "state":
      return match.module;
    case "packet-type":
      return "pkttype";
    case "multiport":
    case "limit":
    case "mac":
    case "length":
    case "comment":
      return match.kind;
    default:
      return undefined;
  }
}

/** "-j REJECT --reject-with icmp-port-unreachable". */
function formatTarget(target: Target): string {
  switch (target.kind) {
    case "JUMP":
      return `-j ${target.chain}`;
    case "REJECT":
      return target.how === "default" ? "-j REJECT" : `-j REJECT --reject-with ${target.with}`;
    case "LOG": {
      const prefix = target.prefix === "" ? "" : ` --log-prefix ${quoted(target.prefix)}`;
      return `-j LOG${prefix}${target.level === "" ? "" : ` --log-level ${target.level}`}`;
    }
    default:
      return `-j ${target.kind}`;
  }
}

/** The order in which iptables prints what is built in; the rest follows as written. */
const first: readonly Match["kind"][] = ["source", "destination", "in", "out", "protocol", "fragment"];

function inOrder(matches: readonly Match[]): Match[] {
  const builtIn = first.flatMap((kind) => matches.filter((match) => match.kind === kind));
  return [...builtIn, ...matches.filter((match) => !first.includes(match.kind))];
}

/** The conditions as text: "-s 10.0.0.0/24 -p tcp -m tcp --dport 80". */
function formatMatches(rule: Rule): string {
  const protocolMatch = findMatch(rule.matches, "protocol");
  const protocol = protocolMatch === undefined ? "tcp" : protocolName(protocolMatch.protocol);
  const words: string[] = rule.familyWritten ? [`-${rule.family}`] : [];
  let module: string | undefined;
  for (const match of inOrder(rule.matches)) {
    const needed = moduleOf(match, protocol);
    if (needed !== undefined && needed !== module) words.push(`-m ${needed}`);
    module = needed;
    words.push(match.not ? `! ${option(match)}` : option(match));
  }
  return words.join(" ");
}

/** Conditions and target, without the chain. */
export function formatRule(rule: Rule): string {
  const target = rule.target === undefined ? "" : formatTarget(rule.target);
  return [formatMatches(rule), target].filter((part) => part !== "").join(" ");
}
