/** Classes of packets that a switch counts: what a user writes, and how fast they grow. */

export interface ClassCount {
  readonly name: string;
  readonly rule: string;
  readonly packets: number;
  readonly bytes: number;
}

export interface ClassRow extends ClassCount {
  /** A second; undefined until there are two looks to compare. */
  readonly packetRate: number | undefined;
  readonly byteRate: number | undefined;
}

/** The line that the lab reads. */
export const classLine = (name: string, conditions: string): string => `class ${name.trim()}: ${conditions.trim()}`;

/**
 * @param seconds between the two looks
 * @returns the later look's classes; one that was counted anew meanwhile has no rate
 */
export function classRows(before: readonly ClassCount[], after: readonly ClassCount[], seconds: number): ClassRow[] {
  const old = new Map(before.map((each) => [each.name, each]));
  return after.map((each) => {
    const earlier = old.get(each.name);
    const isSame = earlier !== undefined && earlier.rule === each.rule && each.packets >= earlier.packets;
    if (!isSame || seconds <= 0) return { ...each, packetRate: undefined, byteRate: undefined };
    return {
      ...each,
      packetRate: (each.packets - earlier.packets) / seconds,
      byteRate: (each.bytes - earlier.bytes) / seconds,
    };
  });
}

interface Interface {
  readonly name: string;
  readonly mac?: string | undefined;
  readonly machine?: { readonly name: string } | undefined;
}

/** A class that counts one direction of an interface, ready to be added. */
export interface Suggestion {
  readonly label: string;
  readonly name: string;
  readonly conditions: string;
}

/** A name that the lab takes, from a machine's. */
const safe = (text: string): string => text.replace(/[^\w.+-]+/g, "-").replace(/^[^a-zA-Z0-9]+/, "") || "machine";

/**
 * What can be counted of interfaces. Their names change with every start of their machine, their addresses do not, so
 * that what comes from a machine is known by its address.
 */
export function suggestions(interfaces: readonly Interface[]): Suggestion[] {
  return interfaces.flatMap(({ name, mac, machine }) => {
    const who = machine?.name ?? name;
    const title = machine ? `${machine.name} (${name})` : name;
    return [
      {
        label: `from ${title}`,
        name: `from-${safe(who)}`.slice(0, 40),
        conditions: mac === undefined ? `-i ${name}` : `-m mac --mac-source ${mac}`,
      },
      { label: `to ${title}, until it stops`, name: `to-${safe(who)}`.slice(0, 40), conditions: `-o ${name}` },
    ];
  });
}
