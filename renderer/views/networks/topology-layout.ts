/** Where the topology's nodes and edges stand: uplinks at the left, switches in the middle, machines at the right. */
import type { Topology } from "../../../main/lab/view-api.ts";
import { portKey, uplinkKey } from "./flow.ts";
import { isGuestPort, uplinkTitle } from "./switch-text.ts";

export interface Place {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

export interface UplinkNode extends Place {
  /** Name of its switch. */
  readonly on: string;
  readonly label: string;
  readonly problem?: string;
}

export interface SwitchNode extends Place {
  readonly name: string;
  readonly ports: number;
  /** False: interfaces name it, and nobody has made it yet. */
  readonly exists: boolean;
}

export interface MachineNode extends Place {
  readonly key: string;
  readonly label: string;
  /** Absent for a guest that is no machine of the lab. */
  readonly id?: string;
  readonly running: boolean;
}

export interface Edge {
  readonly key: string;
  /** Key of its flow; absent where nothing can flow. */
  readonly flow?: string;
  readonly name: string;
  readonly from: { readonly x: number; readonly y: number };
  readonly to: { readonly x: number; readonly y: number };
  readonly state: "up" | "down" | "resting";
}

export interface Layout {
  readonly height: number;
  readonly uplinks: readonly UplinkNode[];
  readonly switches: readonly SwitchNode[];
  readonly machines: readonly MachineNode[];
  readonly edges: readonly Edge[];
}

const MARGIN = 10;
/** Least room between columns: rates stand there. */
const GAP = 70;
const WIDEST = 190;
const SWITCH_HEIGHT = 44;
const UPLINK_HEIGHT = 36;
const MOST_PORT_HEIGHT = 32;
const BETWEEN_MACHINES = 8;
const BETWEEN_SWITCHES = 20;

/** An interface before it has a place. */
interface Link {
  readonly on: string;
  readonly name: string;
  readonly state: Edge["state"];
}

interface Owner {
  readonly key: string;
  readonly label: string;
  readonly id?: string;
  running: boolean;
  readonly links: Link[];
}

function ownersOf({ switches, resting }: Topology): Owner[] {
  const owners = new Map<string, Owner>();
  const add = (key: string, label: string, id: string | undefined, running: boolean, link: Link) => {
    const owner = owners.get(key) ?? { key, label, ...(id !== undefined && { id }), running, links: [] };
    owners.set(key, owner);
    owner.links.push(link);
  };
  for (const { name: on, ports } of switches) {
    for (const port of ports.filter(isGuestPort)) {
      const { machine, domid, name, up } = port;
      const key = machine?.id ?? (domid === undefined ? name : `domain ${domid}`);
      add(key, machine?.name ?? key, machine?.id, true, { on, name, state: up ? "up" : "down" });
    }
  }
  for (const { machine, bridge, index } of resting) {
    add(machine.id, machine.name, machine.id, false, { on: bridge, name: `interface ${index}`, state: "resting" });
  }
  return [...owners.values()];
}

/** Names of the switches: those that are there, then those that interfaces only name. */
export function switchNames({ switches, resting }: Topology): string[] {
  return [...new Set([...switches.map(({ name }) => name), ...resting.map(({ bridge }) => bridge)])];
}

/** Machines beside their switches: few edges cross. */
function inOrder(owners: readonly Owner[], names: readonly string[]): Owner[] {
  const place = ({ links }: Owner) => links.reduce((sum, { on }) => sum + names.indexOf(on), 0) / links.length;
  return [...owners].sort(
    (a, b) => place(a) - place(b) || a.label.localeCompare(b.label, undefined, { numeric: true }),
  );
}

interface Placed {
  readonly nodes: readonly MachineNode[];
  /** Interfaces with the height at which their edges end. */
  readonly links: readonly (Link & { readonly y: number })[];
  readonly height: number;
}

function placeMachines(owners: readonly Owner[], x: number, width: number): Placed {
  const nodes: MachineNode[] = [];
  const links: (Link & { y: number })[] = [];
  let y = MARGIN;
  for (const { links: own, ...owner } of owners) {
    const height = own.length * MOST_PORT_HEIGHT;
    nodes.push({ ...owner, x, y, width, height });
    for (const [index, link] of own.entries()) links.push({ ...link, y: y + (index + 0.5) * MOST_PORT_HEIGHT });
    y += height + BETWEEN_MACHINES;
  }
  return { nodes, links, height: y - BETWEEN_MACHINES + MARGIN };
}

/** Each switch in the middle of its interfaces, as far as the one above leaves room. */
function placeSwitches(topology: Topology, names: readonly string[], machines: Placed, x: number, width: number) {
  let free = MARGIN;
  const middles = names.map((name) => {
    const own = machines.links.filter(({ on }) => on === name).map(({ y }) => y);
    const wanted = own.length === 0 ? 0 : own.reduce((sum, y) => sum + y, 0) / own.length - SWITCH_HEIGHT / 2;
    return { name, ports: own.length, wanted };
  });
  return middles
    .sort((a, b) => a.wanted - b.wanted)
    .map(({ name, ports, wanted }): SwitchNode => {
      const y = Math.max(wanted, free);
      free = y + SWITCH_HEIGHT + BETWEEN_SWITCHES;
      const exists = topology.switches.some((each) => each.name === name);
      return { name, ports, exists, x, y, width, height: SWITCH_HEIGHT };
    });
}

/** @param width of the picture, pixels; it grows downwards */
export function layOut(topology: Topology, width: number): Layout {
  const node = Math.max(70, Math.min(WIDEST, (width - 2 * MARGIN - 2 * GAP) / 3));
  const names = switchNames(topology);
  const machines = placeMachines(inOrder(ownersOf(topology), names), width - MARGIN - node, node);
  const switches = placeSwitches(topology, names, machines, (width - node) / 2, node);
  const uplinks: UplinkNode[] = [];
  const edges: Edge[] = [];
  for (const { name, uplink, uplinkProblem } of topology.switches) {
    const to = switches.find((each) => each.name === name);
    if (to === undefined || uplink.kind === "none") continue;
    const middle = to.y + SWITCH_HEIGHT / 2;
    const place = { x: MARGIN, y: middle - UPLINK_HEIGHT / 2, width: node, height: UPLINK_HEIGHT };
    uplinks.push({ on: name, label: uplinkTitle(uplink), ...place, ...(uplinkProblem && { problem: uplinkProblem }) });
    edges.push({
      key: uplinkKey(name),
      flow: uplinkKey(name),
      name: "uplink",
      from: { x: MARGIN + node, y: middle },
      to: { x: to.x, y: middle },
      state: uplinkProblem === undefined ? "up" : "down",
    });
  }
  for (const { on, name, state, y } of machines.links) {
    const from = switches.find((each) => each.name === on);
    if (from === undefined) continue;
    edges.push({
      key: `${on}/${name}/${y}`,
      ...(state !== "resting" && { flow: portKey(on, name) }),
      name,
      from: { x: from.x + node, y: from.y + SWITCH_HEIGHT / 2 },
      to: { x: width - MARGIN - node, y },
      state,
    });
  }
  const lowest = Math.max(machines.height, ...switches.map(({ y, height }) => y + height + MARGIN));
  return { height: lowest, uplinks, switches, machines: machines.nodes, edges };
}

/** An edge as a curve that leaves and arrives level. */
export function curve({ from, to }: Pick<Edge, "from" | "to">): string {
  const middle = from.x + (to.x - from.x) * 0.16;
  return `M${from.x},${from.y} C${middle},${from.y} ${from.x},${to.y} ${middle},${to.y} L${to.x},${to.y}`;
}

/** Text that fits into so many pixels at about seven a letter. */
export function fitted(text: string, width: number): string {
  const most = Math.floor(width / 7);
  return text.length <= most ? text : `${text.slice(0, Math.max(1, most - 1))}…`;
}
