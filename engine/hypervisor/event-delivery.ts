/**
 * Setting events pending: bits in shared_info and vcpu_info, and the doorbell of the vCPU that has to see them.
 *
 * Everything lies in the shared file, so the vCPU worker, a backend on another thread and a backend in another process
 * use this same code. 2-level ABI: xen/include/public/event_channel.h and Xen's common/event_2l.c in behaviour.
 */
import { NR_EVENT_CHANNELS_2L, NR_EVENT_CHANNELS_2L_COMPAT } from "../abi/event-channel.ts";
import { LEGACY_MAX_VCPUS, sharedInfo, sharedInfoCompat, vcpuInfo } from "../abi/xen.ts";
import {
  CONTROL_HOST_PENDING,
  CONTROL_NARROW,
  CONTROL_PORT_VCPU,
  legacyVcpuInfo,
  VCPU_DOORBELL,
  VCPU_INFO_OFFSET,
  VCPU_SLEEPING,
  vcpuControl,
} from "../memory/frame-plan.ts";
import type { Mapping } from "../memory/guest-memory.ts";

/**
 * Where the bitmaps lie, in the layout of 64-bit guests or of 32-bit ones. The unit of the selector is a long: 64 or 32
 * ports a bit.
 */
interface Bitmaps {
  /** Indexes into `words`. */
  readonly pending: number;
  readonly mask: number;
  /** Offset of the selector in vcpu_info. */
  readonly selector: number;
  /** log2 of the ports of a selector bit. */
  readonly selectorShift: number;
  readonly channels: number;
}

export class EventDelivery {
  private readonly mapping: Mapping;
  private readonly words: Int32Array<SharedArrayBuffer>;
  private readonly bytes: Uint8Array<SharedArrayBuffer>;
  private readonly wide: Bitmaps;
  private readonly compat: Bitmaps;
  private readonly narrowWord: number;

  constructor(mapping: Mapping) {
    this.mapping = mapping;
    this.words = mapping.words;
    this.bytes = mapping.bytes;
    const shared = mapping.plan.sharedInfo;
    this.wide = {
      pending: this.word(shared + sharedInfo.offsets.evtchnPending),
      mask: this.word(shared + sharedInfo.offsets.evtchnMask),
      selector: vcpuInfo.offsets.pendingSelector,
      selectorShift: 6,
      channels: NR_EVENT_CHANNELS_2L,
    };
    this.compat = {
      pending: this.word(shared + sharedInfoCompat.offsets.evtchnPending),
      mask: this.word(shared + sharedInfoCompat.offsets.evtchnMask),
      selector: vcpuInfo.compat.offsets.pendingSelector,
      selectorShift: 5,
      channels: NR_EVENT_CHANNELS_2L_COMPAT,
    };
    this.narrowWord = this.word(mapping.plan.control + CONTROL_NARROW);
  }

  /** Whether shared_info has its 32-bit layout. */
  get narrow(): boolean {
    return Atomics.load(this.words, this.narrowWord) !== 0;
  }

  /** Chooses the layout of shared_info. What is pending stays where it is, as in Xen: the guest has set up nothing yet. */
  set narrow(value: boolean) {
    Atomics.store(this.words, this.narrowWord, value ? 1 : 0);
  }

  /** Ports the guest can use: 0 is none of them. */
  get channels(): number {
    return this.bitmaps.channels;
  }

  private get bitmaps(): Bitmaps {
    return this.narrow ? this.compat : this.wide;
  }

  /** Index into `words` of a file offset. */
  private word(offset: number): number {
    return (this.mapping.base + offset) >>> 2;
  }

  /** Points every vCPU at its place in shared_info. Once, before the guest starts. */
  initialise(): void {
    for (let vcpu = 0; vcpu < LEGACY_MAX_VCPUS; vcpu++) {
      this.setVcpuInfo(vcpu, legacyVcpuInfo(this.mapping.plan, vcpu));
    }
  }

  /** File offset of a vCPU's vcpu_info. */
  vcpuInfo(vcpu: number): number {
    return Atomics.load(this.words, this.word(vcpuControl(this.mapping.plan, vcpu) + VCPU_INFO_OFFSET)) >>> 0;
  }

  setVcpuInfo(vcpu: number, offset: number): void {
    Atomics.store(this.words, this.word(vcpuControl(this.mapping.plan, vcpu) + VCPU_INFO_OFFSET), offset);
  }

  /** Chooses the vCPU that a port notifies. */
  bindPort(port: number, vcpu: number): void {
    Atomics.store(this.bytes, this.mapping.base + this.mapping.plan.control + CONTROL_PORT_VCPU + port, vcpu);
  }

  boundVcpu(port: number): number {
    return Atomics.load(this.bytes, this.mapping.base + this.mapping.plan.control + CONTROL_PORT_VCPU + port);
  }

  /** Marks a port pending. True if it was not already. */
  setPending(port: number): boolean {
    const { pending, mask, channels } = this.bitmaps;
    if (port >= channels) return false;
    const bit = 1 << (port & 31);
    if ((Atomics.or(this.words, pending + (port >>> 5), bit) & bit) !== 0) return false;
    if ((Atomics.load(this.words, mask + (port >>> 5)) & bit) === 0) this.markVcpu(port);
    // A masked port still ends a SCHEDOP_poll that names it, so the doorbell rings in any case.
    this.ring(this.boundVcpu(port));
    return true;
  }

  isPending(port: number): boolean {
    return (Atomics.load(this.words, this.bitmaps.pending + (port >>> 5)) & (1 << (port & 31))) !== 0;
  }

  isMasked(port: number): boolean {
    return (Atomics.load(this.words, this.bitmaps.mask + (port >>> 5)) & (1 << (port & 31))) !== 0;
  }

  clearPending(port: number): void {
    Atomics.and(this.words, this.bitmaps.pending + (port >>> 5), ~(1 << (port & 31)));
  }

  setMask(port: number): void {
    Atomics.or(this.words, this.bitmaps.mask + (port >>> 5), 1 << (port & 31));
  }

  /** Clears a port's mask bit and delivers what waited behind it. */
  unmask(port: number): void {
    const bit = 1 << (port & 31);
    const wasMasked = (Atomics.and(this.words, this.bitmaps.mask + (port >>> 5), ~bit) & bit) !== 0;
    if (wasMasked && this.isPending(port)) {
      this.markVcpu(port);
      this.ring(this.boundVcpu(port));
    }
  }

  /** Selector bit, then the upcall flag: the guest clears them in the opposite order. */
  private markVcpu(port: number): void {
    const vcpu = this.boundVcpu(port);
    const { selector: offset, selectorShift } = this.bitmaps;
    const selector = port >>> selectorShift;
    const word = this.word(this.vcpuInfo(vcpu) + offset) + (selector >>> 5);
    const bit = 1 << (selector & 31);
    if ((Atomics.or(this.words, word, bit) & bit) === 0) this.setUpcall(vcpu);
  }

  /** Sets a vCPU's upcall flag. */
  setUpcall(vcpu: number): void {
    Atomics.store(this.bytes, this.mapping.base + this.vcpuInfo(vcpu) + vcpuInfo.offsets.upcallPending, 1);
  }

  upcallPending(vcpu: number): boolean {
    return Atomics.load(this.bytes, this.mapping.base + this.vcpuInfo(vcpu) + vcpuInfo.offsets.upcallPending) !== 0;
  }

  /** Marks every selector of a vCPU, so that nothing sent while its vcpu_info moved gets lost. */
  markEverything(vcpu: number): void {
    const { selector, selectorShift } = this.bitmaps;
    const word = this.word(this.vcpuInfo(vcpu) + selector);
    Atomics.store(this.words, word, -1);
    if (selectorShift === 6) Atomics.store(this.words, word + 1, -1);
    this.setUpcall(vcpu);
    this.ring(vcpu);
  }

  /** Rings a vCPU's doorbell: it looks again at whatever it sleeps for. */
  ring(vcpu: number): void {
    const control = vcpuControl(this.mapping.plan, vcpu);
    Atomics.add(this.words, this.word(control + VCPU_DOORBELL), 1);
    if (Atomics.load(this.words, this.word(control + VCPU_SLEEPING)) !== 0) this.mapping.wake(control + VCPU_DOORBELL);
  }

  /** How often the doorbell of a vCPU has rung, modulo 2^32. */
  doorbell(vcpu: number): number {
    return Atomics.load(this.words, this.word(vcpuControl(this.mapping.plan, vcpu) + VCPU_DOORBELL));
  }

  /**
   * Sleeps until the doorbell rings, `awake()` is true, or the timeout. Called by the vCPU itself. With `seen`, an earlier
   * answer of doorbell(), it does not sleep if the bell has rung since.
   */
  sleep(vcpu: number, timeoutNs: number, awake: () => boolean, seen?: number): void {
    const control = vcpuControl(this.mapping.plan, vcpu);
    const sleeping = this.word(control + VCPU_SLEEPING);
    Atomics.store(this.words, sleeping, 1);
    const rung = seen ?? this.doorbell(vcpu);
    if (!awake() && timeoutNs > 0) this.mapping.wait(control + VCPU_DOORBELL, rung, timeoutNs);
    Atomics.store(this.words, sleeping, 0);
  }

  /** Marks an event for the host's end of a channel. True if it was not already waiting: then the host needs a wake. */
  setHostPending(port: number): boolean {
    const word = this.word(this.mapping.plan.control + CONTROL_HOST_PENDING) + (port >>> 5);
    const bit = 1 << (port & 31);
    return (Atomics.or(this.words, word, bit) & bit) === 0;
  }

  /**
   * Takes the ports that wait for the host, clearing them.
   * @param left a port that stays as it is: what is sent to it meanwhile wakes nobody
   */
  takeHostPending(left?: number): number[] {
    const ports: number[] = [];
    const start = this.word(this.mapping.plan.control + CONTROL_HOST_PENDING);
    for (let group = 0; group < NR_EVENT_CHANNELS_2L / 32; group++) {
      const stay = left !== undefined && left >>> 5 === group ? 1 << (left & 31) : 0;
      if ((Atomics.load(this.words, start + group) & ~stay) === 0) continue;
      const bits = Atomics.and(this.words, start + group, stay) & ~stay;
      for (let bit = 0; bit < 32; bit++) if ((bits & (1 << bit)) !== 0) ports.push(group * 32 + bit);
    }
    return ports;
  }
}
