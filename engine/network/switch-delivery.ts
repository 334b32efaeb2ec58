/** The last step of a switch: frames handed to ports, seen by taps, counted, and flushed a batch at a time. */
import type { Frame } from "../device/net/frame.ts";
import type { SwitchPort } from "./port.ts";
import type { FrameTap } from "./types.ts";

function countGroup(to: SwitchPort, head: Uint8Array): void {
  const isBroadcast = (head[0]! & head[1]! & head[2]! & head[3]! & head[4]! & head[5]!) === 0xff;
  if (isBroadcast) to.counters.broadcastOut++;
  else to.counters.multicastOut++;
}

export class Deliveries {
  #taps: readonly FrameTap[] = [];
  /** Ports delivered to and not flushed, the first #dirtyCount; and the list that the last flush walked. */
  #dirty: SwitchPort[] = [];
  #walked: SwitchPort[] = [];
  #dirtyCount = 0;
  #isPlanned = false;
  #isFlushing = false;
  readonly #plannedFlush = (): void => {
    this.#isPlanned = false;
    this.flush();
  };

  /** @returns removes the tap again */
  addTap(tap: FrameTap): () => void {
    this.#taps = [...this.#taps, tap];
    return () => {
      this.#taps = this.#taps.filter((other) => other !== tap);
    };
  }

  /** Shows the frame to the port's taps and the switch's. */
  tap(frame: Frame, port: SwitchPort, direction: "in" | "out"): void {
    for (const tap of port.taps) tap(frame, port, direction);
    for (const tap of this.#taps) tap(frame, port, direction);
  }

  /** Hands a frame to a port, whatever policies say. */
  deliver(to: SwitchPort, frame: Frame): void {
    const { counters } = to;
    if (!to.isUp || to.isRemoved) {
      counters.dropOut("link-down");
      return;
    }
    this.tap(frame, to, "out");
    const failure = to.port.deliver(frame);
    if (failure !== undefined) counters.dropOut(failure);
    else {
      counters.framesOut++;
      counters.bytesOut += frame.length;
      if ((frame.head[0]! & 1) !== 0) countGroup(to, frame.head);
    }
    if (!to.isDirty && to.port.flush !== undefined) this.#markDirty(to);
  }

  /**
   * Flushes the ports that were delivered to. Flushing may deliver anew: that is left for the next time, so that no two
   * ports keep each other going here.
   */
  flush(): void {
    if (this.#isFlushing || this.#dirtyCount === 0) return;
    const ports = this.#dirty;
    const count = this.#dirtyCount;
    this.#dirty = this.#walked;
    this.#walked = ports;
    this.#dirtyCount = 0;
    this.#isFlushing = true;
    try {
      for (let n = 0; n < count; n++) {
        const port = ports[n]!;
        port.isDirty = false;
        if (!port.isRemoved) port.port.flush?.();
      }
    } finally {
      this.#isFlushing = false;
    }
  }

  #markDirty(port: SwitchPort): void {
    port.isDirty = true;
    this.#dirty[this.#dirtyCount++] = port;
    // Whoever forgets to end its batch, or delivers outside of one, is helped before the event loop's turn ends.
    if (this.#isPlanned) return;
    this.#isPlanned = true;
    queueMicrotask(this.#plannedFlush);
  }
}
