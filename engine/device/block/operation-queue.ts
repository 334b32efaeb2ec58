/**
 * What a ring's service has given to the store and not got back. Keeps the order: a flush waits for everything issued
 * before it, a barrier for that too and for itself; and tries the requests of a merged operation one by one when it has
 * failed.
 */
import { constants } from "node:os";
import type { MemoryView } from "../domain-interface.ts";
import { BlockCounter, type BlockCounters } from "./counters.ts";
import { Operation, type OperationKind, Pieces } from "./operation.ts";
import { BlockStatus, SECTOR } from "./protocol.ts";
import type { SegmentMapper } from "./segment-mapper.ts";
import type { StoreFailure } from "./store.ts";

/** Which status a failed operation of the store has: only where the frontend may give up asking. */
function statusOf(kind: OperationKind, failure: StoreFailure | undefined): number {
  if (!failure) return BlockStatus.okay;
  const optional = kind === "flush" || kind === "discard";
  return optional && failure.errno === constants.errno.EOPNOTSUPP ? BlockStatus.eopnotsupp : BlockStatus.error;
}

export interface OperationQueueOptions {
  readonly memory: MemoryView;
  readonly mapper: SegmentMapper;
  readonly counters: BlockCounters;
  /** Answers a request. */
  respond(entry: number, status: number): void;
  /** Something is complete, and answered. */
  progressed(): void;
  log(message: string): void;
}

export class OperationQueue {
  /** Bytes moved; the service sets it back. */
  moved = 0;
  private readonly options: OperationQueueOptions;
  private readonly pool: Operation[] = [];
  private readonly singlePieces: Pieces;
  /** Operations issued, and those of them that are not complete (waiting flushes are among them). */
  private issued = 0;
  private active = 0;
  private readonly waitingFlushes: Operation[] = [];
  /** A barrier that waits for what is before it, or runs: nothing is taken. */
  private waitingBarrier: Operation | undefined;
  private barrierRuns = false;
  private drained: (() => void) | undefined;

  constructor(options: OperationQueueOptions) {
    this.options = options;
    this.singlePieces = new Pieces(options.memory);
  }

  /** A barrier waits or runs: nothing behind it may be issued. */
  get held(): boolean {
    return this.waitingBarrier !== undefined || this.barrierRuns;
  }
  get idle(): boolean {
    return this.active === 0 && !this.held;
  }

  /** An operation to fill and then to give to one of the functions below, or to drop(). */
  take(): Operation {
    return this.pool.pop() ?? new Operation(this.options.memory, this.finished);
  }

  drop(operation: Operation): void {
    this.pool.push(operation);
  }

  /** Hands a read, write or discard to the store. */
  issue(operation: Operation): void {
    operation.sequence = this.issued++;
    this.active++;
    this.begin(operation);
  }

  /** A flush: handed to the store when everything issued before it is complete. */
  flush(operation: Operation): void {
    operation.before = this.active;
    if (operation.before === 0) {
      this.issue(operation);
      return;
    }
    operation.sequence = this.issued++;
    this.active++;
    this.waitingFlushes.push(operation);
  }

  /** A barrier, its data mapped: waits for everything issued before it, flushes, writes, flushes. */
  barrier(operation: Operation): void {
    operation.barrier = true;
    this.waitingBarrier = operation;
    if (this.active > 0) this.options.counters.add(BlockCounter.oo_req);
    this.runBarrier();
  }

  /** Drops what has not begun and waits for the rest. */
  async drain(): Promise<void> {
    this.active -= this.waitingFlushes.length;
    this.waitingFlushes.length = 0;
    // A barrier that waits has its pages mapped.
    if (this.waitingBarrier) this.options.mapper.releaseFrom(this.waitingBarrier, 0);
    this.waitingBarrier = undefined;
    await new Promise<void>((resolve) => {
      this.drained = resolve;
      if (this.active === 0) resolve();
    });
  }

  /** Hands an operation, or one request of it, to the store. */
  private begin(operation: Operation): void {
    const { store } = operation.target!;
    const { kind, offset, length, pieces, finished } = operation;
    if (operation.single >= 0) {
      this.singlePieces.slice(pieces, operation.singleOffset, operation.lengths[operation.single]!);
      const at = offset + operation.singleOffset;
      if (kind === "read") store.read(at, this.singlePieces, finished);
      else store.write(at, this.singlePieces, finished);
    } else if (kind === "read") store.read(offset, pieces, finished);
    else if (kind === "write") store.write(offset, pieces, finished);
    else if (kind === "flush") store.flush(finished);
    else store.discardRange(offset, length, operation.secure, finished);
  }

  /** The store is done with an operation, or with one request of it. */
  private readonly finished = (operation: Operation, failure?: StoreFailure): void => {
    if (failure)
      this.options.log(`${operation.kind} of ${operation.length} bytes at ${operation.offset}: ${failure.message}`);
    const status = statusOf(operation.kind, failure);
    if (operation.single >= 0) {
      operation.statuses[operation.single] = status;
      operation.singleOffset += operation.lengths[operation.single]!;
      operation.single++;
      if (operation.single < operation.count) {
        this.begin(operation);
        return;
      }
    } else if (failure && operation.count > 1) {
      operation.single = 0;
      this.begin(operation);
      return;
    } else operation.statuses.fill(status, 0, operation.count);
    this.complete(operation);
  };

  private complete(operation: Operation): void {
    const { kind, length, sequence } = operation;
    // Before the response, after which the guest may run what was read; a failed read may have written as well.
    if (kind === "read") this.options.mapper.written(operation);
    this.options.mapper.releaseFrom(operation, 0);
    if (kind === "read" || kind === "write") {
      const counter = kind === "read" ? BlockCounter.rd_sect : BlockCounter.wr_sect;
      for (let i = 0; i < operation.count; i++) {
        if (operation.statuses[i] === BlockStatus.okay) {
          this.options.counters.add(counter, operation.lengths[i]! / SECTOR);
        }
      }
      this.moved += length;
    }
    this.active--;
    if (operation.barrier) {
      this.barrierWritten(operation);
      return;
    }
    for (let i = 0; i < operation.count; i++) this.options.respond(operation.entries[i]!, operation.statuses[i]!);
    this.pool.push(operation);
    this.advanceFlushes(sequence);
    this.afterCompletion();
  }

  /** An operation is complete: the flushes behind it wait for one less. */
  private advanceFlushes(sequence: number): void {
    const waiting = this.waitingFlushes;
    if (waiting.length === 0) return;
    for (const flush of waiting) if (sequence < flush.sequence) flush.before--;
    // A later flush waits for the earlier one too, so only the first can have become ready.
    if (waiting[0]?.before === 0) this.begin(waiting.shift()!);
  }

  private afterCompletion(): void {
    if (this.drained) {
      if (this.active === 0) this.drained();
      return;
    }
    this.runBarrier();
    this.options.progressed();
  }

  private runBarrier(): void {
    const operation = this.waitingBarrier;
    if (!operation || this.active > 0) return;
    this.waitingBarrier = undefined;
    this.barrierRuns = true;
    this.active++;
    operation.target!.store.flush((failure) => {
      this.active--;
      if (failure || operation.length === 0 || this.drained) this.endBarrier(operation, statusOf("flush", failure));
      else this.issue(operation);
    });
  }

  /** The barrier's write is done: what it wrote must be durable before it is answered. */
  private barrierWritten(operation: Operation): void {
    const status = operation.statuses[0]!;
    if (status !== BlockStatus.okay || this.drained) {
      this.endBarrier(operation, status);
      return;
    }
    this.active++;
    operation.target!.store.flush((failure) => {
      this.active--;
      this.endBarrier(operation, statusOf("flush", failure));
    });
  }

  private endBarrier(operation: Operation, status: number): void {
    this.options.mapper.releaseFrom(operation, 0);
    this.barrierRuns = false;
    this.options.respond(operation.entries[0]!, status);
    this.pool.push(operation);
    this.afterCompletion();
  }
}
