import type { FramePlan } from "./frame-plan.ts";
import type { GuestMemory, Mapping, MemoryToken } from "./guest-memory.ts";
import { fixedMemory, sharedViews } from "./mapping.ts";

/** Memory inside one process: the vCPU's linear memory itself, shared with the other threads. */
export function createThreadsMemory(plan: FramePlan, privateBytes: number): GuestMemory {
  return openThreadsMemory({
    kind: "threads",
    memory: fixedMemory(privateBytes + plan.length),
    base: privateBytes,
    plan,
  });
}

export function openThreadsMemory(token: MemoryToken & { readonly kind: "threads" }): GuestMemory {
  const { memory, base, plan } = token;
  return {
    kind: "threads",
    plan,
    token,
    attach(privateBytes): Mapping {
      if (privateBytes !== 0 && privateBytes !== base) {
        throw new RangeError(`this memory has a private area of ${base} bytes, not ${privateBytes}`);
      }
      const views = sharedViews(memory, base, plan);
      return {
        ...views,
        wait(offset, expected, timeoutNs) {
          Atomics.wait(views.words, (base + offset) >>> 2, expected, timeoutNs / 1e6);
        },
        wake(offset) {
          Atomics.notify(views.words, (base + offset) >>> 2);
        },
        discard(offset, length) {
          views.bytes.fill(0, base + offset, base + offset + length);
        },
      };
    },
    close() {},
  };
}
