/**
 * Host file descriptors as the physical interrupts of a TypeScript domain: one that becomes readable, or whose other
 * side hangs up, makes the event channel pending that the domain has bound to it. The way is poll(2) on a thread of its
 * own and the bits in shared memory: no event loop takes part.
 *
 * Level-triggered, as an interrupt line through an IO-APIC is: after an event the source is silent until eoi(), and
 * fires again after that if the descriptor still is readable.
 */
import { writeSync } from "node:fs";
import { Worker } from "node:worker_threads";
import { Errno } from "../abi/errors.ts";
import type { PhysicalInterrupts } from "../hypervisor/event-channel.ts";
import type { MemoryToken } from "../memory/guest-memory.ts";
import { compiledPath } from "./entry.ts";
import { createPipe } from "./poll.ts";

/** Most sources of a domain: the numbers that an event channel's entry has room for. */
export const MAX_PIRQS = 4096;

/*
 * The table that this thread and the polling one share: three words for the whole, then SOURCE_WORDS a source. A
 * source's state is (generation << STATE_BITS) | SourceState: whoever changes it expects the whole word, so what
 * poll(2) says about a descriptor that was unregistered meanwhile is ignored.
 */
export const WORD_STOP = 0;
/** 1 while a byte for the polling thread is in the pipe: it never fills up. */
export const WORD_WOKEN = 1;
/** Sources from this number on have never been used. */
export const WORD_USED = 2;
export const FIRST_SOURCE = 4;
export const SOURCE_WORDS = 4;
export const SOURCE_STATE = 0;
export const SOURCE_DESCRIPTOR = 1;
export const SOURCE_PORT = 2;

export const STATE_BITS = 2;
export const STATE_MASK = (1 << STATE_BITS) - 1;
export const SourceState = { free: 0, unbound: 1, armed: 2, raised: 3 } as const;

/** What the polling thread gets. */
export interface PollInput {
  readonly memory: MemoryToken;
  readonly table: SharedArrayBuffer;
  /** The end of the pipe that it polls besides the sources. */
  readonly wake: number;
}

/** The physical interrupts of one domain. For the thread that created it. */
export class PhysicalInterruptController implements PhysicalInterrupts {
  private readonly words = new Int32Array(
    new SharedArrayBuffer((FIRST_SOURCE + MAX_PIRQS * SOURCE_WORDS) * Int32Array.BYTES_PER_ELEMENT),
  );
  private readonly pipe = createPipe();
  private readonly worker: Worker;
  private readonly ended: Promise<void>;
  private readonly stop = (): void => this.requestStop();
  private closing: Promise<void> | undefined;

  /** `memory` is the domain's own: there the events become pending. */
  constructor(memory: MemoryToken) {
    const input: PollInput = { memory, table: this.words.buffer, wake: this.pipe.read };
    const path = compiledPath(import.meta.url, "physical-interrupts-worker.js");
    this.worker = new Worker(path, { workerData: input, name: "physical interrupts" });
    this.ended = new Promise((resolve, reject) => {
      this.worker.once("exit", () => resolve());
      this.worker.once("error", reject);
    });
    // Interrupts alone do not keep a process alive. Its end waits for the thread, which sleeps in a system call.
    this.worker.unref();
    process.once("exit", this.stop);
  }

  /**
   * Makes a descriptor an interrupt source. It stays the caller's, who unregisters it before closing it.
   * @returns the number of the physical interrupt, or -Errno.ENOSPC
   */
  register(descriptor: number): number {
    const used = Atomics.load(this.words, WORD_USED);
    for (let pirq = 0; pirq < MAX_PIRQS; pirq++) {
      const word = pirq < used ? this.state(pirq) : 0;
      if ((word & STATE_MASK) !== SourceState.free) continue;
      Atomics.store(this.words, this.at(pirq) + SOURCE_DESCRIPTOR, descriptor);
      this.change(pirq, word, SourceState.unbound);
      if (pirq >= used) Atomics.store(this.words, WORD_USED, pirq + 1);
      return pirq;
    }
    return -Errno.ENOSPC;
  }

  /** Ends a source. Its event channel stays, and hears no more of it. Nothing happens for a number that is none. */
  unregister(pirq: number): void {
    if (this.exists(pirq)) this.leave(pirq, SourceState.free);
  }

  /**
   * Connects a source to a port of the domain, which hears of it at once if the descriptor is readable.
   * @returns 0, -Errno.EINVAL for no such source, -Errno.EEXIST when it is bound already
   */
  bind(pirq: number, port: number): number {
    if (!this.exists(pirq)) return -Errno.EINVAL;
    const word = this.state(pirq);
    if ((word & STATE_MASK) !== SourceState.unbound) return -Errno.EEXIST;
    Atomics.store(this.words, this.at(pirq) + SOURCE_PORT, port);
    this.change(pirq, word, SourceState.armed);
    this.wake();
    return 0;
  }

  /** Disconnects a source from its port. */
  unbind(pirq: number): void {
    if (this.exists(pirq)) this.leave(pirq, SourceState.unbound);
  }

  /** PHYSDEVOP_eoi: the event was dealt with, the source may fire again. Nothing happens unless it has fired. */
  eoi(pirq: number): void {
    if (!this.exists(pirq)) return;
    const word = this.state(pirq);
    if ((word & STATE_MASK) !== SourceState.raised) return;
    if (this.change(pirq, word, SourceState.armed)) this.wake();
  }

  /** Ends the polling thread; afterwards nothing fires any more. @throws what the thread died of, a bug */
  close(): Promise<void> {
    this.closing ??= this.end();
    return this.closing;
  }

  private async end(): Promise<void> {
    process.off("exit", this.stop);
    this.requestStop();
    try {
      await this.ended;
    } finally {
      this.pipe.close();
    }
  }

  private requestStop(): void {
    Atomics.store(this.words, WORD_STOP, 1);
    this.wake();
  }

  private at(pirq: number): number {
    return FIRST_SOURCE + pirq * SOURCE_WORDS;
  }

  private state(pirq: number): number {
    return Atomics.load(this.words, this.at(pirq) + SOURCE_STATE);
  }

  private exists(pirq: number): boolean {
    if (!Number.isInteger(pirq) || pirq < 0 || pirq >= MAX_PIRQS) return false;
    return (this.state(pirq) & STATE_MASK) !== SourceState.free;
  }

  /** A new generation of the source, in another state. False if it was changed meanwhile. */
  private change(pirq: number, expected: number, state: number): boolean {
    const word = (((expected >>> STATE_BITS) + 1) << STATE_BITS) | state | 0;
    return Atomics.compareExchange(this.words, this.at(pirq) + SOURCE_STATE, expected, word) === expected;
  }

  /** Takes a source out of the polling thread's hands, which at most changes it from armed to raised meanwhile. */
  private leave(pirq: number, state: number): void {
    while (!this.change(pirq, this.state(pirq), state));
    this.wake();
  }

  private wake(): void {
    if (Atomics.exchange(this.words, WORD_WOKEN, 1) === 0) writeSync(this.pipe.write, Uint8Array.of(1));
  }
}
