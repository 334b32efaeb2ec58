/** Longest that a timer of Node holds, ms. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** Whether a promise is fulfilled within so many seconds. @throws what it rejects with */
export async function endsWithin(end: Promise<unknown>, seconds: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), Math.min(seconds * 1000, LONGEST_TIMER_MS));
  });
  try {
    return await Promise.race([end.then(() => true), late]);
  } finally {
    clearTimeout(timer);
  }
}

/** A signal that is raised after so many seconds, and how to let go of its timer. */
export function deadline(seconds: number): { readonly signal: AbortSignal; cancel(): void } {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), Math.min(seconds * 1000, LONGEST_TIMER_MS));
  return { signal: abort.signal, cancel: () => clearTimeout(timer) };
}

/** Those who wait for a change of state. */
export class Changes {
  private readonly listeners = new Set<() => void>();

  /** Something has changed. */
  tell(): void {
    for (const listener of [...this.listeners]) listener();
  }

  /** Fulfilled when the condition holds after a change, with true; with false when `signal` was raised first. */
  until(condition: () => boolean, signal?: AbortSignal): Promise<boolean> {
    if (condition()) return Promise.resolve(true);
    return new Promise((resolve) => {
      const finish = (reached: boolean) => {
        this.listeners.delete(look);
        signal?.removeEventListener("abort", stop);
        resolve(reached);
      };
      const look = () => {
        if (condition()) finish(true);
      };
      const stop = () => finish(false);
      if (signal?.aborted) return stop();
      this.listeners.add(look);
      signal?.addEventListener("abort", stop);
    });
  }
}
