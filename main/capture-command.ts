/** `domlab capture`: frames of a running lab into a pcapng file, until Ctrl-C. */
import { closeSync, openSync } from "node:fs";
import { resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { Command } from "commander";
import { BadInput } from "./failure.ts";
import type { ControlClient } from "./lab/control-client.ts";
import { commandLine } from "./network-commands.ts";

export interface CaptureCommandOptions {
  /** A connection to the lab that is meant. */
  readonly connect: (lab: string | undefined) => Promise<ControlClient>;
}

interface Raw {
  readonly lab?: string;
  readonly write: string;
  readonly snaplen?: string;
  readonly count?: string;
}

/** How often the lab is asked, which keeps the capture going. */
const ASK_MS = 500;

function wholeNumber(option: string, text: string | undefined): number {
  if (text === undefined) return 0;
  const value = /^\d{1,9}$/.test(text) ? Number(text) : 0;
  if (value > 0) return value;
  throw new BadInput("bad-option", `--${option} ${text} is no number`, `say for example --${option} 128`);
}

/** The file as the lab can open it: it runs in another folder, and standard output is ours. */
function fileFor(text: string): string {
  if (text !== "-") return resolve(text);
  if (process.stdout.isTTY) {
    throw new BadInput("bad-option", "a capture is no text for a terminal", "name a file, or add | wireshark -k -i -");
  }
  if (process.platform !== "linux") throw new BadInput("bad-option", "-w - needs Linux", "name a file");
  return `/proc/${process.pid}/fd/1`;
}

/** Fulfilled at the first Ctrl-C or SIGTERM; a second one ends the program at once. */
function interrupted(): { readonly signal: AbortSignal; readonly dispose: () => void } {
  const controller = new AbortController();
  const stop = () => {
    if (controller.signal.aborted) process.exit(130);
    controller.abort();
  };
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  return {
    signal: controller.signal,
    dispose: () => {
      process.off("SIGINT", stop);
      process.off("SIGTERM", stop);
    },
  };
}

async function capture(
  { connect }: CaptureCommandOptions,
  target: string,
  filter: readonly string[],
  raw: Raw,
): Promise<void> {
  const snapLength = wholeNumber("snaplen", raw.snaplen);
  const most = wholeNumber("count", raw.count);
  const file = fileFor(raw.write);
  // Made here already, so that it is the user's, with the user's rights and umask.
  if (raw.write !== "-") closeSync(openSync(file, "w"));
  const stop = interrupted();
  const lab = await connect(raw.lab);
  try {
    const { id } = await lab.call("captureStart", {
      target,
      file,
      filter: commandLine(filter),
      snapLength,
    });
    let counts = { frames: 0, dropped: 0 };
    while (!stop.signal.aborted && (most === 0 || counts.frames < most)) {
      await delay(ASK_MS, undefined, { signal: stop.signal }).catch(() => undefined);
      if (!stop.signal.aborted) counts = await lab.call("captureCount", { id });
    }
    counts = await lab.call("captureStop", { id });
    process.stderr.write(`domlab: ${counts.frames} frames captured, ${counts.dropped} dropped\n`);
  } finally {
    lab.close();
    stop.dispose();
  }
}

/** Adds `capture`. */
export function addCaptureCommand(program: Command, options: CaptureCommandOptions): void {
  program
    .command("capture <switch-or-interface> [filter...]")
    .description("Write what passes a switch or an interface to a pcapng file, until Ctrl-C.")
    .requiredOption("-w, --write <file>", "the file; - for standard output")
    .option("--snaplen <bytes>", "bytes of each frame that are kept (default: all)")
    .option("--count <frames>", "end after so many frames, or some more")
    .option("--lab <name>", "the lab that is meant, if several are running")
    .addHelpText(
      "after",
      '\nThe filter is written in pcap-filter\'s language, for example: domlab capture lab0 -w web.pcapng "tcp port 80"',
    )
    .action((target: string, filter: readonly string[], raw: Raw) => capture(options, target, filter, raw));
}
