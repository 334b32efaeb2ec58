/** `domlab console`: the user's terminal on the console of a machine, which runs on when the user leaves. */
import type { Readable, Writable } from "node:stream";
import { ReadStream, WriteStream } from "node:tty";
import type { Command } from "commander";
import { oneLine } from "../engine/errors/input-error.ts";
import { BadInput, EXIT_BAD_INPUT, EXIT_CRASHED, EXIT_OK } from "./failure.ts";
import type { LabEvent, MachineState } from "./lab/machine-api.ts";
import { type CommandContext, type LabClient, withLab } from "./machine-commands/context.ts";
import { Stopper, stopStatus } from "./stopper.ts";
import { Terminal } from "./terminal.ts";
import { writeAll } from "./write-all.ts";

/** Ctrl-], the key that leaves a console in xl and telnet. */
const ESCAPE = 0x1d;
/** Bytes of earlier output that are shown first: some screens. */
const TAIL_BYTES = 8192;
/** Bytes asked for in one call of the log. */
const LOG_PIECE = 512 * 1024;
/** Bytes typed in one call, before base64. */
const INPUT_PIECE = 64 * 1024;
/** A machine that reboots is stopped in between for less than that, ms. */
const RESTART_MS = 1000;
/** How long the console must be silent after the end of a piped input before we leave, ms. */
const QUIET_MS = 1000;

/** States in which nobody prints and nobody reads. */
const ENDED: readonly MachineState[] = ["stopped", "suspended", "crashed", "deleted"];

export interface ConsoleStreams {
  readonly input: Readable;
  readonly output: Writable;
  readonly errors: Writable;
}
const ownStreams = (): ConsoleStreams => ({ input: process.stdin, output: process.stdout, errors: process.stderr });

export interface AttachOptions {
  /** Offset of the first byte to show; without it the last lines are shown. */
  readonly from?: number;
  readonly streams?: ConsoleStreams;
  /** Called when output and keys get through. */
  readonly onAttached?: () => void;
}

/** Offset behind the last byte of a machine's console. */
export async function consoleEnd(lab: LabClient, machine: string): Promise<number> {
  return (await lab.call("consoleLog", { machine, bytes: 1 })).end;
}

/** Tells the lab the size of the terminal, if there is one. */
export async function hintSize(lab: LabClient, machine: string, output: Writable = process.stdout): Promise<void> {
  if (!(output instanceof WriteStream)) return;
  const { columns, rows } = output;
  // Some terminals say 0.
  if (columns > 0 && rows > 0) await lab.call("consoleResize", { machine, columns, rows });
}

type ConsoleEvent = Extract<LabEvent, { kind: "console" | "console-state" }>;

class ConsoleSession {
  private readonly lab: LabClient;
  private readonly machine: string;
  private readonly streams: ConsoleStreams;
  private readonly terminal: Terminal | undefined;
  private readonly stopper = new Stopper();
  private attachment: number | undefined;
  /** What came before we knew the number of our attachment. */
  private early: ConsoleEvent[] = [];
  private shown = 0;
  /** The rest of a line that was cut by the start of the tail is not shown. */
  private cutLine: boolean;
  private output: Promise<void> = Promise.resolve();
  private typing: Promise<void> = Promise.resolve();
  private end: { readonly state: MachineState; readonly offset: number } | undefined;
  private endTimer: NodeJS.Timeout | undefined;
  private inputEnded = false;
  private quietTimer: NodeJS.Timeout | undefined;
  private finish: (reason: "ended" | "quiet") => void = () => {};

  constructor(lab: LabClient, machine: string, streams: ConsoleStreams, cutLine: boolean) {
    this.lab = lab;
    this.machine = machine;
    this.streams = streams;
    this.cutLine = cutLine;
    const { input, output } = streams;
    if (input instanceof ReadStream && output instanceof WriteStream) this.terminal = new Terminal(input, output);
  }

  /**
   * @param welcome said once keys go to the guest: before, Ctrl-C would end this program
   * @returns the exit status
   */
  async run(offset: number, welcome: readonly string[] = [], onAttached: () => void = () => {}): Promise<number> {
    const { input, output } = this.streams;
    const finished = new Promise<"ended" | "quiet">((resolve) => {
      this.finish = resolve;
    });
    const stopEvents = this.lab.onEvent((event) => this.hear(event));
    const onResize = () => void hintSize(this.lab, this.machine, output).catch(() => {});
    const onClose = () => this.stopper.stop("output-closed");
    output.on("close", onClose);
    try {
      const { attachment, offset: start } = await this.lab.call("consoleAttach", { machine: this.machine, offset });
      this.attachment = attachment;
      this.shown = start;
      if (start === 0) this.cutLine = false;
      this.takeInput();
      for (const line of welcome) this.streams.errors.write(`domlab: ${oneLine(line)}\n`);
      for (const event of this.early.splice(0)) this.hear(event);
      onAttached();
      output.on("resize", onResize);
      onResize();
      const reason = await Promise.race([finished, this.stopper.stopped, this.lab.ended.then(() => "lab" as const)]);
      this.close(onResize);
      return await this.conclude(reason);
    } finally {
      this.close(onResize);
      output.off("close", onClose);
      input.pause();
      stopEvents();
      this.stopper.dispose();
    }
  }

  /** Gives the terminal back. */
  private close(onResize: () => void): void {
    const { input, output } = this.streams;
    clearTimeout(this.endTimer);
    clearTimeout(this.quietTimer);
    input.off("data", this.onKeys);
    input.off("end", this.onInputEnd);
    output.off("resize", onResize);
    this.terminal?.restore();
  }

  private tell(line: string): void {
    this.streams.errors.write(`${this.terminal === undefined ? "" : "\r\n"}domlab: ${oneLine(line)}\n`);
  }

  private async conclude(reason: "ended" | "quiet" | "lab" | keyof typeof stopStatus): Promise<number> {
    if (reason === "lab") {
      this.tell("the lab has ended; domlab list shows what became of the machine");
      return EXIT_BAD_INPUT;
    }
    if (reason === "quiet") return EXIT_OK;
    if (reason !== "ended") {
      if (this.terminal !== undefined) this.tell(`${this.machine} runs on`);
      return stopStatus[reason];
    }
    const state = this.end?.state ?? "stopped";
    const details = await this.lab.call("machineShow", { machine: this.machine }).catch(() => undefined);
    const message = details?.message;
    this.tell(`${this.machine} ${message ?? `is ${state}`}`);
    return state === "crashed" ? EXIT_CRASHED : EXIT_OK;
  }

  // ---- output ------------------------------------------------------------------------------------------------------

  private hear(event: LabEvent): void {
    if (event.kind !== "console" && event.kind !== "console-state") return;
    if (this.attachment === undefined) this.early.push(event);
    else if (event.attachment !== this.attachment) return;
    else if (event.kind === "console") this.output = this.output.then(() => this.show(event.offset, event.data));
    else this.onState(event.state, event.offset);
  }

  private async show(offset: number, data: string): Promise<void> {
    const bytes = Buffer.from(data, "base64");
    if (offset > this.shown) this.tell(`${offset - this.shown} bytes of output were lost: this terminal is slow`);
    this.shown = offset + bytes.length;
    const line = this.cutLine ? bytes.indexOf("\n") + 1 : 0;
    this.cutLine = false;
    const visible = bytes.subarray(line);
    this.terminal?.observe(visible);
    await writeAll(this.streams.output, visible);
    if (this.attachment !== undefined) {
      // A lab that has ended is noticed by other means.
      void this.lab
        .call("consoleAcknowledge", { attachment: this.attachment, offset: this.shown })
        .catch(() => undefined);
    }
    this.checkEnd();
    this.restartQuietTimer();
  }

  private onState(state: MachineState, offset: number): void {
    clearTimeout(this.endTimer);
    this.end = ENDED.includes(state) ? { state, offset } : undefined;
    if (this.end !== undefined) this.checkEnd();
    else if (state === "paused") this.tell(`${this.machine} is paused; go on: domlab unpause ${this.machine}`);
  }

  /** Leaves once everything is shown that was printed before the end; a machine that restarts goes on here. */
  private checkEnd(): void {
    if (this.end === undefined || this.shown < this.end.offset) return;
    clearTimeout(this.endTimer);
    this.endTimer = setTimeout(() => this.finish("ended"), this.end.state === "stopped" ? RESTART_MS : 0);
  }

  // ---- input -------------------------------------------------------------------------------------------------------

  private takeInput(): void {
    const { input } = this.streams;
    this.terminal?.enterRaw();
    input.on("data", this.onKeys);
    input.on("end", this.onInputEnd);
    input.resume();
  }

  private readonly onKeys = (input: Buffer): void => {
    const leave = this.terminal === undefined ? -1 : input.indexOf(ESCAPE);
    this.type(leave < 0 ? input : input.subarray(0, leave));
    if (leave >= 0) void this.typing.then(() => this.stopper.stop("detach"));
  };

  /** Types in order, and takes no more from a pipe than the guest reads. */
  private type(bytes: Buffer): void {
    const { input } = this.streams;
    if (bytes.length === 0) return;
    if (this.terminal === undefined) input.pause();
    this.typing = this.typing.then(async () => {
      for (let at = 0; at < bytes.length; at += INPUT_PIECE) {
        const data = bytes.subarray(at, at + INPUT_PIECE).toString("base64");
        // While it restarts nobody reads what is typed; its end is told by its state.
        await this.lab.call("consoleWrite", { machine: this.machine, data }).catch(() => undefined);
      }
      if (this.terminal === undefined) input.resume();
    });
  }

  private readonly onInputEnd = (): void => {
    // The window of the terminal was closed.
    if (this.terminal !== undefined) this.stopper.stop("SIGHUP");
    void this.typing.then(() => {
      this.inputEnded = true;
      this.restartQuietTimer();
    });
  };

  private restartQuietTimer(): void {
    if (!this.inputEnded) return;
    clearTimeout(this.quietTimer);
    this.quietTimer = setTimeout(() => this.finish("quiet"), QUIET_MS);
  }
}

/**
 * Attaches this terminal to a machine's console until Ctrl-], or until the machine is off. Where the input is a pipe its bytes
 * are typed, and we leave when it has ended and the console is silent.
 * @returns the exit status
 * @throws BadInput when the machine does not run
 */
export async function attachConsole(lab: LabClient, machine: string, options: AttachOptions = {}): Promise<number> {
  const streams = options.streams ?? ownStreams();
  const { state, message, name } = await lab.call("machineShow", { machine });
  const end = await consoleEnd(lab, machine);
  // A guest that was started just now may have ended already: what it printed is to be seen.
  if (ENDED.includes(state) && options.from === undefined) {
    const why = message === undefined ? "" : ` (${message})`;
    const remedy =
      state === "deleted"
        ? `take it back first: domlab undelete ${name}`
        : `domlab start ${name} --console starts it, domlab console ${name} --log shows what it has printed`;
    throw new BadInput("bad-option", `${name} is ${state}${why}: nobody is at its console`, remedy);
  }
  if (ENDED.includes(state)) {
    await printLog(lab, machine, streams.output, options.from);
    streams.errors.write(`domlab: ${oneLine(`${name} ${message ?? `is ${state}`}`)}\n`);
    return state === "crashed" ? EXIT_CRASHED : EXIT_OK;
  }
  const welcome: string[] = [];
  if (streams.input instanceof ReadStream && streams.output instanceof WriteStream) {
    welcome.push(`console of ${name}; Ctrl-] leaves it, the machine runs on`);
    if (state === "paused") welcome.push(`${name} is paused; go on: domlab unpause ${name}`);
  }
  const from = options.from ?? Math.max(0, end - TAIL_BYTES);
  return await new ConsoleSession(lab, name, streams, options.from === undefined).run(
    from,
    welcome,
    options.onAttached,
  );
}

/** Writes everything that is kept of what a machine has printed, from an offset on. */
export async function printLog(lab: LabClient, machine: string, output: Writable, from = 0): Promise<void> {
  let at = from;
  // No further than where it ended at first: a machine that prints for ever would not let us go.
  let last: number | undefined;
  for (;;) {
    const { offset, data, end } = await lab.call("consoleLog", { machine, offset: at, bytes: LOG_PIECE });
    last ??= end;
    const bytes = Buffer.from(data, "base64");
    await writeAll(output, bytes);
    at = offset + bytes.length;
    if (bytes.length === 0 || at >= last) return;
  }
}

/** Leads a machine's console to a pseudoterminal, until Ctrl-C or until the machine is off. @returns the exit status */
async function consoleToPty(
  context: CommandContext,
  lab: LabClient,
  machine: string,
  errors: Writable,
): Promise<number> {
  const { openPty } = await import("./console-pty.ts");
  const pty = await openPty();
  try {
    return await attachConsole(lab, machine, {
      streams: { input: pty.stream, output: pty.stream, errors },
      onAttached: () => {
        context.print(`${pty.path}\n`);
        context.tell(`the console of ${machine} is at ${pty.path}, for example: screen ${pty.path}; Ctrl-C ends it`);
      },
    });
  } finally {
    pty.close();
  }
}

/** Adds `console`. @param streams in place of the process's own, for tests */
export function addConsoleCommand(program: Command, context: CommandContext, streams?: () => ConsoleStreams): void {
  program
    .command("console <machine>")
    .description("Attach this terminal to a machine's console. Ctrl-] leaves it, the machine runs on.")
    .option("--log", "print what is kept of the machine's output, and end")
    .option("--pty", "give the console a pseudoterminal of this host for other programs, and print its path")
    .addHelpText(
      "after",
      [
        "",
        "The last lines are shown first. Several terminals may be attached to one console; all other keys than Ctrl-] are the",
        "guest's. Where standard input is a pipe its bytes are typed, and the command ends when the console is silent then.",
        "",
        "Examples:",
        "  domlab console web",
        "  domlab console web --log | less -R",
        '  echo "uptime" | domlab console web',
        "  domlab console web --pty     # prints /dev/pts/7, say; then elsewhere: screen /dev/pts/7",
      ].join("\n"),
    )
    .action((machine: string, raw: { readonly log?: boolean; readonly pty?: boolean }) =>
      withLab(context, async (lab) => {
        const own = streams?.() ?? ownStreams();
        if (raw.log) await printLog(lab, machine, own.output);
        else if (raw.pty) context.setStatus(await consoleToPty(context, lab, machine, own.errors));
        else context.setStatus(await attachConsole(lab, machine, { streams: own }));
      }),
    );
}
