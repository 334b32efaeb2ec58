/** A frontend, its memory and grants, and stores, all in one thread: what the block backend's tests drive it with. */
import { constants } from "node:os";
import { GrantStatus } from "../../engine/abi/grant-table.ts";
import { BlockCounters } from "../../engine/device/block/counters.ts";
import { InFlightRegion, inFlightSize } from "../../engine/device/block/in-flight.ts";
import { BlockOperation, type BlockProtocol, SECTOR, X86_64_PROTOCOL } from "../../engine/device/block/protocol.ts";
import { type BlockFeatures, BlockRingService, type LegacyDevices } from "../../engine/device/block/ring-service.ts";
import type { BlockStore, Done, Scatter } from "../../engine/device/block/store.ts";
import type { GrantMapper, MemoryView } from "../../engine/device/domain-interface.ts";
import { BackRing } from "../../engine/device/ring/back.ts";
import { FrontRing } from "../../engine/device/ring/front.ts";
import { initialiseSharedRing, SharedRing } from "../../engine/device/ring/layout.ts";

export const PAGE = 4096;

export function memoryView(pages: number): MemoryView {
  const buffer = new SharedArrayBuffer(pages * PAGE);
  return {
    bytes: new Uint8Array(buffer),
    words: new Int32Array(buffer),
    view: new DataView(buffer),
    nativeAddress: 0n,
  };
}

/** Grants of one domain: reference → page, and what is mapped. */
export class FakeGrants implements GrantMapper {
  readonly memory: MemoryView;
  readonly pages = new Map<number, { address: number; readOnly: boolean }>();
  readonly mapped: ({ address: number; readOnly: boolean } | undefined)[] = [];
  readonly writes: { address: number; length: number }[] = [];
  private readonly free: number[] = [];
  mappings = 0;
  /** Called before each map(). */
  onMap: (ref: number) => void = () => {};

  constructor(memory: MemoryView) {
    this.memory = memory;
  }

  get live(): number {
    return this.mapped.length - this.free.length;
  }

  map(ref: number, readOnly: boolean): number {
    this.onMap(ref);
    const page = this.pages.get(ref);
    if (!page) return GrantStatus.bad_gntref;
    if (page.readOnly && !readOnly) return GrantStatus.permission_denied;
    this.mappings++;
    const handle = this.free.pop() ?? this.mapped.length;
    this.mapped[handle] = { address: page.address, readOnly };
    return handle;
  }
  address(handle: number): number {
    const mapped = this.mapped[handle];
    if (!mapped) throw new Error(`handle ${handle} is not mapped`);
    return mapped.address;
  }
  unmap(handle: number): number {
    if (!this.mapped[handle]) throw new Error(`handle ${handle} is unmapped twice`);
    this.mapped[handle] = undefined;
    this.free.push(handle);
    return GrantStatus.okay;
  }
  mapMany(refs: Uint32Array, count: number, readOnly: boolean, handles: Int32Array, at: number): number {
    for (let n = 0; n < count; n++) {
      const handle = this.map(refs[n]!, readOnly);
      handles[at + n] = handle;
      if (handle < 0) return n;
    }
    return count;
  }
  unmapMany(handles: Int32Array, from: number, to: number): void {
    for (let n = from; n < to; n++) this.unmap(handles[n]!);
  }
  written(address: number, length: number): void {
    if (!this.mapped.some((page) => page && !page.readOnly && inside(page.address, address, 1))) {
      throw new Error(`written to ${address}, which is not mapped`);
    }
    if (this.writes.length < 4096) this.writes.push({ address, length });
  }
}

function inside(page: number, address: number, length: number): boolean {
  return address >= page && address + length <= page + PAGE;
}

export interface StoreCall {
  readonly kind: "read" | "write" | "flush" | "discard";
  readonly offset: number;
  readonly length: number;
  readonly pieces: number;
}

/** A disk in memory. With `later` set, operations wait until complete() is called. */
export class FakeStore implements BlockStore {
  readonly data: Uint8Array;
  readonly sectorSize: number;
  readonly physicalSectorSize = 4096;
  readOnly = false;
  discard: BlockStore["discard"] = { granularity: 4096, alignment: 0, secure: false };
  readonly synchronous: boolean;
  readonly calls: StoreCall[] = [];
  readonly pending: (() => void)[] = [];
  /** Sectors that cannot be read or written. */
  readonly bad = new Set<number>();
  flushFails = false;
  record = true;
  /** Called before and after each operation. */
  onStep: () => void = () => {};
  onFlush: () => void = () => {};

  constructor(size: number, options: { sectorSize?: number; later?: boolean } = {}) {
    this.data = new Uint8Array(size);
    this.sectorSize = options.sectorSize ?? SECTOR;
    this.synchronous = !options.later;
  }

  get size(): number {
    return this.data.length;
  }

  private run(kind: StoreCall["kind"], offset: number, length: number, pieces: number, body: Done): void {
    if (this.record) this.calls.push({ kind, offset, length, pieces });
    if (this.synchronous) body();
    else this.pending.push(() => body());
  }

  private move(kind: "read" | "write", offset: number, scatter: Scatter, done: Done): void {
    const pieces = Array.from(
      { length: scatter.count },
      (_, i) => [scatter.addresses[i]!, scatter.lengths[i]!] as const,
    );
    const length = pieces.reduce((sum, piece) => sum + piece[1], 0);
    this.run(kind, offset, length, pieces.length, () => {
      this.onStep();
      let at = offset;
      for (const [address, size] of pieces) {
        for (let sector = at / SECTOR; sector < (at + size) / SECTOR; sector++) {
          if (this.bad.has(sector)) {
            done({ errno: constants.errno.EIO, message: `sector ${sector}` });
            return;
          }
        }
        const memory = scatter.memory.bytes.subarray(address, address + size);
        if (kind === "read") memory.set(this.data.subarray(at, at + size));
        else this.data.set(memory, at);
        at += size;
      }
      this.onStep();
      done();
    });
  }
  read(offset: number, into: Scatter, done: Done): void {
    this.move("read", offset, into, done);
  }
  write(offset: number, from: Scatter, done: Done): void {
    this.move("write", offset, from, done);
  }
  flush(done: Done): void {
    this.run("flush", 0, 0, 0, () => {
      this.onStep();
      this.onFlush();
      this.onStep();
      done(this.flushFails ? { errno: constants.errno.EIO, message: "flush" } : undefined);
    });
  }
  discardRange(offset: number, length: number, _secure: boolean, done: Done): void {
    this.run("discard", offset, length, 0, () => {
      this.onStep();
      this.data.fill(0, offset, offset + length);
      this.onStep();
      done();
    });
  }
  /** Completes pending operation number `index`. */
  complete(index = 0): void {
    this.pending.splice(index, 1)[0]?.();
  }
  onResize(): void {}
  async close(): Promise<void> {}
}

export interface Segment {
  readonly ref: number;
  readonly first: number;
  readonly last: number;
}

export interface Answer {
  readonly id: number;
  readonly operation: number;
  readonly status: number;
}

export interface HarnessOptions {
  protocol?: BlockProtocol;
  ringPages?: number;
  dataPages?: number;
  features?: Partial<BlockFeatures>;
  store?: FakeStore;
  readOnly?: boolean;
  legacy?: LegacyDevices;
  persistentGrants?: number;
}

/**
 * Guest memory: ring pages, then data pages (reference = 100 + page number), then one page for indirect segments a
 * slot.
 */
export class Harness {
  readonly protocol: BlockProtocol;
  readonly memory: MemoryView;
  readonly own: MemoryView;
  readonly grants: FakeGrants;
  readonly shared: SharedRing;
  front: FrontRing;
  store: FakeStore;
  readonly counters = new BlockCounters();
  readonly log: string[] = [];
  readonly dataStart: number;
  readonly indirectStart: number;
  notified = 0;
  ring: BackRing;
  region: InFlightRegion;
  service: BlockRingService;
  private readonly options: HarnessOptions;
  readonly slot: Int32Array;
  readonly slotView: DataView;

  constructor(options: HarnessOptions = {}) {
    this.options = options;
    this.protocol = options.protocol ?? X86_64_PROTOCOL;
    const ringPages = options.ringPages ?? 1;
    const dataPages = options.dataPages ?? 64;
    this.memory = memoryView(ringPages + dataPages + 512);
    this.grants = new FakeGrants(this.memory);
    // The ring's pages lie in reverse: they are contiguous only virtually.
    const pages = Array.from({ length: ringPages }, (_, i) => (ringPages - 1 - i) * PAGE);
    this.shared = new SharedRing(this.memory, pages, this.protocol.slotSize);
    initialiseSharedRing(this.shared);
    this.front = new FrontRing(this.shared);
    this.dataStart = ringPages * PAGE;
    this.indirectStart = this.dataStart + dataPages * PAGE;
    for (let i = 0; i < dataPages; i++) {
      this.grants.pages.set(100 + i, { address: this.dataStart + i * PAGE, readOnly: false });
    }
    for (let i = 0; i < 512; i++) {
      this.grants.pages.set(10_000 + i, { address: this.indirectStart + i * PAGE, readOnly: true });
    }
    this.store = options.store ?? new FakeStore(1 << 20);
    this.own = memoryView(Math.ceil(inFlightSize(this.shared.size, this.protocol.slotSize) / PAGE) + 1);
    this.slot = new Int32Array(this.protocol.slotSize / 4);
    this.slotView = new DataView(this.slot.buffer);
    this.ring = new BackRing(this.shared);
    this.region = new InFlightRegion(this.own, 64, this.shared.size, this.protocol.slotSize);
    this.service = this.makeService();
    this.service.start();
  }

  makeService(): BlockRingService {
    const features = { persistent: false, maxIndirectSegments: 256, flush: true, barrier: true, discard: true };
    return new BlockRingService({
      protocol: this.protocol,
      ring: this.ring,
      grants: this.grants,
      serves: this.options.legacy ?? { store: this.store, readOnly: this.options.readOnly ?? false },
      features: { ...features, ...this.options.features },
      inFlight: this.region,
      counters: this.counters,
      ...(this.options.persistentGrants === undefined ? {} : { persistentGrants: this.options.persistentGrants }),
      notify: () => {
        this.notified++;
      },
      log: (message) => {
        if (this.log.length < 1000) this.log.push(message);
      },
    });
  }

  page(number: number): Uint8Array {
    return this.memory.bytes.subarray(this.dataStart + number * PAGE, this.dataStart + (number + 1) * PAGE);
  }

  put(operation: number, id: number, sector: number, segments: readonly Segment[] = [], handle = 0): void {
    this.slot.fill(0);
    this.protocol.request.write(this.slotView, 0, {
      operation,
      nrSegments: segments.length,
      handle,
      id: BigInt(id),
      sectorNumber: BigInt(sector),
      segments: segments.flatMap(({ ref, first, last }) => [ref, first | (last << 8)]),
    });
    this.push();
  }

  putIndirect(operation: number, id: number, sector: number, segments: readonly Segment[], page: number): void {
    this.slot.fill(0);
    this.protocol.indirect.write(this.slotView, 0, {
      operation: BlockOperation.indirect,
      indirectOp: operation,
      nrSegments: segments.length,
      id: BigInt(id),
      sectorNumber: BigInt(sector),
      indirectGrefs: [10_000 + page],
    });
    const at = (this.indirectStart + page * PAGE) / 4;
    for (const [i, { ref, first, last }] of segments.entries()) {
      this.memory.words[at + 2 * i] = ref;
      this.memory.words[at + 2 * i + 1] = first | (last << 8);
    }
    this.push();
  }

  putDiscard(id: number, sector: number, sectors: bigint, flag = 0): void {
    this.slot.fill(0);
    this.protocol.discard.write(this.slotView, 0, {
      operation: BlockOperation.discard,
      flag,
      id: BigInt(id),
      sectorNumber: BigInt(sector),
      nrSectors: sectors,
    });
    this.push();
  }

  push(): void {
    if (!this.front.putRequest(this.slot)) throw new Error("the ring is full");
    this.front.pushRequestsAndCheckNotify();
  }

  serve(): void {
    while (this.service.service());
  }

  /** The responses that are there. */
  answers(): Answer[] {
    const available = this.front.unconsumedResponses();
    if (available === "broken") throw new Error("impossible responses");
    const copy = new Int32Array(4);
    const view = new DataView(copy.buffer);
    return Array.from({ length: available }, () => {
      this.front.copyResponse(copy, 0, this.protocol.responseWords);
      const { id, operation, status } = this.protocol.response.read(view);
      return { id: Number(id), operation, status };
    });
  }

  /** One request from beginning to end. */
  status(): number | undefined {
    this.serve();
    const answers = this.answers();
    if (answers.length > 1) throw new Error(`${answers.length} answers`);
    return answers[0]?.status;
  }
}

/** Whole pages, by page number. */
export function wholePages(...pages: number[]): Segment[] {
  return pages.map((page) => ({ ref: 100 + page, first: 0, last: 7 }));
}
