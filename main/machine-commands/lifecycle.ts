/** Commands that start machines, end them, and change what they do at the moment. */
import type { Command } from "commander";
import { BadInput, EXIT_BAD_INPUT, EXIT_TIMEOUT, PassedOn } from "../failure.ts";
import { showSize } from "../image-commands.ts";
import type { ControlParameters } from "../lab/control-api.ts";
import { type MachineState, machineStates } from "../lab/machine-api.ts";
import { nearest } from "../lab/store/nearest.ts";
import { type CommandContext, eachMachine, longRun, parseSeconds, waitWith, withLab } from "./context.ts";
import { startWithConsole } from "./start.ts";

const DAY_SECONDS = 86_400;
/** The longest that the lab waits for anything. */
const LONGEST_WAIT_SECONDS = 2_000_000;

interface Raw {
  readonly console?: boolean;
  readonly timeout?: string;
  readonly force?: boolean;
  /** False: --no-wait. */
  readonly wait?: boolean;
  readonly discard?: boolean;
  readonly for?: string;
  readonly text?: string;
}

/** The options of shutdown and reboot, in the API's words. */
function endOptions(raw: Raw) {
  const timeoutSeconds = parseSeconds("--timeout", raw.timeout, DAY_SECONDS);
  return { ...(timeoutSeconds !== undefined && { timeoutSeconds }), ...(raw.force && { force: true }) };
}

function addStartCommands(program: Command, context: CommandContext): void {
  program
    .command("start <machine...>")
    .description("Start machines, in this order; suspended ones go on where they were.")
    .option("--console", "attach this terminal to the console of the only one")
    .addHelpText("after", "\nExamples:\n  domlab start web --console\n  domlab start router web db")
    .action((machines: string[], raw: Raw) => {
      if (raw.console && machines.length > 1) {
        throw new BadInput("bad-option", "--console is for one machine", "attach to the others with domlab console");
      }
      return withLab(context, (lab) =>
        eachMachine(context, machines, (machine) => startWithConsole(context, lab, machine, raw.console ?? false)),
      );
    });
  program
    .command("resume <machine...>")
    .description("Let suspended machines go on.")
    .action((machines: string[]) =>
      withLab(context, (lab) =>
        eachMachine(context, machines, async (machine) => {
          await longRun(context, lab, (operation) => lab.call("machineResume", { machine, operation }));
        }),
      ),
    );
  program
    .command("suspend <machine...>")
    .description("Save machines with their memory and end them; start or resume lets them go on.")
    .action((machines: string[]) =>
      withLab(context, (lab) =>
        eachMachine(context, machines, async (machine) => {
          const call = (operation: string) => lab.call("machineSuspend", { machine, operation });
          const { memoryBytes } = await longRun(context, lab, call);
          context.tell(`${machine} is suspended (${showSize(memoryBytes)})`);
        }),
      ),
    );
}

function addEndCommands(program: Command, context: CommandContext): void {
  program
    .command("shutdown <machine...>")
    .description("Ask machines to power off, and wait until they have.")
    .option("--timeout <seconds>", "wait no longer (default: the machine's shutdownTimeoutSeconds, 60 unless set)")
    .option("--force", "destroy those that are still there then")
    .option("--no-wait", "only ask")
    .addHelpText("after", "\nExamples:\n  domlab shutdown web\n  domlab shutdown web db --timeout 30 --force")
    .action((machines: string[], raw: Raw) => {
      const options = endOptions(raw);
      if (raw.wait === false && (raw.force || raw.timeout !== undefined)) {
        throw new BadInput("bad-option", "--no-wait only asks: nothing is timed or forced then", "leave it out");
      }
      const wait = raw.wait !== false;
      return withLab(context, (lab) =>
        eachMachine(
          context,
          machines,
          async (machine) => {
            const call = lab.call("machineShutdown", { machine, ...options, ...(!wait && { wait }) });
            const leaving = `${machine} was asked to power off and may still do so`;
            const { forced } = await waitWith(context, `${machine} is shutting down`, leaving, call);
            if (forced) context.tell(`${machine} did not power off in time and was destroyed`);
          },
          true,
        ),
      );
    });
  program
    .command("reboot <machine...>")
    .description("Ask machines to start anew.")
    .option("--timeout <seconds>", "wait no longer for their end")
    .option("--force", "destroy and start those that are still there then")
    .action((machines: string[], raw: Raw) => {
      const options = endOptions(raw);
      return withLab(context, (lab) =>
        eachMachine(
          context,
          machines,
          async (machine) => {
            const call = lab.call("machineReboot", { machine, ...options });
            const leaving = `${machine} was asked to reboot and may still do so`;
            const { forced } = await waitWith(context, `${machine} is rebooting`, leaving, call);
            if (forced) context.tell(`${machine} did not end in time, was destroyed and started`);
          },
          true,
        ),
      );
    });
  program
    .command("destroy <machine...>")
    .description("End machines at once, as if their plug was pulled.")
    .option("--discard", "suspended ones: forget their memory")
    .action((machines: string[], raw: Raw) =>
      withLab(context, (lab) =>
        eachMachine(context, machines, async (machine) => {
          await lab.call("machineDestroy", { machine, ...(raw.discard && { discard: true }) });
        }),
      ),
    );
}

function addPauseCommands(program: Command, context: CommandContext): void {
  for (const [command, method, description] of [
    ["pause", "machinePause", "Stop the processors of machines; their memory stays."],
    ["unpause", "machineUnpause", "Let paused machines go on."],
  ] as const) {
    program
      .command(`${command} <machine...>`)
      .description(description)
      .action((machines: string[]) =>
        withLab(context, (lab) =>
          eachMachine(context, machines, async (machine) => {
            await lab.call(method, { machine });
          }),
        ),
      );
  }
}

type Until = ControlParameters<"machineWait">["until"];

const isState = (word: string): word is MachineState => (machineStates as readonly string[]).includes(word);

/** What `wait` is to wait for. A single word that looks like one of ours is a slip rather than a text. */
export function parseUntil(raw: Pick<Raw, "for" | "text">): Until {
  if (raw.text !== undefined && raw.for !== undefined) {
    throw new BadInput("bad-option", "--for and --text contradict each other", "leave one out");
  }
  const words = ["exit", "answering", ...machineStates];
  const wanted = raw.text ?? raw.for ?? "running";
  if (raw.text === undefined) {
    if (wanted === "exit") return { kind: "exit" };
    if (wanted === "answering") return { kind: "answering" };
    if (isState(wanted)) return { kind: "state", state: wanted };
    const near = /^[a-z]+$/.test(wanted) ? nearest(wanted, words) : undefined;
    if (near !== undefined) {
      const remedy = `did you mean ${near}? For this text on the console say --text ${wanted}`;
      throw new BadInput("bad-option", `"${wanted}" is no state of a machine`, remedy);
    }
  }
  if (wanted.length > 0 && wanted.length <= 256) return { kind: "answering", text: wanted };
  throw new BadInput("bad-option", "a text to wait for has 1 to 256 characters", "say for example --for 'login:'");
}

const untilText = (until: Until): string =>
  until.kind === "state"
    ? until.state
    : until.kind === "exit"
      ? "its end"
      : until.text === undefined
        ? "its prompt"
        : JSON.stringify(until.text);

function addWaitCommand(program: Command, context: CommandContext): void {
  program
    .command("wait <machine>")
    .description("Wait until a machine is in a state, has ended, or has printed a text.")
    .option("--for <what>", "running (default), stopped or another state; exit; answering; or a text on its console")
    .option("--text <text>", "a text on its console, whatever it looks like")
    .option("--timeout <seconds>", "wait no longer; exit status 124 then (default: as long as it takes)")
    .addHelpText(
      "after",
      [
        "",
        "answering: the machine's image has printed its prompt. A text counts if it was printed since the machine's last start.",
        "",
        "Examples:",
        "  domlab wait web --for answering --timeout 120",
        "  domlab wait web --for exit",
        '  domlab wait web --for "Reached target multi-user"',
      ].join("\n"),
    )
    .action((machine: string, raw: Raw) => {
      const until = parseUntil(raw);
      const timeoutSeconds = parseSeconds("--timeout", raw.timeout, LONGEST_WAIT_SECONDS) ?? LONGEST_WAIT_SECONDS;
      return withLab(context, async (lab) => {
        const call = lab.call("machineWait", { machine, until, timeoutSeconds });
        const what = `${machine}: waiting for ${untilText(until)}`;
        const { reached, state, message } = await waitWith(context, what, "not waiting any more", call);
        if (reached) return;
        const why = message === undefined ? "" : ` (${message})`;
        const line = `${machine} is ${state}${why}: waited in vain for ${untilText(until)}; see domlab console ${machine}`;
        throw new PassedOn(line, raw.timeout === undefined ? EXIT_BAD_INPUT : EXIT_TIMEOUT);
      });
    });
}

/** Adds `start`, `shutdown`, `reboot`, `pause`, `unpause`, `suspend`, `resume`, `destroy` and `wait`. */
export function addLifecycleCommands(program: Command, context: CommandContext): void {
  addStartCommands(program, context);
  addEndCommands(program, context);
  addPauseCommands(program, context);
  addWaitCommand(program, context);
}
