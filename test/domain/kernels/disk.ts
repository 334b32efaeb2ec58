/** A unikernel with disks: connects them as it is told, and checks that they keep what is written. */

import type { BlkfrontWishes } from "../../../engine/device/block/backend-features.ts";
import { Blkfront } from "../../../engine/device/block/blkfront.ts";
import { readBytes, writeBytes } from "../../../engine/device/block/front-bytes.ts";
import type { BlockCommand, BlockSegment } from "../../../engine/device/block/front-request.ts";
import { LegacyFront } from "../../../engine/device/block/legacy-front.ts";
import { XenbusState } from "../../../engine/device/xenbus/state.ts";
import type { Kernel, TypescriptDomain } from "../../../engine/domain/typescript/kernel.ts";
import type { EventPort } from "../../../engine/memory/types.ts";
import { obey } from "./agent.ts";

const PAGE = 4096;
const SECTOR = 512;
const MIB = 1 << 20;

export interface ConnectArgument {
  readonly vdev: number;
  readonly wishes?: Partial<BlkfrontWishes>;
  readonly protocol?: "x86_64-abi" | "x86_32-abi";
}

/** Bytes that depend on seed and place: no two pages are alike. */
function pattern(seed: number, length: number): Uint8Array {
  const words = new Uint32Array(length / 4);
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(i + 1, 0x9e3779b1) ^ Math.imul(seed + 1, 0x85ebca6b);
  return new Uint8Array(words.buffer);
}

function same(found: Uint8Array, expected: Uint8Array, what: string): void {
  const at = found.findIndex((byte, i) => byte !== expected[i]);
  if (at >= 0) throw new Error(`${what}: byte ${at} is ${found[at]}, not ${expected[at]}`);
}

function listener(domain: TypescriptDomain) {
  return (port: EventPort, handler: () => void) => {
    domain.onEvent(port, handler);
    return () => domain.offEvent(port);
  };
}

class Disks {
  private readonly domain: TypescriptDomain;
  private readonly fronts = new Map<number, Blkfront>();

  constructor(domain: TypescriptDomain) {
    this.domain = domain;
  }

  private front(vdev: number): Blkfront {
    const front = this.fronts.get(vdev);
    if (front === undefined) throw new Error(`disk ${vdev} is not connected`);
    return front;
  }

  async connect({ vdev, wishes, protocol }: ConnectArgument): Promise<unknown> {
    const { domain } = this;
    const front = new Blkfront({
      store: domain.store,
      vdev,
      grants: domain.grants,
      events: domain.events,
      listen: listener(domain),
      log: (line) => domain.log(line),
      ...(wishes && { wishes }),
      ...(protocol && { protocol }),
    });
    this.fronts.set(vdev, front);
    const geometry = await front.connect();
    return { geometry, negotiated: front.negotiated };
  }

  /** Closes a disk, and makes it ready to be connected again. @returns pages that the backend has not let go of */
  async close({ vdev }: { vdev: number }): Promise<number> {
    const { store } = this.domain;
    const front = this.front(vdev);
    const directory = `device/vbd/${vdev}`;
    const backend = await store.read(`${directory}/backend`);
    await front.close();
    this.fronts.delete(vdev);
    // The backend lets go before it says so.
    await new Promise<void>((resolve) => {
      void store.watch(`${backend}/state`, async () => {
        if ((await store.read(`${backend}/state`)) === String(XenbusState.Closed)) resolve();
      });
    });
    await store.write(`${directory}/state`, String(XenbusState.Initialising));
    return front.reclaim();
  }

  /** Writes all of a disk in requests of many sizes at once, reads it back in others. */
  async fill({ vdev, seed }: { vdev: number; seed: number }): Promise<void> {
    const front = this.front(vdev);
    const { grants } = this.domain;
    const bytes = pattern(seed, (front.geometry?.sectors ?? 0) * SECTOR);
    const lengths = [SECTOR, 3 * SECTOR, PAGE, 5 * PAGE + SECTOR, 11 * PAGE, 12 * PAGE, MIB];
    const writes: Promise<void>[] = [];
    for (let at = 0, n = 0; at < bytes.length; n++) {
      const length = Math.min(lengths[n % lengths.length] ?? PAGE, bytes.length - at);
      writes.push(writeBytes(front, grants, at / SECTOR, bytes.subarray(at, at + length)));
      at += length;
    }
    await Promise.all(writes);
    await front.flush();
    await this.check({ vdev, seed });
  }

  /** Reads a disk that fill() has written. */
  async check({ vdev, seed }: { vdev: number; seed: number }): Promise<void> {
    const front = this.front(vdev);
    const bytes = pattern(seed, (front.geometry?.sectors ?? 0) * SECTOR);
    const step = MIB + 7 * PAGE;
    const starts = Array.from({ length: Math.ceil(bytes.length / step) }, (_, i) => i * step);
    await Promise.all(
      starts.map(async (from) => {
        const expected = bytes.subarray(from, from + step);
        const found = await readBytes(front, this.domain.grants, from / SECTOR, expected.length);
        same(found, expected, `disk ${vdev} at ${from}`);
      }),
    );
  }

  /** Parts of pages, in an odd order of pages, as gather and scatter. */
  async scatter({ vdev }: { vdev: number }): Promise<void> {
    const front = this.front(vdev);
    const { grants } = this.domain;
    const { bytes } = grants.memory;
    const pages = Array.from({ length: 4 }, () => grants.allocatePage() ?? Number.NaN);
    const [a = 0, b = 0, c = 0, d = 0] = pages;
    // A backend that keeps its maps keeps those pages too: they are granted for good.
    const refs = new Map(pages.map((page) => [page, front.negotiated?.persistent ? front.grantPage(page) : undefined]));
    const part = (page: number, first: number, last: number): BlockSegment => {
      const ref = refs.get(page);
      return { page, first, last, ...(ref !== undefined && { ref }) };
    };
    const segments = [part(b, 7, 7), part(a, 0, 2), part(b, 1, 1)];
    for (const [i, page] of pages.entries()) bytes.set(pattern(i, PAGE), page);
    await front.write(3, segments);
    bytes.fill(0xee, c, c + PAGE);
    bytes.fill(0xee, d, d + PAGE);
    await front.read(2, [part(d, 6, 7), part(c, 2, 5)]);
    const piece = (page: number, sector: number, sectors: number) =>
      bytes.slice(page + sector * SECTOR, page + (sector + sectors) * SECTOR);
    same(piece(d, 7, 1), piece(b, 7, 1), "the first segment");
    same(piece(c, 2, 3), piece(a, 0, 3), "the second segment");
    same(piece(c, 5, 1), piece(b, 1, 1), "the third segment");
    for (const [page, first, count] of [
      [c, 0, 2],
      [c, 6, 2],
      [d, 0, 6],
    ] as const) {
      same(piece(page, first, count), new Uint8Array(count * SECTOR).fill(0xee), "what was not to be touched");
    }
    for (const page of pages) {
      const ref = refs.get(page);
      if (ref === undefined) grants.freePage(page);
      else front.pool.dispose(page, ref);
    }
  }

  /** Discards a range. @returns whether all of it reads as zeros then */
  async discard({ vdev, sector, sectors }: { vdev: number; sector: number; sectors: number }): Promise<boolean> {
    const front = this.front(vdev);
    await front.discard(sector, sectors);
    const bytes = await readBytes(front, this.domain.grants, sector, sectors * SECTOR);
    return bytes.every((byte) => byte === 0);
  }

  /** A request that is likely to fail. @returns the failure's code, or "success" */
  async attempt({ vdev, command }: { vdev: number; command: BlockCommand }): Promise<string> {
    const page = this.domain.grants.allocatePage() ?? Number.NaN;
    const filled =
      "segments" in command ? { ...command, segments: command.segments.map((each) => ({ ...each, page })) } : command;
    const code = await new Promise<string>((resolve) => {
      this.front(vdev).submit(filled, (failure) => resolve(failure?.code ?? "success"));
    });
    this.domain.grants.freePage(page);
    return code;
  }

  /** Writes and reads random pieces in the first MiB with several requests at a time. */
  async exercise({ vdev, requests, depth = 8 }: { vdev: number; requests: number; depth?: number }): Promise<number> {
    const front = this.front(vdev);
    const { grants } = this.domain;
    const size = MIB / depth;
    let done = 0;
    const worker = async (own: number): Promise<void> => {
      for (let n = 0; n < requests / depth; n++) {
        const bytes = pattern(own * 1000 + n, PAGE * (1 + (n % 3)));
        const sector = (own * size) / SECTOR + (n % 8) * 8;
        await writeBytes(front, grants, sector, bytes);
        same(await readBytes(front, grants, sector, bytes.length), bytes, `request ${n}`);
        done += 2;
      }
    };
    await Promise.all(Array.from({ length: depth }, (_, own) => worker(own)));
    await front.flush();
    return done;
  }

  /** The old message set: lists the disks, then writes and reads each that can be written. */
  async legacy({ vdev }: { vdev: number }): Promise<unknown> {
    const { domain } = this;
    const { grants } = domain;
    const { bytes } = grants.memory;
    const front = new LegacyFront({
      store: domain.store,
      vdev,
      grants,
      events: domain.events,
      listen: listener(domain),
      log: (line) => domain.log(line),
    });
    await front.connect();
    const list = await front.probe();
    const pages = Array.from({ length: 11 }, () => grants.allocatePage() ?? Number.NaN);
    const segments = pages.map((page) => ({ page, first: 0, last: 7 }));
    const results: Record<number, string> = {};
    for (const { device, sectors } of list) {
      const data = pages.map((_, i) => pattern(device + i, PAGE));
      const fill = (what: readonly (Uint8Array | undefined)[]) => {
        for (const [i, page] of pages.entries()) bytes.set(what[i] ?? new Uint8Array(PAGE), page);
      };
      try {
        fill(data);
        await front.write(device, sectors - 88, segments);
        fill([]);
        await front.read(device, sectors - 88, segments);
        for (const [i, page] of pages.entries()) same(bytes.slice(page, page + PAGE), data[i] ?? bytes, "legacy");
        results[device] = "kept";
      } catch (error) {
        results[device] = (error as Error).message;
      }
    }
    const unknown = await front.read(4711, 0, segments).then(
      () => "read",
      (error: Error) => error.message,
    );
    for (const page of pages) grants.freePage(page);
    const again = await front.probe();
    await front.close();
    return { list, results, unknown, again };
  }
}

const kernel: Kernel = async (domain) => {
  const disks = new Disks(domain);
  await obey(domain, {
    connect: (argument: ConnectArgument) => disks.connect(argument),
    close: (argument: { vdev: number }) => disks.close(argument),
    fill: (argument: { vdev: number; seed: number }) => disks.fill(argument),
    check: (argument: { vdev: number; seed: number }) => disks.check(argument),
    scatter: (argument: { vdev: number }) => disks.scatter(argument),
    discard: (argument: { vdev: number; sector: number; sectors: number }) => disks.discard(argument),
    attempt: (argument: { vdev: number; command: BlockCommand }) => disks.attempt(argument),
    exercise: (argument: { vdev: number; requests: number; depth?: number }) => disks.exercise(argument),
    legacy: (argument: { vdev: number }) => disks.legacy(argument),
  });
};

export default kernel;
