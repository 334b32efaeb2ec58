/** Ends that a guest is asked for and may take its time about: power-off and reboot. */
import type { MachineContext } from "./context.ts";
import { type GuestRequest, hasTaken, takeBack } from "./control-node.ts";
import { MachineError } from "./errors.ts";
import type { GuestRun, Machine } from "./machine.ts";
import { endsWithin } from "./waiting.ts";

type Context = Pick<MachineContext, "host" | "operations">;

export interface Patience {
  /** What the guest is given; undefined: what the machine's configuration says. */
  readonly seconds?: number | undefined;
  /** Destroy it when the time is over. */
  readonly force: boolean;
}

const DONE = { poweroff: "powered off", reboot: "rebooted" } as const;

/**
 * Asks the guest to power off, and waits for its end.
 * @returns whether it had to be destroyed
 * @throws MachineError "not-answering" when the time is over; the machine goes on running. As Machine.ask()
 */
export async function shutDown(context: Context, machine: Machine, patience: Patience): Promise<boolean> {
  return await awaitEnd(context, machine, await machine.ask("poweroff"), "poweroff", patience);
}

/** As shutDown(), and starts the machine again. @returns the new domain's number, and whether it had to be destroyed */
export async function reboot(
  context: Context,
  machine: Machine,
  patience: Patience,
): Promise<{ domid: number; forced: boolean }> {
  const forced = await awaitEnd(context, machine, await machine.ask("reboot"), "reboot", patience);
  if (forced) {
    const what = `start of ${machine.name}`;
    await context.operations.run({ what, machine: machine.id }, (control) => machine.start(control));
  }
  // A restart is queued by now.
  await machine.until(() => !machine.restarting);
  await machine.queue.run(() => undefined);
  const domid = machine.guest?.handle.id;
  if (domid !== undefined) return { domid, forced };
  const why = machine.message ?? "it ended";
  throw new MachineError("failed", `${machine.name} did not start again: ${why}`, "start it");
}

async function awaitEnd(
  context: Context,
  machine: Machine,
  run: GuestRun,
  request: GuestRequest,
  { seconds = machine.record.config.shutdownTimeoutSeconds, force }: Patience,
): Promise<boolean> {
  if (await endsWithin(run.settled, seconds)) return false;
  if (!force) throw giveUp(context, machine, run, request, seconds);
  await machine.destroy();
  return true;
}

/** The request is taken back if it can be, and the machine is running again. */
function giveUp(
  { host }: Context,
  machine: Machine,
  run: GuestRun,
  request: GuestRequest,
  seconds: number,
): MachineError {
  const { toolstack } = host.xenstore;
  const taken = hasTaken(toolstack, run.handle.id);
  takeBack(toolstack, run.handle.id);
  machine.goOn(run);
  const how = taken ? "it has taken the request" : "it has not taken the request, which is withdrawn";
  return new MachineError(
    "not-answering",
    `${machine.name} has not ${DONE[request]} within ${seconds} s (${how})`,
    `allow more time with --timeout, or end it with domlab destroy ${machine.name}`,
  );
}
