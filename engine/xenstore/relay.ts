/**
 * The way between a domain's process and the daemon in the main process: messages over any ordered channel.
 *
 * Both directions are bounded: a side sends at most WINDOW bytes that the other has not reported as taken. A guest that
 * does not read its replies thus stalls itself, and nothing grows on its behalf.
 *
 *   domain process                    main process
 *   XenstoreRing ── RingRelay ──╮
 *   XenstoreClient ─ ClientRelay ┴─ channel ── DaemonRelay ── Xenstored
 */
import { XS_ERROR_RINGIDX } from "../abi/xs-wire.ts";
import type { Connection } from "./connection.ts";
import type { Xenstored } from "./daemon.ts";
import { MESSAGE_MAX } from "./protocol.ts";
import type { XenstoreRing } from "./ring.ts";

/** What travels; plain data that can be structured-cloned. One property each. */
export type RelayMessage =
  | { readonly toDaemon: Uint8Array }
  | { readonly toGuest: Uint8Array }
  /** So many bytes of the receiver's have been used up. */
  | { readonly taken: number }
  /** The guest reconnects; answered with the same when the old connection is gone. */
  | { readonly reset: true }
  /** The connection is over; the number is for XS_ERROR. */
  | { readonly failed: number };

/** Bytes that may be under way in one direction; more than the longest message, so that it cannot block itself. */
export const WINDOW = 2 * MESSAGE_MAX;

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
    }
  }

  /** The domain's process is gone. */
  close(): void {
    this.connection?.close();
    this.connection = undefined;
  }
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

  /** `post` sends a message to the daemon's process, `notify` the event to the guest. */
  constructor(ring: XenstoreRing, post: (message: RelayMessage) => void, notify: () => void) {
    this.ring = ring;
    this.post = post;
    this.notify = notify;
  }

  /** The guest has sent an event: it has written requests, made room for replies or wants to reconnect. */
  handleEvent(): void {
    if (this.state === "reconnecting") return;
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
      if (this.writeReplies()) this.notify();
    } else if ("taken" in message) {
      this.inFlight -= message.taken;
      if (this.readRequests()) this.notify();
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
