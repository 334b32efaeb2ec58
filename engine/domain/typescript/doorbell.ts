/** Events of a domain's vCPU 0 as calls on this thread's event loop. */
import { Worker } from "node:worker_threads";
import type { EventDelivery } from "../../hypervisor/event-delivery.ts";
import type { MemoryToken } from "../../memory/guest-memory.ts";
import { compiledPath } from "../entry.ts";

/** Words that the event loop and the watching thread share. */
export const FLAG_POSTED = 0;
export const FLAG_STOP = 1;
/** 1 while the event loop's thread sleeps in block(): it is woken then, and sent no message. */
export const FLAG_BLOCKED = 2;
const FLAGS = 3;

export interface DoorbellInput {
  readonly memory: MemoryToken;
  readonly flags: SharedArrayBuffer;
}

export class Doorbell {
  private readonly worker: Worker;
  private readonly words = new Int32Array(new SharedArrayBuffer(4 * FLAGS));
  private readonly delivery: EventDelivery;

  /** Calls `handle` whenever events may be pending for vCPU 0. */
  constructor(memory: MemoryToken, delivery: EventDelivery, handle: () => void) {
    this.delivery = delivery;
    const input: DoorbellInput = { memory, flags: this.words.buffer };
    this.worker = new Worker(compiledPath(import.meta.url, "doorbell-worker.js"), { workerData: input });
    this.worker.on("message", () => {
      Atomics.store(this.words, FLAG_POSTED, 0);
      handle();
      // What came while the flag was set was not told.
      if (this.delivery.upcallPending(0)) this.delivery.ring(0);
    });
  }

  /**
   * Sleeps until an event is pending for vCPU 0, at most so long. The doorbell itself has room for one sleeper, which is the
   * watching thread; it passes the event on.
   */
  block(timeoutNs: number): void {
    Atomics.store(this.words, FLAG_BLOCKED, 1);
    // After the flag: an event that came before it may not have been told.
    if (!this.delivery.upcallPending(0)) Atomics.wait(this.words, FLAG_BLOCKED, 1, timeoutNs / 1e6);
    Atomics.store(this.words, FLAG_BLOCKED, 0);
  }

  close(): void {
    Atomics.store(this.words, FLAG_STOP, 1);
    this.delivery.ring(0);
  }
}
