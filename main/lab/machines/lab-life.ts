/** What happens to all machines when the lab starts and when it ends. */
import { setTimeout as delay } from "node:timers/promises";
import { explain } from "../../failure.ts";
import { shutDown } from "./asked-end.ts";
import type { MachineContext } from "./context.ts";
import { imageOf, isLayered } from "./guest-config.ts";
import type { ImageFile } from "./image-tools.ts";
import { holdMachines } from "./lab-snapshots.ts";
import type { Machine } from "./machine.ts";
import type { Machines } from "./machines.ts";
import { dropPending } from "./snapshots.ts";
import { suspendNow } from "./suspend.ts";

/**
 * Puts an image in order with the layers behind it: a lab that was killed between the commit of a snapshot and the swap of the
 * disks has left its guest's image below a new one, and nobody opens it for writing any more.
 */
async function recoverImages({ images, layers }: MachineContext, active: ImageFile): Promise<void> {
  for (let image: ImageFile | undefined = active; image !== undefined; image = await layers.backingOf(image)) {
    if (image !== active && !layers.isOwn(image.path)) return;
    if (image.format === "qcow2") await images.recover(image.path);
  }
}

/**
 * Puts the records and images in order that a lab left which was killed.
 * @returns lines for the user
 */
export async function recoverMachines(context: MachineContext, machines: Machines): Promise<string[]> {
  const { store } = context;
  const lines = await dropPending(context);
  // A suspended one is to go on now: the lab has ended in order.
  const ran = machines.all().filter(({ record }) => record.wasRunning && record.state === "stopped");
  for (const machine of ran) {
    machine.message = "ran when the lab was ended without notice: its disks are as after a power cut";
    lines.push(`${machine.name} ${machine.message}`);
    for (const disk of machine.record.config.disks.filter(isLayered)) {
      // A missing image is told when the machine is started.
      await recoverImages(context, imageOf(disk)).catch((error: unknown) => lines.push(explain(error).line));
    }
  }
  if (ran.length > 0) {
    await store.update((draft) => {
      for (const record of draft.machines) if (record.state === "stopped") record.wasRunning = false;
    });
  }
  return lines;
}

/** Removes what nothing needs, merges what a crash or a running machine has put off, purges what was deleted long ago. */
export async function tidyLab(context: MachineContext, machines: Machines): Promise<void> {
  const { store, layers, log } = context;
  const { removed } = await store.sweep({ backingOf: layers.backingOfPath, isInUse: (file) => layers.isClaimed(file) });
  if (removed.length > 0) log(`${removed.length} files that nothing needs were removed`);
  await purgeExpired(context, machines);
  await layers.tidy();
}

/** Removes machines and images whose time for being taken back is over. */
export async function purgeExpired({ store, library, log }: MachineContext, machines: Machines): Promise<void> {
  const expired = store.expired();
  if (expired.length > 0) await machines.purge(expired);
  const purged = await library.purge(store.data.settings.purgeDays);
  if (purged > 0) log(`${purged} images that were deleted long ago were removed`);
}

/**
 * Starts the machines that are set to start by themselves, and those that the lab's end suspended; the lowest priority number
 * first. One that cannot start does not keep the others.
 */
export async function autostart(context: MachineContext, machines: Machines): Promise<void> {
  const chosen = machines.all().filter(({ record: { config, state, wasRunning } }) => {
    return state === "suspended" ? wasRunning : state === "stopped" && config.autostart;
  });
  const ordered = chosen.sort(
    (a, b) => a.record.config.startPriority - b.record.config.startPriority || (a.name < b.name ? -1 : 1),
  );
  for (const machine of ordered) {
    if (context.isQuitting()) return;
    try {
      const what = `start of ${machine.name}`;
      await context.operations.run({ what, machine: machine.id }, (control) => machine.start(control));
    } catch (error) {
      context.log(`${machine.name} did not start: ${explain(error).line}`);
    }
    const seconds = machine.record.config.startDelaySeconds;
    if (seconds > 0) await delay(seconds * 1000);
  }
}

export type EndOfMachines = "suspend" | "shutdown" | "destroy";

/**
 * Ends all machines for the end of the lab: those that are to be suspended at one moment, the others by their guests, the last
 * started priority first; a guest that does not answer is suspended after all, or destroyed when that fails.
 * @param how for all; without it as each is set to
 * @returns notes for the user
 */
export async function endMachines(
  context: MachineContext,
  machines: Machines,
  how: EndOfMachines | undefined,
): Promise<string[]> {
  const notes: string[] = [];
  const running = machines.all().filter(({ guest }) => guest !== undefined);
  const wish = (machine: Machine): EndOfMachines => {
    const { suspendOnQuit = context.store.data.settings.suspendOnQuit } = machine.record.config;
    return how ?? (suspendOnQuit ? "suspend" : "shutdown");
  };
  const shutdown = running.filter((machine) => wish(machine) === "shutdown");
  const late = await shutDownAll(context, shutdown);
  notes.push(...late.map(({ machine, line }) => `${machine.name}: ${line}`));
  const suspend = [...running.filter((machine) => wish(machine) === "suspend"), ...late.map(({ machine }) => machine)];
  notes.push(...(await suspendAll(context, suspend)));
  // What cannot be saved, for want of space say, is asked to end by itself before it is ended.
  const unsaved = suspend.filter((machine) => machine.guest !== undefined && !shutdown.includes(machine));
  await shutDownAll(context, unsaved);
  for (const machine of running) {
    if (machine.guest === undefined) continue;
    await machine.destroy();
    notes.push(`${machine.name} was ended at once`);
  }
  return notes;
}

async function shutDownAll(
  context: MachineContext,
  machines: readonly Machine[],
): Promise<{ machine: Machine; line: string }[]> {
  const late: { machine: Machine; line: string }[] = [];
  const priorities = [...new Set(machines.map(({ record }) => record.config.startPriority))].sort((a, b) => b - a);
  for (const priority of priorities) {
    const group = machines.filter(({ record }) => record.config.startPriority === priority);
    await Promise.all(
      group.map(async (machine) => {
        try {
          if (machine.state === "paused") await machine.unpause();
          await shutDown(context, machine, { force: false });
        } catch (error) {
          late.push({ machine, line: explain(error).line });
        }
      }),
    );
  }
  return late;
}

/** Suspends machines together, and one by one if that fails: a single one must not cost the others their state. */
async function suspendAll(context: MachineContext, machines: readonly Machine[]): Promise<string[]> {
  const now = machines.filter(({ guest }) => guest !== undefined);
  if (now.length === 0) return [];
  const run = (group: readonly Machine[], what: string) =>
    context.operations.run({ what }, (control) => holdMachines(group, () => suspendNow(context, group, control, true)));
  const settle = (group: readonly Machine[]) => Promise.all(group.map(({ guest }) => guest?.settled));
  try {
    const runs = settle(now);
    await run(now, "suspending all machines");
    await runs;
    return [];
  } catch (error) {
    const notes = [explain(error).line];
    for (const machine of now) {
      if (machine.guest === undefined) continue;
      const runs = settle([machine]);
      try {
        await run([machine], `suspending ${machine.name}`);
        await runs;
      } catch (failure) {
        notes.push(`${machine.name}: ${explain(failure).line}`);
      }
    }
    return notes;
  }
}
