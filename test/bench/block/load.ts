/** The load that a TypeScript frontend puts on a disk, and what is measured of it. No more than `depth` requests at a time. */
import { readFileSync } from "node:fs";
import type { BlockCommand, BlockDone, BlockSegment } from "../../../engine/device/block/front-request.ts";

const SECTOR = 512;
const PAGE = 4096;
/** Before the clock starts: just-in-time compilation, page faults. */
const WARM_UP_MS = 400;

/** Survives structured cloning and JSON. */
export interface Load {
  readonly operation: "read" | "write";
  /** Bytes of a request, whole pages; requests go to random multiples of it. */
  readonly bytes: number;
  readonly depth: number;
  readonly milliseconds: number;
}

/** Which thread of the frontend's domain serves the ring: its event loop, or a vCPU that blocks. */
export type Form = "event-loop" | "blocking";

/** Parameters of the frontend's kernel. */
export interface FrontendJob {
  readonly vdev: number;
  readonly load: Load;
  readonly form: Form;
  /** Process of the backend, for its CPU time. */
  readonly backendPid: number;
}

/** A page of one's own with a lasting grant to the backend. */
export interface LoadPage {
  readonly page: number;
  readonly ref: number;
}

export interface Measured {
  readonly requests: number;
  readonly seconds: number;
  /** CPU seconds of the two processes meanwhile. */
  readonly frontendCpu: number;
  readonly backendCpu: number;
  /** From the first request to the last, warm-up included: what the backend's counters are to be compared with. */
  readonly allRequests: number;
  /** Of these, how many had an event sent to the backend. */
  readonly notifications: number;
  readonly failure?: string;
}

/** Line of the domain's log that carries its Measured as JSON. */
export const RESULT_MARK = "bench-result ";

interface Moment {
  readonly time: number;
  readonly requests: number;
  readonly frontendCpu: number;
  readonly backendCpu: number;
}

/** User and system time of a process, seconds: fields 14 and 15 of /proc/<pid>/stat, in ticks of 10 ms. */
export function processCpu(pid: number): number {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]?.split(" ") ?? [];
    return (Number(fields[11]) + Number(fields[12])) / 100;
  } catch {
    return 0;
  }
}

export class LoadGenerator {
  /** Set when the time is over, or a request has failed, and no request is under way any more. */
  over = false;
  notifications = 0;
  private readonly load: Load;
  private readonly backendPid: number;
  private readonly submit: (command: BlockCommand, done: BlockDone) => void;
  private readonly finished: () => void;
  private readonly slots: (readonly BlockSegment[])[] = [];
  private readonly blocks: number;
  private readonly warm: number;
  private readonly end: number;
  private random = 12345;
  private requests = 0;
  private active = 0;
  private stopping = false;
  private begin: Moment | undefined;
  private last: Moment | undefined;
  private failure: string | undefined;

  /**
   * @param sectors of the disk
   * @param pages load.depth times as many as a request has
   */
  constructor(
    { load, backendPid }: FrontendJob,
    sectors: number,
    pages: readonly LoadPage[],
    submit: (command: BlockCommand, done: BlockDone) => void,
    finished: () => void = () => {},
  ) {
    this.load = load;
    this.backendPid = backendPid;
    this.submit = submit;
    this.finished = finished;
    this.blocks = Math.floor((sectors * SECTOR) / load.bytes);
    const each = load.bytes / PAGE;
    for (let slot = 0; slot < load.depth; slot++) {
      const own = pages.slice(slot * each, (slot + 1) * each);
      this.slots.push(own.map(({ page, ref }) => ({ page, ref, first: 0, last: 7 })));
    }
    this.warm = performance.now() + WARM_UP_MS;
    this.end = this.warm + load.milliseconds;
  }

  start(): void {
    for (const segments of this.slots) this.next(segments);
  }

  private next(segments: readonly BlockSegment[]): void {
    this.active++;
    this.random = (Math.imul(this.random, 1664525) + 1013904223) >>> 0;
    const block = Math.floor((this.random / 2 ** 32) * this.blocks);
    const sector = block * (this.load.bytes / SECTOR);
    this.submit({ operation: this.load.operation, sector, segments }, (failure) => {
      this.active--;
      if (failure) {
        this.failure ??= failure.message;
        this.stopping = true;
      } else this.count();
      if (!this.stopping) this.next(segments);
      else if (this.active === 0) {
        this.over = true;
        this.finished();
      }
    });
  }

  private count(): void {
    this.requests++;
    if (this.stopping) return;
    const now = performance.now();
    if (this.begin === undefined && now >= this.warm) this.begin = this.moment(now);
    if (now < this.end) return;
    this.stopping = true;
    this.last = this.moment(now);
  }

  private moment(time: number): Moment {
    const { user, system } = process.cpuUsage();
    const backendCpu = processCpu(this.backendPid);
    return { time, requests: this.requests, frontendCpu: (user + system) / 1e6, backendCpu };
  }

  result(): Measured {
    const { begin, last } = this;
    const difference = (key: keyof Moment) => (begin && last ? last[key] - begin[key] : Number.NaN);
    return {
      requests: difference("requests"),
      seconds: difference("time") / 1000,
      frontendCpu: difference("frontendCpu"),
      backendCpu: difference("backendCpu"),
      allRequests: this.requests,
      notifications: this.notifications,
      ...(this.failure !== undefined && { failure: this.failure }),
    };
  }
}
