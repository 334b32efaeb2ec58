import { Command, CommanderError } from "commander";
import { addCheckCommand } from "./check-command.ts";
import { BadInput, EXIT_BAD_INPUT, EXIT_OK, explain } from "./failure.ts";
import { addImageCommands } from "./image-commands.ts";
import { runtimeRoot } from "./lab/runtime-folder.ts";
import { addLabCommands } from "./lab-commands.ts";
import { addMachineCommands, programContext } from "./machine-commands/commands.ts";
import { addLibraryCommands } from "./machine-commands/library-commands.ts";
import type { RunReport } from "./report.ts";
import { DEFAULT_IMAGE, DEFAULT_MEMORY_MIB, parseRunOptions, type RawRunOptions } from "./run-options.ts";
import { addServeCommands } from "./serve/serve-command.ts";
import { addXenstoreCommand } from "./xenstore-command.ts";

/** Version of package.json; a constant so that the program does not search for its own files. */
const VERSION = "0.1.0";

/** `domlab run`; with --json every end, a refusal too, is told as one JSON object. */
async function runCommand(raw: RawRunOptions): Promise<number> {
  const begin = Date.now();
  const print = (report: RunReport) => {
    if (raw.json) process.stdout.write(`${JSON.stringify(report)}\n`);
    return report.exit;
  };
  try {
    const options = parseRunOptions(raw);
    // Loaded only now, so that --help and wrong options answer at once.
    const { run } = await import("./run.ts");
    return print(await run(options));
  } catch (error) {
    const { line, status } = explain(error);
    print({ status: "failed", exit: status, seconds: (Date.now() - begin) / 1000, error: line });
    throw error;
  }
}

/** Collects the values of an option that may be repeated. */
const repeatable = (text: string, others: readonly string[] = []): string[] => [...others, text];

function program(setStatus: (status: number) => void): Command {
  const domlab = new Command("domlab")
    .description("A lab of virtual machines built on the Xen device architecture, in user space.")
    .version(VERSION)
    .exitOverride()
    .configureOutput({ outputError: () => {} });
  domlab
    .command("run")
    .description("Boot a guest and attach this terminal to its console, or run one command in it.")
    .option("--image <name>", `guest image to boot (default: ${DEFAULT_IMAGE})`)
    .option("--kernel <file>", "kernel of your own: a bzImage or an ELF file with a Xen PVH entry")
    .option("--initrd <file>", "initial RAM disk of your own; without it the image's")
    .option("--memory <MiB>", `guest memory (default: ${DEFAULT_MEMORY_MIB})`)
    .option("--cmdline <text>", "kernel command line in place of the image's")
    .option("--disk <disk>", "give the guest a disk, for example target=disk.img,vdev=xvda (repeatable)", repeatable)
    .option(
      "--vif <vif>",
      "give the guest a network interface, for example bridge=lab0,rate=10Mb/s (repeatable)",
      repeatable,
    )
    .option("--network <uplink>", "a switch with this uplink, for example user, and an interface on it", repeatable)
    .option("--forward <forward>", "lead a port of the host to the guest, for example tcp:8080:80", repeatable)
    .option("--exec <command>", "run this shell command in the guest and end with its exit status")
    .option("--timeout <seconds>", "stop the guest after that long, with exit status 124")
    .option("--json", "print one JSON object about the run on standard output")
    .option("--verbose", "show the guest's kernel log on standard error")
    .addHelpText(
      "after",
      [
        "",
        "Disks are described as for xl: target,format,vdev,access in this order, or key=value. A target is",
        "a raw image, a block device or an NBD server (nbd://host/export, nbd+unix:///export?socket=path). access=ro|rw,",
        "offset= and length= serve a part, placement=hypervisor serves from the guest's own process.",
        "",
        "Interfaces are described as for xl: mac, bridge (a switch, lab0 unless said), ip, rate, mtu, devid, backend; ours are",
        "spoofing=on, vlan=, notify=frames/microseconds. Uplinks: user (the host's network, without privileges), tap, socket,",
        "pcap, passt, none; [switch=]kind,setting=value. lab0 has the uplink user unless said.",
        "",
        "Keys in an interactive session: Ctrl-] stops the guest and leaves. Ctrl-C stops it while it boots and is the",
        "guest's own key afterwards; pressed twice it always gives the terminal back.",
        "",
        "Exit status: the guest command's own; 1 the guest crashed; 2 bad input; 124 timeout; 130 stopped with Ctrl-C.",
      ].join("\n"),
    )
    .action(async (raw: RawRunOptions) => {
      setStatus(await runCommand(raw));
    });
  const context = programContext(VERSION, setStatus);
  addServeCommands(domlab, { ...context, version: VERSION, root: () => runtimeRoot() });
  addMachineCommands(domlab, context, () => runtimeRoot());
  const before = domlab.commands.length;
  addLabCommands(domlab, { root: () => runtimeRoot() });
  const socketOf = async (lab: string | undefined) => {
    const { findLab } = await import("./lab/find-lab.ts");
    return (await findLab(runtimeRoot(), lab)).xenstore;
  };
  addXenstoreCommand(domlab, { socketOf, setStatus });
  for (const command of domlab.commands.slice(before)) command.helpGroup("Guests that run:");
  addLibraryCommands(addImageCommands(domlab, { setStatus }), context);
  addCheckCommand(domlab, {
    look: async () => {
      const [{ hostChecks }, { labHome }] = await Promise.all([
        import("./host-checks.ts"),
        import("./lab/store/paths.ts"),
      ]);
      return await hostChecks({ home: labHome() });
    },
    print: (text) => void process.stdout.write(text),
    setStatus,
  });
  return domlab;
}

/** The words of a command that begin the arguments: its name, and that of the group before it. */
function commandIn(domlab: Command, args: readonly string[]): string[] {
  const words: string[] = [];
  let command: Command | undefined = domlab;
  for (const word of args) {
    command = command.commands.find((each) => each.name() === word || each.aliases().includes(word));
    if (command === undefined) break;
    words.push(command.name());
  }
  return words;
}

/** Where the help to these arguments is. */
function helpOf(domlab: Command, args: readonly string[]): string {
  return ["domlab", ...commandIn(domlab, args), "--help"].join(" ");
}

/** @throws BadInput for help that is wanted about what is no command: commander would print all there is */
function checkHelp(domlab: Command, [first, ...about]: readonly string[]): void {
  const known = commandIn(domlab, about);
  if (first !== "help" || [undefined, "help"].includes(about[known.length])) return;
  throw new BadInput("bad-option", `unknown command '${about[known.length]}'`, `see ${helpOf(domlab, about)}`);
}

/** What `npm start -- …` means: the app; with an option of `domlab run` first, a guest in this terminal. */
function startArguments(domlab: Command, args: readonly string[]): string[] {
  const [flag] = args[0]?.split("=", 1) ?? [];
  const run = domlab.commands.find((command) => command.name() === "run");
  const isRun = run?.options.some(({ long }) => long === flag) ?? false;
  return [isRun ? "run" : "app", ...args];
}

/** Runs the command line; returns the exit status. Every failure becomes one line on standard error. */
async function main(given: readonly string[]): Promise<number> {
  let status = EXIT_OK;
  const domlab = program((value) => {
    status = value;
  });
  // main/bootstrap.mjs says it for npm start.
  const args = given[0] === "npm-start" ? startArguments(domlab, given.slice(1)) : given;
  try {
    checkHelp(domlab, args);
    await domlab.parseAsync(args, { from: "user" });
    return status;
  } catch (error) {
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return EXIT_OK;
      if (error.code === "commander.help") return EXIT_BAD_INPUT;
      const message = error.message
        .replace(/^error: /, "")
        .replace(/\s*\n\s*/g, " ")
        .replace(/\.$/, "");
      process.stderr.write(`domlab: ${message}; see ${helpOf(domlab, args)}\n`);
      return EXIT_BAD_INPUT;
    }
    const told = explain(error);
    process.stderr.write(`domlab: ${told.line}\n`);
    if (told.stack && process.env.DOMLAB_DEBUG) process.stderr.write(`${told.stack}\n`);
    return told.status;
  }
}

/** Ends the process once stdout and stderr are written out: they may be pipes, which exit() would cut short. */
function leave(status: number): void {
  process.exitCode = status;
  let open = 2;
  const closed = (error?: Error | null) => {
    // The listener for errors ends the process.
    if (error) return;
    open--;
    if (open === 0) process.exit(status);
  };
  process.stdout.write("", closed);
  process.stderr.write("", closed);
}

// A reader that went away (`domlab run … | head`) is no failure of ours: end quietly, as other tools do under SIGPIPE.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(141);
  // What was to be said is lost: nobody may take that for success.
  process.stderr.write(`domlab: ${explain(Object.assign(error, { path: "standard output" })).line}\n`);
  process.exit(EXIT_BAD_INPUT);
});
process.stderr.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 141 : 1));

leave(await main(process.argv.slice(2)));
