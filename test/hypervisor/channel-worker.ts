/** A thread of a domain that offers ports, binds to its peer's, sends and closes at random, as often as told. */
import { parentPort, workerData } from "node:worker_threads";
import { type ViewInput, viewDomain } from "./mapped-domains.ts";

export interface StressInput {
  readonly view: ViewInput;
  readonly peer: number;
  readonly rounds: number;
  readonly seed: number;
  /** A word that counts the threads which are ready, and how many there are. */
  readonly ready: SharedArrayBuffer;
  readonly threads: number;
}

/** Ports that both sides fight over. */
const PORTS = 12;

/** Threads take long to start, compared with what they do here. */
function startTogether(words: Int32Array, threads: number): void {
  Atomics.add(words, 0, 1);
  while (Atomics.load(words, 0) < threads);
}

function stress({ view, peer, rounds, seed, ready, threads }: StressInput): void {
  const { events } = viewDomain(view);
  let state = seed;
  const random = (limit: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 8) % limit;
  };
  const counts = { bound: 0, closed: 0 };
  startTogether(new Int32Array(ready), threads);
  for (let round = 0; round < rounds; round++) {
    const port = 1 + random(PORTS);
    switch (random(4)) {
      case 0:
        if (events.allocUnbound(peer) > PORTS) for (let n = 1; n <= 2 * PORTS; n++) events.close(n);
        break;
      case 1:
        if (events.bindInterdomain(peer, port) > 0) counts.bound++;
        break;
      case 2:
        if (events.close(port) === 0) counts.closed++;
        break;
      default:
        events.send(port);
    }
  }
  parentPort?.postMessage(counts);
}

stress(workerData as StressInput);
