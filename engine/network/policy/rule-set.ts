/**
 * The chains of one place (a switch, an interface), edited with iptables' commands while packets walk through them.
 *
 * Every edit is made on a copy that replaces the whole at the end: a text with an error in it changes nothing.
 */
import { Chain, type Entry, type Policy } from "./chain.ts";
import { attempt, type Parsed, PolicyError } from "./errors.ts";
import type { InterfaceNumbers } from "./packet.ts";
import { applyCommand, type ChainTable } from "./rule-commands.ts";
import { listChain } from "./rule-list.ts";

/** A built-in chain, and whether the way out is known when packets meet it. */
export interface BuiltInChain {
  readonly name: string;
  readonly knowsOut: boolean;
}

/** Counters of one rule. `number` is its place in the chain, from 1. */
export interface RuleFacts {
  readonly number: number;
  readonly rule: string;
  readonly packets: number;
  readonly bytes: number;
}

/** A chain as plain data. `policy` is absent for chains of the user. */
export interface ChainFacts {
  readonly name: string;
  readonly policy?: Policy;
  readonly packets: number;
  readonly bytes: number;
  readonly rules: readonly RuleFacts[];
}

export class RuleSet {
  readonly #builtIn: readonly BuiltInChain[];
  readonly #interfaces: InterfaceNumbers;
  readonly #changed: () => void;
  #chains: Map<string, Chain>;

  /** @param changed called after every edit that took effect */
  constructor(builtIn: readonly BuiltInChain[], interfaces: InterfaceNumbers, changed: () => void = () => {}) {
    this.#builtIn = builtIn;
    this.#interfaces = interfaces;
    this.#changed = changed;
    this.#chains = this.#empty();
  }

  /** Whether nothing would ever be refused, counted, logged: it need not be asked. */
  get isEmpty(): boolean {
    for (const chain of this.#chains.values()) {
      if (chain.entries.length > 0 || chain.policy !== "ACCEPT") return false;
    }
    return true;
  }

  /** Whether a rule asks conntrack. */
  get isStateful(): boolean {
    for (const { entries } of this.#chains.values()) if (entries.some(({ compiled }) => compiled.stateful)) return true;
    return false;
  }

  /** The built-in chain to walk through, when there is something in it. */
  chainInForce(name: string): Chain | undefined {
    const chain = this.#chains.get(name);
    return chain === undefined || (chain.entries.length === 0 && chain.policy === "ACCEPT") ? undefined : chain;
  }

  /** Applies commands, one a line, to what is in force: all of them, or none when one is wrong. */
  edit(text: string): Parsed<void> {
    const copy = new Map([...this.#chains].map(([name, chain]) => [name, chain.copy()]));
    return this.#apply(copy, text);
  }

  /** Puts the rules of a text (commands, or what iptables-save prints) in the place of everything. */
  replace(text: string): Parsed<void> {
    return this.#apply(this.#empty(), text);
  }

  /** Sets counters to 0. */
  zero(): void {
    for (const chain of this.#chains.values()) chain.zero();
  }

  /** As `iptables -S`: policies, chains, rules. `replace` reads it back. */
  save(): string[] {
    const chains = [...this.#chains.values()];
    const heads = chains.map((chain) => (chain.isBuiltIn ? `-P ${chain.name} ${chain.policy}` : `-N ${chain.name}`));
    return [
      ...heads,
      ...chains.flatMap((chain) => chain.entries.map((entry) => `-A ${chain.name} ${entry.text}`.trim())),
    ];
  }

  /** As `iptables -L -v -n --line-numbers`. */
  list(): string {
    const chains = [...this.#chains.values()];
    return chains.map((chain) => listChain(chain, chains)).join("\n\n");
  }

  /** All of it as plain data. */
  facts(): ChainFacts[] {
    return [...this.#chains.values()].map((chain) => ({
      name: chain.name,
      ...(chain.isBuiltIn && { policy: chain.policy }),
      packets: chain.packets,
      bytes: chain.bytes,
      rules: chain.entries.map(ruleFacts),
    }));
  }

  #empty(): Map<string, Chain> {
    return new Map(this.#builtIn.map(({ name }) => [name, new Chain(name, true)]));
  }

  #apply(chains: Map<string, Chain>, text: string): Parsed<void> {
    const table: ChainTable = {
      chains,
      zeroed: new Set(),
      interfaces: this.#interfaces,
      hidesOut: new Set(this.#builtIn.filter(({ knowsOut }) => !knowsOut).map(({ name }) => name)),
    };
    const lines = text.split("\n");
    const result = attempt(() => {
      for (const [n, line] of lines.entries()) inLine(lines.length, n, () => applyCommand(table, line));
    });
    if (!result.ok) return result;
    for (const chain of table.zeroed) chain.zero();
    // Only now: entries are shared with the chains that were in force until this moment.
    for (const chain of chains.values()) link(chain, chains);
    this.#chains = chains;
    this.#changed();
    return result;
  }
}

/** Says the line's number too where there are several. */
function inLine(lines: number, n: number, apply: () => void): void {
  try {
    apply();
  } catch (error) {
    if (!(error instanceof PolicyError) || lines === 1) throw error;
    throw new PolicyError(`line ${n + 1}: ${error.what}`, error.remedy, error.line, error.offset, error.span);
  }
}

function link(chain: Chain, chains: ReadonlyMap<string, Chain>): void {
  chain.hasArp = false;
  for (const entry of chain.entries) {
    const { target } = entry.rule;
    entry.jump = target?.kind === "JUMP" ? chains.get(target.chain) : undefined;
    if (entry.compiled.arp) chain.hasArp = true;
  }
}

function ruleFacts(entry: Entry, at: number): RuleFacts {
  return { number: at + 1, rule: entry.text, packets: entry.packets, bytes: entry.bytes };
}
