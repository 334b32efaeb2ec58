/** A chain of rules and the walk of a packet through it, as iptables(8) describes both. */
import type { Packet } from "./packet.ts";
import type { RejectKind, Rule } from "./rule.ts";
import type { CompiledRule } from "./rule-compile.ts";

/** Deepest nesting of chains: one walk has room for so many. */
export const CHAIN_DEPTH = 16;

/** A rule in a chain, with what it has matched. */
export interface Entry {
  readonly rule: Rule;
  readonly compiled: CompiledRule;
  /** As `iptables -S` prints it, without the chain. */
  readonly text: string;
  packets: number;
  bytes: number;
  /** The chain of a JUMP in the rule set that is in force. */
  jump: Chain | undefined;
}

export type Policy = "ACCEPT" | "DROP";

/** What a rule's target needs from outside. */
export interface RuleActions {
  log(packet: Packet, prefix: string): void;
  /** Answers the packet's sender; the packet itself is dropped. */
  reject(packet: Packet, how: RejectKind): void;
}

export class Chain {
  readonly name: string;
  /** Built-in chains have a policy; others return to where they were called from. */
  readonly isBuiltIn: boolean;
  policy: Policy = "ACCEPT";
  /** What met the policy. */
  packets = 0;
  bytes = 0;
  readonly entries: Entry[] = [];
  /** Whether a rule is for ARP. Without one what is not IP need not be shown to a built-in chain. */
  hasArp = false;

  constructor(name: string, isBuiltIn: boolean) {
    this.name = name;
    this.isBuiltIn = isBuiltIn;
  }

  /** The same rules, counters included, in a chain that can be changed apart from this one. */
  copy(): Chain {
    const copy = new Chain(this.name, this.isBuiltIn);
    copy.policy = this.policy;
    copy.packets = this.packets;
    copy.bytes = this.bytes;
    for (const entry of this.entries) copy.entries.push(entry);
    return copy;
  }

  /** Names of the chains that its rules jump to. */
  targets(): Set<string> {
    const names = new Set<string>();
    for (const { rule } of this.entries) if (rule.target?.kind === "JUMP") names.add(rule.target.chain);
    return names;
  }

  zero(): void {
    this.packets = 0;
    this.bytes = 0;
    for (const entry of this.entries) {
      entry.packets = 0;
      entry.bytes = 0;
    }
  }
}

const stackChains: (Chain | undefined)[] = new Array<Chain | undefined>(CHAIN_DEPTH).fill(undefined);
const stackPositions = new Uint32Array(CHAIN_DEPTH);

/**
 * Walks a packet through a built-in chain.
 *
 * What is not IP passes unless a rule says `-p arp`, which only ARP meets; in a chain that such a rule calls all rules
 * count.
 * @returns whether it is accepted
 */
export function walk(start: Chain, packet: Packet, actions: RuleActions): boolean {
  const isIp = packet.version !== 0;
  if (!isIp && !start.hasArp) return true;
  let chain = start;
  let at = 0;
  let depth = 0;
  for (;;) {
    const entry = chain.entries[at++];
    if (entry === undefined) {
      if (depth === 0) break;
      depth--;
      chain = stackChains[depth]!;
      at = stackPositions[depth]!;
      continue;
    }
    const { compiled } = entry;
    if (!isIp && depth === 0 && !compiled.arp) continue;
    if (!compiled.matches(packet)) continue;
    entry.packets++;
    entry.bytes += packet.length;
    const { target } = entry.rule;
    if (target === undefined) continue;
    switch (target.kind) {
      case "ACCEPT":
        return true;
      case "DROP":
        return false;
      case "REJECT":
        actions.reject(packet, target.how);
        return false;
      case "LOG":
        actions.log(packet, target.prefix);
        break;
      case "RETURN":
        at = chain.entries.length;
        break;
      case "JUMP":
        if (entry.jump === undefined) break;
        stackChains[depth] = chain;
        stackPositions[depth] = at;
        depth++;
        chain = entry.jump;
        at = 0;
        break;
    }
  }
  if (!isIp) return true;
  start.packets++;
  start.bytes += packet.length;
  return start.policy === "ACCEPT";
}
