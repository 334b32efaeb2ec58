/** The thread that waits for all descriptors of a PhysicalInterruptController, see there. */
import { readSync } from "node:fs";
import { workerData } from "node:worker_threads";
import { EventDelivery } from "../hypervisor/event-delivery.ts";
import { openGuestMemory } from "../memory/guest-memory.ts";
import {
  FIRST_SOURCE,
  MAX_PIRQS,
  type PollInput,
  SOURCE_DESCRIPTOR,
  SOURCE_PORT,
  SOURCE_STATE,
  SOURCE_WORDS,
  SourceState,
  STATE_MASK,
  WORD_STOP,
  WORD_USED,
  WORD_WOKEN,
} from "./physical-interrupts.ts";
import { PollList } from "./poll.ts";

/** Longest sleep in one go: the bound on how long the end of the process can take that nobody announced. */
const LONGEST_POLL_MS = 1000;

/** A source in the list: where its words begin, and what its state was. */
interface Listed {
  readonly at: number;
  readonly state: number;
}

function run({ memory, table, wake }: PollInput): void {
  const delivery = new EventDelivery(openGuestMemory(memory).attach());
  const words = new Int32Array(table);
  const list = new PollList(MAX_PIRQS + 1);
  const byte = new Uint8Array(1);
  const listed: Listed[] = [];
  while (Atomics.load(words, WORD_STOP) === 0) {
    list.clear();
    listed.length = 0;
    const own = list.add(wake);
    for (let pirq = 0; pirq < Atomics.load(words, WORD_USED); pirq++) {
      const at = FIRST_SOURCE + pirq * SOURCE_WORDS;
      const state = Atomics.load(words, at + SOURCE_STATE);
      if ((state & STATE_MASK) !== SourceState.armed) continue;
      list.add(Atomics.load(words, at + SOURCE_DESCRIPTOR));
      listed.push({ at, state });
    }
    list.wait(LONGEST_POLL_MS);
    if (list.ready(own)) {
      readSync(wake, byte);
      // Before the sources are looked at again: what changes from here on is told anew.
      Atomics.store(words, WORD_WOKEN, 0);
    }
    for (const [index, { at, state }] of listed.entries()) {
      if (!list.ready(own + 1 + index)) continue;
      const port = Atomics.load(words, at + SOURCE_PORT);
      const raised = (state & ~STATE_MASK) | SourceState.raised;
      // Silent before it is told: the domain may answer with eoi at once.
      if (Atomics.compareExchange(words, at + SOURCE_STATE, state, raised) === state) delivery.setPending(port);
    }
  }
}

run(workerData as PollInput);
