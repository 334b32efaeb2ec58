/** What a switch tells about itself, as plain data for whoever shows or exports it. */
import { formatMac } from "./address.ts";
import type { PortStatistics, SwitchPort } from "./port.ts";
import type { MacTable } from "./switch-mac-table.ts";
import type { VlanMembership } from "./switch-vlan.ts";

/** Where an address is. */
export interface MacFact {
  readonly mac: string;
  /** 0 on switches that know no VLANs, and for the fixed addresses. */
  readonly vlan: number;
  readonly port: string;
  readonly kind: "fixed" | "learned";
  /** Seconds since it was seen; 0 for fixed ones. */
  readonly age: number;
}

/** A port as plain data. */
export interface PortDescription {
  readonly name: string;
  readonly id: number;
  readonly up: boolean;
  /** The interface's own; uplinks have none. */
  readonly mac?: string;
  readonly isolated: boolean;
  readonly vlan?: VlanMembership;
  readonly counters: PortStatistics;
}

const NS_PER_SECOND = 1_000_000_000;

/** The entries of a table that are valid at `now`. */
export function macFacts(
  table: MacTable,
  now: number,
  kind: MacFact["kind"],
  nameOf: (port: number) => string,
): MacFact[] {
  return table.list(now).map((entry) => {
    const age = kind === "fixed" ? 0 : entry.age / NS_PER_SECOND;
    return { mac: formatMac(entry), vlan: entry.vlan, port: nameOf(entry.port), kind, age };
  });
}

export function describePort(port: SwitchPort): PortDescription {
  const { name, id, isUp: up, isolated } = port;
  const rules = port.validator?.rules;
  const vlan = port.vlans?.membership;
  const mac = rules && { mac: formatMac(rules.mac) };
  return { name, id, up, ...mac, isolated, ...(vlan && { vlan }), counters: port.counters.statistics() };
}
