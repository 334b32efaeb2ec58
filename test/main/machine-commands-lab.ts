/** A control server that remembers what it was asked, and the commands that ask it. */
import { mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { Command } from "commander";
import { explain } from "../../main/failure.ts";
import { addImageCommands } from "../../main/image-commands.ts";
import type { ControlFunctions, ControlSession } from "../../main/lab/control-api.ts";
import { ControlClient } from "../../main/lab/control-client.ts";
import { type ControlServer, serveControl } from "../../main/lab/control-server.ts";
import type { MachineDetails, MachineSummary } from "../../main/lab/machine-api.ts";
import { addMachineCommands } from "../../main/machine-commands/commands.ts";
import type { CommandContext } from "../../main/machine-commands/context.ts";
import { addLibraryCommands } from "../../main/machine-commands/library-commands.ts";

const DATE = "2026-11-21T10:00:00.000Z";

export function summary(name: string, more: Partial<MachineSummary> = {}): MachineSummary {
  return {
    id: `id-${name}`,
    name,
    state: "stopped",
    memoryMiB: 512,
    group: "",
    autostart: false,
    protected: false,
    created: DATE,
    changed: DATE,
    snapshots: 0,
    ...more,
  };
}

export function details(name: string, more: Partial<MachineDetails> = {}): MachineDetails {
  return {
    ...summary(name),
    config: { name },
    disks: [],
    currentSnapshot: null,
    folder: `/lab/machines/id-${name}`,
    consoleLog: "/lab/console.log",
    hypervisorLog: "/lab/hypervisor.log",
    ...more,
  };
}

export type Partly = { readonly [Method in keyof ControlFunctions]?: ControlFunctions[Method] };

/** What one command has said, and how it ended. */
export interface Outcome {
  readonly printed: string;
  readonly told: readonly string[];
  readonly status: number;
}

export class FakeLab {
  readonly folder = mkdtempSync(path.join(os.tmpdir(), "domlab-commands-"));
  /** Methods with their parameters, in the order of the calls; ids that commands make up are left out. */
  readonly calls: { readonly method: string; readonly parameters: unknown }[] = [];
  readonly progress: string[] = [];
  /** The session of the last call. */
  session: ControlSession | undefined;
  /** Whether a lab runs: commands that need none must not ask for one. */
  started = false;
  /** Told at once of what a command prints. */
  onPrint: (text: string) => void = () => {};
  private readonly interrupts = new Set<() => void>();
  private server: ControlServer | undefined;

  get socket(): string {
    return path.join(this.folder, "control");
  }

  /** Ctrl-C. @returns how many listened */
  interrupt(): number {
    for (const listener of [...this.interrupts]) listener();
    return this.interrupts.size;
  }

  /** Serves these functions; `subscribe` and `operationCancel` are there anyway. */
  async serve(functions: Partly): Promise<void> {
    const given: Partly = { subscribe: () => ({}), operationCancel: () => ({ cancelled: true }), ...functions };
    const recorded = Object.fromEntries(
      Object.entries(given).map(([method, action]) => {
        const call = action as (parameters: unknown, session: ControlSession) => unknown;
        return [
          method,
          (parameters: Record<string, unknown>, session: ControlSession) => {
            const { operation: _made, ...rest } = parameters;
            if (method !== "subscribe") this.calls.push({ method, parameters: rest });
            this.session = session;
            return call(parameters, session);
          },
        ];
      }),
    );
    this.server = await serveControl(recorded as unknown as ControlFunctions, this.socket);
  }

  async close(): Promise<void> {
    await this.server?.close();
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** Runs a command. @throws what the command throws */
  async command(...args: string[]): Promise<Outcome> {
    let printed = "";
    let status = 0;
    const told: string[] = [];
    const context: CommandContext = {
      connect: () => {
        this.started = true;
        return ControlClient.connect(this.socket);
      },
      connectRunning: () => ControlClient.connect(this.socket).catch(() => undefined),
      home: async () => path.join(this.folder, "home"),
      cwd: () => this.folder,
      print: (text) => {
        printed += text;
        this.onPrint(text);
      },
      tell: (line) => void told.push(line),
      setStatus: (value) => {
        status = value;
      },
      progress: { show: (text) => void this.progress.push(text), clear: () => {} },
      onInterrupt: (listener) => {
        this.interrupts.add(listener);
        return () => this.interrupts.delete(listener);
      },
    };
    const program = new Command().exitOverride().configureOutput({ outputError: () => {} });
    addMachineCommands(program, context, () => path.join(this.folder, "run"));
    addLibraryCommands(addImageCommands(program, context), context);
    await program.parseAsync(args, { from: "user" });
    return { printed, told, status };
  }

  /** Runs a command that must fail. @returns its one line and its status */
  async refused(...args: string[]): Promise<{ line: string; status: number }> {
    const outcome = await this.command(...args).then(
      () => undefined,
      (error: unknown) => ({ error }),
    );
    if (outcome === undefined) throw new Error(`domlab ${args.join(" ")} did not fail`);
    const { line, status } = explain(outcome.error);
    return { line, status };
  }
}
