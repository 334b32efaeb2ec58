/**
 * Runs of a vCPU that are taken back: the CPU and all of its guest's memory are as before, but what was decoded on the way
 * stays, and has become hot.
 */
import * as layout from "../../../engine/cpu/assembly/layout.ts";
import type { Vcpu } from "../../../engine/cpu/vcpu.ts";

/** Registers and everything else that belongs to the run. */
const PRIVATE = layout.SCRATCH_CODE;
/** Among them what belongs to decoded code. */
const KEPT = [layout.POOL_NEXT, layout.CODE_EPOCH, layout.HOT_THRESHOLD, layout.HOT_COUNT, layout.CODE_RESETS];
const PAGE = 0x1000;

export class Rehearsal {
  private readonly cpu: Vcpu;
  private readonly state: Buffer;
  private readonly words: Uint32Array;
  private readonly ram: Buffer;
  private readonly savedState: Buffer;
  private readonly savedRam: Buffer;

  constructor(cpu: Vcpu) {
    this.cpu = cpu;
    const { buffer } = cpu.memory;
    this.state = Buffer.from(buffer, 0, PRIVATE);
    this.words = new Uint32Array(buffer, 0, PRIVATE / 4);
    this.ram = Buffer.from(buffer, layout.FRAMES);
    this.savedState = Buffer.alloc(PRIVATE);
    this.savedRam = Buffer.alloc(this.ram.length);
  }

  begin(): void {
    this.state.copy(this.savedState);
    this.ram.copy(this.savedRam);
  }

  end(): void {
    const kept = KEPT.map((at) => this.words[at >> 2] ?? 0);
    this.savedState.copy(this.state);
    KEPT.forEach((at, n) => {
      this.words[at >> 2] = kept[n] ?? 0;
    });
    for (let at = 0; at < this.ram.length; at += PAGE) {
      if (this.ram.compare(this.savedRam, at, at + PAGE, at, at + PAGE) === 0) continue;
      this.savedRam.copy(this.ram, at, at, at + PAGE);
      this.cpu.dropCode(layout.FRAMES + at);
    }
    // Entries made meanwhile stand for page tables as they were then.
    this.cpu.flushTlb();
  }
}
