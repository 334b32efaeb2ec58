/**
 * Telling a vCPU that somebody else wrote over instructions it has decoded: a backend that filled a page, another guest with
 * a mapping of it.
 *
 * The vCPU marks every page of its memory from which it holds decoded code in the code flags of the shared file, before it
 * reads the code. Whoever writes looks at the flag after the write, so one of the two always sees the other. If it is set,
 * the writer names the frame, rings, and waits for the vCPU: only then may the guest learn of the write.
 */
import { PAGE_SHIFT, PAGE_SIZE } from "../abi/xen.ts";
import {
  CONTROL_PHYSMAP_BASE,
  VCPU_CODE_DONE,
  VCPU_CODE_REQUEST,
  VCPU_DECODES,
  vcpuControl,
} from "../memory/frame-plan.ts";
import type { Mapping } from "../memory/guest-memory.ts";
import { EventDelivery } from "./event-delivery.ts";

/** How long to wait before looking again whether the vCPU still lives. */
const PATIENCE_NS = 20e6;

function word(mapping: Mapping, offset: number): number {
  return (mapping.base + offset) >>> 2;
}

/** Marks the frames of a range that hold decoded code. True if there is one. */
function markFrames(mapping: Mapping, offset: number, length: number): boolean {
  const { plan, words, bytes, base } = mapping;
  const linear = Atomics.load(words, word(mapping, plan.control + CONTROL_PHYSMAP_BASE)) >>> 0;
  let any = false;
  // Offsets go up to 4 GiB: a shift to the left would make them negative.
  for (let frame = offset >>> PAGE_SHIFT; frame * PAGE_SIZE < offset + length; frame++) {
    const flag = base + plan.codeFlags + ((linear + frame * PAGE_SIZE) >>> PAGE_SHIFT);
    if (Atomics.load(bytes, flag) === 0) continue;
    Atomics.or(words, word(mapping, plan.codeWritten) + (frame >>> 5), 1 << (frame & 31));
    any = true;
  }
  return any;
}

/**
 * After a write to `length` bytes at file offset `offset` of a domain's RAM by another party: returns once no vCPU of the
 * domain holds code decoded before. `lives` tells whether the domain still exists.
 */
export function codeWritten(mapping: Mapping, offset: number, length: number, lives: () => boolean): void {
  if (!markFrames(mapping, offset, length)) return;
  const { plan, words } = mapping;
  const control = vcpuControl(plan, 0);
  const request = Atomics.add(words, word(mapping, control + VCPU_CODE_REQUEST), 1) + 1;
  new EventDelivery(mapping).ring(0);
  for (;;) {
    const done = Atomics.load(words, word(mapping, control + VCPU_CODE_DONE));
    if (((done - request) | 0) >= 0) return;
    if (Atomics.load(words, word(mapping, control + VCPU_DECODES)) === 0 || !lives()) return;
    mapping.wait(control + VCPU_CODE_DONE, done, PATIENCE_NS);
  }
}

/** The vCPU's side: called between runs of guest code and before every sleep. */
export class CodeShootdown {
  private readonly mapping: Mapping;
  private readonly drop: (address: number) => void;
  private readonly control: number;

  /** `drop` makes the CPU forget the code of the page at an address of its linear memory. */
  constructor(mapping: Mapping, vcpu: number, drop: (address: number) => void) {
    this.mapping = mapping;
    this.drop = drop;
    this.control = vcpuControl(mapping.plan, vcpu);
  }

  /** From now on writers wait for service(), or no longer. */
  set decodes(value: boolean) {
    Atomics.store(this.mapping.words, word(this.mapping, this.control + VCPU_DECODES), value ? 1 : 0);
    this.mapping.wake(this.control + VCPU_CODE_DONE, 0x7fffffff);
  }

  /** True while somebody waits. */
  get wanted(): boolean {
    const { words } = this.mapping;
    const request = Atomics.load(words, word(this.mapping, this.control + VCPU_CODE_REQUEST));
    return request !== Atomics.load(words, word(this.mapping, this.control + VCPU_CODE_DONE));
  }

  /** Drops what others have written over. */
  service(): void {
    if (!this.wanted) return;
    const { words, plan, base } = this.mapping;
    const request = Atomics.load(words, word(this.mapping, this.control + VCPU_CODE_REQUEST));
    const start = word(this.mapping, plan.codeWritten);
    for (let group = 0; group < plan.ramBytes / PAGE_SIZE / 32; group++) {
      if (Atomics.load(words, start + group) === 0) continue;
      const bits = Atomics.exchange(words, start + group, 0);
      for (let bit = 0; bit < 32; bit++) {
        if ((bits & (1 << bit)) !== 0) this.drop(base + (group * 32 + bit) * PAGE_SIZE);
      }
    }
    Atomics.store(words, word(this.mapping, this.control + VCPU_CODE_DONE), request);
    this.mapping.wake(this.control + VCPU_CODE_DONE, 0x7fffffff);
  }
}
