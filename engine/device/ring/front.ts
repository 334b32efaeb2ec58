/**
 * The frontend's end of a ring, with the verbs of xen/include/public/io/ring.h: it produces requests and consumes
 * responses. The backend is not trusted either: an impossible response index is reported, each response is copied
 * once, and whether its id is one that we gave out is for the driver to check.
 */
import { RING_REQ_EVENT, RING_REQ_PROD, RING_RSP_EVENT, RING_RSP_PROD, type SharedRing } from "./layout.ts";

export class FrontRing {
  readonly shared: SharedRing;
  /** Requests put (req_prod_pvt). */
  private producer: number;
  /** Requests pushed: what the backend can have answered. */
  private pushed: number;
  /** Responses consumed (rsp_cons). */
  private consumer: number;

  /** @param index where both ends begin: 0 for a new ring, which initialiseSharedRing() has prepared */
  constructor(shared: SharedRing, index = 0) {
    this.shared = shared;
    this.producer = index >>> 0;
    this.pushed = index >>> 0;
    this.consumer = index >>> 0;
  }

  get size(): number {
    return this.shared.size;
  }
  /** How many more requests can be put. */
  get free(): number {
    return this.shared.size - this.outstanding;
  }
  /** Requests put whose responses have not been consumed. */
  get outstanding(): number {
    return (this.producer - this.consumer) >>> 0;
  }

  /**
   * Writes a request of `count` words (default: a whole slot) from from[at…] into the next slot, unseen until it is
   * pushed.
   *
   * @returns false when the ring is full
   */
  putRequest(from: Int32Array, at = 0, count = this.shared.slotSize >>> 2): boolean {
    if (this.free === 0) return false;
    this.shared.copyIn(this.producer, from, at, count);
    this.producer = (this.producer + 1) >>> 0;
    return true;
  }

  /** Publishes the requests that were put. @returns whether the backend wants an event for them */
  pushRequestsAndCheckNotify(): boolean {
    const old = this.pushed;
    this.pushed = this.producer;
    // The requests are visible before the index that covers them: Atomics.store is a release.
    this.shared.store(RING_REQ_PROD, this.producer);
    // The index is visible before req_event is read; the backend's final check does it the other way round.
    const event = this.shared.load(RING_REQ_EVENT);
    return (this.producer - event) >>> 0 < (this.producer - old) >>> 0;
  }

  /**
   * How many responses can be consumed now; "broken" when the backend claims more responses than there are requests.
   *
   * Atomics.load: whoever sees the index sees the responses written before it, and the data those speak of.
   */
  unconsumedResponses(): number | "broken" {
    const claimed = this.shared.load(RING_RSP_PROD);
    const responses = (claimed - this.consumer) >>> 0;
    return responses > (this.pushed - this.consumer) >>> 0 ? "broken" : responses;
  }

  /** Consumes a response: copies its first `count` words to into[at…], each read once. */
  copyResponse(into: Int32Array, at: number, count: number): void {
    this.shared.copyOut(this.consumer, into, at, count);
    this.consumer = (this.consumer + 1) >>> 0;
  }

  /**
   * Before sleeping: asks for an event at the `holdOff`-th response from now and looks once more.
   *
   * @param holdOff 1: at the next. With n ≤ outstanding pushed requests a batch of n costs one event, and it is sure to
   *   come; a greater number is cut down to that
   * @returns whether there is something after all ("broken" as unconsumedResponses())
   */
  finalCheckForResponses(holdOff = 1): boolean | "broken" {
    const before = this.unconsumedResponses();
    if (before !== 0) return before === "broken" ? "broken" : true;
    const most = Math.max(1, (this.pushed - this.consumer) >>> 0);
    // rsp_event is visible before rsp_prod is read again; the backend does it the other way round.
    this.shared.store(RING_RSP_EVENT, (this.consumer + Math.min(holdOff, most)) >>> 0);
    const after = this.unconsumedResponses();
    return after === "broken" ? "broken" : after > 0;
  }
}
