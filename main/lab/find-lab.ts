/** Labs that run at this moment, found by their control sockets. */
import { BadInput } from "../failure.ts";
import type { ControlResult } from "./control-api.ts";
import { ControlClient } from "./control-client.ts";
import { allLabSockets, type LabSockets, labSockets } from "./runtime-folder.ts";

/** A lab that answered. */
export interface FoundLab extends ControlResult<"list"> {
  readonly sockets: LabSockets;
}

/** A connection to a lab's control socket; undefined when no lab lives there. */
export async function connectLab(sockets: LabSockets): Promise<ControlClient | undefined> {
  return ControlClient.connect(sockets.control).catch(() => undefined);
}

async function ask(sockets: LabSockets): Promise<FoundLab | undefined> {
  const client = await connectLab(sockets);
  try {
    return client && { ...(await client.call("list", {})), sockets };
  } catch {
    // It ended while we asked, or is of a version that we cannot talk to: either way nothing for us.
    return undefined;
  } finally {
    client?.close();
  }
}

/** All labs that run, by name. */
export async function runningLabs(root: string): Promise<FoundLab[]> {
  const labs = await Promise.all(allLabSockets(root).map(ask));
  return labs.filter((lab) => lab !== undefined).sort((a, b) => (a.lab < b.lab ? -1 : 1));
}

/**
 * Sockets of the lab called `name`; without a name those of the only lab that runs.
 * @throws BadInput, with the names of those that run
 */
export async function findLab(root: string, name: string | undefined): Promise<LabSockets> {
  const labs = await runningLabs(root);
  const names = labs.map((lab) => lab.lab).join(", ");
  if (name !== undefined) {
    const sockets = labs.find((lab) => lab.lab === name)?.sockets;
    if (sockets !== undefined) return sockets;
    const remedy = labs.length === 0 ? "none is; start one with domlab run" : `use one of: ${names}`;
    throw new BadInput("bad-option", `no lab ${name} is running`, remedy);
  }
  const [only, ...others] = labs;
  if (only === undefined) throw new BadInput("bad-option", "no lab is running", "start one with domlab run");
  if (others.length > 0) throw new BadInput("bad-option", "several labs are running", `choose with --lab: ${names}`);
  return only.sockets;
}

type Guest = FoundLab["guests"][number];

const isCalled = (guest: Guest, machine: string): boolean => guest.name === machine || String(guest.id) === machine;

/** The running guest of that name or number. @throws BadInput with the names of those that run */
export function guestNamed(guests: readonly Guest[], machine: string): Guest {
  const found = guests.find((guest) => isCalled(guest, machine));
  if (found !== undefined) return found;
  const names = guests.map(({ name }) => name).join(", ");
  const remedy = names === "" ? `none is; start it: domlab start ${machine}` : `use one of: ${names}`;
  throw new BadInput("bad-option", `no guest ${machine} is running`, remedy);
}

/** Sockets of the lab that runs a guest of that name. @throws BadInput when none does, or several do */
export async function findLabOf(root: string, machine: string): Promise<LabSockets> {
  const labs = await runningLabs(root);
  const [only, ...others] = labs.filter(({ guests }) => guests.some((guest) => isCalled(guest, machine)));
  if (others.length > 0) {
    const names = [only, ...others].map((each) => each?.lab).join(", ");
    throw new BadInput("bad-option", `several labs run a guest ${machine}`, `choose with --lab: ${names}`);
  }
  if (only !== undefined) return only.sockets;
  guestNamed(
    labs.flatMap(({ guests }) => guests),
    machine,
  );
  throw new Error("a guest is in the list and in no lab");
}

/** Whether a lab lives behind these sockets, whatever it answers. */
export async function isTaken(root: string, name: string): Promise<boolean> {
  const client = await connectLab(labSockets(root, name));
  client?.close();
  return client !== undefined;
}
