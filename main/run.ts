import { randomBytes } from "node:crypto";
import path from "node:path";
import { checkMemorySize } from "../engine/builder/build.ts";
import { checkChain } from "../engine/disk/chain.ts";
import type { DomainConfig, DomainExit } from "../engine/domain/config.ts";
import type { DomainHandle } from "../engine/domain/guest.ts";
import { DEFAULT_SWITCH } from "../engine/domain/network-config.ts";
import type { VbdConfig } from "../engine/domain/vbd-toolstack.ts";
import { writeCrashReport } from "./crash-report.ts";
import { vbdConfig } from "./disk-option.ts";
import { ExecSession } from "./exec-session.ts";
import { EXIT_CRASHED, EXIT_OK } from "./failure.ts";
import { type GuestImage, openImage } from "./images/catalogue.ts";
import { FOREIGN_INIT_PARAMETER, type Session as SessionFiles, writeSessionArchive } from "./images/debian-shell.ts";
import { InteractiveSession } from "./interactive.ts";
import { Progress } from "./progress.ts";
import { outputField, type RunReport } from "./report.ts";
import { RunLab, within } from "./run-lab.ts";
import type { RunOptions } from "./run-options.ts";
import { type PrivateRoot, privateRoot } from "./run-root.ts";
import { openStateFolder, type StateFolder } from "./state-folder.ts";
import { Stopper, type StopReason, stopStatus } from "./stopper.ts";
import { writeAll } from "./write-all.ts";

/** Command line of a kernel of the user's that comes without one: its log on the Xen console. */
const PLAIN_COMMAND_LINE = "console=hvc0";
/** How long a guest that we stop may take to be gone; its process is killed by then. */
const KILL_WAIT_MS = 5000;

/** How a run ended, before it is told. */
interface Outcome {
  readonly status: RunReport["status"];
  readonly exit: number;
  readonly message?: string;
  readonly crash?: string;
}

/** Everything a run holds while its guest runs. */
interface RunContext {
  readonly options: RunOptions;
  readonly folder: StateFolder;
  readonly stopper: Stopper;
  readonly progress: Progress;
  readonly lab: RunLab;
  readonly root: PrivateRoot | undefined;
  /** The user's, as they were found to be when the run began. */
  readonly disks: readonly VbdConfig[];
}

/**
 * Gets the image unless the user brings both kernel and initrd; with --exec even then, as the command needs its busybox. Ends early,
 * with undefined, when the run is stopped.
 */
async function getImage({
  options,
  progress,
  stopper,
}: Pick<RunContext, "options" | "stopper" | "progress">): Promise<GuestImage | undefined> {
  if (options.kernel !== undefined && options.initrd !== undefined && options.exec === undefined) return undefined;
  const abort = new AbortController();
  void stopper.stopped.then(() => abort.abort());
  try {
    return await openImage(options.image, { signal: abort.signal, progress: (text) => progress.show(text) });
  } catch (error) {
    if (abort.signal.aborted) return undefined;
    throw error;
  } finally {
    progress.clear();
  }
}

function sessionFiles(options: RunOptions, image: GuestImage | undefined, token: string): SessionFiles {
  if (options.exec !== undefined) {
    const exec = { command: options.exec, token };
    return options.initrd !== undefined && image ? { exec, busybox: image.busybox } : { exec };
  }
  if (!process.stdout.isTTY || !process.stdin.isTTY) return {};
  const { rows, columns } = process.stdout;
  return { terminal: { type: process.env.TERM ?? "linux", rows, columns } };
}

/** Archives that we write lie in ordinary memory, which is what a message to a domain process can carry. */
const unshared = (bytes: Uint8Array) => bytes as Uint8Array<ArrayBuffer>;

/** The user's command line, or one that goes with kernel and initrd. */
function commandLine(options: RunOptions, image: GuestImage | undefined): string {
  const bringsAll = options.kernel !== undefined && options.initrd !== undefined;
  const text = options.cmdline ?? (bringsAll ? undefined : image?.commandLine) ?? PLAIN_COMMAND_LINE;
  return options.exec !== undefined && options.initrd !== undefined ? `${text} ${FOREIGN_INIT_PARAMETER}` : text;
}

/** Puts kernel, initrd and the files of this session together. */
function domainImage(options: RunOptions, image: GuestImage | undefined, token: string): DomainConfig["image"] {
  const kernel = options.kernel ?? image?.kernel;
  if (kernel === undefined) throw new Error("there is neither a kernel nor an image");
  const archives: DomainConfig["image"]["initrd"] = [];
  if (options.initrd !== undefined) archives.push({ path: options.initrd });
  else if (image) archives.push({ bytes: unshared(image.initramfs) });
  const session = writeSessionArchive(sessionFiles(options, image, token));
  if (session) archives.push({ bytes: unshared(session) });
  return { kernel: { path: kernel }, initrd: archives, commandLine: commandLine(options, image) };
}

/** Name of the domain: that of the kernel file, or of the image. */
function domainName(options: RunOptions): string {
  return options.kernel === undefined ? options.image : path.basename(options.kernel);
}

/** What a guest's own end means for this run. */
function ownEnd(end: DomainExit, session: ExecSession | undefined, folder: StateFolder): Outcome {
  if (end.reason === "crash") {
    writeCrashReport(folder.crashReport, end);
    const message = `the guest crashed (${end.cause}); registers and last console lines are in ${folder.crashReport}`;
    return { status: "crashed", exit: EXIT_CRASHED, message, crash: folder.crashReport };
  }
  if (end.reason === "killed") {
    const message = `the guest's process ended unexpectedly (${end.cause}); its console log is ${folder.consoleLog}`;
    return { status: "lost", exit: EXIT_CRASHED, message };
  }
  if (session === undefined) {
    return { status: end.reason === "reboot" ? "rebooted" : "powered-off", exit: EXIT_OK };
  }
  if (session.status !== undefined) return { status: "exited", exit: session.status };
  const missing = session.started
    ? "the guest powered off before the command had ended"
    : "the guest powered off without running the command";
  return { status: "failed", exit: EXIT_CRASHED, message: `${missing}; its console log is ${folder.consoleLog}` };
}

/** What it means that we ended the guest. */
function stoppedBy(reason: StopReason, options: RunOptions): Outcome {
  const exit = stopStatus[reason];
  switch (reason) {
    case "timeout":
      return {
        status: "timeout",
        exit,
        message: `the guest was stopped after ${options.timeoutSeconds} s (--timeout)`,
      };
    case "detach":
      return {
        status: "stopped",
        exit,
        message: "left the console; the guest was stopped, since nothing persists yet",
      };
    case "interrupt":
      return { status: "stopped", exit, message: "the guest was stopped (Ctrl-C)" };
    default:
      return { status: "stopped", exit };
  }
}

/** Attaches what the options ask for to the guest's console. */
function attach(context: RunContext, guest: DomainHandle, image: GuestImage | undefined, token: string) {
  const { options, progress, stopper } = context;
  const shared = { console: guest.console, progress, verbose: options.verbose };
  if (options.exec !== undefined) return { exec: new ExecSession({ ...shared, token, collect: options.json }) };
  if (options.json) {
    guest.console.onOutput((bytes) => {
      if (options.verbose) return writeAll(process.stderr, bytes);
      return undefined;
    });
    return {};
  }
  const banner = options.initrd === undefined ? image?.banner : undefined;
  const interactive = new InteractiveSession({ ...shared, stopper, banner });
  interactive.open();
  return { interactive };
}

/** Starts the guest, stays until it or the user ends the run. */
async function runGuest(context: RunContext, image: GuestImage | undefined, begin: number): Promise<RunReport> {
  const { options, folder, stopper, progress, lab, root, disks } = context;
  const token = randomBytes(16).toString("hex");
  progress.show("loading the kernel");
  for (const network of options.networks) await lab.createSwitch(network);
  const target = options.vifs.find((vif) => vif.bridge === DEFAULT_SWITCH);
  for (const forward of options.forwards) await lab.forward(DEFAULT_SWITCH, forward, target?.mac);
  const guest = await lab.start({
    name: folder.name,
    memoryMiB: options.memoryMiB,
    image: domainImage(options, image, token),
    consoleLog: folder.consoleLog,
    hypervisorLog: folder.hypervisorLog,
    disks: [...(root === undefined ? [] : [root.disk]), ...disks],
    vifs: options.vifs,
  });
  if (options.timeoutSeconds !== undefined) stopper.stopAfter(options.timeoutSeconds);
  const { exec, interactive } = attach(context, guest, image, token);
  let outcome: Outcome;
  let instructions = 0;
  try {
    const first = await Promise.race([guest.exited, stopper.stopped]);
    ({ instructions } = await guest.statistics());
    if (typeof first === "string") {
      await within(KILL_WAIT_MS, guest.kill());
      outcome = stoppedBy(first, options);
    } else {
      exec?.close();
      outcome = ownEnd(first, exec, folder);
    }
  } finally {
    interactive?.close();
    progress.clear();
  }
  if (outcome.message) process.stderr.write(`domlab: ${outcome.message}\n`);
  return {
    status: outcome.status,
    exit: outcome.exit,
    seconds: (Date.now() - begin) / 1000,
    ...(instructions > 0 && { instructions }),
    log: folder.consoleLog,
    ...(outcome.crash !== undefined && { crash: outcome.crash }),
    ...(outcome.message !== undefined && outcome.exit !== EXIT_OK && { error: outcome.message }),
    ...(exec && options.json && outputField("stdout", exec.stdout.bytes)),
    ...(exec && options.json && outputField("stderr", exec.stderr.bytes)),
    ...((exec?.stdout.truncated || exec?.stderr.truncated) && { truncated: true as const }),
  };
}

/** Looks at the images at once, before anything is fetched or started. @throws DiskError for those that cannot be served */
function checkedDisks({ disks }: RunOptions): VbdConfig[] {
  const configs = disks.map(vbdConfig);
  for (const { store, backend } of configs) if (backend === undefined) checkChain(store);
  return configs;
}

/** Makes what a run holds besides its guest, and lets go of it at the end. */
async function runInLab(
  { options, stopper, progress, disks }: Omit<RunContext, "folder" | "lab" | "root">,
  image: GuestImage | undefined,
  begin: number,
): Promise<RunReport> {
  const folder = openStateFolder(domainName(options));
  // An interactive session's screen is the guest's.
  const interactive = options.exec === undefined && !options.json;
  const say = (line: string) => {
    if (interactive) return;
    progress.clear();
    process.stderr.write(`domlab: ${line}\n`);
  };
  let lab: RunLab | undefined;
  let root: PrivateRoot | undefined;
  try {
    root = await privateRoot(options, image, folder);
    lab = await RunLab.open({ folder, say });
    return await runGuest({ options, folder, stopper, progress, lab, root, disks }, image, begin);
  } finally {
    await lab?.close();
    root?.remove();
    folder.release();
  }
}

/**
 * Boots a guest and stays with it to its end: the command `domlab run`. Throws, before any guest runs, what `explain`
 * puts into one line. Returns how the run ended; its messages are on stderr by then.
 */
export async function run(options: RunOptions): Promise<RunReport> {
  const begin = Date.now();
  checkMemorySize(options.memoryMiB);
  const disks = checkedDisks(options);
  const stopper = new Stopper();
  const progress = new Progress(process.stderr);
  try {
    const image = await getImage({ options, stopper, progress });
    if (stopper.reason !== undefined) {
      const { status, exit } = stoppedBy(stopper.reason, options);
      return { status, exit, seconds: (Date.now() - begin) / 1000 };
    }
    return await runInLab({ options, stopper, progress, disks }, image, begin);
  } finally {
    progress.clear();
    stopper.dispose();
  }
}
