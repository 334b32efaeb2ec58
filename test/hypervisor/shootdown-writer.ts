/** A backend's thread: writes to a domain's RAM as often as told, and says so in the word behind its own. */
import { workerData } from "node:worker_threads";
import { codeWritten } from "../../engine/hypervisor/code-shootdown.ts";
import { type MemoryToken, openGuestMemory } from "../../engine/memory/guest-memory.ts";

export interface WriterInput {
  readonly memory: MemoryToken;
  /** Frame that it writes to; the first word counts the writes, the second those that are over. */
  readonly offset: number;
  readonly rounds: number;
  /** A word: 0 once the domain is dead. */
  readonly alive: SharedArrayBuffer;
}

function write({ memory, offset, rounds, alive }: WriterInput): void {
  const mapping = openGuestMemory(memory).attach();
  const at = (mapping.base + offset) >>> 2;
  const lives = new Int32Array(alive);
  for (let round = 1; round <= rounds; round++) {
    Atomics.store(mapping.words, at, round);
    codeWritten(mapping, offset, 4, () => Atomics.load(lives, 0) !== 0);
    Atomics.store(mapping.words, at + 1, round);
  }
}

write(workerData as WriterInput);
