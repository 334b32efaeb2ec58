/**
 * The backend's end of a ring, with the verbs of xen/include/public/io/ring.h: it consumes requests and produces
 * responses. Its two indexes are private; of the shared ones it trusts none. Nothing here sends an event: pushing says
 * whether the frontend asked for one.
 */
import { RING_REQ_EVENT, RING_REQ_PROD, RING_RSP_EVENT, RING_RSP_PROD, type SharedRing } from "./layout.ts";

export interface BackRingIndexes {
  /** Requests consumed so far (req_cons). */
  readonly requestConsumer: number;
  /** Responses put so far (rsp_prod_pvt). */
  readonly responseProducer: number;
}

export class BackRing {
  readonly shared: SharedRing;
  private consumer: number;
  private producer: number;

  /** @param indexes where to go on; a new ring begins at 0, 0 */
  constructor(shared: SharedRing, indexes: BackRingIndexes = { requestConsumer: 0, responseProducer: 0 }) {
    this.shared = shared;
    this.consumer = indexes.requestConsumer >>> 0;
    this.producer = indexes.responseProducer >>> 0;
  }

  get size(): number {
    return this.shared.size;
  }
  get requestConsumer(): number {
    return this.consumer;
  }
  get responseProducer(): number {
    return this.producer;
  }

  /** Goes on at other indexes: a new process takes over. */
  restore(indexes: BackRingIndexes): void {
    this.consumer = indexes.requestConsumer >>> 0;
    this.producer = indexes.responseProducer >>> 0;
  }

  /**
   * Begins to serve a ring that nobody serves any more: where its responses end (BACK_RING_ATTACH of ring.h). What was
   * requested and not answered lies behind that and is consumed again. A ring that has never been served begins at 0.
   *
   * @returns false when the frontend claims more requests than fit: such a ring is not to be served
   */
  attach(): boolean {
    const index = this.publishedResponses();
    const requests = (this.shared.load(RING_REQ_PROD) - index) >>> 0;
    if (requests > this.shared.size) return false;
    this.consumer = index;
    this.producer = index;
    return true;
  }

  /** The public rsp_prod: what the frontend has been told. The frontend can write there too. */
  publishedResponses(): number {
    return this.shared.load(RING_RSP_PROD);
  }

  /**
   * How many requests can be consumed now; "broken" when the frontend claims more than the ring holds (XSA-39): its
   * slots mean nothing then.
   *
   * Atomics.load: whoever sees the index sees the requests that the frontend wrote before it.
   */
  unconsumedRequests(): number | "broken" {
    const claimed = this.shared.load(RING_REQ_PROD);
    const { size } = this.shared;
    // The second test catches an index that went back behind what is consumed: nothing honest does that.
    if ((claimed - this.producer) >>> 0 > size) return "broken";
    const requests = (claimed - this.consumer) >>> 0;
    if (requests > size) return "broken";
    // A request whose predecessor in the slot has no response yet cannot be there.
    return Math.min(requests, size - ((this.consumer - this.producer) >>> 0));
  }

  /**
   * Consumes a request: copies it to into[at…] (word index, slotSize / 4 words) and advances. Each shared word is read
   * once; only the copy may be looked at (XSA-155). Only after unconsumedRequests() said that there is one.
   */
  copyRequest(into: Int32Array, at: number): void {
    this.shared.copyOut(this.consumer, into, at, this.shared.slotSize >>> 2);
    this.consumer = (this.consumer + 1) >>> 0;
  }

  /** Puts a response of `count` words into the next response slot, unseen until it is pushed. */
  putResponse(from: Int32Array, at: number, count: number): void {
    this.shared.copyIn(this.producer, from, at, count);
    this.producer = (this.producer + 1) >>> 0;
  }

  /** Publishes the responses that were put. @returns whether the frontend wants an event for them */
  pushResponsesAndCheckNotify(): boolean {
    const { shared, producer } = this;
    const old = shared.load(RING_RSP_PROD);
    // The responses are visible before the index that covers them: Atomics.store is a release.
    shared.store(RING_RSP_PROD, producer);
    // The index is visible before rsp_event is read: both are sequentially consistent, so either we see the frontend's
    // new rsp_event, or its final check sees our responses. Without that an event could be lost.
    const event = shared.load(RING_RSP_EVENT);
    return (producer - event) >>> 0 < (producer - old) >>> 0;
  }

  /**
   * Before sleeping: asks for an event at the `holdOff`-th request from now and looks once more.
   *
   * @param holdOff 1: at the next. More: only for a consumer that will look again anyway, since fewer may ever come
   * @returns whether there is something after all ("broken" as unconsumedRequests())
   */
  finalCheckForRequests(holdOff = 1): boolean | "broken" {
    const before = this.unconsumedRequests();
    if (before !== 0) return before === "broken" ? "broken" : true;
    // req_event is visible before req_prod is read again; the frontend does it the other way round.
    this.shared.store(RING_REQ_EVENT, (this.consumer + holdOff) >>> 0);
    const after = this.unconsumedRequests();
    return after === "broken" ? "broken" : after > 0;
  }
}
