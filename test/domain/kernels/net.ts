/** A unikernel with network interfaces: connects them as it is told, sends frames and keeps what it receives. */
import { Netfront, type NetfrontWishes } from "../../../engine/device/net/netfront.ts";
import { PageOffers } from "../../../engine/domain/page-exchange.ts";
import type { Kernel, TypescriptDomain } from "../../../engine/domain/typescript/kernel.ts";
import { type GrantedPages, grantSource } from "../../../engine/hypervisor/grant-source.ts";
import { obey } from "./agent.ts";

export interface ConnectArgument {
  readonly handle: number;
  readonly wishes?: Partial<NetfrontWishes>;
  /** Receive by exchange of pages. */
  readonly flip?: boolean;
  readonly buffers?: number;
}

export interface BlastArgument {
  readonly handle: number;
  /** MAC address in hexadecimal digits. */
  readonly to: string;
  readonly count: number;
  /** Bytes of each frame, 64 at least. */
  readonly size: number;
}

/** EtherType of our own: IEEE 802 local experimental. */
const EXPERIMENT = 0x88b5;
/** Where the sequence number is. */
const SEQUENCE = 14;
const KEPT = 1000;
const PATIENCE_MS = 20_000;

interface Interface {
  readonly front: Netfront;
  readonly mac: Buffer;
  /** Frames that came, in hexadecimal digits, the last ones. */
  readonly frames: string[];
  /** Experimental frames with their numbers. */
  tally: { frames: number; bytes: number; missing: number; backwards: number; damaged: number };
  expected: number;
  changed: () => void;
}

/** Bytes behind the header that depend on the number of the frame and on their place. */
function fill(frame: Buffer, sequence: number): void {
  frame.writeUInt32BE(sequence, SEQUENCE);
  for (let at = SEQUENCE + 4; at < frame.length; at++) frame[at] = (sequence * 31 + at) & 0xff;
}

function isIntact(frame: Buffer, sequence: number): boolean {
  const expected = Buffer.from(frame);
  fill(expected, sequence);
  return expected.equals(frame);
}

class Interfaces {
  private readonly domain: TypescriptDomain;
  private readonly pages: GrantedPages;
  private readonly interfaces = new Map<number, Interface>();

  constructor(domain: TypescriptDomain) {
    this.domain = domain;
    this.pages = grantSource({ mapping: domain.thread.mapping });
  }

  private known(handle: number): Interface {
    const found = this.interfaces.get(handle);
    if (found === undefined) throw new Error(`interface ${handle} is not connected`);
    return found;
  }

  async connect({ handle, wishes, flip, buffers }: ConnectArgument): Promise<unknown> {
    const { domain } = this;
    const front: Netfront = new Netfront({
      store: domain.store,
      handle,
      grants: this.pages,
      events: domain.events,
      listen: (port, handler) => {
        domain.onEvent(port, handler);
        return () => domain.offEvent(port);
      },
      receive: (frame) => {
        const bytes = Buffer.alloc(frame.length);
        frame.copyTo(bytes, 0);
        this.receive(this.known(handle), bytes);
      },
      log: (line) => domain.log(line),
      ...(wishes && { wishes }),
      ...(flip && { acceptor: new PageOffers(this.pages) }),
      ...(buffers !== undefined && { buffers }),
    });
    const tally = { frames: 0, bytes: 0, missing: 0, backwards: 0, damaged: 0 };
    const mac = Buffer.from(((await domain.store.read(`device/vif/${handle}/mac`)) ?? "").replaceAll(":", ""), "hex");
    this.interfaces.set(handle, { front, mac, frames: [], tally, expected: 0, changed: () => {} });
    return await front.connect();
  }

  private receive(to: Interface, bytes: Buffer): void {
    to.frames.push(bytes.toString("hex"));
    if (to.frames.length > KEPT) to.frames.shift();
    if (bytes.readUInt16BE(12) === EXPERIMENT) {
      const { tally } = to;
      const sequence = bytes.readUInt32BE(SEQUENCE);
      tally.frames++;
      tally.bytes += bytes.length;
      if (sequence > to.expected) tally.missing += sequence - to.expected;
      if (sequence < to.expected) tally.backwards++;
      to.expected = Math.max(to.expected, sequence + 1);
      if (!isIntact(bytes, sequence)) tally.damaged++;
    }
    to.changed();
  }

  /** Sends frames as they are. @returns how many were taken */
  send({ handle, frames }: { handle: number; frames: readonly string[] }): number {
    const { front } = this.known(handle);
    const taken = frames.filter((frame) => front.send(Buffer.from(frame, "hex"))).length;
    front.flush();
    return taken;
  }

  /** Sends numbered frames as fast as they are taken. */
  async blast({ handle, to, count, size }: BlastArgument): Promise<void> {
    const { front, mac } = this.known(handle);
    const frame = Buffer.alloc(size);
    frame.set(Buffer.from(to, "hex"), 0);
    frame.set(mac, 6);
    frame.writeUInt16BE(EXPERIMENT, 12);
    const end = Date.now() + PATIENCE_MS;
    for (let sequence = 0; sequence < count; ) {
      fill(frame, sequence);
      if (front.send(frame)) {
        sequence++;
        continue;
      }
      front.flush();
      if (Date.now() > end) throw new Error(`only ${sequence} frames were taken`);
      await new Promise((resolve) => setImmediate(resolve));
    }
    front.flush();
  }

  /** Waits until so many numbered frames came, or for `ms`. @returns what was counted since the last time */
  async tally({ handle, count, ms = PATIENCE_MS }: { handle: number; count: number; ms?: number }): Promise<unknown> {
    const to = this.known(handle);
    await this.until(to, ms, () => to.tally.frames >= count);
    const { tally } = to;
    to.tally = { frames: 0, bytes: 0, missing: 0, backwards: 0, damaged: 0 };
    to.expected = 0;
    return tally;
  }

  /** Waits for so many frames, or for `ms`. @returns those that came since the last time */
  async frames({ handle, count, ms = PATIENCE_MS }: { handle: number; count: number; ms?: number }): Promise<string[]> {
    const to = this.known(handle);
    await this.until(to, ms, () => to.frames.length >= count);
    return to.frames.splice(0);
  }

  private until(to: Interface, ms: number, test: () => boolean): Promise<void> {
    return new Promise((resolve) => {
      const finish = () => {
        clearTimeout(timer);
        to.changed = () => {};
        resolve();
      };
      const timer = setTimeout(finish, ms);
      to.changed = () => {
        if (test()) finish();
      };
      to.changed();
    });
  }

  statistics({ handle }: { handle: number }): unknown {
    const { front } = this.known(handle);
    return { ...front.statistics, pending: front.pending };
  }

  async close({ handle }: { handle: number }): Promise<void> {
    await this.known(handle).front.close();
    this.interfaces.delete(handle);
  }
}

const kernel: Kernel = async (domain) => {
  const interfaces = new Interfaces(domain);
  await obey(domain, {
    connect: (argument: ConnectArgument) => interfaces.connect(argument),
    send: (argument: { handle: number; frames: readonly string[] }) => interfaces.send(argument),
    blast: (argument: BlastArgument) => interfaces.blast(argument),
    tally: (argument: { handle: number; count: number; ms?: number }) => interfaces.tally(argument),
    frames: (argument: { handle: number; count: number; ms?: number }) => interfaces.frames(argument),
    statistics: (argument: { handle: number }) => interfaces.statistics(argument),
    close: (argument: { handle: number }) => interfaces.close(argument),
  });
};

export default kernel;
