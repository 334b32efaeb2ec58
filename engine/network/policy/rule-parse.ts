/** Reads a rule's conditions and target as iptables(8) writes them. Errors point at the word. */
import {
  findMatch,
  type Match,
  PROTOCOL_ARP,
  PROTOCOL_ICMP,
  PROTOCOL_ICMPV6,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  protocolName,
  type Rule,
} from "./rule.ts";
import { type Draft, handlers } from "./rule-options.ts";
import { icmpVersion } from "./rule-values.ts";
import { suggest, type Word, type WordReader } from "./words.ts";

/** A rule, and where its target's name stands, for errors about chains that only a rule set can find. */
export interface RuleText {
  readonly rule: Rule;
  readonly targetWord: Word | undefined;
}

/** Targets that are no chains. */
export const targetNames: readonly string[] = ["ACCEPT", "DROP", "REJECT", "LOG", "RETURN"];
/** Options that may stand in a rule more than once. */
const repeatable = new Set(["-m", "--comment", "--sports", "--dports", "--ports", "--tcp-flags", "-4", "-6"]);

/**
 * Reads the rest of the line as a rule.
 * @throws PolicyError at the word that is wrong
 */
export function parseRule(reader: WordReader): RuleText {
  const draft: Draft = {
    reader,
    matches: [],
    words: new Map(),
    family: 0,
    familyWord: undefined,
    familyWritten: false,
    target: undefined,
    burst: undefined,
  };
  while (!reader.done) readOption(draft);
  if (draft.burst !== undefined) applyBurst(draft, draft.burst);
  checkProtocolNeeds(draft);
  checkArp(draft);
  const { matches, target, familyWritten } = draft;
  return { rule: { family: draft.family, familyWritten, matches, target }, targetWord: draft.words.get("target") };
}

function readOption(draft: Draft): void {
  const { reader } = draft;
  const bang = reader.peek()?.text === "!" ? reader.take() : undefined;
  const word = reader.take();
  if (word === undefined) throw reader.error(bang, "! without an option", "write for example ! -s 10.0.0.1");
  const found = handlers.get(word.text);
  if (found === undefined) {
    if (!word.text.startsWith("-")) {
      throw reader.error(word, `"${word.text}" belongs to no option`, "write an option such as -s, -p or -j before it");
    }
    throw reader.error(
      word,
      `unknown option ${word.text}`,
      suggest(word.text, handlers.keys(), "iptables(8) lists the options"),
    );
  }
  if (draft.words.has(found.name) && !repeatable.has(found.name)) {
    throw reader.error(word, `${word.text} given twice`, "write it once");
  }
  if (
    bang !== undefined &&
    ["--limit-burst", "--comment", "-4", "-6", "--reject-with", "--log-prefix", "--log-level"].includes(found.name)
  ) {
    throw reader.error(bang, `${word.text} cannot be negated`, "leave out the !");
  }
  draft.words.set(found.name, word);
  found.handler(draft, word, bang !== undefined);
}

function applyBurst(draft: Draft, burst: number): void {
  const at = draft.matches.findIndex((match) => match.kind === "limit");
  const limit = draft.matches[at];
  if (limit?.kind !== "limit") {
    throw draft.reader.error(
      draft.words.get("--limit-burst"),
      "--limit-burst without --limit",
      "add for example --limit 5/second",
    );
  }
  draft.matches[at] = { ...limit, burst };
}

/** What must be the protocol for which option. */
const protocolNeeds: readonly (readonly [options: string, protocols: readonly number[]])[] = [
  ["--sport --dport --sports --dports --ports", [PROTOCOL_TCP, PROTOCOL_UDP]],
  ["--tcp-flags --syn", [PROTOCOL_TCP]],
  ["--icmp-type", [PROTOCOL_ICMP, PROTOCOL_ICMPV6]],
  ["--icmpv6-type", [PROTOCOL_ICMPV6]],
];

function checkProtocolNeeds(draft: Draft): void {
  const protocol = findMatch(draft.matches, "protocol");
  for (const [options, protocols] of protocolNeeds) {
    for (const name of options.split(" ")) {
      const word = draft.words.get(name);
      if (word === undefined) continue;
      if (protocol !== undefined && !protocol.not && protocols.includes(protocol.protocol)) continue;
      const remedy = protocols.map((number) => `-p ${protocolName(number)}`).join(" or ");
      throw draft.reader.error(word, `${word.text} without ${remedy}`, `add ${remedy}`);
    }
  }
  const reset = draft.target?.kind === "REJECT" && draft.target.how === "tcp-reset";
  if (reset && (protocol?.protocol !== PROTOCOL_TCP || protocol.not)) {
    throw draft.reader.error(draft.words.get("reject"), "tcp-reset without -p tcp", "add -p tcp");
  }
  // The type was read before -p was: `--icmp-type x -p icmpv6`.
  const icmp = findMatch(draft.matches, "icmp");
  if (icmp !== undefined && protocol !== undefined && icmp.version !== icmpVersion(protocol.protocol)) {
    throw draft.reader.error(draft.words.get("-p"), "-p stands behind the ICMP type", "write -p first");
  }
}

/** ARP has IPv4 addresses and interfaces, and nothing else that a rule could look at. */
function checkArp(draft: Draft): void {
  if (findMatch(draft.matches, "protocol")?.protocol !== PROTOCOL_ARP) return;
  const fits = new Set<Match["kind"]>([
    "in",
    "out",
    "source",
    "destination",
    "protocol",
    "limit",
    "mac",
    "length",
    "packet-type",
    "comment",
  ]);
  const other = draft.matches.find((match) => !fits.has(match.kind));
  if (other !== undefined || draft.family === 6 || draft.target?.kind === "REJECT") {
    throw draft.reader.error(
      draft.words.get("-p"),
      "-p arp with something that ARP has not",
      "use it with -i, -o, IPv4 -s and -d (sender and target), --mac-source, limit, and ACCEPT, DROP or LOG",
    );
  }
}
