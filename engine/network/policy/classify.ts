/**
 * Accounting and logging: named classes of packets, each with the conditions of a firewall rule.
 *
 *     class web: -p tcp --dport 80
 *     class syn: -p tcp --syn -j LOG --log-prefix "syn: "
 *
 * A packet is counted in every class that it matches. It meets them once, where it comes in, before any firewall;
 * classes that ask for the way out (-o) meet it once for each interface that it is about to go to.
 */
import { attempt, type Parsed, PolicyError } from "./errors.ts";
import type { InterfaceNumbers, Packet } from "./packet.ts";
import { findMatch, type Rule } from "./rule.ts";
import { CompiledRule } from "./rule-compile.ts";
import { formatRule } from "./rule-format.ts";
import { parseRule } from "./rule-parse.ts";
import { suggest, WordReader } from "./words.ts";

/** A class and what it has counted. */
export interface ClassFacts {
  readonly name: string;
  /** Its conditions and target, as text. */
  readonly rule: string;
  readonly packets: number;
  readonly bytes: number;
}

interface TrafficClass {
  readonly name: string;
  readonly rule: Rule;
  readonly compiled: CompiledRule;
  readonly text: string;
  /** Log prefix, where it logs. */
  readonly prefix: string | undefined;
  packets: number;
  bytes: number;
}

const CLASSES_MOST = 256;
const NAME = /^[a-zA-Z0-9][\w.+-]{0,39}$/;

export class Accounting {
  readonly #interfaces: InterfaceNumbers;
  readonly #log: (packet: Packet, prefix: string) => void;
  readonly #changed: () => void;
  #classes = new Map<string, TrafficClass>();
  /** Those that are asked where a packet comes in, and where it goes out. */
  #incoming: readonly TrafficClass[] = [];
  #outgoing: readonly TrafficClass[] = [];

  constructor(
    interfaces: InterfaceNumbers,
    log: (packet: Packet, prefix: string) => void,
    changed: () => void = () => {},
  ) {
    this.#interfaces = interfaces;
    this.#log = log;
    this.#changed = changed;
  }

  get isEmpty(): boolean {
    return this.#classes.size === 0;
  }

  get isStateful(): boolean {
    return [...this.#classes.values()].some(({ compiled }) => compiled.stateful);
  }

  /**
   * Adds classes, one a line; one of a name that is there takes its place and counts from 0. All of them or, when one
   * is wrong, none.
   */
  add(text: string): Parsed<void> {
    return this.#apply(text, new Map(this.#classes));
  }

  /** Puts the classes of a text in the place of all. */
  replace(text: string): Parsed<void> {
    return this.#apply(text, new Map());
  }

  /** @returns false when there is no such class */
  remove(name: string): boolean {
    const classes = new Map(this.#classes);
    const found = classes.delete(name);
    if (found) this.#set(classes);
    return found;
  }

  /** Sets the counters of one class, or of all, to 0. @returns false when there is no such class */
  reset(name?: string): boolean {
    const chosen =
      name === undefined ? [...this.#classes.values()] : [this.#classes.get(name)].filter((one) => one !== undefined);
    for (const one of chosen) {
      one.packets = 0;
      one.bytes = 0;
    }
    return name === undefined || chosen.length > 0;
  }

  /** Counters by class, as plain data. */
  facts(): ClassFacts[] {
    return [...this.#classes.values()].map(({ name, text, packets, bytes }) => ({ name, rule: text, packets, bytes }));
  }

  /** The classes as `replace` reads them. */
  save(): string[] {
    return [...this.#classes.values()].map(({ name, text }) => `class ${name}: ${text}`.trimEnd());
  }

  /** Counters as a table for people. */
  list(): string {
    const rows = this.facts().map((one) => [one.name, String(one.packets), String(one.bytes), one.rule] as const);
    const all = [["class", "packets", "bytes", "rule"] as const, ...rows];
    const width = (column: 0 | 1 | 2) => Math.max(...all.map((row) => row[column].length));
    const widths = [width(0), width(1), width(2)] as const;
    return all
      .map((row) => `${row[0].padEnd(widths[0])} ${row[1].padStart(widths[1])} ${row[2].padStart(widths[2])} ${row[3]}`)
      .map((line) => line.trimEnd())
      .join("\n");
  }

  /** A packet has come in. */
  incoming(packet: Packet): void {
    this.#count(this.#incoming, packet);
  }

  /** A packet is about to go out. */
  outgoing(packet: Packet): void {
    this.#count(this.#outgoing, packet);
  }

  #count(classes: readonly TrafficClass[], packet: Packet): void {
    for (let n = 0; n < classes.length; n++) {
      const one = classes[n]!;
      if (!one.compiled.matches(packet)) continue;
      one.packets++;
      one.bytes += packet.length;
      if (one.prefix !== undefined) this.#log(packet, one.prefix);
    }
  }

  #apply(text: string, classes: Map<string, TrafficClass>): Parsed<void> {
    const result = attempt(() => {
      for (const line of text.split("\n")) {
        const one = parseClass(line, this.#interfaces);
        if (one === undefined) continue;
        classes.set(one.name, one);
        if (classes.size > CLASSES_MOST) {
          throw new PolicyError("too many classes", `keep to ${CLASSES_MOST}`, line, 0, line.length);
        }
      }
    });
    if (result.ok) this.#set(classes);
    return result;
  }

  #set(classes: Map<string, TrafficClass>): void {
    this.#classes = classes;
    const all = [...classes.values()];
    this.#outgoing = all.filter(({ rule }) => findMatch(rule.matches, "out") !== undefined);
    this.#incoming = all.filter(({ rule }) => findMatch(rule.matches, "out") === undefined);
    this.#changed();
  }
}

/** "class NAME: conditions [-j LOG …]"; undefined of an empty line. @throws PolicyError */
function parseClass(line: string, interfaces: InterfaceNumbers): TrafficClass | undefined {
  const reader = new WordReader(line);
  const keyword = reader.take();
  if (keyword === undefined) return undefined;
  if (keyword.text !== "class") {
    throw reader.error(
      keyword,
      `"${keyword.text}" is no class`,
      suggest(keyword.text, ["class"], "write class NAME: -p tcp --dport 80"),
    );
  }
  const word = reader.value(keyword, "a name", "web: -p tcp --dport 80");
  const name = word.text.endsWith(":") ? word.text.slice(0, -1) : word.text;
  if (!word.text.endsWith(":") && reader.peek()?.text === ":") reader.take();
  else if (!word.text.endsWith(":"))
    throw reader.error(word, "no colon behind the class's name", `write class ${name}: …`);
  if (!NAME.test(name))
    throw reader.error(word, `"${name}" cannot name a class`, "use up to 40 letters, digits, - . _ +");
  const { rule, targetWord } = parseRule(reader);
  if (rule.target !== undefined && rule.target.kind !== "LOG") {
    throw reader.error(
      targetWord,
      `a class cannot ${targetWord?.text}`,
      "it counts, and logs with -j LOG; the firewall decides",
    );
  }
  const text = formatRule(rule);
  const prefix = rule.target?.prefix;
  return { name, rule, compiled: new CompiledRule(rule, interfaces), text, prefix, packets: 0, bytes: 0 };
}
