/**
 * A machine's console on a terminal: the tail of its log, then what it prints, and what is typed. The stream has offsets, so
 * that after a lost connection it goes on where it stopped, and what was not kept meanwhile is told.
 */

import type { LabEvent, MachineState } from "../../../main/lab/machine-api.ts";
import { fromBase64, toBase64 } from "../../lib/base64.ts";
import { errorLine } from "../../lib/error-line.ts";
import { bytes as bytesText } from "../../lib/format.ts";
import { call, client } from "../../lib/rpc/client.ts";
import { lab } from "../../lib/state/lab.svelte.ts";
import { attempt, notices } from "../../lib/state/notices.svelte.ts";
import { ConsoleTerminal } from "./console-terminal.ts";
import { InputQueue } from "./input-queue.ts";

/** Bytes of earlier output that are shown at first. */
const TAIL_BYTES = 256 * 1024;
/** Bytes dealt with before they are acknowledged: a quarter of what the lab sends without. */
const ACKNOWLEDGE_BYTES = 64 * 1024;
/** A "line" longer than that is shown from its middle. */
const LONGEST_CUT = 16 * 1024;
const NEWLINE = 0x0a;

type ConsoleEvent = Extract<LabEvent, { kind: "console" | "console-state" }>;

const stateLines: Partial<Record<MachineState, string>> = {
  starting: "starting",
  restoring: "restoring from memory",
  stopped: "powered off",
  suspended: "suspended to disk",
  crashed: "crashed",
  paused: "paused",
};
/** States in which a guest begins anew on this terminal. */
const BEGINS: readonly MachineState[] = ["starting", "restoring"];
/** States in which somebody reads what is typed. */
const READS: readonly MachineState[] = ["running", "paused", "stopping"];

export class ConsoleSession {
  readonly machine: string;
  readonly terminal: ConsoleTerminal;
  /** Why the console cannot be shown. */
  failure = $state<string | undefined>();
  private readonly queue: InputQueue;
  private attachment: number | undefined;
  /** Rises with every attaching, so that the answer of one that was given up is known. */
  private generation = 0;
  private stopEvents: () => void = () => {};
  /** What came before the number of our attachment did. */
  private early: ConsoleEvent[] = [];
  /** Offset behind what the terminal was given; undefined before the first attaching. */
  private shown: number | undefined;
  private acknowledged = 0;
  /** Output before it is old: its questions were asked of another terminal. */
  private replayEnd = 0;
  /** The stream began within a line, whose rest is not shown; with the bytes dropped so far. */
  private cut: number | undefined;
  /** Changes of state whose place in the output is still to come. */
  private changes: { readonly offset: number; readonly state: MachineState }[] = [];

  /** @param machine its id */
  constructor(machine: string, fontSize: number) {
    this.machine = machine;
    this.queue = new InputQueue(
      (bytes) => call("consoleWrite", { machine, data: toBase64(bytes) }),
      (error) => notices.error(error),
    );
    this.terminal = new ConsoleTerminal(
      {
        input: (bytes) => this.type(bytes),
        size: () => this.tellSize(),
      },
      fontSize,
    );
  }

  /** Types bytes; into a machine that does not run they are lost, which its state tells. */
  type(bytes: Uint8Array): void {
    const state = lab.machine(this.machine)?.state;
    if (state !== undefined && READS.includes(state)) this.queue.push(bytes);
  }

  private tellSize(): void {
    if (this.attachment === undefined) return;
    // A hint: a guest that does not hear it is none the worse.
    call("consoleResize", { machine: this.machine, ...this.terminal.size }).catch(() => {});
  }

  /** Watches the console, from where it was watched last. */
  async attach(): Promise<void> {
    this.detach();
    const generation = this.generation;
    const { machine } = this;
    this.stopEvents = client.onEvent((event) => {
      if (event.kind === "console" || event.kind === "console-state") this.hear(event);
    });
    try {
      let wanted = this.shown;
      if (wanted === undefined) {
        const { end } = await call("consoleLog", { machine, bytes: 1 });
        wanted = Math.max(0, end - TAIL_BYTES);
      }
      if (generation !== this.generation) return;
      const { attachment, offset, end } = await call("consoleAttach", { machine, offset: wanted });
      if (generation !== this.generation) {
        call("consoleDetach", { attachment }).catch(() => {});
        return;
      }
      this.begin(attachment, offset, end);
    } catch (error) {
      if (generation !== this.generation) return;
      this.detach();
      this.failure = errorLine(error);
    }
  }

  private begin(attachment: number, offset: number, end: number): void {
    this.failure = undefined;
    // Offsets that run back belong to a log that began anew.
    if (this.shown !== undefined && offset < this.shown) {
      this.terminal.reset();
      this.shown = offset;
    }
    if (this.shown === undefined) {
      this.shown = offset;
      this.cut = offset > 0 && offset < end ? 0 : undefined;
    }
    this.attachment = attachment;
    this.acknowledged = offset;
    this.replayEnd = end;
    this.terminal.answers = offset >= end;
    this.tellSize();
    for (const event of this.early.splice(0)) this.hear(event);
  }

  private hear(event: ConsoleEvent): void {
    if (this.attachment === undefined) {
      this.early.push(event);
      return;
    }
    if (event.attachment !== this.attachment) return;
    if (event.kind === "console") this.take(event.offset, fromBase64(event.data));
    else this.changes.push({ offset: event.offset, state: event.state });
    this.showChanges();
  }

  private take(offset: number, data: Uint8Array): void {
    const shown = this.shown ?? offset;
    if (offset > shown) this.terminal.tell(`${bytesText(offset - shown)} of output were not kept`);
    const piece = offset < shown ? data.subarray(shown - offset) : data;
    const at = Math.max(offset, shown);
    this.shown = at + piece.length;
    const split = Math.min(Math.max(0, this.replayEnd - at), piece.length);
    // Apart, so that the end of the old output is known exactly.
    if (split > 0) this.show(this.withoutCutLine(piece.subarray(0, split)), at + split);
    if (at + split >= this.replayEnd) this.cut = undefined;
    if (split < piece.length) this.show(piece.subarray(split), this.shown);
  }

  private withoutCutLine(piece: Uint8Array): Uint8Array {
    if (this.cut === undefined) return piece;
    const newline = piece.indexOf(NEWLINE);
    this.cut += piece.length;
    if (newline < 0 && this.cut < LONGEST_CUT) return piece.subarray(piece.length);
    this.cut = undefined;
    return piece.subarray(newline + 1);
  }

  private show(piece: Uint8Array, end: number): void {
    const { attachment } = this;
    this.terminal.write(piece, () => {
      if (attachment !== this.attachment || attachment === undefined) return;
      if (end >= this.replayEnd) this.terminal.answers = true;
      if (end - this.acknowledged < ACKNOWLEDGE_BYTES) return;
      this.acknowledged = end;
      // Fails only when the connection goes, and with it the attachment.
      call("consoleAcknowledge", { attachment, offset: end }).catch(() => {});
    });
  }

  private showChanges(): void {
    while (this.changes[0] !== undefined && this.changes[0].offset <= (this.shown ?? 0)) {
      const { state } = this.changes.shift()!;
      if (BEGINS.includes(state)) this.terminal.modesOff();
      const line = stateLines[state];
      if (line !== undefined) this.terminal.tell(line);
    }
  }

  /** Ends the watching; attach() goes on from here. */
  detach(): void {
    this.generation++;
    this.stopEvents();
    this.stopEvents = () => {};
    this.early = [];
    this.changes = [];
    const { attachment } = this;
    this.attachment = undefined;
    // A connection that is gone took the attachment with it.
    if (attachment !== undefined) call("consoleDetach", { attachment }).catch(() => {});
  }

  /** All that is kept of the log, in pieces. undefined when it could not be read */
  async log(): Promise<Uint8Array<ArrayBuffer>[] | undefined> {
    return await attempt(async () => {
      const pieces: Uint8Array<ArrayBuffer>[] = [];
      let offset = 0;
      let last = Number.POSITIVE_INFINITY;
      while (offset < last) {
        const { offset: at, data, end } = await call("consoleLog", { machine: this.machine, offset });
        // What is printed meanwhile is not waited for.
        last = Math.min(last, end);
        const piece = fromBase64(data);
        if (piece.length === 0) break;
        pieces.push(piece);
        offset = at + piece.length;
      }
      return pieces;
    });
  }

  dispose(): void {
    this.detach();
    this.queue.clear();
    this.terminal.dispose();
  }
}
