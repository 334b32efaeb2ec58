/**
 * Suspending machines: their memory goes to files and they end, all at one moment, so that connections between them survive.
 * Their records say so before anything else happens to them; how they go on is Machine.start().
 */
import { setTimeout as delay } from "node:timers/promises";
import { explain } from "../../failure.ts";
import type { MachineContext } from "./context.ts";
import type { GuestRun, Machine } from "./machine.ts";
import type { SnapshotResult } from "./machine-host.ts";
import type { OperationControl } from "./operations.ts";
import { memoryFileName, memoryNeed } from "./snapshots.ts";
import { wantSpace } from "./space.ts";

/** Their guests are gone when the commit fails, so it is tried for as long: somebody may free space meanwhile. */
const COMMIT_TRIES = 30;
const COMMIT_RETRY_MS = 1000;

interface Saved {
  readonly machine: Machine;
  readonly run: GuestRun;
  readonly wasPaused: boolean;
  readonly memory: string;
}

/**
 * Suspends machines whose queues the caller holds.
 * @param resumeAtStart whether the lab's next start has them go on
 * @returns bytes of their memory files, in the order of the machines
 * @throws what the user can mend; the guests run on unless the message says otherwise
 */
export async function suspendNow(
  context: MachineContext,
  machines: readonly Machine[],
  control: OperationControl,
  resumeAtStart = false,
): Promise<number[]> {
  const { store, host } = context;
  control.step("saving memory");
  const saved: Saved[] = [];
  for (const machine of machines) {
    const run = machine.wantGuest("suspended");
    saved.push({ machine, run, wasPaused: machine.state === "paused", memory: memoryFileName(machine.id) });
  }
  const needs = await Promise.all(machines.map(memoryNeed));
  const need = needs.reduce((sum, bytes) => sum + bytes, 0);
  await wantSpace(store.paths.memory, need, `suspending ${machines.map(({ name }) => name).join(", ")}`);
  control.commit();
  let results: readonly SnapshotResult[];
  for (const { machine, run } of saved) {
    run.wish = "suspend";
    machine.setPhase("saving");
  }
  try {
    const requests = saved.map(({ run, memory }) => ({
      id: run.handle.id,
      file: store.paths.memoryFile(memory),
      disks: [],
    }));
    results = await host.snapshot(requests, { stop: true });
  } catch (error) {
    for (const { machine, run, wasPaused } of saved) {
      run.wish = undefined;
      if (machine.guest === run) machine.setPhase(wasPaused ? "paused" : "running");
    }
    await context.layers.discard({ memory: saved.map(({ memory }) => store.paths.memoryFile(memory)) });
    throw error;
  }
  await commitSaved(context, saved, resumeAtStart);
  return saved.map(({ run }) => results.find(({ id }) => id === run.handle.id)?.fileBytes ?? 0);
}

async function commitSaved(context: MachineContext, saved: readonly Saved[], wasRunning: boolean): Promise<void> {
  for (let tries = 1; ; tries++) {
    try {
      await context.store.update((draft) => {
        for (const { machine, memory } of saved) {
          const record = draft.machines.find(({ id }) => id === machine.id);
          if (record !== undefined) Object.assign(record, { state: "suspended", memory, wasRunning });
        }
      });
      return;
    } catch (error) {
      if (tries === COMMIT_TRIES) throw error;
      context.log(`${explain(error).line}; trying again, so that suspended machines are not lost`);
      await delay(COMMIT_RETRY_MS);
    }
  }
}
