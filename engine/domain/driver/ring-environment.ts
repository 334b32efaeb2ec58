/** What rings of any device class need of the domain that serves them: event channels, and state that outlives a process. */
import type { GrantMapper, MemoryView } from "../../device/domain-interface.ts";

/** A frontend's pages, with the right to take over what an earlier process had mapped. */
export interface AdoptingMapper extends GrantMapper {
  adopt(handle: number): boolean;
  close(): void;
}

/** What a frontend offers for a ring, or a pair of rings: its pages, one event channel or two. */
export interface RingGrants {
  readonly refs: readonly number[];
  readonly eventChannel: number;
  readonly secondEventChannel?: number;
}

/** One ring's place in a world of event channels and memory. */
export interface BoundRing {
  readonly port: number;
  readonly secondPort?: number;
  readonly handles: readonly number[];
  /** Memory for requests in flight; `adopted`: as an earlier process left it. */
  readonly memory: MemoryView;
  readonly inFlight: number;
  /** Where its counters lie. */
  readonly counters: { readonly buffer: ArrayBufferLike; readonly address: number };
  readonly adopted: boolean;
}

/** Which ring is bound: that of a device's queue. */
export interface RingIdentity {
  readonly frontend: number;
  /** Number of the device: a virtual-device number, or a handle. */
  readonly vdev: number;
  readonly queue: number;
}
