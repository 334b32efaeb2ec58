/** A shell on the host, on a terminal. It lives as long as its tab, whatever view is shown. */
import { fromBase64, toBase64 } from "../../lib/base64.ts";
import { errorLine } from "../../lib/error-line.ts";
import { call, client } from "../../lib/rpc/client.ts";
import { notices } from "../../lib/state/notices.svelte.ts";
import { ConsoleTerminal } from "./console-terminal.ts";
import { InputQueue } from "./input-queue.ts";

/** Bytes dealt with before they are acknowledged: a quarter of SHELL_WINDOW. */
const ACKNOWLEDGE_BYTES = 64 * 1024;

export class ShellSession {
  readonly terminal: ConsoleTerminal;
  /** "none": to be opened. */
  phase = $state<"none" | "opening" | "open" | "ended">("none");
  private readonly queue: InputQueue;
  private readonly stopListening: (() => void)[];
  private shell: number | undefined;
  /** Output of a shell whose number has not come yet. */
  private early: { readonly shell: number; readonly data: string }[] = [];
  private earlyEnds = new Map<number, number>();
  /** Told when it is open or has failed to. */
  private waiting: (() => void)[] = [];
  private dealtWith = 0;
  private disposed = false;

  constructor(fontSize: number) {
    this.queue = new InputQueue(
      async (bytes) => {
        // What is typed ahead waits for the shell.
        if (this.phase === "none" || this.phase === "opening") await this.settled();
        if (this.shell !== undefined) await call("shellWrite", { shell: this.shell, data: toBase64(bytes) });
      },
      (error) => notices.error(error),
    );
    this.terminal = new ConsoleTerminal(
      {
        input: (bytes) => {
          if (this.phase !== "ended") this.queue.push(bytes);
        },
        size: () => this.tellSize(),
      },
      fontSize,
    );
    this.stopListening = [
      client.onEvent((event) => {
        if (event.kind === "shell") this.hear(event.shell, event.data);
        else if (event.kind === "shell-end") this.heardEnd(event.shell, event.status);
      }),
      // The app process ends a window's shells with its connection.
      client.onConnection((connection) => {
        if (connection !== "open" && this.phase === "open")
          this.ended("the connection was lost, and the shell with it");
      }),
    ];
  }

  private settled(): Promise<void> {
    return new Promise((resolve) => {
      this.waiting.push(resolve);
    });
  }

  private settle(): void {
    for (const resolve of this.waiting.splice(0)) resolve();
  }

  /** Tells the shell the terminal's size, unless that is what it knows. */
  private tellSize(known?: ConsoleTerminal["size"]): void {
    const { columns, rows } = this.terminal.size;
    if (this.shell === undefined || (known?.columns === columns && known.rows === rows)) return;
    call("shellResize", { shell: this.shell, columns, rows }).catch(() => {});
  }

  async open(): Promise<void> {
    if (this.phase === "opening" || this.phase === "open") return;
    this.phase = "opening";
    const asked = this.terminal.size;
    try {
      const { shell } = await call("shellOpen", asked);
      if (this.disposed) {
        call("shellClose", { shell }).catch(() => {});
        return;
      }
      this.shell = shell;
      this.dealtWith = 0;
      this.phase = "open";
      this.tellSize(asked);
      this.settle();
      for (const { shell: id, data } of this.early.splice(0)) this.hear(id, data);
      const status = this.earlyEnds.get(shell);
      this.earlyEnds.clear();
      if (status !== undefined) this.heardEnd(shell, status);
    } catch (error) {
      this.ended(errorLine(error));
    }
  }

  private hear(shell: number, data: string): void {
    if (this.phase === "opening") this.early.push({ shell, data });
    if (shell !== this.shell) return;
    const bytes = fromBase64(data);
    this.terminal.write(bytes, () => {
      if (shell !== this.shell) return;
      this.dealtWith += bytes.length;
      if (this.dealtWith < ACKNOWLEDGE_BYTES) return;
      call("shellAcknowledge", { shell, bytes: this.dealtWith }).catch(() => {});
      this.dealtWith = 0;
    });
  }

  private heardEnd(shell: number, status: number): void {
    if (this.phase === "opening") this.earlyEnds.set(shell, status);
    if (shell === this.shell)
      this.ended(status === 0 ? "the shell has ended" : `the shell ended with status ${status}`);
  }

  private ended(line: string): void {
    this.shell = undefined;
    this.early = [];
    this.queue.clear();
    this.phase = "ended";
    this.settle();
    this.terminal.modesOff();
    this.terminal.tell(line);
  }

  /** Ends the shell, as closing a terminal's window does. */
  dispose(): void {
    this.disposed = true;
    for (const stop of this.stopListening) stop();
    if (this.shell !== undefined) call("shellClose", { shell: this.shell }).catch(() => {});
    this.shell = undefined;
    this.settle();
    this.terminal.dispose();
  }
}

let own: ShellSession | undefined;

/** This window's host shell; there is one, which stays while other views are shown. */
export function hostShell(fontSize: number): ShellSession {
  own ??= new ShellSession(fontSize);
  return own;
}

export function closeHostShell(): void {
  own?.dispose();
  own = undefined;
}
