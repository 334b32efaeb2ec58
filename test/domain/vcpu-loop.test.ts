import { describe, expect, it } from "vitest";
import { Virq } from "../../engine/abi/xen.ts";
import {
  EXIT_BUDGET,
  EXIT_HALT,
  EXIT_HYPERCALL,
  EXIT_MSR_READ,
  EXIT_MSR_WRITE,
  EXIT_PORT,
  EXIT_SHUTDOWN,
} from "../../engine/cpu/assembly/layout.ts";
import type { Exit } from "../../engine/cpu/vcpu.ts";
import { type LoopCpu, VcpuLoop } from "../../engine/domain/vcpu-loop.ts";
import { COMMAND_STOP, CONTROL_COMMAND, VCPU_INSTRUCTIONS, vcpuControl } from "../../engine/memory/frame-plan.ts";
import { fakeDomain } from "../hypervisor/fake-domain.ts";

/** Runs the loop over a script of exits; then the CPU triple-faults. */
function run(exits: readonly Exit[], prepare?: (fake: ReturnType<typeof fakeDomain>) => void) {
  const fake = fakeDomain();
  prepare?.(fake);
  const done: string[] = [];
  const script = [...exits];
  const cpu: LoopCpu = {
    run: () => script.shift() ?? { reason: EXIT_SHUTDOWN },
    raise: (vector, error) => done.push(`raise ${vector} ${error}`),
    completePort: (value) => done.push(`port ${value}`),
    completeMsrRead: (value) => done.push(`rdmsr ${value}`),
    dropCode: () => {},
    completeMsrWrite: () => done.push("wrmsr"),
    get interruptsEnabled() {
      return fake.cpu.interruptsEnabled;
    },
  };
  const end = new VcpuLoop({ context: fake.vcpu, cpu, instructions: () => 42 }).run();
  return { end, done, fake };
}

describe("vCPU loop", () => {
  it("answers ports and MSRs", () => {
    const { done, end } = run([
      { reason: EXIT_BUDGET },
      { reason: EXIT_PORT, port: 0xcfc, size: 2, out: false, value: 0 },
      { reason: EXIT_PORT, port: 0x80, size: 1, out: true, value: 1 },
      { reason: EXIT_MSR_READ, msr: 0x3a },
      { reason: EXIT_MSR_READ, msr: 0x802 },
      { reason: EXIT_MSR_WRITE, msr: 0x40000000, value: 0x9000n },
      { reason: EXIT_MSR_WRITE, msr: 0x3a, value: 0n },
    ]);
    expect(done).toEqual(["port 65535", "port 0", "raise 13 0", "rdmsr 0", "wrmsr", "raise 13 0"]);
    expect(end).toEqual({ reason: "crash", cause: "triple fault" });
  });

  it("takes a halt with interrupts off for a power-off", () => {
    const { end } = run([{ reason: EXIT_HALT }], ({ cpu }) => {
      cpu.interruptsEnabled = false;
    });
    expect(end).toEqual({ reason: "poweroff" });
  });

  it("sleeps in a halt until its timer", () => {
    const { fake } = run([{ reason: EXIT_HALT }], ({ domain, vcpu, time }) => {
      domain.events.bindVirq(Virq.timer, 0);
      domain.params.set(0, (2n << 56n) | 0xf3n);
      vcpu.timers.setSingleshot(time.now + 1e6);
      const start = performance.now();
      const clock = { get: () => 1000 + (performance.now() - start) * 1e6 };
      Object.defineProperty(time, "now", clock);
    });
    expect(fake.domain.delivery.upcallPending(0)).toBe(true);
  });

  it("ends when the guest shuts down", () => {
    const { end } = run([{ reason: EXIT_HYPERCALL }], ({ cpu, ram }) => {
      ram.setUint32(0x5000, 1, true);
      cpu.registers.set([29n, 0n, 0n, 0n, 0n, 0n, 0x5000n, 2n]);
    });
    expect(end).toEqual({ reason: "reboot" });
  });

  it("stops when the host says so, and reports its work", () => {
    const { end, fake } = run([{ reason: EXIT_BUDGET }]);
    const { mapping, plan } = fake.domain;
    expect(mapping.view.getFloat64(mapping.base + vcpuControl(plan, 0) + VCPU_INSTRUCTIONS, true)).toBe(42);
    expect(end.reason).toBe("crash");
    const stopped = run([{ reason: EXIT_BUDGET }], ({ domain }) => {
      domain.mapping.words[(domain.mapping.base + domain.plan.control + CONTROL_COMMAND) >>> 2] = COMMAND_STOP;
    });
    expect(stopped.end).toEqual({ reason: "stopped" });
  });
});
