/** Short messages at the edge of the window: what happened, what went wrong and how to take it back. */
import { errorLine } from "../error-line.ts";

export interface Notice {
  readonly id: number;
  readonly kind: "info" | "success" | "error";
  readonly text: string;
  /** One button: "Undo", say. */
  readonly action?: { readonly label: string; run(): void };
}

/** Errors stay until they are closed. */
const SHOWN_MS = { info: 6000, success: 5000, error: Number.POSITIVE_INFINITY };
/** Time to take something back. */
const WITH_ACTION_MS = 12_000;
const MOST = 5;

class Notices {
  list = $state<Notice[]>([]);
  private last = 0;

  add(kind: Notice["kind"], text: string, action?: Notice["action"]): void {
    // The same again and again is one, with the latest way out.
    const same = this.list.find((notice) => notice.kind === kind && notice.text === text);
    if (same !== undefined && !same.action && !action) return;
    if (same !== undefined) this.close(same.id);
    const id = ++this.last;
    this.list = [...this.list, { id, kind, text, ...(action && { action }) }].slice(-MOST);
    const shown = Math.max(SHOWN_MS[kind], action ? WITH_ACTION_MS : 0);
    if (Number.isFinite(shown)) window.setTimeout(() => this.close(id), shown);
  }

  info(text: string, action?: Notice["action"]): void {
    this.add("info", text, action);
  }

  success(text: string, action?: Notice["action"]): void {
    this.add("success", text, action);
  }

  error(error: unknown, action?: Notice["action"]): void {
    this.add("error", errorLine(error), action);
  }

  close(id: number): void {
    this.list = this.list.filter((notice) => notice.id !== id);
  }
}

export const notices = new Notices();

/** Does something for the user; a failure becomes a notice. @returns what it returned, undefined when it failed */
export async function attempt<T>(action: () => Promise<T>): Promise<T | undefined> {
  try {
    return await action();
  } catch (error) {
    notices.error(error);
    return undefined;
  }
}
