/** What the commands about the lab's machines share: the connection, what is printed, long work with progress and Ctrl-C. */
import { randomUUID } from "node:crypto";
import { BadInput, EXIT_INTERRUPTED, explain, PassedOn } from "../failure.ts";
import type { ControlClient } from "../lab/control-client.ts";
import type { OperationRow } from "../lab/machine-api.ts";
import { MACHINE_NAME, MACHINE_NAME_RULE } from "../lab/store/machine-config.ts";
import type { Progress } from "../progress.ts";

export type LabClient = Pick<ControlClient, "call" | "onEvent" | "ended" | "close">;

export interface CommandContext {
  /** A connection to the user's lab, which is started when it does not run. @throws BadInput, PassedOn */
  connect(): Promise<LabClient>;
  /** A connection to the user's lab if it runs. */
  connectRunning(): Promise<LabClient | undefined>;
  /** Folder of the user's lab. */
  home(): Promise<string>;
  /** Folder that relative paths belong to. */
  cwd(): string;
  /** Takes text for standard output. */
  print(text: string): void;
  /** Takes one line about what happens, for standard error. */
  tell(line: string): void;
  setStatus(status: number): void;
  readonly progress: Pick<Progress, "show" | "clear">;
  /** Calls `listener` at each Ctrl-C, in place of the end of the program. @returns how to stop that */
  onInterrupt(listener: () => void): () => void;
}

/** Collects the values of an option that may be repeated. */
export const repeatable = (text: string, others: readonly string[] | boolean = []): string[] => [
  ...(typeof others === "boolean" ? [] : others),
  text,
];

export const JSON_OPTION = ["--json", "print JSON"] as const;

/** Opens a connection for one command. */
export async function withLab<Result>(
  context: CommandContext,
  action: (lab: LabClient) => Promise<Result>,
): Promise<Result> {
  const lab = await context.connect();
  try {
    return await action(lab);
  } finally {
    lab.close();
  }
}

/** Prints a result as JSON or as text. */
export function say(context: CommandContext, raw: { readonly json?: boolean }, value: unknown, text: string): void {
  context.print(raw.json ? `${JSON.stringify(value)}\n` : text);
}

export function tellAll(context: CommandContext, notes: readonly string[]): void {
  for (const note of notes) context.tell(note);
}

/** "snapshot of web: writing memory, 40 %" */
function progressText({ what, step, done, total }: OperationRow): string {
  const percent = total > 0 ? `, ${Math.min(100, Math.floor((done / total) * 100))} %` : "";
  return `${what}${step === "" ? "" : `: ${step}`}${percent}`;
}

/**
 * Does what may take long under an operation of the lab: its progress is shown, Ctrl-C cancels it, and where it can be
 * cancelled no more a second Ctrl-C leaves it to the lab.
 * @throws what the call throws; PassedOn with the status of an interrupt when it was cancelled or left
 */
export async function longRun<Result>(
  context: CommandContext,
  lab: LabClient,
  call: (operation: string) => Promise<Result>,
): Promise<Result> {
  const operation = randomUUID();
  let interrupts = 0;
  let leave: (reason: Error) => void = () => {};
  const left = new Promise<never>((_, reject) => {
    leave = reject;
  });
  const stopEvents = lab.onEvent((event) => {
    if (event.kind !== "operation" || event.operation.id !== operation || event.ended !== undefined) return;
    context.progress.show(progressText(event.operation));
  });
  const cancel = async () => {
    const { cancelled } = await lab.call("operationCancel", { operation });
    if (cancelled) return;
    context.progress.clear();
    context.tell("it cannot be stopped any more; Ctrl-C again leaves it to the lab");
  };
  const stopInterrupts = context.onInterrupt(() => {
    interrupts++;
    // A lab that has ended meanwhile fails the call itself.
    if (interrupts === 1) void cancel().catch(() => {});
    else leave(new PassedOn("left to the lab, which goes on with it", EXIT_INTERRUPTED));
  });
  try {
    await lab.call("subscribe", { topics: ["operations"] });
    return await Promise.race([call(operation), left]);
  } catch (error) {
    if (interrupts > 0 && error instanceof PassedOn) throw new PassedOn(error.message, EXIT_INTERRUPTED);
    throw error;
  } finally {
    stopEvents();
    context.progress.clear();
    stopInterrupts();
  }
}

/**
 * Waits for what is no operation of the lab; Ctrl-C ends the waiting and nothing else.
 * @param what for the line of progress
 * @param leaving told at Ctrl-C: what becomes of it
 */
export async function waitWith<Result>(
  context: CommandContext,
  what: string,
  leaving: string,
  wait: Promise<Result>,
): Promise<Result> {
  let leave: (reason: Error) => void = () => {};
  const left = new Promise<never>((_, reject) => {
    leave = reject;
  });
  const stop = context.onInterrupt(() => leave(new PassedOn(leaving, EXIT_INTERRUPTED)));
  context.progress.show(what);
  try {
    return await Promise.race([wait, left]);
  } finally {
    stop();
    context.progress.clear();
  }
}

/**
 * Does something with each of several machines. One that fails is told of and does not keep the others from it; the exit
 * status is that of the worst.
 * @param together all at once and not one after the other
 */
export async function eachMachine(
  context: CommandContext,
  names: readonly string[],
  action: (name: string) => Promise<void>,
  together = false,
): Promise<void> {
  const [only, ...others] = names;
  if (only !== undefined && others.length === 0) return await action(only);
  let worst = 0;
  const attempt = async (name: string) => {
    try {
      await action(name);
    } catch (error) {
      const { line, status } = explain(error);
      context.tell(line);
      worst = Math.max(worst, status);
    }
  };
  if (together) await Promise.all(names.map(attempt));
  else {
    for (const name of names) {
      if (worst === EXIT_INTERRUPTED) break;
      await attempt(name);
    }
  }
  if (worst > 0) context.setStatus(worst);
}

/** @throws BadInput for what no machine can be called; whether the name is taken is the lab's to say */
export function checkMachineName(name: string): void {
  if (MACHINE_NAME.test(name)) return;
  throw new BadInput("bad-option", `"${name.slice(0, 100)}" is no name for a machine`, `use ${MACHINE_NAME_RULE}`);
}

/** Seconds of an option such as --timeout. @throws BadInput */
export function parseSeconds(option: string, text: string | undefined, most: number): number | undefined {
  if (text === undefined) return undefined;
  const value = /^\d{1,9}(\.\d{1,6})?$/.test(text.trim()) ? Number(text) : Number.NaN;
  if (value > 0 && value <= most) return value;
  const what = `${option} ${text} is no number of seconds between 0 and ${most}`;
  throw new BadInput("bad-option", what, `say for example ${option} 60`);
}
