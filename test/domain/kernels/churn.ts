/**
 * A unikernel that never stops writing, and keeps a journal in its RAM of what was acknowledged: whoever looks at the images
 * knows from it what must be there.
 *
 * On the first disk each chain has two blocks B and C. Its round r writes 2r+1 to B, then r to C behind a barrier, then 2r+2 to
 * B, all submitted at once. On the second disk each region is written as a whole with rising stamps, one request at a time.
 */
import { Blkfront, type BlkfrontOptions } from "../../../engine/device/block/blkfront.ts";
import type { BlockCommand } from "../../../engine/device/block/front-request.ts";
import type { Kernel, TypescriptDomain } from "../../../engine/domain/typescript/kernel.ts";
import { obey } from "./agent.ts";

const PAGE = 4096;
const SECTORS_PER_PAGE = 8;

export const CHAINS = 6;
export const REGIONS = 4;
/** Pages of a region: an indirect request. */
export const REGION_PAGES = 32;
/** Words of the journal: the last round of each chain and the last stamp of each region that were acknowledged. */
export const JOURNAL_CHAINS = 0;
export const JOURNAL_REGIONS = 64;
/** Requests submitted, requests answered. */
export const JOURNAL_SUBMITTED = 128;
export const JOURNAL_ANSWERED = 129;

export interface ChurnArgument {
  readonly chains: number;
  readonly regions: number;
}

class Churn {
  private readonly domain: TypescriptDomain;
  /** Index of the journal's first word in memory.words. */
  private readonly journal: number;
  private readonly page: number;
  private stopping = false;
  private work: Promise<unknown> = Promise.resolve();
  private fronts: Blkfront[] = [];
  private problem: string | undefined;

  constructor(domain: TypescriptDomain) {
    this.domain = domain;
    this.page = domain.grants.allocatePage() ?? Number.NaN;
    this.journal = this.page / 4;
  }

  private async connect(vdev: number, more: Partial<BlkfrontOptions>): Promise<Blkfront> {
    const { domain } = this;
    const front = new Blkfront({
      store: domain.store,
      vdev,
      grants: domain.grants,
      events: domain.events,
      listen: (port, handler) => {
        domain.onEvent(port, handler);
        return () => domain.offEvent(port);
      },
      log: (line) => domain.log(line),
      ...more,
    });
    await front.connect();
    this.fronts.push(front);
    return front;
  }

  private submit(front: Blkfront, command: BlockCommand): Promise<void> {
    const { words } = this.domain.grants.memory;
    words[this.journal + JOURNAL_SUBMITTED]!++;
    let answers = 0;
    return new Promise((resolve) => {
      front.submit(command, (failure) => {
        words[this.journal + JOURNAL_ANSWERED]!++;
        if (failure) this.problem ??= `${command.operation}: ${failure.code}, ${failure.message}`;
        if (++answers > 1) this.problem ??= `${command.operation} was answered twice`;
        resolve();
      });
    });
  }

  private pages(count: number): number[] {
    return Array.from({ length: count }, () => {
      const page = this.domain.grants.allocatePage();
      if (page === undefined) throw new Error("no memory");
      return page;
    });
  }

  private async chain(front: Blkfront, chain: number): Promise<void> {
    const { words } = this.domain.grants.memory;
    const [first = 0, second = 0, third = 0] = this.pages(3);
    const write = (operation: "write" | "write_barrier", block: number, page: number, value: number) => {
      words.fill(value, page / 4, (page + PAGE) / 4);
      const sector = (2 * chain + block) * SECTORS_PER_PAGE;
      return this.submit(front, { operation, sector, segments: [{ page, first: 0, last: 7 }] });
    };
    for (let round = 1; !this.over; round++) {
      await Promise.all([
        write("write", 0, first, 2 * round + 1),
        write("write_barrier", 1, second, round),
        write("write", 0, third, 2 * round + 2),
      ]);
      Atomics.store(words, this.journal + JOURNAL_CHAINS + chain, round);
      if (round % 16 === 0) await this.submit(front, { operation: "flush" });
    }
  }

  private async region(front: Blkfront, region: number): Promise<void> {
    const { words } = this.domain.grants.memory;
    const pages = this.pages(REGION_PAGES);
    const segments = pages.map((page) => {
      const ref = front.grantPage(page);
      return { page, first: 0, last: 7, ...(ref !== undefined && { ref }) };
    });
    const sector = region * REGION_PAGES * SECTORS_PER_PAGE;
    for (let stamp = 1; !this.over; stamp++) {
      for (const page of pages) words.fill(stamp, page / 4, (page + PAGE) / 4);
      await this.submit(front, { operation: "write", sector, segments });
      Atomics.store(words, this.journal + JOURNAL_REGIONS + region, stamp);
      if (stamp % 8 === 0) await this.submit(front, { operation: "flush" });
    }
  }

  private get over(): boolean {
    return this.stopping || this.problem !== undefined;
  }

  /** @returns the journal's place: offset in the domain's memory */
  async start({ chains, regions }: ChurnArgument): Promise<number> {
    const plain = await this.connect(chains, {});
    const wishes = { persistent: true, ringPageOrder: 2 };
    const wide = await this.connect(regions, { wishes });
    this.work = Promise.all([
      ...Array.from({ length: CHAINS }, (_, i) => this.chain(plain, i)),
      ...Array.from({ length: REGIONS }, (_, i) => this.region(wide, i)),
    ]);
    return this.page - this.domain.thread.mapping.base;
  }

  /** Ends with the rounds that are under way, and flushes. @throws Error for anything that went wrong on the way */
  async stop(): Promise<void> {
    this.stopping = true;
    await this.work;
    for (const front of this.fronts) await front.flush();
    if (this.problem !== undefined) throw new Error(this.problem);
  }
}

const kernel: Kernel = async (domain) => {
  const churn = new Churn(domain);
  await obey(domain, { start: (argument: ChurnArgument) => churn.start(argument), stop: () => churn.stop() });
};

export default kernel;
