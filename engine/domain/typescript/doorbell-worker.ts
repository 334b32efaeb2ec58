/**
 * Sleeps on the doorbell of a domain's vCPU 0 and tells the event loop, which cannot sleep there itself. One message at a
 * time is under way, whatever the number of events.
 */
import { parentPort, workerData } from "node:worker_threads";
import { EventDelivery } from "../../hypervisor/event-delivery.ts";
import { openGuestMemory } from "../../memory/guest-memory.ts";
import { type DoorbellInput, FLAG_BLOCKED, FLAG_POSTED, FLAG_STOP } from "./doorbell.ts";

const LONGEST_SLEEP_NS = 1e9;

function watch({ memory, flags }: DoorbellInput): void {
  const delivery = new EventDelivery(openGuestMemory(memory).attach());
  const words = new Int32Array(flags);
  const stopped = () => Atomics.load(words, FLAG_STOP) !== 0;
  const blocked = () => Atomics.load(words, FLAG_BLOCKED) !== 0;
  while (!stopped()) {
    // While the event loop has a message to come, events need no second one: it looks after taking the first.
    const busy = () =>
      stopped() || (delivery.upcallPending(0) && (blocked() || Atomics.load(words, FLAG_POSTED) === 0));
    delivery.sleep(0, LONGEST_SLEEP_NS, busy);
    if (stopped() || !delivery.upcallPending(0)) continue;
    if (Atomics.compareExchange(words, FLAG_BLOCKED, 1, 0) === 1) Atomics.notify(words, FLAG_BLOCKED);
    else if (Atomics.exchange(words, FLAG_POSTED, 1) === 0) parentPort?.postMessage("event");
  }
}

watch(workerData as DoorbellInput);
