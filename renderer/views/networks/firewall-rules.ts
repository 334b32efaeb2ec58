/** A firewall as rows: the lines that restore it, with the counters of its listing (`iptables -S` and `-L -v -n`). */

export interface FirewallRule {
  /** Place in its chain, from 1. */
  readonly number: number;
  /** Conditions and target, without the chain. */
  readonly text: string;
  /** As the listing shortens them: "12", "340K". */
  readonly packets: string;
  readonly bytes: string;
}

export interface FirewallChain {
  readonly name: string;
  /** Absent for chains of the user's. */
  readonly policy?: "ACCEPT" | "DROP";
  readonly rules: readonly FirewallRule[];
}

type Counts = ReadonlyMap<string, { readonly packets: string; readonly bytes: string }>;

const countKey = (chain: string, number: number) => `${chain} ${number}`;

/** Counters of the listing, by chain and number. */
function countsOf(listing: string): Counts {
  const counts = new Map<string, { packets: string; bytes: string }>();
  let chain = "";
  for (const line of listing.split("\n")) {
    const head = /^Chain (\S+) \(/.exec(line);
    if (head) chain = head[1]!;
    const row = /^(\d+)\s+(\S+)\s+(\S+)\s/.exec(line);
    if (row) counts.set(countKey(chain, Number(row[1])), { packets: row[2]!, bytes: row[3]! });
  }
  return counts;
}

export function readFirewall(lines: readonly string[], listing: string): FirewallChain[] {
  const counts = countsOf(listing);
  const chains = new Map<string, { name: string; policy?: "ACCEPT" | "DROP"; rules: FirewallRule[] }>();
  for (const line of lines) {
    const [, command, name, rest = ""] = /^-([PNA]) (\S+) ?(.*)$/.exec(line) ?? [];
    if (name === undefined) continue;
    if (command === "P") chains.set(name, { name, policy: rest === "DROP" ? "DROP" : "ACCEPT", rules: [] });
    else if (command === "N") chains.set(name, { name, rules: [] });
    else {
      const rules = chains.get(name)?.rules ?? [];
      const number = rules.length + 1;
      const count = counts.get(countKey(name, number)) ?? { packets: "", bytes: "" };
      rules.push({ number, text: rest, ...count });
    }
  }
  return [...chains.values()];
}

/** Commands that change one rule. Several lines are one change: all of them take effect, or none. */
export const ruleCommands = {
  remove: (chain: string, { number }: FirewallRule) => `-D ${chain} ${number}`,
  /** Puts a rule back that was removed. */
  restore: (chain: string, { number, text }: FirewallRule) => `-I ${chain} ${number} ${text}`,
  replace: (chain: string, { number, text }: FirewallRule) => `-R ${chain} ${number} ${text}`,
  move: (chain: string, { number, text }: FirewallRule, to: number) =>
    `-D ${chain} ${number}\n-I ${chain} ${to} ${text}`,
};

/** A line without its command is meant to be added. */
export function commandOf(text: string, chain: string): string {
  const line = text.trim();
  return /^(ip6?tables\s|-[ADIRNXPFZ]\b|:)/.test(line) ? line : `-A ${chain} ${line}`;
}
