/** An uplink's surroundings, for tests: keeps what it sends and says. */
import { expect } from "vitest";
import type { Frame } from "../../../engine/device/net/frame.ts";
import { monotonicClock } from "../../../engine/network/types.ts";
import type { UplinkContext } from "../../../engine/network/uplink/types.ts";

export interface TestContext extends UplinkContext {
  /** Clones of what was sent. */
  readonly frames: Frame[];
  readonly lines: string[];
  batches: number;
}

export function testContext(): TestContext {
  const context: TestContext = {
    frames: [],
    lines: [],
    batches: 0,
    clock: monotonicClock,
    send: (frame) => context.frames.push(frame.clone()),
    batchEnd: () => {
      context.batches++;
    },
    log: (line) => context.lines.push(line),
  };
  return context;
}

/** Asks again and again, for long enough on a busy host. */
export function eventually<T>(question: () => T) {
  return expect.poll(question, { timeout: 20_000, interval: 10 });
}

/** A frame's bytes, for comparisons. */
export function bytesOf(frame: Frame): Buffer {
  const bytes = Buffer.alloc(frame.length);
  frame.copyTo(bytes, 0);
  return bytes;
}
