/** Serves one guest's XenStore page: ring → parser → connection → ring. */
import { XS_ERROR_PROTO, XS_ERROR_RINGIDX } from "../abi/xs-wire.ts";
import { Connection } from "./connection.ts";
import { type Message, MessageParser } from "./protocol.ts";
import type { XenstoreRing } from "./ring.ts";
import type { Store } from "./store.ts";

export class XenstoreServer {
  private readonly ring: XenstoreRing;
  private readonly connection: Connection;
  private readonly notify: () => void;
  private readonly parser = new MessageParser();
  private readonly requests: Message[] = [];
  private output: Uint8Array = new Uint8Array(0);
  private dead = false;

  /** `notify` sends the guest's event. */
  constructor(store: Store, domain: number, ring: XenstoreRing, notify: () => void) {
    this.ring = ring;
    this.notify = notify;
    this.connection = new Connection(store, domain, () => this.flush());
  }

  /** The guest sent an event: it has written requests or made room for replies. */
  handleEvent(): void {
    if (this.dead) return;
    let progress = this.flushReplies();
    // Requests are taken only while the guest takes its replies: what it does not read cannot pile up here.
    while (!this.dead && this.output.length === 0 && !this.connection.backlogged) {
      const request = this.nextRequest();
      if (request === undefined) break;
      progress = true;
      this.connection.handle(request);
      this.flushReplies();
    }
    if (progress) this.notify();
  }

  /** Writes waiting output and tells the guest if any was written. */
  private flush(): void {
    if (!this.dead && this.flushReplies()) this.notify();
  }

  private nextRequest(): Message | undefined {
    while (this.requests.length === 0) {
      const bytes = this.ring.read();
      if (bytes === undefined) {
        this.fail(XS_ERROR_RINGIDX);
        return undefined;
      }
      if (bytes.length === 0) return undefined;
      for (const event of this.parser.push(bytes)) {
        if (event === "too-long") {
          this.fail(XS_ERROR_PROTO);
          return undefined;
        }
        this.requests.push(event);
      }
    }
    return this.requests.shift();
  }

  private flushReplies(): boolean {
    let progress = false;
    for (;;) {
      if (this.output.length === 0) {
        const next = this.connection.take();
        if (next === undefined) return progress;
        this.output = next;
      }
      const written = this.ring.write(this.output);
      if (written === undefined) {
        this.fail(XS_ERROR_RINGIDX);
        return progress;
      }
      if (written > 0) progress = true;
      this.output = this.output.subarray(written);
      if (this.output.length > 0) return progress;
    }
  }

  private fail(error: number): void {
    this.dead = true;
    this.ring.fail(error);
    this.connection.close();
    this.notify();
  }

  close(): void {
    this.dead = true;
    this.connection.close();
  }
}
