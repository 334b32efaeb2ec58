import { PAGE_SIZE } from "../abi/xen.ts";
import type { FramePlan } from "./frame-plan.ts";
import type { GuestMemory, Mapping, MemoryToken } from "./guest-memory.ts";
import { fixedMemory, sharedViews } from "./mapping.ts";
import { posix } from "./posix.ts";

/** Memory inside one process: the vCPU's linear memory itself, shared with the other threads. */
export function createThreadsMemory(plan: FramePlan, privateBytes: number): GuestMemory {
  return openThreadsMemory({
    kind: "threads",
    memory: fixedMemory(privateBytes + plan.length),
    base: privateBytes,
    plan,
  });
}

/** No page of another domain can be mapped here. */
function noForeign(): never {
  throw new Error("this kind of memory maps no foreign pages");
}

export function openThreadsMemory(token: MemoryToken & { readonly kind: "threads" }): GuestMemory {
  const { memory, base, plan } = token;
  return {
    kind: "threads",
    plan,
    token,
    attach({ privateBytes = 0 } = {}): Mapping {
      if (privateBytes !== 0 && privateBytes !== base) {
        throw new RangeError(`this memory has a private area of ${base} bytes, not ${privateBytes}`);
      }
      const views = sharedViews(memory, base, plan);
      return {
        ...views,
        get nativeAddress() {
          return posix().addressOf(views.bytes.buffer);
        },
        windowBase: base + plan.length,
        windowPages: 0,
        overlaid: false,
        mapForeign: noForeign,
        unmapForeign: noForeign,
        wait(offset, expected, timeoutNs) {
          Atomics.wait(views.words, (base + offset) >>> 2, expected, timeoutNs / 1e6);
        },
        wake(offset, count = 1) {
          Atomics.notify(views.words, (base + offset) >>> 2, count);
        },
        giveWay() {},
        discard(offset, length) {
          views.bytes.fill(0, base + offset, base + offset + Math.ceil(length / PAGE_SIZE) * PAGE_SIZE);
        },
        release() {},
      };
    },
    close() {},
  };
}
