import { closeSync, openSync } from "node:fs";
import { PAGE_SIZE } from "../abi/xen.ts";
import type { FramePlan } from "./frame-plan.ts";
import type { AttachOptions, GuestMemory, Mapping, MemoryToken } from "./guest-memory.ts";
import { fixedMemory, sharedViews } from "./mapping.ts";
import { posix } from "./posix.ts";

/** Poll interval of a sleeper on hosts without a cross-process futex. */
const POLL_NS = 1_000_000;

function attach(descriptor: number, plan: FramePlan, options: AttachOptions): Mapping {
  const system = posix();
  const { privateBytes = 0, windowPages = 0, overlays = [] } = options;
  const windowBase = privateBytes + plan.length;
  const views = sharedViews(fixedMemory(windowBase + windowPages * PAGE_SIZE), privateBytes, plan);
  const nativeAddress = system.addressOf(views.bytes.buffer);
  const start = nativeAddress + BigInt(privateBytes);
  system.mapFixed(start, plan.length, descriptor, 0);
  for (const { address, offset, length } of overlays) {
    system.mapFixed(nativeAddress + BigInt(address), length, descriptor, offset);
  }
  const { words, bytes, base } = views;
  const slotAddress = (slot: number): bigint => nativeAddress + BigInt(windowBase + slot * PAGE_SIZE);
  return {
    ...views,
    nativeAddress,
    windowBase,
    windowPages,
    overlaid: overlays.length > 0,
    mapForeign: (slot, foreign, offset) => system.mapFixed(slotAddress(slot), PAGE_SIZE, foreign, offset),
    unmapForeign: (slot) => system.unmapFixed(slotAddress(slot), PAGE_SIZE),
    wait(offset, expected, timeoutNs) {
      if (system.futexWait(start + BigInt(offset), expected, timeoutNs)) return;
      Atomics.wait(words, (base + offset) >>> 2, expected, Math.min(timeoutNs, POLL_NS) / 1e6);
    },
    wake(offset, count = 1) {
      if (!system.futexWake(start + BigInt(offset), count)) Atomics.notify(words, (base + offset) >>> 2, count);
    },
    giveWay: () => system.yieldProcessor(),
    discard(offset, length) {
      if (!system.remove(start + BigInt(offset), length)) bytes.fill(0, base + offset, base + offset + length);
    },
    release: () => system.unmapFixed(start, plan.length),
  };
}

/** Memory in an unnamed file, mapped into every attached linear memory. */
export function createMappedMemory(plan: FramePlan): GuestMemory {
  const { descriptor, path, close } = posix().createFile(plan.length);
  return { ...open({ kind: "mapped", descriptor, path, plan }), close };
}

function open(token: MemoryToken & { readonly kind: "mapped" }): GuestMemory {
  return {
    kind: "mapped",
    plan: token.plan,
    token,
    attach: (options = {}) => attach(token.descriptor, token.plan, options),
    close: () => closeSync(token.descriptor),
  };
}

/** The same file in another worker of the process that opened it; closing it closes it there too. */
export function openMappedMemory(token: MemoryToken & { readonly kind: "mapped" }): GuestMemory {
  return open(token);
}

/** The same file in another process. @throws the system's error when its owner is gone */
export function openMappedPath(path: string, plan: FramePlan): GuestMemory {
  return open({ kind: "mapped", descriptor: openSync(path, "r+"), path, plan });
}
