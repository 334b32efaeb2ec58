/** What is done to several machines at once, with one way back. */
import type { MachineSummary } from "../../../main/lab/machine-api.ts";
import { plural } from "../format.ts";
import { call } from "../rpc/client.ts";
import { attempt, notices } from "../state/notices.svelte.ts";

/** So many at a time: guests that boot share the host's processors. */
const AT_ONCE = 3;

/** Does something to each, a few at a time and in their order. @returns what was returned, undefined for what failed */
export async function forEachMachine<T>(
  machines: readonly MachineSummary[],
  action: (machine: MachineSummary) => Promise<T>,
): Promise<(T | undefined)[]> {
  const results: (T | undefined)[] = machines.map(() => undefined);
  let next = 0;
  const work = async () => {
    while (next < machines.length) {
      const index = next++;
      results[index] = await action(machines[index]!);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return results;
}

/** Deletes machines, and offers to take all of them back: the lab keeps a deleted machine for some days. */
export async function deleteMachines(machines: readonly MachineSummary[]): Promise<void> {
  const answers = await forEachMachine(machines, ({ id }) => attempt(() => call("machineDelete", { machine: id })));
  const gone = machines.filter((_, index) => answers[index] !== undefined);
  const [first] = gone;
  if (first === undefined) return;
  const what = gone.length === 1 ? `${first.name} was` : `${plural(gone.length, "machine")} were`;
  const until = answers.find((answer) => answer !== undefined)?.purgeAfter;
  const day = until === undefined ? "" : ` until ${new Date(until).toLocaleDateString()}`;
  notices.success(`${what} deleted, and can be taken back${day}.`, {
    label: "Undo",
    run: () => void forEachMachine(gone, ({ id }) => attempt(() => call("machineUndelete", { machine: id }))),
  });
}

/** Puts machines into a group, and offers to put them back into theirs. */
export async function setGroup(machines: readonly MachineSummary[], group: string): Promise<void> {
  const put = ({ id }: MachineSummary, name: string) =>
    attempt(() => call("machineSet", { machine: id, settings: [`group=${name}`] }));
  const changing = machines.filter((machine) => machine.group !== group);
  const answers = await forEachMachine(changing, (machine) => put(machine, group));
  const changed = changing.filter((_, index) => answers[index] !== undefined);
  if (changed.length === 0) return;
  const who = changed.length === 1 ? `${changed[0]?.name} is` : `${plural(changed.length, "machine")} are`;
  notices.success(group === "" ? `${who} in no group now.` : `${who} in the group ${group} now.`, {
    label: "Undo",
    run: () => void forEachMachine(changed, (machine) => put(machine, machine.group)),
  });
}
