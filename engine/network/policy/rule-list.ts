/** Chains as a table, like `iptables -L -v -n --line-numbers` prints them. */
import { formatMac, macFromBytes } from "../address.ts";
import type { Chain, Entry } from "./chain.ts";
import { findMatch, type Match, protocolName, type Rule, type Target } from "./rule.ts";
import { formatRange } from "./rule-format.ts";
import { formatStates } from "./rule-values.ts";

/** As iptables shortens counters: exact up to five digits, then in thousands. */
function shortCount(count: number): string {
  let rest = count;
  for (const suffix of ["", "K", "M", "G"]) {
    if (rest <= (suffix === "" ? 99_999 : 9_999)) return `${rest}${suffix}`;
    rest = Math.round(rest / 1000);
  }
  return `${rest}T`;
}

/** One chain with its rules; `all` tells how often it is called. */
export function listChain(chain: Chain, all: readonly Chain[]): string {
  const lines = [
    headOf(chain, all),
    columns(["num", "pkts", "bytes", "target", "prot", "opt", "in", "out", "source", "destination"], ""),
  ];
  for (const [n, entry] of chain.entries.entries()) lines.push(listRule(entry, n + 1));
  return lines.join("\n");
}

function headOf(chain: Chain, all: readonly Chain[]): string {
  if (chain.isBuiltIn) {
    const counters = `${shortCount(chain.packets)} packets, ${shortCount(chain.bytes)} bytes`;
    return `Chain ${chain.name} (policy ${chain.policy} ${counters})`;
  }
  const calls = all
    .flatMap(({ entries }) => entries)
    .filter(({ rule }) => rule.target?.kind === "JUMP" && rule.target.chain === chain.name);
  return `Chain ${chain.name} (${calls.length} references)`;
}

function columns(cells: readonly string[], rest: string): string {
  const [number = "", packets = "", bytes = "", ...others] = cells;
  const widths = [10, 4, 3, 6, 7, 20, 20];
  const padded = others.map((cell, n) => cell.padEnd(widths[n] ?? 0)).join(" ");
  return `${number.padEnd(4)} ${packets.padStart(5)} ${bytes.padStart(5)} ${padded} ${rest}`.trimEnd();
}

function listRule(entry: Entry, number: number): string {
  const { rule } = entry;
  const anywhere = rule.family === 6 ? "::/0" : rule.family === 4 ? "0.0.0.0/0" : "anywhere";
  const fragment = findMatch(rule.matches, "fragment");
  const cells = [
    String(number),
    shortCount(entry.packets),
    shortCount(entry.bytes),
    targetName(rule.target),
    named(findMatch(rule.matches, "protocol"), (match) => protocolName(match.protocol), "all"),
    fragment === undefined ? "--" : fragment.not ? "!f" : "-f",
    named(findMatch(rule.matches, "in"), (match) => match.name, "*"),
    named(findMatch(rule.matches, "out"), (match) => match.name, "*"),
    named(findMatch(rule.matches, "source"), (match) => withoutFullMask(match.address.text), anywhere),
    named(findMatch(rule.matches, "destination"), (match) => withoutFullMask(match.address.text), anywhere),
  ];
  return columns(cells, detailsOf(rule));
}

function named<M extends Match>(match: M | undefined, text: (match: M) => string, otherwise: string): string {
  if (match === undefined) return otherwise;
  return match.not ? `!${text(match)}` : text(match);
}

function withoutFullMask(text: string): string {
  return text.includes(":") ? text.replace(/\/128$/, "") : text.replace(/\/32$/, "");
}

function targetName(target: Target | undefined): string {
  if (target === undefined) return "";
  return target.kind === "JUMP" ? target.chain : target.kind;
}

function detailsOf(rule: Rule): string {
  const details = rule.matches.flatMap((match) => detailOf(match) ?? []);
  const { target } = rule;
  if (target?.kind === "REJECT") details.push(`reject-with ${target.with || "port-unreachable"}`);
  if (target?.kind === "LOG" && target.prefix !== "") details.push(`prefix "${target.prefix}"`);
  return details.join(" ");
}

function hex(bits: number): string {
  return `0x${bits.toString(16).padStart(2, "0")}`;
}

/** iptables' words for what has no column of its own. */
function detailOf(match: Match): string | undefined {
  const not = match.not ? "! " : "";
  const bang = match.not ? "!" : "";
  switch (match.kind) {
    case "source-port":
    case "destination-port": {
      const isRange = match.range.from !== match.range.to;
      return `${match.kind === "source-port" ? "spt" : "dpt"}${isRange ? "s" : ""}:${bang}${formatRange(match.range)}`;
    }
    case "multiport":
      return `multiport ${match.which} ${bang}${match.ranges.map(formatRange).join(",")}`;
    case "tcp-flags":
      return `flags:${bang}${hex(match.mask)}/${hex(match.set)}`;
    case "icmp": {
      const code = match.code < 0 ? "" : ` code ${match.code}`;
      const name = match.version === 4 ? "icmptype" : "ipv6-icmptype";
      return `${not}${name} ${match.type < 0 ? "any" : match.type}${code}`;
    }
    case "state":
      return `${not}${match.module === "state" ? "state" : "ctstate"} ${formatStates(match.states)}`;
    case "limit":
      return `limit: avg ${match.text} burst ${match.burst}`;
    case "mac":
      return `MAC ${bang}${formatMac(macFromBytes(match.address))}`;
    case "length":
      return `length ${bang}${formatRange(match.range)}`;
    case "packet-type":
      return `PKTTYPE ${bang}= ${match.type}`;
    case "comment":
      return `/* ${match.text} */`;
    default:
      return undefined;
  }
}
