/** The storage domain is killed again and again while a unikernel writes: nothing is lost, doubled or out of order. */
import { closeSync, openSync, readdirSync, readFileSync, readSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { imageDisk, xvd } from "../disk-config.ts";
import { eventually, KernelLab, RUNS, type Unikernel } from "./kernel-lab.ts";
import {
  CHAINS,
  type ChurnArgument,
  JOURNAL_ANSWERED,
  JOURNAL_CHAINS,
  JOURNAL_REGIONS,
  JOURNAL_SUBMITTED,
  REGION_PAGES,
  REGIONS,
} from "./kernels/churn.ts";

const PAGE = 4096;
const MIB = 1 << 20;
/** Kills, and how long they go on; there are at least LEAST, and more until each ring was hit with requests in flight. */
const ROUNDS = 60;
const LIMIT_MS = 6000;
const LEAST = 8;
/** They end in any case before this. */
const LAST_MS = 60_000;
/** A host restarts a process that is killed no more often than this: kills within so many milliseconds. */
const MOST_KILLS = 18;
const WINDOW_MS = 10_500;

/** Kills a process and returns when no thread of it runs any more. Our event loop rests, so it is not restarted yet. */
function killAndWait(pid: number): void {
  process.kill(pid, "SIGKILL");
  const nap = new Int32Array(new SharedArrayBuffer(4));
  for (;;) {
    try {
      const [, state] = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ");
      if (state?.startsWith("Z") && readdirSync(`/proc/${pid}/task`).length === 1) return;
    } catch {
      return;
    }
    Atomics.wait(nap, 0, 0, 1);
  }
}

/** The words of pages of an image; a page whose words differ is told as a list of those it has. */
function pagesOf(descriptor: number, count: number): (number | string)[] {
  const bytes = new Uint8Array(count * PAGE);
  expect(readSync(descriptor, bytes, 0, bytes.length, 0)).toBe(bytes.length);
  const words = new Int32Array(bytes.buffer);
  return Array.from({ length: count }, (_, page) => {
    const values = new Set(words.subarray((page * PAGE) / 4, ((page + 1) * PAGE) / 4));
    return values.size === 1 ? ([...values][0] ?? 0) : `torn: ${[...values]}`;
  });
}

describe.runIf(RUNS)("a storage domain that is killed while a unikernel writes", () => {
  const lab = new KernelLab();
  const images = [lab.image("chains.img", MIB), lab.image("regions.img", MIB)];
  const descriptors = images.map((image) => openSync(image, "r"));
  let kernel: Unikernel;
  let journal: Int32Array;

  beforeAll(async () => {
    const disks = images.map((image, i) => imageDisk(image, { vdev: xvd(i), persistent: i === 1 }));
    kernel = await lab.start("churn", { memoryMiB: 16, disks });
    const place = await kernel.call<number>("start", { chains: xvd(0), regions: xvd(1) } satisfies ChurnArgument);
    const mapping = lab.host.table.attach(kernel.id);
    if (mapping === undefined) throw new Error("no memory");
    const start = (mapping.base + place) / 4;
    journal = mapping.words.subarray(start, start + PAGE / 4);
  });
  afterAll(async () => {
    for (const descriptor of descriptors) closeSync(descriptor);
    await lab.end();
  });

  /** Compares the images with what has been acknowledged so far; `final`: with nothing else under way. */
  function verify(final = false): void {
    const acknowledged = journal.slice();
    const [chains = [], regions = []] = [
      pagesOf(descriptors[0] ?? -1, 2 * CHAINS),
      pagesOf(descriptors[1] ?? -1, REGIONS * REGION_PAGES),
    ];
    for (let chain = 0; chain < CHAINS; chain++) {
      const round = acknowledged[JOURNAL_CHAINS + chain] ?? 0;
      const found = { b: chains[2 * chain], c: chains[2 * chain + 1] };
      const b = round === 0 ? 0 : 2 * round + 2;
      // Done with the round; a first write of the next; and the barrier; and the write behind it, maybe repeated.
      const states = [
        { b, c: round },
        { b: 2 * round + 3, c: round },
        { b: 2 * round + 3, c: round + 1 },
        { b: 2 * round + 4, c: round + 1 },
      ];
      expect(final ? states.slice(0, 1) : states).toContainEqual(found);
    }
    for (let region = 0; region < REGIONS; region++) {
      const stamp = acknowledged[JOURNAL_REGIONS + region] ?? 0;
      const values = new Set(regions.slice(region * REGION_PAGES, (region + 1) * REGION_PAGES));
      for (const value of values) expect(final ? [stamp] : [stamp, stamp + 1]).toContain(value);
    }
  }

  const progress = () => Atomics.load(journal, JOURNAL_ANSWERED);

  it(
    "loses nothing, doubles nothing and reorders nothing past a barrier",
    async () => {
      const storage = await lab.host.storageDomain();
      const start = Date.now();
      const kills: number[] = [];
      const hit = () => lab.host.vbdStatistics(kernel.id).every(({ counters }) => counters.replayed > 0);
      const enough = () => Date.now() > start + LIMIT_MS && kills.length >= LEAST && hit();
      while (kills.length < ROUNDS && Date.now() < start + LAST_MS && !enough()) {
        const { pid } = storage;
        // Two of three at work, one while it starts or takes over what the last has left.
        const before = progress();
        if (kills.length % 3 !== 0) await eventually("requests are served again", () => progress() > before + 20);
        await new Promise((resolve) => setTimeout(resolve, Math.random() * (kills.length % 3 === 0 ? 250 : 15)));
        const first = kills.at(-MOST_KILLS);
        if (first !== undefined) await eventually("it may be killed", () => Date.now() > first + WINDOW_MS);
        if (storage.pid !== pid) throw new Error("it has died by itself");
        killAndWait(pid);
        kills.push(Date.now());
        verify();
        await eventually("another process", () => storage.pid !== pid);
      }
      const before = progress();
      await eventually("requests are served at last", () => progress() > before + 20);
      await kernel.call("stop");
      verify(true);
      expect(kills.length).toBeGreaterThanOrEqual(LEAST);
      expect(journal[JOURNAL_ANSWERED]).toBe(journal[JOURNAL_SUBMITTED]);
      const counters = lab.host.vbdStatistics(kernel.id).map((each) => each.counters);
      expect(counters.map(({ errors, refused }) => errors + refused)).toEqual([0, 0]);
      for (const { replayed } of counters) expect(replayed).toBeGreaterThan(0);
      const lines = lab.lines.filter((line) => line.includes("is started again"));
      expect(lines.length).toBe(kills.length);
      // What it holds now is one ring of one page, one of four, and the grants that it keeps.
      const { rings, maps } = lab.holdings(storage.id);
      expect(rings.map(({ handles }) => handles.length).sort()).toEqual([1, 4]);
      expect(maps.length).toBeLessThanOrEqual(5 + REGIONS * (REGION_PAGES + 1) + 32);
      await kernel.handle.stop();
      await eventually(
        "it lets go",
        () => lab.holdings(storage.id).maps.length + lab.holdings(storage.id).rings.length === 0,
      );
    },
    LAST_MS + 60_000,
  );
});
