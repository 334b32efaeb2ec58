/** A vCPU's thread that writes all the time, and flushes its TLB when told; it stops when told. */
import { workerData } from "node:worker_threads";
import { FRAMES } from "../../engine/cpu/assembly/layout.ts";
import { openGuestMemory } from "../../engine/memory/guest-memory.ts";
import { ASKED, type BusyInput, DONE, STOP, STOPPED, TaggedWriter, WRITES } from "./memory-domain.ts";

function run({ memory, frames, control }: BusyInput): void {
  const mapping = openGuestMemory(memory).attach({ privateBytes: FRAMES });
  const writer = new TaggedWriter(mapping);
  const words = new Int32Array(control);
  let random = 1;
  for (let value = 1; Atomics.load(words, STOP) === 0; value++) {
    random = (Math.imul(random, 1664525) + 1013904223) >>> 0;
    // Half of the writes go to a sixteenth of the pages.
    const range = (random & 64) === 0 ? frames : frames / 16;
    writer.write(Math.floor((random / 2 ** 32) * range), value);
    const asked = Atomics.load(words, ASKED);
    if (asked !== Atomics.load(words, DONE)) {
      writer.flush();
      Atomics.store(words, DONE, asked);
      Atomics.notify(words, DONE);
    }
    Atomics.store(words, WRITES, value);
  }
  Atomics.store(words, STOPPED, 1);
  Atomics.notify(words, STOPPED);
}

run(workerData as BusyInput);
