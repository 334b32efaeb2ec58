/**
 * The host's network through the program passt, where it is installed: one process, which ends with us. Frames go over a
 * socket pair in the framing of socket-stream.ts.
 *
 * passt serves one guest: it hands out one address and answers to the MAC address it heard last. So this uplink is for
 * the first guest that speaks; another one's frames are dropped and counted until the first was silent for a while. For
 * more guests there is the uplink "user".
 *
 * passt itself lets a guest connect to any address, the host's own among them. Frames to the host's loopback and its
 * own addresses are therefore dropped here.
 */
import { type DeliveryFailure, Frame } from "../../device/net/frame.ts";
import { messageOf } from "../../errors/message.ts";
import { formatCidr, formatIpv4, writeMac } from "../address.ts";
import { EtherType, Headers } from "../headers.ts";
import { Backoff } from "./backoff.ts";
import { countIn, type DropCounters, droppedDown, droppedFull, sendCounted, zeroCounters } from "./counting.ts";
import { findPasst, isUsablePasst, PasstProcess, type PasstSettings } from "./passt-process.ts";
import { FrameStream } from "./socket-stream.ts";
import { type Uplink, type UplinkContext, UplinkError } from "./types.ts";
import { hostAddresses } from "./user/reachability.ts";

export { findPasst, type PasstForward, type PasstSettings } from "./passt-process.ts";

/** How long passt may take until it answers. */
const START_NS = 10_000_000_000;
const RETRY_FIRST_NS = 1_000_000_000;
const RETRY_MOST_NS = 30_000_000_000;
const GUEST_IDLE_NS = 30_000_000_000;
const ADDRESSES_NS = 1_000_000_000;
/** Locally administered: the sender of the question that tells whether passt is there. */
const PROBE_MAC = { high: 0x0200, low: 1 };

/** Counters besides those of every uplink. */
export interface PasstCounters extends DropCounters {
  /** Frames that were dropped, since they are malformed. */
  malformed: number;
  /** Frames to the host's loopback or its own addresses. */
  refused: number;
  /** Frames of a second guest. */
  otherGuest: number;
  /** passt's frames that were skipped for their length. */
  short: number;
  long: number;
  restarts: number;
}

export class PasstUplink implements Uplink {
  readonly kind = "passt";
  readonly counters: PasstCounters = {
    ...zeroCounters(),
    droppedDown: 0,
    droppedFull: 0,
    malformed: 0,
    refused: 0,
    otherGuest: 0,
    short: 0,
    long: 0,
    restarts: 0,
  };
  private readonly context: UplinkContext;
  private readonly settings: PasstSettings;
  private readonly program: string | undefined;
  private readonly headers = new Headers();
  private process: PasstProcess | undefined;
  private stream: FrameStream | undefined;
  /** Runs while passt is to answer. */
  private timer: { cancel(): void } | undefined;
  private readonly backoff: Backoff;
  private closed = false;
  private own = new Set<number>();
  private ownUntil = Number.NEGATIVE_INFINITY;
  private guestHigh = -1;
  private guestLow = -1;
  private guestHeard = 0;

  /** `program` is passt's path; without it, it is looked for. */
  constructor(context: UplinkContext, settings: PasstSettings, program = findPasst()) {
    this.context = context;
    this.backoff = new Backoff(context.clock, RETRY_FIRST_NS, RETRY_MOST_NS);
    this.settings = settings;
    this.program = program;
  }

  /** Starts passt and waits until it answers. @throws UplinkError */
  async start(): Promise<void> {
    const { program } = this;
    if (program === undefined) {
      throw new UplinkError("passt is not installed", "install the package passt, or use the uplink user");
    }
    if (!(await isUsablePasst(program))) {
      throw new UplinkError(`${program} is too old or does not run`, "install a newer one, or use the uplink user");
    }
    await this.run(program);
  }

  deliver(frame: Frame): DeliveryFailure | undefined {
    countIn(this.counters, frame);
    if (this.stream === undefined) return droppedDown(this.counters);
    // Dropped on purpose, not for want of anything: no failure of the port.
    if (!this.isAllowed(frame)) return undefined;
    return this.stream.write(frame) ? undefined : droppedFull(this.counters);
  }

  flush(): void {
    this.stream?.flush();
  }

  async close(): Promise<void> {
    this.closed = true;
    this.backoff.cancel();
    this.timer?.cancel();
    this.stream?.close();
    this.stream = undefined;
    const { process } = this;
    this.process = undefined;
    await process?.close();
  }

  describe(): Record<string, unknown> {
    const { guest, gateway, dns, mtu, forwards } = this.settings;
    return {
      kind: this.kind,
      program: this.program ?? "",
      state: this.closed ? "closed" : this.stream === undefined ? "starting" : "running",
      guest: formatCidr(guest),
      gateway: formatIpv4(gateway),
      dns: formatIpv4(dns),
      mtu,
      forwards: forwards.map(({ protocol, hostAddress, hostPort, guestPort }) => {
        return `${protocol}:${formatIpv4(hostAddress)}:${hostPort}:${guestPort}`;
      }),
    };
  }

  private isAllowed(frame: Frame): boolean {
    const { headers } = this;
    if (headers.parse(frame) !== undefined) {
      this.counters.malformed++;
      return false;
    }
    if (headers.etherType !== EtherType.ipv4 && headers.etherType !== EtherType.arp) return false;
    if (!this.isGuest(headers)) {
      this.counters.otherGuest++;
      return false;
    }
    if (headers.ipVersion !== 4 || !this.isHost(headers.destination4)) return true;
    this.counters.refused++;
    return false;
  }

  private isGuest({ sourceHigh, sourceLow }: Headers): boolean {
    const now = this.context.clock.now();
    if (sourceHigh !== this.guestHigh || sourceLow !== this.guestLow) {
      if (this.guestHigh >= 0 && now - this.guestHeard < GUEST_IDLE_NS) return false;
      this.guestHigh = sourceHigh;
      this.guestLow = sourceLow;
    }
    this.guestHeard = now;
    return true;
  }

  /** Loopback, "this host", link-local (where clouds keep secrets), or an address of one of the host's interfaces. */
  private isHost(address: number): boolean {
    const first = address >>> 24;
    if (first === 127 || first === 0 || address >>> 16 === 0xa9fe) return true;
    const now = this.context.clock.now();
    if (now >= this.ownUntil) {
      this.own = hostAddresses();
      this.ownUntil = now + ADDRESSES_NS;
    }
    return this.own.has(address);
  }

  private async run(program: string): Promise<void> {
    const process = new PasstProcess(program, this.settings);
    this.process = process;
    let answered: () => void = () => {};
    const answer = new Promise<undefined>((resolve) => {
      answered = () => resolve(undefined);
    });
    const timeout = new Promise<string>((resolve) => {
      this.timer = this.context.clock.after(START_NS, () => resolve("it does not answer"));
    });
    const stream = this.open(process, answered);
    stream.write(this.question());
    stream.flush();
    const trouble = await Promise.race([answer, process.ended, timeout]);
    this.timer?.cancel();
    if (trouble !== undefined || this.closed) {
      stream.close();
      await process.close();
      throw new UplinkError(`passt does not start: ${trouble ?? "closed"}`, "correct that, or use the uplink user");
    }
    this.stream = stream;
    this.backoff.reset();
    void process.ended.then((words) => this.lost(program, process, words));
  }

  private open(process: PasstProcess, answered: () => void): FrameStream {
    const headers = new Headers();
    const events = {
      frame: (frame: Frame) => {
        headers.parse(frame);
        if (headers.destinationHigh === PROBE_MAC.high && headers.destinationLow === PROBE_MAC.low) {
          answered();
          return;
        }
        sendCounted(this.context, this.counters, frame);
      },
      batchEnd: () => this.context.batchEnd?.(),
      // What follows is the process's end, and that is dealt with.
      ended: () => {},
    };
    return new FrameStream(process.socket, events, this.counters);
  }

  /** An ARP request for the gateway. */
  private question(): Frame {
    const bytes = new Uint8Array(42).fill(0xff, 0, 6);
    const view = new DataView(bytes.buffer);
    writeMac(PROBE_MAC, bytes, 6);
    view.setUint16(12, EtherType.arp);
    bytes.set([0, 1, 8, 0, 6, 4, 0, 1], 14);
    writeMac(PROBE_MAC, bytes, 22);
    view.setUint32(28, this.settings.guest.address);
    view.setUint32(38, this.settings.gateway);
    return Frame.of(bytes);
  }

  private lost(program: string, process: PasstProcess, words: string): void {
    if (this.closed || this.process !== process) return;
    this.stream?.close();
    this.stream = undefined;
    this.context.log(`passt has ended: ${words}; starting it again`);
    this.again(program);
  }

  private again(program: string): void {
    if (this.closed) return;
    this.backoff.again(() => {
      this.counters.restarts++;
      this.run(program).catch((error: unknown) => {
        if (this.closed) return;
        this.context.log(messageOf(error));
        this.again(program);
      });
    });
  }
}
