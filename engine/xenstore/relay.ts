/**
 * The way between a domain's process and the daemon in the main process: messages over any ordered channel.
 *
 * Both directions are bounded: a side sends at most WINDOW bytes that the other has not reported as taken. A guest that
 * does not read its replies thus stalls itself, and nothing grows on its behalf.
 *
 * To be saved, a domain's relay comes to rest: the daemon's end holds the connection and says so, behind all that it has
 * sent before; from then on nothing is under way, and what the guest has not got lies in the relay and the connection.
 *
 *   domain process                    main process
 *   XenstoreRing ── RingRelay ──╮
 *   XenstoreClient ─ ClientRelay ┴─ channel ── DaemonRelay ── Xenstored
 */
import { z } from "zod";
import { XS_ERROR_RINGIDX } from "../abi/xs-wire.ts";
import type { Mapping } from "../memory/guest-memory.ts";
import type { Connection } from "./connection.ts";
import type { Xenstored } from "./daemon.ts";
import { MESSAGE_MAX } from "./protocol.ts";
import { XenstoreRing } from "./ring.ts";

/** What travels; plain data that can be structured-cloned. One property each. */
export type RelayMessage =
  | { readonly toDaemon: Uint8Array }
  | { readonly toGuest: Uint8Array }
  /** So many bytes of the receiver's have been used up. */
  | { readonly taken: number }
  /** The guest reconnects; answered with the same when the old connection is gone. */
  | { readonly reset: true }
  /** The connection is over; the number is for XS_ERROR. */
  | { readonly failed: number }
  /** Comes to rest; answered with the same number, behind which nothing follows until `resume`. */
  | { readonly quiesce: number }
  | { readonly resume: true };

/** Bytes that may be under way in one direction; more than the longest message, so that it cannot block itself. */
export const WINDOW = 2 * MESSAGE_MAX;

const uint32 = z.int().min(0).max(0xffff_ffff);

/** What a RingRelay at rest is made of, as plain JSON. */
export const savedRingSchema = z.strictObject({
  state: z.enum(["connected", "failed"]),
  requestConsumer: uint32,
  responseProducer: uint32,
  /** Bytes of requests that the daemon has not used up. */
  inFlight: z.int().min(0).max(WINDOW),
  /** Bytes that the guest has not got, base64. */
  output: z.base64().max(4 * Math.ceil(WINDOW / 3)),
});

export type SavedRing = z.infer<typeof savedRingSchema>;

/** The daemon's end. */
export class DaemonRelay {
  private readonly daemon: Xenstored;
  private readonly domain: number;
  private readonly post: (message: RelayMessage) => void;
  private connection: Connection | undefined;

  /** Connects the domain; `post` sends a message to its process. */
  constructor(daemon: Xenstored, domain: number, post: (message: RelayMessage) => void) {
    this.daemon = daemon;
    this.domain = domain;
    this.post = post;
    this.connection = this.connect();
  }

  private connect(): Connection {
    return this.daemon.connect(
      this.domain,
      {
        send: (bytes) => this.post({ toGuest: bytes }),
        consumed: (taken) => this.post({ taken }),
        closed: (failed) => this.post({ failed }),
      },
      { window: WINDOW },
    );
  }

  /** Takes a message from the domain's process. */
  receive(message: RelayMessage): void {
    if ("toDaemon" in message) this.connection?.receive(message.toDaemon);
    else if ("taken" in message) this.connection?.taken(message.taken);
    else if ("failed" in message) this.close();
    else if ("reset" in message) {
      this.close();
      this.connection = this.connect();
      this.post({ reset: true });
    } else if ("quiesce" in message) {
      this.connection?.hold();
      this.post(message);
    } else if ("resume" in message) this.connection?.release();
  }

  /**
   * Makes the new connection what it was when the domain was saved (Xenstored.restoreDomain), held until the domain's
   * end resumes. Nothing has come from there yet.
   */
  restore(): void {
    const record = this.daemon.find(this.domain);
    if (record?.restoring === undefined) throw new Error(`domain ${this.domain} has not been restored`);
    if (record.restoring === null) this.close();
    else this.connection?.restore(record.restoring);
    record.restoring = undefined;
  }

  /** The domain's process is gone. */
  close(): void {
    this.connection?.close();
    this.connection = undefined;
  }
}

/** A time in which a relay does nothing. */
interface Rest {
  readonly number: number;
  /** Nothing is under way any more. */
  reached: boolean;
  readonly promise: Promise<void>;
  readonly reach: () => void;
}

/** The end of a domain with a XenStore page: moves bytes between its rings and the channel. */
export class RingRelay {
  private readonly ring: XenstoreRing;
  private readonly post: (message: RelayMessage) => void;
  private readonly notify: () => void;
  /** Bytes that the daemon has not reported as taken. */
  private inFlight = 0;
  private readonly output: Uint8Array[] = [];
  private state: "connected" | "reconnecting" | "failed" = "connected";
  /** While this is set, the ring is not touched. */
  private rest: Rest | undefined;
  private rests = 0;

  /** `post` sends a message to the daemon's process, `notify` the event to the guest. */
  constructor(ring: XenstoreRing, post: (message: RelayMessage) => void, notify: () => void) {
    this.ring = ring;
    this.post = post;
    this.notify = notify;
  }

  /** Goes on where a relay at rest was saved, in the restored memory of its guest; at rest until resume(). */
  static restore(
    mapping: Mapping,
    saved: SavedRing,
    post: (message: RelayMessage) => void,
    notify: () => void,
  ): RingRelay {
    const relay = new RingRelay(new XenstoreRing(mapping, undefined, saved), post, notify);
    relay.state = saved.state;
    relay.inFlight = saved.inFlight;
    const output = Uint8Array.from(Buffer.from(saved.output, "base64"));
    if (output.length > 0) relay.output.push(output);
    relay.rest = { number: 0, reached: true, promise: Promise.resolve(), reach: () => {} };
    return relay;
  }

  /**
   * Hands the daemon what the guest has written, then leaves the ring alone. Fulfilled when nothing is under way to or
   * from the daemon. The guest's vCPU stands still, or what it writes meanwhile waits in its ring.
   */
  quiesce(): Promise<void> {
    if (this.rest !== undefined) return this.rest.promise;
    this.handleEvent();
    let reach = () => {};
    const promise = new Promise<void>((resolve) => {
      reach = resolve;
    });
    this.rest = { number: ++this.rests, reached: false, promise, reach };
    this.post({ quiesce: this.rest.number });
    return promise;
  }

  /** What restore() needs, besides the guest's memory. @throws Error unless at rest */
  save(): SavedRing {
    if (!this.rest?.reached || this.state === "reconnecting") throw new Error("the XenStore relay is not at rest");
    return {
      state: this.state,
      ...this.ring.indexes,
      // A damaged connection has used up what was on its way.
      inFlight: Math.min(Math.max(this.inFlight, 0), WINDOW),
      output: Buffer.concat(this.output).toString("base64"),
    };
  }

  /** Ends the rest, also one that is not reached yet. */
  resume(): void {
    if (this.rest === undefined) return;
    this.rest.reach();
    this.rest = undefined;
    this.post({ resume: true });
    this.handleEvent();
  }

  /** The guest has sent an event: it has written requests, made room for replies or wants to reconnect. */
  handleEvent(): void {
    if (this.rest !== undefined || this.state === "reconnecting") return;
    if (this.ring.wantsReconnect) {
      this.state = "reconnecting";
      this.output.length = 0;
      this.post({ reset: true });
      return;
    }
    if (this.state === "failed") return;
    const written = this.writeReplies();
    const read = this.readRequests();
    if (written || read) this.notify();
  }

  /** Takes a message from the daemon's process. */
  receive(message: RelayMessage): void {
    if ("quiesce" in message) {
      // The answer to a rest that has been ended early is for nobody.
      if (this.rest?.number !== message.quiesce) return;
      this.rest.reached = true;
      this.rest.reach();
      return;
    }
    if ("reset" in message) {
      this.state = "connected";
      this.inFlight = 0;
      this.ring.reconnected();
      this.notify();
      return;
    }
    // What was under way when the guest gave up its connection is for nobody.
    if (this.state !== "connected") return;
    if ("failed" in message) this.fail(message.failed);
    else if ("toGuest" in message) {
      this.output.push(message.toGuest);
      if (this.rest === undefined && this.writeReplies()) this.notify();
    } else if ("taken" in message) {
      this.inFlight = Math.max(this.inFlight - message.taken, 0);
      if (this.rest === undefined && this.readRequests()) this.notify();
    }
  }

  private readRequests(): boolean {
    let progress = false;
    while (this.state === "connected" && this.inFlight < WINDOW) {
      const bytes = this.ring.read(WINDOW - this.inFlight);
      if (bytes === undefined) {
        this.post({ failed: XS_ERROR_RINGIDX });
        this.fail(XS_ERROR_RINGIDX);
        return false;
      }
      if (bytes.length === 0) return progress;
      progress = true;
      this.inFlight += bytes.length;
      this.post({ toDaemon: bytes });
    }
    return progress;
  }

  private writeReplies(): boolean {
    let taken = 0;
    for (let bytes = this.output.shift(); bytes !== undefined; bytes = this.output.shift()) {
      const written = this.ring.write(bytes);
      if (written === undefined) {
        this.post({ failed: XS_ERROR_RINGIDX });
        this.fail(XS_ERROR_RINGIDX);
        return false;
      }
      taken += written;
      if (written < bytes.length) {
        this.output.unshift(bytes.subarray(written));
        break;
      }
    }
    if (taken > 0) this.post({ taken });
    return taken > 0;
  }

  private fail(error: number): void {
    this.state = "failed";
    this.output.length = 0;
    this.ring.fail(error);
    this.notify();
  }
}

/** The end of a domain written in TypeScript: a transport for XenstoreClient. */
export class ClientRelay {
  private readonly post: (message: RelayMessage) => void;
  private readonly waiting: Uint8Array[] = [];
  private inFlight = 0;
  private receiveListener: (bytes: Uint8Array) => void = () => {};
  private closeListener: () => void = () => {};

  constructor(post: (message: RelayMessage) => void) {
    this.post = post;
  }

  send(bytes: Uint8Array): void {
    this.waiting.push(bytes);
    this.flush();
  }

  onReceive(listener: (bytes: Uint8Array) => void): void {
    this.receiveListener = listener;
  }

  onClose(listener: () => void): void {
    this.closeListener = listener;
  }

  /** Takes a message from the daemon's process. */
  receive(message: RelayMessage): void {
    if ("toGuest" in message) {
      this.post({ taken: message.toGuest.length });
      this.receiveListener(message.toGuest);
    } else if ("taken" in message) {
      this.inFlight -= message.taken;
      this.flush();
    } else if ("failed" in message) this.closed();
  }

  /** The channel is gone. */
  closed(): void {
    this.waiting.length = 0;
    this.closeListener();
  }

  private flush(): void {
    for (let next = this.waiting[0]; next !== undefined; next = this.waiting[0]) {
      if (this.inFlight > 0 && this.inFlight + next.length > WINDOW) return;
      this.waiting.shift();
      this.inFlight += next.length;
      this.post({ toDaemon: next });
    }
  }
}
