/** Events of a domain's vCPU 0 as calls on this thread's event loop. */
import { Worker } from "node:worker_threads";
import type { EventDelivery } from "../../hypervisor/event-delivery.ts";
import type { MemoryToken } from "../../memory/guest-memory.ts";
import { compiledPath } from "../entry.ts";

/** Words that the event loop and the watching thread share. */
export const FLAG_POSTED = 0;
export const FLAG_STOP = 1;

export interface DoorbellInput {
  readonly memory: MemoryToken;
  readonly flags: SharedArrayBuffer;
}

export class Doorbell {
  private readonly worker: Worker;
  private readonly words = new Int32Array(new SharedArrayBuffer(8));
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

  close(): void {
    Atomics.store(this.words, FLAG_STOP, 1);
    this.delivery.ring(0);
  }
}
