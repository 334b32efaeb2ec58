/** Commands about labs that run: their guests and their disks, under xl's names. */
import type { Command } from "commander";
import { addCaptureCommand } from "./capture-command.ts";
import type { ControlMethod, ControlParameters, ControlResult } from "./lab/control-api.ts";
import type { ControlClient } from "./lab/control-client.ts";
import { addNetworkCommands } from "./network-commands.ts";
import { table } from "./table.ts";

export interface LabCommandOptions {
  /** Folder with the sockets of labs. */
  readonly root: () => string;
  /** Takes text for standard output. */
  readonly print?: (text: string) => void;
}

interface Raw {
  readonly lab?: string;
  readonly json?: boolean;
  readonly force?: boolean;
}

/** A connection to the lab that is meant. @throws BadInput when there is none */
async function connect(root: string, lab: string | undefined): Promise<ControlClient> {
  // Here and below loaded only now, so that --help and wrong options answer at once.
  const [{ ControlClient }, { findLab }] = await Promise.all([
    import("./lab/control-client.ts"),
    import("./lab/find-lab.ts"),
  ]);
  return await ControlClient.connect((await findLab(root, lab)).control);
}

async function call<Method extends ControlMethod>(
  root: string,
  lab: string | undefined,
  method: Method,
  parameters: ControlParameters<Method>,
): Promise<ControlResult<Method>> {
  const client = await connect(root, lab);
  try {
    return await client.call(method, parameters);
  } finally {
    client.close();
  }
}

async function listLabs(root: string, json: boolean): Promise<string> {
  const { runningLabs } = await import("./lab/find-lab.ts");
  const labs = (await runningLabs(root)).map(({ lab, pid, guests }) => ({ lab, pid, guests }));
  if (json) return `${JSON.stringify(labs)}\n`;
  const rows = labs.flatMap(({ lab, guests }) =>
    guests.map((guest) => [lab, guest.id, guest.pid, guest.memoryMiB, guest.disks.join(",")]),
  );
  return table([["Name", "ID", "PID", "Mem", "Disks"], ...rows]);
}

function showDisks(disks: ControlResult<"blockList">): string {
  const rows = disks.map((disk) => [
    disk.name,
    disk.vdev,
    disk.backendId,
    disk.backend,
    disk.stateName,
    disk.mode,
    disk.target,
  ]);
  return table([["Vdev", "Handle", "BE", "Backend", "State", "Mode", "Target"], ...rows]);
}

/** One column a disk, one line a counter. */
function showStatistics(disks: ControlResult<"blockStatistics">): string {
  const names = [...new Set(disks.flatMap((disk) => Object.keys(disk.counters)))];
  const rows = names.map((name) => [name, ...disks.map((disk) => disk.counters[name] ?? 0)]);
  return table([["", ...disks.map((disk) => disk.name)], ...rows]);
}

/** Adds `list`, `block-attach`, `block-detach`, `block-list`, `block-stat`, the network commands and `capture`. */
export function addLabCommands(program: Command, { root, print: given }: LabCommandOptions): void {
  const print = given ?? ((text: string) => void process.stdout.write(text));
  const labOption = ["--lab <name>", "the lab that is meant, if several are running"] as const;
  const jsonOption = ["--json", "print JSON"] as const;

  addNetworkCommands(program, { call: (lab, ...rest) => call(root(), lab, ...rest), print });
  addCaptureCommand(program, { connect: (lab) => connect(root(), lab) });
  program
    .command("list")
    .description("Show the labs that run: each domlab run is one.")
    .option(...jsonOption)
    .action(async (raw: Raw) => print(await listLabs(root(), raw.json ?? false)));
  program
    .command("block-attach <disk>")
    .description("Give a running guest a disk, described as for domlab run --disk.")
    .option(...labOption)
    .action(async (disk: string, raw: Raw) => {
      await call(root(), raw.lab, "blockAttach", { disk, cwd: process.cwd() });
    });
  program
    .command("block-detach <vdev>")
    .description("Take a disk away from a running guest.")
    .option(...labOption)
    .option("--force", "even if the guest does not give it up")
    .action(async (vdev: string, raw: Raw) => {
      await call(root(), raw.lab, "blockDetach", { vdev, force: raw.force ?? false });
    });
  program
    .command("block-list")
    .description("Show the disks of a running guest.")
    .option(...labOption)
    .option(...jsonOption)
    .action(async (raw: Raw) => {
      const disks = await call(root(), raw.lab, "blockList", {});
      print(raw.json ? `${JSON.stringify(disks)}\n` : showDisks(disks));
    });
  program
    .command("block-stat")
    .description("Show what the disks of a running guest have counted: requests, sectors, notifications, grants.")
    .option(...labOption)
    .option(...jsonOption)
    .action(async (raw: Raw) => {
      const disks = await call(root(), raw.lab, "blockStatistics", {});
      print(raw.json ? `${JSON.stringify(disks)}\n` : showStatistics(disks));
    });
}
