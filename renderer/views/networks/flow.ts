/** How fast bytes go over the edges of the topology: differences of the lab's counters. */
import type { Topology } from "../../../main/lab/view-api.ts";

/** Bytes a second, as who hangs on the edge sees them: a machine, or what is behind an uplink's switch. */
export interface Flow {
  /** Into the switch from a machine; from the switch into an uplink. */
  readonly sent: number;
  readonly received: number;
}

export type Flows = ReadonlyMap<string, Flow>;
type Counters = Readonly<Record<string, number>>;

/** Keys of the map of flows. */
export const portKey = (on: string, port: string): string => `${on}/${port}`;
export const uplinkKey = (on: string): string => `${on}/`;

export const NO_FLOW: Flow = { sent: 0, received: 0 };

/** Counters of every edge. */
function countersOf({ switches }: Topology): Map<string, Counters> {
  return new Map(
    switches.flatMap(({ name, uplinkCounters, ports }) => [
      [uplinkKey(name), uplinkCounters] as const,
      ...ports.map((port) => [portKey(name, port.name), port.counters] as const),
    ]),
  );
}

/** Growth a second; nothing for a counter that went back, as its port or the network domain was made anew. */
function growth(before: Counters, after: Counters, name: string, seconds: number): number {
  return Math.max(0, (after[name] ?? 0) - (before[name] ?? 0)) / seconds;
}

/** @param seconds between the two looks; edges that were not there before have no flow yet */
export function flowsBetween(before: Topology, after: Topology, seconds: number): Flows {
  const old = countersOf(before);
  const flows = new Map<string, Flow>();
  if (seconds <= 0) return flows;
  for (const [key, counters] of countersOf(after)) {
    const earlier = old.get(key);
    if (earlier === undefined) continue;
    flows.set(key, {
      sent: growth(earlier, counters, "bytesIn", seconds),
      received: growth(earlier, counters, "bytesOut", seconds),
    });
  }
  return flows;
}

/** "3 policy, 1 mtu": why frames were dropped at a port. */
export function dropsText(counters: Counters): string {
  return Object.entries(counters)
    .filter(([name, count]) => name.startsWith("drop:") && count > 0)
    .map(([name, count]) => `${count} ${name.slice("drop:".length)}`)
    .join(", ");
}
