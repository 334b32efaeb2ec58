/** Work that may take long: what it is at, how far, and how it can be stopped. */
import { randomUUID } from "node:crypto";
import { explain } from "../../failure.ts";
import { progressOf } from "../../images/progress-text.ts";
import type { OperationRow } from "../machine-api.ts";
import { cancelled, MachineError } from "./errors.ts";

/** What the work itself says and hears. */
export interface OperationControl {
  readonly signal: AbortSignal;
  /** Begins a step, or tells how far it is; total 0 when that cannot be told. */
  step(text: string, done?: number, total?: number): void;
  /** From here on it cannot be cancelled: what follows is short, or may not be left half done. */
  commit(): void;
}

/** Passes on a line of an image's progress, with how far it says it is. */
export function tellProgress(control: Pick<OperationControl, "step">, text: string): void {
  const { step, done, total } = progressOf(text);
  control.step(step, done, total);
}

export type OperationListener = (
  operation: OperationRow,
  ended?: { readonly ok: boolean; readonly line?: string },
) => void;

interface Running {
  row: OperationRow;
  readonly abort: AbortController;
}

/** Least time between two reports of one step's progress, ms. */
const REPORT_MS = 100;
/** Operations at one time. */
const MOST_OPERATIONS = 256;

export class Operations {
  private readonly running = new Map<string, Running>();
  private readonly listener: OperationListener;

  constructor(listener: OperationListener = () => {}) {
    this.listener = listener;
  }

  list(): OperationRow[] {
    return [...this.running.values()].map(({ row }) => row);
  }

  /** @returns whether it will stop: false for one that has ended, or is past the point */
  cancel(id: string): boolean {
    const found = this.running.get(id);
    if (!found?.row.cancellable) return false;
    found.abort.abort();
    return true;
  }

  /** Stops everything that can be stopped. */
  cancelAll(): void {
    for (const id of [...this.running.keys()]) this.cancel(id);
  }

  /**
   * Does some work under an id.
   * @param what for people: "snapshot of web"
   * @throws what the work throws; MachineError "cancelled" in place of whatever it throws after a cancel
   */
  async run<Result>(
    options: { readonly id?: string | undefined; readonly what: string; readonly machine?: string },
    body: (control: OperationControl) => Promise<Result>,
  ): Promise<Result> {
    const id = options.id ?? randomUUID();
    if (this.running.has(id)) throw new MachineError("busy", `operation ${id} is running already`, "choose another id");
    if (this.running.size >= MOST_OPERATIONS) {
      throw new MachineError("busy", `${MOST_OPERATIONS} operations are running`, "wait for some to end");
    }
    const { what, machine } = options;
    const row: OperationRow = {
      id,
      what,
      ...(machine !== undefined && { machine }),
      step: "waiting",
      done: 0,
      total: 0,
      cancellable: true,
    };
    const entry: Running = { row, abort: new AbortController() };
    this.running.set(id, entry);
    this.listener(row);
    try {
      const result = await body(this.control(entry));
      this.running.delete(id);
      this.listener(entry.row, { ok: true });
      return result;
    } catch (error) {
      this.running.delete(id);
      const told = entry.abort.signal.aborted && entry.row.cancellable ? cancelled(what) : error;
      this.listener(entry.row, { ok: false, line: explain(told).line });
      throw told;
    }
  }

  private control(entry: Running): OperationControl {
    let reported = 0;
    const change = (part: Partial<OperationRow>) => {
      entry.row = { ...entry.row, ...part };
      this.listener(entry.row);
    };
    return {
      signal: entry.abort.signal,
      step: (text, done = 0, total = 0) => {
        const now = Date.now();
        if (text === entry.row.step && now - reported < REPORT_MS && done < total) return;
        reported = now;
        change({ step: text, done, total });
      },
      commit: () => {
        if (entry.abort.signal.aborted) throw cancelled(entry.row.what);
        change({ cancellable: false });
      },
    };
  }
}
