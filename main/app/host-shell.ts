/** Shells of the user's on the host, each on a pseudoterminal: what the control domain's tab shows. */
import os from "node:os";
import { delimiter } from "node:path";
import type { IPty } from "node-pty";
import { messageOf } from "../../engine/errors/message.ts";
import { BadInput } from "../failure.ts";
import { type AppEvent, SHELL_WINDOW } from "./app-api.ts";

/** Shells of one renderer at the same time. */
const MOST_SHELLS = 32;
/** Output is gathered into events of about this size, bytes. */
const PIECE = 64 * 1024;
/** Added to a signal's number, as shells tell of one. */
const SIGNAL_STATUS = 128;

/** What is used of node-pty's terminal, opened with `encoding: null`: its data are bytes, whatever its types say. */
export type ShellPty = Pick<IPty, "write" | "resize" | "kill" | "pause" | "resume" | "onExit"> & {
  readonly onData: (listener: (bytes: Buffer | string) => void) => unknown;
};

/** Starts a shell on a new pseudoterminal. */
export type StartShell = (columns: number, rows: number) => Promise<ShellPty>;

export interface ShellSettings {
  /** Folder of the lab, so that `domlab` in the shell means the same one. */
  readonly home: string;
  /** Folder with the `domlab` command, if it is not installed. */
  readonly programs?: string;
}

/** The user's shell with node-pty, in the home folder. @throws BadInput where node-pty does not work */
export function userShell({ home, programs }: ShellSettings): StartShell {
  return async (columns, rows) => {
    const { spawn } = await import("node-pty").catch((error: unknown) => {
      throw new BadInput(
        "bad-option",
        "host shells are not available: node-pty is not built",
        "npm rebuild node-pty",
        error,
      );
    });
    const { TMUX: _tmux, TMUX_PANE: _pane, STY: _sty, COLUMNS: _columns, LINES: _lines, ...environment } = process.env;
    const path = [environment.PATH, programs].filter((part) => part !== undefined && part !== "").join(delimiter);
    const windows = process.platform === "win32";
    const file = windows ? (environment.COMSPEC ?? "cmd.exe") : environment.SHELL || "/bin/sh";
    try {
      return spawn(file, [], {
        name: "xterm-256color",
        cols: columns,
        rows,
        cwd: os.homedir(),
        env: { ...environment, PATH: path, COLORTERM: "truecolor", DOMLAB_HOME: home },
        // Bytes: the renderer's terminal decodes them, across the borders of pieces.
        ...(!windows && { encoding: null }),
      });
    } catch (error) {
      const why = messageOf(error);
      throw new BadInput(
        "bad-option",
        `the shell ${file} does not start (${why})`,
        "set SHELL to one that does",
        error,
      );
    }
  };
}

/** One shell: gathers its output, and stops reading while the renderer is behind. */
class HostShell {
  private readonly pty: ShellPty;
  private readonly output: (bytes: Buffer) => void;
  private pieces: Buffer[] = [];
  private gathered = 0;
  private unacknowledged = 0;
  private paused = false;
  private ended = false;

  constructor(pty: ShellPty, output: (bytes: Buffer) => void, onEnd: (status: number) => void) {
    this.pty = pty;
    this.output = output;
    pty.onData((bytes) => this.take(typeof bytes === "string" ? Buffer.from(bytes) : bytes));
    pty.onExit(({ exitCode, signal }) => {
      this.flush();
      this.ended = true;
      onEnd(signal ? SIGNAL_STATUS + signal : exitCode);
    });
  }

  private take(bytes: Buffer): void {
    if (this.gathered === 0) setImmediate(() => this.flush());
    this.pieces.push(bytes);
    this.gathered += bytes.length;
    this.unacknowledged += bytes.length;
    if (this.gathered >= PIECE) this.flush();
    if (this.unacknowledged < SHELL_WINDOW || this.paused) return;
    this.paused = true;
    this.pty.pause();
  }

  private flush(): void {
    if (this.gathered === 0) return;
    const bytes = Buffer.concat(this.pieces);
    this.pieces = [];
    this.gathered = 0;
    this.output(bytes);
  }

  acknowledge(bytes: number): void {
    this.unacknowledged = Math.max(0, this.unacknowledged - bytes);
    if (!this.paused || this.unacknowledged >= SHELL_WINDOW || this.ended) return;
    this.paused = false;
    this.pty.resume();
  }

  write(bytes: Buffer): void {
    if (!this.ended) this.pty.write(bytes);
  }

  resize(columns: number, rows: number): void {
    if (!this.ended) this.pty.resize(columns, rows);
  }

  /** As closing a terminal's window does. Nobody reads what is still printed. */
  hangUp(): void {
    if (this.ended) return;
    // A paused terminal would not notice its end.
    this.pty.resume();
    this.pty.kill();
  }
}

/** The shells of one renderer. */
export class HostShells {
  private readonly begin: StartShell;
  private readonly send: (event: AppEvent) => void;
  private readonly shells = new Map<number, HostShell>();
  private opening = 0;
  private last = 0;
  private closed = false;

  constructor(begin: StartShell, send: (event: AppEvent) => void) {
    this.begin = begin;
    this.send = send;
  }

  /** @returns its number @throws BadInput */
  async open(columns: number, rows: number): Promise<number> {
    if (this.shells.size + this.opening >= MOST_SHELLS) {
      throw new BadInput("bad-option", `${MOST_SHELLS} host shells are open`, "close one first");
    }
    this.opening++;
    try {
      const pty = await this.begin(columns, rows);
      const id = ++this.last;
      const output = (bytes: Buffer) => {
        // The renderer closed it and wants no more.
        if (this.shells.has(id)) this.send({ kind: "shell", shell: id, data: bytes.toString("base64") });
      };
      const shell = new HostShell(pty, output, (status) => {
        if (this.shells.delete(id)) this.send({ kind: "shell-end", shell: id, status });
      });
      if (this.closed) shell.hangUp();
      else this.shells.set(id, shell);
      return id;
    } finally {
      this.opening--;
    }
  }

  private get(id: number): HostShell {
    const found = this.shells.get(id);
    if (found !== undefined) return found;
    throw new BadInput("bad-option", `there is no host shell ${id}: it has ended`, "open another one");
  }

  write(id: number, bytes: Buffer): void {
    this.get(id).write(bytes);
  }

  /** A shell that has ended needs no acknowledgement any more. */
  acknowledge(id: number, bytes: number): void {
    this.shells.get(id)?.acknowledge(bytes);
  }

  resize(id: number, columns: number, rows: number): void {
    this.shells.get(id)?.resize(columns, rows);
  }

  /** Its end is still told as an event. */
  close(id: number): void {
    this.shells.get(id)?.hangUp();
  }

  /** Ends all of them: the renderer is gone. */
  dispose(): void {
    this.closed = true;
    const shells = [...this.shells.values()];
    this.shells.clear();
    for (const shell of shells) shell.hangUp();
  }
}
