/** What the hypervisor keeps about one vCPU. */

import type { RunstateName } from "../abi/vcpu-op.ts";
import { Virq, vcpuInfo } from "../abi/xen.ts";
import type { Domain } from "./domain.ts";
import { GuestCopy } from "./guest-copy.ts";
import type { GuestCpu } from "./guest-cpu.ts";
import { LocalApic, type SavedApic } from "./local-apic.ts";
import {
  encodeTimeInfo,
  RunstateClock,
  type SavedRunstate,
  type SavedTimers,
  VcpuTimers,
  writeTimeInfo,
} from "./time.ts";
import { WATCHDOG_FIRED } from "./watchdog.ts";

/** What a vCPU waits for after SCHEDOP_block or SCHEDOP_poll. Deadline: domain time in ns; without it for ever. */
export type Wait =
  | { readonly kind: "block" }
  | { readonly kind: "poll"; readonly ports: readonly number[]; readonly deadline?: number };

/** What a VcpuContext keeps, as data, apart from the CPU's own state. */
export interface SavedVcpu {
  readonly timers: SavedTimers;
  readonly runstate: SavedRunstate;
  readonly apic: SavedApic;
  readonly upcallVector: number;
  readonly infoRegistered: boolean;
  /** File offset of its vcpu_info. */
  readonly infoOffset: number;
  readonly runstateArea: { readonly address: bigint; readonly narrow: boolean };
  readonly timeArea: bigint;
  readonly timeVersion: number;
}

export class VcpuContext {
  readonly domain: Domain;
  readonly id: number;
  readonly cpu: GuestCpu;
  readonly copy: GuestCopy;
  readonly timers = new VcpuTimers();
  readonly runstate: RunstateClock;
  readonly apic: LocalApic;
  /** Vector of HVMOP_set_evtchn_upcall_vector, or 0. */
  upcallVector = 0;
  /** True once register_vcpu_info has moved this vCPU's vcpu_info; it can move only once. */
  infoRegistered = false;
  /** Guest virtual addresses of the registered areas; 0: none. The run state has the layout of whoever registered it. */
  runstateArea = { address: 0n, narrow: false };
  timeArea = 0n;
  /** Set by a hypercall that puts the vCPU to sleep; whoever runs the vCPU takes it. */
  wait: Wait | undefined;
  private timeVersion = 0;
  private timeAreaStale = false;
  private tscOffset = 0n;

  constructor(domain: Domain, id: number, cpu: GuestCpu) {
    this.domain = domain;
    this.id = id;
    this.cpu = cpu;
    this.copy = new GuestCopy(cpu);
    this.apic = new LocalApic(id, (vector) => cpu.inject(vector));
    this.runstate = new RunstateClock(domain.clock());
    this.updateTime();
  }

  /** Address in the CPU's memory of this vCPU's vcpu_info. */
  get infoAddress(): number {
    return this.domain.mapping.base + this.domain.delivery.vcpuInfo(this.id);
  }

  /**
   * Wires the upcall flag to the CPU's interrupt line. Level-triggered, and connected only once a vector is known:
   * register_vcpu_info marks everything pending long before Linux sets its vector.
   */
  updateInterruptLine(): void {
    const vector = this.vector;
    this.cpu.setInterruptLine(vector === 0 ? 0 : this.infoAddress + vcpuInfo.offsets.upcallPending, vector);
  }

  private get vector(): number {
    return this.upcallVector || this.domain.params.callbackVector;
  }

  /** True once the guest has chosen a vector, so that an upcall can interrupt it. */
  get interruptLineConnected(): boolean {
    return this.vector !== 0;
  }

  /** Writes pvclock to vcpu_info and to the registered area; `stopped` tells that the guest did not run for a while. */
  updateTime(stopped = false): void {
    this.tscOffset = this.cpu.tscOffset;
    this.timeVersion += 2;
    const info = encodeTimeInfo(this.timeVersion, this.tscOffset, stopped);
    writeTimeInfo(this.domain.mapping, this.infoAddress + vcpuInfo.offsets.time, this.timeVersion, info);
    this.writeTimeArea();
  }

  save(): SavedVcpu {
    return {
      timers: this.timers.save(),
      runstate: this.runstate.save(),
      apic: this.apic.save(),
      upcallVector: this.upcallVector,
      infoRegistered: this.infoRegistered,
      infoOffset: this.domain.delivery.vcpuInfo(this.id),
      runstateArea: this.runstateArea,
      timeArea: this.timeArea,
      timeVersion: this.timeVersion,
    };
  }

  /** Goes on as the vCPU that was saved; its CPU's state and the domain's have been written before. */
  restore(saved: SavedVcpu): void {
    this.timers.restore(saved.timers);
    this.runstate.restore(saved.runstate);
    this.apic.restore(saved.apic);
    this.upcallVector = saved.upcallVector;
    this.infoRegistered = saved.infoRegistered;
    this.domain.delivery.setVcpuInfo(this.id, saved.infoOffset);
    this.runstateArea = { ...saved.runstateArea };
    this.timeArea = saved.timeArea;
    this.timeVersion = saved.timeVersion;
    this.updateInterruptLine();
    this.updateTime();
  }

  /** Writes pvclock again if the guest has written its TSC. */
  checkTime(): void {
    if (this.cpu.tscOffset !== this.tscOffset) this.updateTime();
    else if (this.timeAreaStale) this.writeTimeArea();
  }

  /**
   * Copies pvclock to the registered area; false where its address is bad. The area is a kernel address: a write that
   * comes due while the guest runs its user mode is made up for later (see checkTime).
   */
  writeTimeArea(): boolean {
    const done =
      this.timeArea === 0n || this.copy.write(this.timeArea, encodeTimeInfo(this.timeVersion, this.tscOffset));
    this.timeAreaStale = !done && this.cpu.cpl !== 0;
    return done;
  }

  /** Copies the run state to the registered area; false where its address is bad. */
  writeRunstateArea(): boolean {
    const { address, narrow } = this.runstateArea;
    return address === 0n || this.copy.write(address, this.runstate.encode(this.domain.clock(), narrow));
  }

  /** Enters a run state and tells the guest. */
  enter(state: RunstateName): void {
    this.runstate.enter(state, this.domain.clock());
    this.writeRunstateArea();
  }

  /** Domain time at which something has to be done, or Infinity. */
  get nextDeadline(): number {
    return Math.min(this.timers.next, this.domain.watchdogs.next);
  }

  /** Raises VIRQ_TIMER if a timer has expired; a watchdog that has ends the domain. */
  runTimers(): void {
    const now = this.domain.clock();
    if (now >= this.domain.watchdogs.next) this.domain.shutdown ??= WATCHDOG_FIRED;
    if (now >= this.timers.next && this.timers.expire(now)) this.domain.events.raiseVirq(this.id, Virq.timer);
  }
}
