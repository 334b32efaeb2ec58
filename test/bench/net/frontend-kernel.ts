/**
 * Kernel of the TypeScript domains that load a switch. One sends numbered frames, no more of them at a time than a window;
 * the other counts them and answers with its count, so that nothing is lost for want of buffers, as with TCP.
 */
import type { Frame } from "../../../engine/device/net/frame.ts";
import { Netfront } from "../../../engine/device/net/netfront.ts";
import type { SendOptions, SendSegment } from "../../../engine/device/net/netfront-transmit.ts";
import { HaltPoll } from "../../../engine/domain/halt-poll.ts";
import type { Kernel, TypescriptDomain } from "../../../engine/domain/typescript/kernel.ts";
import { processCpu } from "../block/load.ts";
import { LEAST_SIZE, loadFrame, type NetLoad, type Side, sequenceAt } from "./load.ts";

const PAGE = 4096;
const WARM_UP_MS = 500;
/** When so long no answer came, what was under way is lost. */
const STALLED_MS = 20;
/** How often the clock is looked at, in frames. */
const CLOCK_EVERY = 8;

interface Moment {
  readonly time: number;
  readonly frames: number;
  readonly cpu: number;
  readonly backendCpu: number;
  readonly sentEvents: number;
  readonly events: number;
}

/** Longest look for more, as the switch's own. */
const LOOK_NS = 200_000;

/** An interface that is polled while there is something to do, and a moment longer. */
abstract class Station {
  protected readonly front: Netfront;
  protected frames = 0;
  protected lost = 0;
  protected readonly load: NetLoad;
  private readonly backendPid: number;
  private readonly halt = new HaltPoll(LOOK_NS);
  private sentEvents = 0;
  private events = 0;
  private running = false;
  private busy = 0;
  private begin: Moment | undefined;
  private warm = 0;
  private resolve: (side: Side) => void = () => {};
  protected over = false;

  constructor(domain: TypescriptDomain, load: NetLoad, backendPid: number) {
    this.load = load;
    this.backendPid = backendPid;
    this.front = new Netfront({
      store: domain.store,
      handle: 0,
      grants: domain.grants,
      events: {
        ...domain.events,
        notify: (port) => {
          this.sentEvents++;
          domain.events.notify(port);
        },
      },
      listen: (port, handler) => {
        void handler;
        domain.onEvent(port, () => {
          this.events++;
          this.wake();
        });
        return () => domain.offEvent(port);
      },
      receive: (frame) => this.receive(frame),
      log: (line) => domain.log(line),
    });
  }

  connect() {
    return this.front.connect();
  }

  /** Runs the load. @returns what was measured */
  run(): Promise<Side> {
    this.warm = performance.now() + WARM_UP_MS;
    return new Promise((resolve) => {
      this.resolve = resolve;
      this.wake();
    });
  }

  protected abstract receive(frame: Frame): void;
  /** Puts frames into the ring. @returns how many */
  protected abstract fill(): number;

  protected wake(): void {
    if (this.running) return;
    this.running = true;
    const now = performance.now();
    this.halt.waited((now - this.busy) * 1e6);
    this.busy = now;
    setImmediate(this.turn);
  }

  private readonly turn = (): void => {
    let work = this.front.poll();
    work += this.fill();
    this.front.flush();
    const now = performance.now();
    if (work > 0) this.busy = now;
    if (work > 0 || (now - this.busy) * 1e6 < this.halt.time || this.front.arm()) setImmediate(this.turn);
    else this.running = false;
  };

  /** Has counted frames: looks at the clock. */
  protected counted(): void {
    if (this.frames % CLOCK_EVERY !== 0 || this.over) return;
    const now = performance.now();
    if (this.begin === undefined) {
      if (now >= this.warm) this.begin = this.moment(now);
    } else if (now >= this.begin.time + this.load.milliseconds) this.end(now, this.begin);
  }

  private end(now: number, begin: Moment): void {
    this.over = true;
    const last = this.moment(now);
    this.resolve({
      frames: last.frames - begin.frames,
      seconds: (last.time - begin.time) / 1000,
      cpuSeconds: last.cpu - begin.cpu,
      backendCpuSeconds: last.backendCpu - begin.backendCpu,
      sentEvents: last.sentEvents - begin.sentEvents,
      events: last.events - begin.events,
      lost: this.lost,
    });
  }

  private moment(time: number): Moment {
    const { user, system } = process.cpuUsage();
    const { frames, sentEvents, events } = this;
    return { time, frames, cpu: (user + system) / 1e6, backendCpu: processCpu(this.backendPid), sentEvents, events };
  }
}

/** Frames in pages of their own, which are used again when the backend needs them no more. */
class Sender extends Station {
  private readonly free: { segments: SendSegment[]; options: SendOptions; page: number }[] = [];
  private readonly bytes: Uint8Array;
  private sent = 0;
  private acknowledged = 0;
  private progress = 0;
  private watch: NodeJS.Timeout | undefined;

  constructor(domain: TypescriptDomain, load: NetLoad, backendPid: number) {
    super(domain, load, backendPid);
    this.bytes = domain.grants.memory.bytes;
  }

  prepare({ grants }: TypescriptDomain): void {
    const { load } = this;
    const content = loadFrame(load, "sender");
    for (let n = 0; n < load.window; n++) {
      const pages: number[] = [];
      const segments = Array.from({ length: Math.ceil(load.size / PAGE) }, (_, index): SendSegment => {
        const page = grants.allocatePage();
        const ref = page === undefined ? undefined : this.front.grantPage(page);
        if (page === undefined || ref === undefined) throw new Error("the domain is too small for the load");
        const size = Math.min(PAGE, load.size - index * PAGE);
        grants.memory.bytes.set(content.subarray(index * PAGE, index * PAGE + size), page);
        pages.push(page);
        return { ref, offset: 0, size };
      });
      const done = () => void this.free.push(slot);
      const offload: SendOptions =
        load.segmentSize > 0
          ? { done, checksum: "blank", segmentation: "tcpv4", segmentSize: load.segmentSize }
          : { done };
      const slot = { segments, options: offload, page: pages[0] ?? 0 };
      this.free.push(slot);
    }
    this.watch = setInterval(() => this.unstall(), STALLED_MS);
  }

  private unstall(): void {
    if (this.over) clearInterval(this.watch);
    if (this.acknowledged === this.progress) this.acknowledged = this.sent;
    this.progress = this.acknowledged;
    this.wake();
  }

  protected receive(frame: Frame): void {
    const at = sequenceAt({ ...this.load, segmentSize: 0 });
    const { head } = frame;
    const number = ((head[at]! << 24) | (head[at + 1]! << 16) | (head[at + 2]! << 8) | head[at + 3]!) >>> 0;
    if (number > this.acknowledged) this.acknowledged = number;
  }

  protected fill(): number {
    const { load, free, bytes } = this;
    const at = sequenceAt(load);
    let count = 0;
    while (this.sent - this.acknowledged < load.window) {
      const slot = free.at(-1);
      if (slot === undefined || !this.front.sendSegments(slot.segments, slot.options)) break;
      free.pop();
      const place = slot.page + at;
      bytes[place] = this.sent >>> 24;
      bytes[place + 1] = this.sent >>> 16;
      bytes[place + 2] = this.sent >>> 8;
      bytes[place + 3] = this.sent;
      this.sent++;
      this.frames++;
      this.counted();
      count++;
    }
    return count;
  }
}

class Receiver extends Station {
  private expected = 0;
  private answered = 0;
  private readonly answer = loadFrame({ ...this.load, size: Math.max(64, LEAST_SIZE), segmentSize: 0 }, "receiver");

  protected receive(frame: Frame): void {
    const at = sequenceAt(this.load);
    const { head } = frame;
    const number = ((head[at]! << 24) | (head[at + 1]! << 16) | (head[at + 2]! << 8) | head[at + 3]!) >>> 0;
    if (frame.length !== this.load.size) return;
    if (number > this.expected) this.lost += number - this.expected;
    this.expected = number + 1;
    this.frames++;
    this.counted();
  }

  protected fill(): number {
    const { expected, load } = this;
    if (expected - this.answered < load.every) return 0;
    this.answer.writeUInt32BE(expected, sequenceAt({ ...load, segmentSize: 0 }));
    if (!this.front.send(this.answer)) return 0;
    this.answered = expected;
    return 1;
  }
}

/** What the host asks for. */
export interface Job {
  readonly role: "sender" | "receiver";
  readonly load: NetLoad;
  readonly backendPid: number;
}

const kernel: Kernel = async (domain) => {
  let station: Sender | Receiver | undefined;
  domain.serve({
    async prepare(argument) {
      const { role, load, backendPid } = argument as Job;
      station = new (role === "sender" ? Sender : Receiver)(domain, load, backendPid);
      const features = await station.connect();
      if (station instanceof Sender) station.prepare(domain);
      return features;
    },
    run: () => station?.run(),
  });
  await new Promise((resolve) => domain.stopping.addEventListener("abort", resolve));
};

export default kernel;
