/**
 * iptables' commands (-A, -I, -D, -R, -N, -X, -P, -F, -Z) and the lines of iptables-save, applied to a table of chains.
 */
import { CHAIN_DEPTH, Chain, type Entry } from "./chain.ts";
import type { InterfaceNumbers } from "./packet.ts";
import { findMatch, type Rule } from "./rule.ts";
import { CompiledRule } from "./rule-compile.ts";
import { formatRule } from "./rule-format.ts";
import { parseRule, targetNames } from "./rule-parse.ts";
import { suggest, type Word, WordReader } from "./words.ts";

/** Chains while they are edited. */
export interface ChainTable {
  readonly chains: Map<string, Chain>;
  /** Chains whose counters are to be set to 0 when the edit takes effect. */
  readonly zeroed: Set<Chain>;
  readonly interfaces: InterfaceNumbers;
  /** Built-in chains that packets meet before it is known where they go. */
  readonly hidesOut: ReadonlySet<string>;
}

/** A table is a person's work: beyond this it is a mistake, and time for each packet. */
const RULES_MOST = 10_000;
const CHAINS_MOST = 256;
const CHAIN_NAME_MOST = 28;

type Command = (table: ChainTable, reader: WordReader, word: Word) => void;

/**
 * Applies one line; empty lines and comments do nothing. @throws PolicyError; the table is then half changed and must
 * be thrown away
 */
export function applyCommand(table: ChainTable, line: string): void {
  const reader = new WordReader(line);
  const name = reader.peek()?.text;
  // Lines out of scripts and out of iptables-save.
  if (name === "iptables" || name === "ip6tables") reader.take();
  const word = reader.take();
  if (word === undefined || word.text === "COMMIT" || word.text === "*filter") return;
  if (word.text.startsWith(":") && word.text.length > 1) {
    declareChain(table, reader, { ...word, text: word.text.slice(1) });
    return;
  }
  const command = commands.get(word.text);
  if (command === undefined) {
    throw reader.error(word, `unknown command ${word.text}`, commandRemedy(word.text));
  }
  command(table, reader, word);
  const rest = reader.peek();
  if (rest !== undefined) throw reader.error(rest, `"${rest.text}" is too much`, "leave it out");
}

function commandRemedy(text: string): string {
  if (text === "-L" || text === "-S") return "lists are asked for apart from edits";
  return suggest(text, commands.keys(), "begin with -A, -I, -D, -R, -N, -X, -P, -F or -Z");
}

/** ":FORWARD DROP [0:0]" of iptables-save; "-" as policy makes a chain of the user's. */
function declareChain(table: ChainTable, reader: WordReader, name: Word): void {
  const policy = reader.take();
  const counters = reader.take();
  if (counters !== undefined && !/^\[\d+:\d+\]$/.test(counters.text)) {
    throw reader.error(counters, `"${counters.text}" is no pair of counters`, "write [0:0] or nothing");
  }
  if (policy === undefined) throw reader.error(name, "chain without a policy", "write ACCEPT, DROP or -");
  if (policy.text !== "-") setPolicy(reader, knownChain(table, reader, name), name, policy);
  else if (!table.chains.has(name.text)) newChain(table, reader, name);
}

function chainWord(reader: WordReader, word: Word): Word {
  return reader.value(word, "a chain", "FORWARD");
}

function knownChain(table: ChainTable, reader: WordReader, word: Word): Chain {
  const chain = table.chains.get(word.text);
  if (chain !== undefined) return chain;
  const known = [...table.chains.keys()];
  throw reader.error(
    word,
    `no chain ${word.text} here`,
    suggest(word.text, known, `there are ${known.join(", ")}; -N makes one`),
  );
}

function newChain(table: ChainTable, reader: WordReader, word: Word): void {
  const { text } = word;
  if (!/^[^\s!:-]\S*$/.test(text) || text.length > CHAIN_NAME_MOST || targetNames.includes(text)) {
    throw reader.error(
      word,
      `"${text}" cannot name a chain`,
      `use up to ${CHAIN_NAME_MOST} letters and digits, no target's name`,
    );
  }
  if (table.chains.has(text))
    throw reader.error(word, `chain ${text} exists`, "choose another name, or empty it with -F");
  if (table.chains.size >= CHAINS_MOST) throw reader.error(word, "too many chains", `keep to ${CHAINS_MOST}`);
  table.chains.set(text, new Chain(text, false));
}

function setPolicy(reader: WordReader, chain: Chain, name: Word, policy: Word): void {
  if (!chain.isBuiltIn)
    throw reader.error(name, `chain ${chain.name} is no built-in one`, "only built-in chains have a policy");
  if (policy.text !== "ACCEPT" && policy.text !== "DROP") {
    throw reader.error(policy, `"${policy.text}" is no policy`, "use ACCEPT or DROP");
  }
  chain.policy = policy.text;
}

/** A rule ready to be put into `chain`, checked against the table. */
function readEntry(table: ChainTable, reader: WordReader, chain: Chain): Entry {
  const { rule, targetWord } = parseRule(reader);
  checkTarget(table, reader, chain, rule, targetWord);
  const out = findMatch(rule.matches, "out");
  if (out !== undefined && table.hidesOut.has(chain.name)) {
    throw reader.error(
      undefined,
      `-o cannot be asked in ${chain.name}`,
      "where a frame goes is known in the switch's FORWARD chain",
    );
  }
  return {
    rule,
    compiled: new CompiledRule(rule, table.interfaces),
    text: formatRule(rule),
    packets: 0,
    bytes: 0,
    jump: undefined,
  };
}

function checkTarget(table: ChainTable, reader: WordReader, chain: Chain, rule: Rule, word: Word | undefined): void {
  if (rule.target?.kind !== "JUMP" || word === undefined) return;
  const name = rule.target.chain;
  const called = table.chains.get(name);
  if (called === undefined) {
    const known = [
      ...targetNames,
      ...[...table.chains.values()].filter((one) => !one.isBuiltIn).map((one) => one.name),
    ];
    throw reader.error(word, `no target or chain ${name}`, suggest(name, known, `there are ${known.join(", ")}`));
  }
  if (called.isBuiltIn)
    throw reader.error(word, `${name} is a built-in chain`, "only chains made with -N can be called");
  if (reaches(table, called, chain)) {
    throw reader.error(word, `${name} would call itself through ${chain.name}`, "break the circle");
  }
  const above = [...table.chains.values()].reduce((most, one) => Math.max(most, pathLength(table, one, chain)), 0);
  if (above + 1 + heightOf(table, called) > CHAIN_DEPTH) {
    throw reader.error(word, `chains nested more than ${CHAIN_DEPTH} deep`, "call fewer chains from one another");
  }
}

function called(table: ChainTable, chain: Chain): Chain[] {
  return [...chain.targets()].flatMap((name) => table.chains.get(name) ?? []);
}

function reaches(table: ChainTable, from: Chain, to: Chain): boolean {
  const seen = new Set<Chain>([from]);
  for (const chain of seen) {
    if (chain === to) return true;
    for (const next of called(table, chain)) seen.add(next);
  }
  return false;
}

/** Longest way of calls below a chain. */
function heightOf(table: ChainTable, chain: Chain, memory = new Map<Chain, number>()): number {
  const known = memory.get(chain);
  if (known !== undefined) return known;
  const height = called(table, chain).reduce((most, next) => Math.max(most, 1 + heightOf(table, next, memory)), 0);
  memory.set(chain, height);
  return height;
}

/** Longest way of calls from one chain to another; 0 when there is none. */
function pathLength(table: ChainTable, from: Chain, to: Chain, memory = new Map<Chain, number>()): number {
  if (from === to) return 0;
  const known = memory.get(from);
  if (known !== undefined) return known;
  let longest = 0;
  for (const next of called(table, from)) {
    const rest = pathLength(table, next, to, memory);
    if (next === to || rest > 0) longest = Math.max(longest, rest + 1);
  }
  memory.set(from, longest);
  return longest;
}

function place(reader: WordReader, chain: Chain, most: number): number {
  const word = reader.take();
  const number = /^\d{1,9}$/.test(word?.text ?? "") ? Number(word?.text) : 0;
  if (word === undefined || number < 1 || number > most) {
    const remedy = chain.entries.length === 0 ? "it has no rules" : `it has rules 1 to ${chain.entries.length}`;
    throw reader.error(word, `no rule ${word?.text ?? ""} in ${chain.name}`, remedy);
  }
  return number;
}

function nextIsNumber(reader: WordReader): boolean {
  return /^\d{1,9}$/.test(reader.peek()?.text ?? "");
}

function roomForRule(table: ChainTable, reader: WordReader, word: Word): void {
  let rules = 0;
  for (const chain of table.chains.values()) rules += chain.entries.length;
  if (rules >= RULES_MOST) throw reader.error(word, "too many rules", `keep to ${RULES_MOST}`);
}

const append: Command = (table, reader, word) => {
  const chain = knownChain(table, reader, chainWord(reader, word));
  roomForRule(table, reader, word);
  chain.entries.push(readEntry(table, reader, chain));
};

const insert: Command = (table, reader, word) => {
  const chain = knownChain(table, reader, chainWord(reader, word));
  roomForRule(table, reader, word);
  const number = nextIsNumber(reader) ? place(reader, chain, chain.entries.length + 1) : 1;
  chain.entries.splice(number - 1, 0, readEntry(table, reader, chain));
};

const replaceRule: Command = (table, reader, word) => {
  const chain = knownChain(table, reader, chainWord(reader, word));
  const number = place(reader, chain, chain.entries.length);
  chain.entries.splice(number - 1, 1, readEntry(table, reader, chain));
};

const deleteRule: Command = (table, reader, word) => {
  const name = chainWord(reader, word);
  const chain = knownChain(table, reader, name);
  if (nextIsNumber(reader)) {
    chain.entries.splice(place(reader, chain, chain.entries.length) - 1, 1);
    return;
  }
  const first = reader.peek();
  if (first === undefined) throw reader.error(name, "which rule?", "write its number or the rule itself");
  const text = formatRule(parseRule(reader).rule);
  const at = chain.entries.findIndex((entry) => entry.text === text);
  if (at < 0) throw reader.error(first, `no such rule in ${chain.name}`, "write its number as the list shows it");
  chain.entries.splice(at, 1);
};

/** The chain named next, or all of them. */
function chosen(table: ChainTable, reader: WordReader): Chain[] {
  const word = reader.take();
  return word === undefined ? [...table.chains.values()] : [knownChain(table, reader, word)];
}

const flush: Command = (table, reader) => {
  for (const chain of chosen(table, reader)) chain.entries.length = 0;
};

const zero: Command = (table, reader) => {
  for (const chain of chosen(table, reader)) table.zeroed.add(chain);
};

const create: Command = (table, reader, word) => newChain(table, reader, chainWord(reader, word));

const removeChain: Command = (table, reader, word) => {
  const name = reader.peek();
  const all = [...table.chains.values()];
  const doomed = name === undefined ? all.filter((chain) => !chain.isBuiltIn) : chosen(table, reader);
  const at = name ?? word;
  for (const chain of doomed) {
    if (chain.isBuiltIn) throw reader.error(at, `${chain.name} is a built-in chain`, "it can be emptied with -F");
    if (chain.entries.length > 0)
      throw reader.error(at, `chain ${chain.name} has rules`, `empty it with -F ${chain.name}`);
    const caller = all.find((other) => other.targets().has(chain.name));
    if (caller !== undefined) {
      throw reader.error(at, `chain ${chain.name} is called from ${caller.name}`, "delete the rule that does");
    }
    table.chains.delete(chain.name);
  }
};

const policy: Command = (table, reader, word) => {
  const name = chainWord(reader, word);
  const chain = knownChain(table, reader, name);
  setPolicy(reader, chain, name, reader.value(name, "a policy", "DROP"));
};

const commands = new Map<string, Command>();
for (const [names, command] of [
  ["-A --append", append],
  ["-I --insert", insert],
  ["-D --delete", deleteRule],
  ["-R --replace", replaceRule],
  ["-N --new-chain", create],
  ["-X --delete-chain", removeChain],
  ["-P --policy", policy],
  ["-F --flush", flush],
  ["-Z --zero", zero],
] as const) {
  for (const name of names.split(" ")) commands.set(name, command);
}
