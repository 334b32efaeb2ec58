/**
 * Taking the events of a vCPU whose kernel is TypeScript: what a guest's upcall handler does with the 2-level bitmaps
 * (xen/include/public/event_channel.h, xen.h), in their 64-bit layout.
 */
import { sharedInfo, vcpuInfo } from "../abi/xen.ts";
import type { Mapping } from "../memory/guest-memory.ts";
import type { EventDelivery } from "./event-delivery.ts";

/** Words of 32 ports that a bit of the selector stands for. */
const WORDS_PER_GROUP = 2;

/** Takes the events of 32 ports: word `group` of the bitmaps. */
function takeWord(
  words: Int32Array<SharedArrayBuffer>,
  pending: number,
  mask: number,
  take: (bit: number) => boolean,
): boolean {
  let taken = false;
  let left = -1;
  for (;;) {
    // Read again after every handler: it may have masked or closed one of the others.
    const bits = Atomics.load(words, pending) & ~Atomics.load(words, mask) & left;
    if (bits === 0) return taken;
    const lowest = bits & -bits;
    // Only ports above it from here on, so that each is served once however fast it is set again.
    left &= ~(lowest | (lowest - 1));
    if (take(31 - Math.clz32(lowest))) taken = true;
  }
}

/**
 * Calls `handle` for every event that waits for a vCPU, in ascending order of ports and once a port. An event is
 * cleared before its handler runs, so one that comes meanwhile is seen by the next call: the vCPU's upcall flag is set
 * again then, and whoever sleeps must look at EventDelivery.upcallPending first. One call does a bounded amount of
 * work, whatever peers send. Masked ports are left, as are those of other vCPUs (a port is moved behind its mask, as
 * Linux does, or an event that waits at that moment is not seen).
 *
 * @param mapping the domain's own memory
 * @param delivery of the same mapping
 * @returns whether there was any event
 */
export function takePending(
  mapping: Mapping,
  delivery: EventDelivery,
  vcpu: number,
  handle: (port: number) => void,
): boolean {
  const { words, bytes, base, plan } = mapping;
  const info = base + delivery.vcpuInfo(vcpu);
  // The flag before the selector, and that before the bits: senders set them in the opposite order, so none gets lost.
  if (Atomics.exchange(bytes, info + vcpuInfo.offsets.upcallPending, 0) === 0) return false;
  const selector = (info + vcpuInfo.offsets.pendingSelector) >>> 2;
  const pending = (base + plan.sharedInfo + sharedInfo.offsets.evtchnPending) >>> 2;
  const mask = (base + plan.sharedInfo + sharedInfo.offsets.evtchnMask) >>> 2;
  let taken = false;
  for (let half = 0; half < 2; half++) {
    let groups = Atomics.exchange(words, selector + half, 0);
    while (groups !== 0) {
      const group = half * 32 + 31 - Math.clz32(groups & -groups);
      groups &= groups - 1;
      for (let word = group * WORDS_PER_GROUP; word < (group + 1) * WORDS_PER_GROUP; word++) {
        const take = (bit: number): boolean => {
          const port = word * 32 + bit;
          if (delivery.boundVcpu(port) !== vcpu) return false;
          if ((Atomics.and(words, pending + word, ~(1 << bit)) & (1 << bit)) === 0) return false;
          handle(port);
          return true;
        };
        if (takeWord(words, pending + word, mask + word, take)) taken = true;
      }
    }
  }
  return taken;
}
