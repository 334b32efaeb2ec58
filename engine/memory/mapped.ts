import type { FramePlan } from "./frame-plan.ts";
import type { GuestMemory, Mapping, MemoryToken } from "./guest-memory.ts";
import { fixedMemory, sharedViews } from "./mapping.ts";
import { posix } from "./posix.ts";

/** Poll interval of a sleeper on hosts without a cross-process futex. */
const POLL_NS = 1_000_000;

function attach(descriptor: number, plan: FramePlan, privateBytes: number): Mapping {
  const system = posix();
  const views = sharedViews(fixedMemory(privateBytes + plan.length), privateBytes, plan);
  const start = system.addressOf(views.bytes.buffer) + BigInt(privateBytes);
  system.mapFixed(start, plan.length, descriptor, 0);
  const { words, bytes, base } = views;
  return {
    ...views,
    wait(offset, expected, timeoutNs) {
      if (system.futexWait(start + BigInt(offset), expected, timeoutNs)) return;
      Atomics.wait(words, (base + offset) >>> 2, expected, Math.min(timeoutNs, POLL_NS) / 1e6);
    },
    wake(offset) {
      if (!system.futexWake(start + BigInt(offset))) Atomics.notify(words, (base + offset) >>> 2);
    },
    discard(offset, length) {
      if (!system.remove(start + BigInt(offset), length)) bytes.fill(0, base + offset, base + offset + length);
    },
  };
}

/** Memory in an unnamed file, mapped into every attached linear memory. */
export function createMappedMemory(plan: FramePlan): GuestMemory {
  const descriptor = posix().createFile(plan.length);
  return openMappedMemory({ kind: "mapped", descriptor, plan });
}

/** The same file in another worker of the process that created it. */
export function openMappedMemory(token: MemoryToken & { readonly kind: "mapped" }): GuestMemory {
  return {
    kind: "mapped",
    plan: token.plan,
    token,
    attach: (privateBytes) => attach(token.descriptor, token.plan, privateBytes),
    close: () => posix().closeFile(token.descriptor),
  };
}
