/** What a vCPU's thread does on request besides running the guest: stop, go on, and say what the guest is. */
import type { Vcpu } from "../cpu/vcpu.ts";
import { restoreDomain, saveDomain } from "../hypervisor/saved-domain.ts";
import type { VcpuContext } from "../hypervisor/vcpu.ts";
import { gfn } from "../memory/types.ts";
import type { DemandLoader } from "../snapshot/demand-loader.ts";
import { encodeGuestState, type GuestState } from "../snapshot/guest-state.ts";
import type { DomainClock } from "./domain-clock.ts";
import type { VcpuLoop } from "./vcpu-loop.ts";
import type { Pause, VcpuRequest } from "./worker-protocol.ts";

const MIB = 1 << 20;
/** The architectural place of the local APIC's registers, 0xfee00000. */
export const LOCAL_APIC_FRAME = 0xfee00;

/** Wall clock of the host at domain time 0, ns since the epoch. */
function wallclockAt(clock: DomainClock): bigint {
  return BigInt(Date.now()) * 1_000_000n - BigInt(Math.round(clock.now()));
}

export interface VcpuControlOptions {
  readonly context: VcpuContext;
  readonly cpu: Vcpu;
  readonly loop: VcpuLoop;
  readonly clock: DomainClock;
  /** What a restored guest was. */
  readonly saved: GuestState | undefined;
  /** Where its memory comes from when it is needed. */
  readonly pages: DemandLoader | undefined;
}

export class VcpuControl {
  private readonly context: VcpuContext;
  private readonly cpu: Vcpu;
  private readonly loop: VcpuLoop;
  private readonly clock: DomainClock;
  private readonly saved: GuestState | undefined;
  private pages: DemandLoader | undefined;
  /** Who wants the vCPU to stand still. */
  private readonly reasons = new Set<"user" | "snapshot" | "restore">();

  constructor({ context, cpu, loop, clock, saved, pages }: VcpuControlOptions) {
    this.context = context;
    this.cpu = cpu;
    this.loop = loop;
    this.clock = clock;
    this.saved = saved;
    this.pages = pages;
    if (saved !== undefined) this.reasons.add("restore");
  }

  /** Performs a request; what it returns is the answer. */
  perform(request: VcpuRequest): unknown {
    switch (request.op) {
      case "pause":
        this.pause(request.offline);
        return undefined;
      case "unpause":
        this.unpause(request.after);
        return undefined;
      case "save":
        return this.save(request.drivers);
      case "restore":
        this.restore();
        return undefined;
      case "loaded":
        this.context.domain.physmap.arrived();
        this.pages?.close();
        this.pages = undefined;
        return undefined;
      case "flush-translations":
        this.cpu.flushTlb();
        return undefined;
    }
  }

  private restore(): void {
    if (this.saved === undefined) return;
    this.cpu.state = this.saved.cpu;
    restoreDomain(this.context.domain, this.saved.domain);
    this.context.domain.physmap.mapDevice(gfn(LOCAL_APIC_FRAME));
  }

  private pause(offline: boolean): void {
    this.loop.pause();
    this.reasons.add(offline ? "user" : "snapshot");
    if (offline) this.context.enter("offline");
  }

  private unpause(after: Pause): void {
    const reason = after === "pause" ? "user" : after === "snapshot" ? "snapshot" : "restore";
    if (!this.reasons.delete(reason)) return;
    this.goOn(after);
    if (this.reasons.size === 0) this.loop.unpause();
  }

  private goOn(after: Pause): void {
    const { context, clock } = this;
    const { domain } = context;
    clock.start();
    switch (after) {
      case "snapshot":
        return;
      case "pause":
        context.enter("running");
        context.updateTime(true);
        return;
      case "restore-jump":
        clock.advance((Date.now() - (this.saved?.stoppedAt ?? Date.now())) * 1e6);
        domain.setWallclock(wallclockAt(clock));
        context.updateTime(true);
        return;
      case "restore-suspend":
        // Linux compares the wall clock before and after its suspend: it has to change in between.
        domain.suspended = () => {
          domain.setWallclock(wallclockAt(clock));
          domain.suspended = undefined;
        };
        return;
    }
  }

  private save(drivers: readonly number[]): unknown {
    const { domain } = this.context;
    const saved = saveDomain(domain, drivers);
    if ("problem" in saved) return saved;
    const state: GuestState = {
      memoryMiB: domain.plan.ramBytes / MIB,
      domid: domain.id,
      stoppedAt: Date.now(),
      cpu: this.cpu.state as GuestState["cpu"],
      ...(this.loop.sleepsFor && { wait: this.loop.sleepsFor as NonNullable<GuestState["wait"]> }),
      domain: { ...saved } as GuestState["domain"],
    };
    return encodeGuestState(state);
  }
}
