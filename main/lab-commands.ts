/** Commands about the devices of guests that run, in the lab or in disposable runs, under xl's names. */
import type { Command } from "commander";
import { addCaptureCommand } from "./capture-command.ts";
import type { ControlMethod, ControlParameters, ControlResult } from "./lab/control-api.ts";
import type { ControlClient } from "./lab/control-client.ts";
import { addNetworkCommands, type GuestWish, ofMachine } from "./network-commands.ts";
import { table } from "./table.ts";

export interface LabCommandOptions {
  /** Folder with the sockets of labs. */
  readonly root: () => string;
  /** Takes text for standard output. */
  readonly print?: (text: string) => void;
}

interface Raw extends GuestWish {
  readonly json?: boolean;
  readonly force?: boolean;
}

/** A connection to the lab that is meant. @throws BadInput when there is none */
async function connect(root: string, { lab, machine }: GuestWish): Promise<ControlClient> {
  // Here and below loaded only now, so that --help and wrong options answer at once.
  const [{ ControlClient }, { findLab, findLabOf }] = await Promise.all([
    import("./lab/control-client.ts"),
    import("./lab/find-lab.ts"),
  ]);
  const sockets = lab === undefined && machine !== undefined ? findLabOf(root, machine) : findLab(root, lab);
  return await ControlClient.connect((await sockets).control);
}

async function call<Method extends ControlMethod>(
  root: string,
  wish: GuestWish,
  method: Method,
  parameters: ControlParameters<Method>,
): Promise<ControlResult<Method>> {
  const client = await connect(root, wish);
  try {
    return await client.call(method, parameters);
  } finally {
    client.close();
  }
}

/** Rows about devices, of all guests or of the one that is meant. */
async function deviceRows<Row extends { readonly frontendId: number }>(
  root: string,
  wish: GuestWish,
  ask: (client: ControlClient) => Promise<Row[]>,
): Promise<Row[]> {
  const client = await connect(root, wish);
  try {
    const rows = await ask(client);
    if (wish.machine === undefined) return rows;
    const { guests } = await client.call("list", {});
    const { guestNamed } = await import("./lab/find-lab.ts");
    const { id } = guestNamed(guests, wish.machine);
    return rows.filter((row) => row.frontendId === id);
  } finally {
    client.close();
  }
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

/** Adds `block-attach`, `block-detach`, `block-list`, `block-stat`, the network commands and `capture`. */
export function addLabCommands(program: Command, { root, print: given }: LabCommandOptions): void {
  const print = given ?? ((text: string) => void process.stdout.write(text));
  const labOption = ["--lab <name>", "the lab that is meant, if several are running"] as const;
  const machineOption = ["-m, --machine <machine>", "the guest that is meant, if the lab has several"] as const;
  const jsonOption = ["--json", "print JSON"] as const;

  addNetworkCommands(program, {
    call: (wish, ...rest) => call(root(), typeof wish === "object" ? wish : { ...(wish && { lab: wish }) }, ...rest),
    vifs: (wish) => deviceRows(root(), wish, (client) => client.call("networkList", {})),
    print,
  });
  addCaptureCommand(program, { connect: (lab) => connect(root(), { ...(lab !== undefined && { lab }) }) });
  program
    .command("block-attach <disk>")
    .description("Give a running guest a disk, described as for domlab run --disk.")
    .option(...labOption)
    .option(...machineOption)
    .action(async (disk: string, raw: Raw) => {
      await call(root(), raw, "blockAttach", { disk, cwd: process.cwd(), ...ofMachine(raw) });
    });
  program
    .command("block-detach <vdev>")
    .description("Take a disk away from a running guest.")
    .option(...labOption)
    .option(...machineOption)
    .option("--force", "even if the guest does not give it up")
    .action(async (vdev: string, raw: Raw) => {
      await call(root(), raw, "blockDetach", { vdev, force: raw.force ?? false, ...ofMachine(raw) });
    });
  program
    .command("block-list")
    .description("Show the disks of a running guest.")
    .option(...labOption)
    .option(...machineOption)
    .option(...jsonOption)
    .action(async (raw: Raw) => {
      const disks = await deviceRows(root(), raw, (client) => client.call("blockList", {}));
      print(raw.json ? `${JSON.stringify(disks)}\n` : showDisks(disks));
    });
  program
    .command("block-stat")
    .description("Show what the disks of a running guest have counted: requests, sectors, notifications, grants.")
    .option(...labOption)
    .option(...machineOption)
    .option(...jsonOption)
    .action(async (raw: Raw) => {
      const disks = await deviceRows(root(), raw, (client) => client.call("blockStatistics", {}));
      print(raw.json ? `${JSON.stringify(disks)}\n` : showStatistics(disks));
    });
}
