/** `domlab list`: the machines of the lab and the guests of disposable runs. Starts no lab. */
import type { Command } from "commander";
import { BadInput } from "../failure.ts";
import type { MachineSummary } from "../lab/machine-api.ts";
import { type CommandContext, JSON_OPTION, type LabClient } from "./context.ts";
import { type LongFacts, machineTable, type RunGuest } from "./show.ts";

interface ListOptions {
  /** Deleted ones that can be taken back, too. */
  readonly all?: boolean;
  readonly deleted?: boolean;
  readonly long?: boolean;
  readonly json?: boolean;
}

/**
 * The machines of a lab that does not run, from its records alone: nobody is started to be looked at, with all that starts
 * with it. Undefined when the records cannot be used, which is for the lab to mend.
 */
async function recordedMachines(home: string): Promise<MachineSummary[] | undefined> {
  const [{ labPaths }, { readLabFile }, { labFormat }, { purgeDate }] = await Promise.all([
    import("../lab/store/paths.ts"),
    import("../lab/store/read-records.ts"),
    import("../lab/store/migrations.ts"),
    import("../lab/store/schema.ts"),
  ]);
  const read = await readLabFile(labPaths(home).records, labFormat);
  if (read.kind === "bad") return undefined;
  if (read.kind === "absent") return [];
  const { machines, settings } = read.value;
  return machines.map(({ id, config, state, created, changed, snapshots, deletedAt }) => ({
    id,
    name: config.name,
    state,
    memoryMiB: config.memoryMiB,
    ...(config.image !== null && { image: config.image }),
    group: config.group,
    autostart: config.autostart,
    protected: config.protected,
    created,
    changed,
    snapshots: snapshots.filter(({ status }) => status === "complete").length,
    ...(deletedAt !== undefined && { purgeAfter: purgeDate(deletedAt, settings) }),
  }));
}

async function askMachines(lab: LabClient, { all, deleted }: ListOptions): Promise<MachineSummary[]> {
  const present = deleted ? [] : await lab.call("machineList", {});
  return all || deleted ? [...present, ...(await lab.call("machineList", { deleted: true }))] : present;
}

async function factsOf(lab: LabClient, machines: readonly MachineSummary[]): Promise<Map<string, LongFacts>> {
  const found = new Map<string, LongFacts>();
  for (const { id, state } of machines) {
    if (state === "deleted") continue;
    // It may be gone since it was listed.
    const details = await lab.call("machineShow", { machine: id }).catch(() => undefined);
    if (details !== undefined) found.set(id, details);
  }
  return found;
}

/** @param runs guests of labs that are disposable runs */
async function listMachines(
  context: CommandContext,
  runs: (home: string) => Promise<readonly RunGuest[]>,
  raw: ListOptions,
): Promise<string> {
  const home = await context.home();
  let lab = await context.connectRunning();
  let recorded: MachineSummary[] | undefined;
  try {
    if (lab === undefined) {
      recorded = await recordedMachines(home);
      // Damaged records are put together again from copies by the lab, and by nobody else.
      if (recorded === undefined || raw.long) lab = recorded?.length === 0 ? undefined : await context.connect();
    }
    const wanted = (machine: MachineSummary) => raw.all || (machine.state === "deleted") === (raw.deleted ?? false);
    const machines = lab === undefined ? (recorded ?? []).filter(wanted) : await askMachines(lab, raw);
    const long = raw.long
      ? await (lab === undefined ? new Map<string, LongFacts>() : factsOf(lab, machines))
      : undefined;
    const guests = raw.deleted ? [] : await runs(home);
    if (!raw.json && machines.length + guests.length === 0) {
      context.tell(
        raw.deleted ? "no deleted machine can be taken back" : "there is no machine yet: domlab create makes one",
      );
    }
    if (!raw.json) return machineTable(machines, guests, long);
    const rows = machines.map((machine) => {
      const facts = long?.get(machine.id);
      return facts === undefined
        ? machine
        : { ...machine, disks: facts.disks, config: facts.config, statistics: facts.statistics };
    });
    const running = guests.map((guest) => ({
      lab: guest.lab,
      name: guest.name,
      state: "running",
      domid: guest.id,
      pid: guest.pid,
      memoryMiB: guest.memoryMiB,
      disks: guest.disks,
    }));
    return `${JSON.stringify([...rows, ...running])}\n`;
  } finally {
    lab?.close();
  }
}

/** Guests of labs other than the one in that folder. */
async function otherGuests(root: string, home: string): Promise<RunGuest[]> {
  const [{ runningLabs }, { readServerFile }] = await Promise.all([
    import("../lab/find-lab.ts"),
    import("../lab/server/server-file.ts"),
  ]);
  const own = (await readServerFile(home))?.control;
  const others = (await runningLabs(root)).filter(({ sockets }) => sockets.control !== own);
  return others.flatMap(({ lab, guests }) => guests.map((guest) => ({ ...guest, lab })));
}

/** Adds `list`. @param root folder with the sockets of labs */
export function addListCommand(program: Command, context: CommandContext, root: () => string): void {
  program
    .command("list")
    .description("Show the machines of the lab, and the guests of each domlab run. Starts no lab.")
    .option("-a, --all", "deleted machines that can be taken back, too")
    .option("--deleted", "only those")
    .option("-l, --long", "disks, interfaces and processor time, too")
    .option(...JSON_OPTION)
    .action(async (raw: ListOptions) => {
      if (raw.all && raw.deleted) {
        throw new BadInput("bad-option", "--all and --deleted contradict each other", "leave one out");
      }
      context.print(await listMachines(context, (home) => otherGuests(root(), home), raw));
    });
}
