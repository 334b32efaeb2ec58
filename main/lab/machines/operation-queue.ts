/** Runs what is asked of a machine one after the other. */
export class OperationQueue {
  private last: Promise<unknown> = Promise.resolve();
  private waiting = 0;

  /** Whether something runs or waits. */
  get busy(): boolean {
    return this.waiting > 0;
  }

  /** Runs `body` when everything asked before has ended, whatever became of that. */
  run<Result>(body: () => Result | Promise<Result>): Promise<Result> {
    this.waiting++;
    const result = this.last.then(body).finally(() => this.waiting--);
    this.last = result.catch(() => undefined);
    return result;
  }
}

/**
 * Holds several queues while `body` runs. They are taken in the order given: whoever takes several takes them in the same
 * order (by machine id), so that no two wait for each other.
 */
export async function holdAll<Result>(queues: readonly OperationQueue[], body: () => Promise<Result>): Promise<Result> {
  const [first, ...rest] = queues;
  return first === undefined ? body() : first.run(() => holdAll(rest, body));
}
