/** Entry point of the worker thread that owns a vCPU. */
import { parentPort, workerData } from "node:worker_threads";
import { FRAMES, PHYSMAP, PHYSMAP_FRAMES } from "../cpu/assembly/layout.ts";
import { createVcpu, type DevicePage, type Vcpu } from "../cpu/vcpu.ts";
import { cpuidEntries } from "../hypervisor/cpuid.ts";
import { Domain } from "../hypervisor/domain.ts";
import { createCpuMemory } from "../memory/cpu-memory.ts";
import { COMMAND_STOP, CONTROL_COMMAND, CONTROL_EMERGENCY_TAKEN } from "../memory/frame-plan.ts";
import { type Mapping, openGuestMemory } from "../memory/guest-memory.ts";
import { domId, gfn } from "../memory/types.ts";
import { pvhEntryState } from "./entry-state.ts";
import { type Json, toJson } from "./json-state.ts";
import { type LoopEnd, VcpuLoop } from "./vcpu-loop.ts";
import type { WorkerInput, WorkerMessage } from "./worker-protocol.ts";

/** The architectural place of the local APIC's registers, 0xfee00000. */
const LOCAL_APIC_FRAME = 0xfee00;
/** The guest's TSC counts nanoseconds. */
const TSC_KHZ = 1_000_000;
/** Bytes of console_io output that may be under way to the host's thread. */
const EMERGENCY_LIMIT = 256 * 1024;
/** How often a waiting vCPU looks whether it has to stop. */
const EMERGENCY_POLL_NS = 50e6;

function post(message: WorkerMessage): void {
  parentPort?.postMessage(message);
}

/**
 * Sends console_io output to the host's thread. It waits while too much of it is under way, as a guest writes faster
 * than any log takes it (XSA-180).
 */
function emergencyConsole(mapping: Mapping): (bytes: Uint8Array) => void {
  const { words, base, plan } = mapping;
  const taken = plan.control + CONTROL_EMERGENCY_TAKEN;
  const command = (base + plan.control + CONTROL_COMMAND) >>> 2;
  let sent = 0;
  return (bytes) => {
    post({ kind: "emergency-console", bytes });
    sent = (sent + bytes.length) >>> 0;
    for (;;) {
      const seen = Atomics.load(words, (base + taken) >>> 2);
      if ((sent - seen) >>> 0 <= EMERGENCY_LIMIT || Atomics.load(words, command) === COMMAND_STOP) return;
      mapping.wait(taken, seen, EMERGENCY_POLL_NS);
    }
  };
}

function registersOf(vcpu: Vcpu): { [key: string]: Json } {
  const json = toJson(vcpu.state);
  return typeof json === "object" && json !== null && !Array.isArray(json) ? json : {};
}

/** Runs the loop; an exception in it, which is a bug of ours, ends the domain like a crash of the guest. */
function runGuarded(loop: VcpuLoop): LoopEnd {
  try {
    return loop.run();
  } catch (error) {
    const cause = error instanceof Error ? (error.stack ?? error.message) : String(error);
    return { reason: "crash", cause: `internal error: ${cause}` };
  }
}

function main(input: WorkerInput): void {
  const memory = createCpuMemory(openGuestMemory(input.memory), {
    frames: FRAMES,
    physmap: PHYSMAP,
    physmapFrames: PHYSMAP_FRAMES,
  });
  const start = performance.now();
  const clock = (): number => (performance.now() - start) * 1e6;
  // The guest runs only once the context exists.
  const device: DevicePage = {
    read: (offset, size) => context.apic.readPage(offset, size),
    write: (offset, size, value) => context.apic.writePage(offset, size, value),
  };
  memory.physmap.mapDevice(gfn(LOCAL_APIC_FRAME));
  const vcpu = createVcpu({ memory: memory.mapping.memory, core: input.core, nanoseconds: clock, device });
  vcpu.setCpuid(cpuidEntries({ vcpu: 0, domain: input.domain, tscKhz: TSC_KHZ }));
  vcpu.state = pvhEntryState(input.entry);
  const domain = new Domain({
    id: domId(input.domain),
    memory,
    clock,
    wallclockNs: BigInt(Date.now()) * 1_000_000n,
    log: (line) => post({ kind: "log", line }),
    emergencyConsole: emergencyConsole(memory.mapping),
    notifyHost: () => post({ kind: "event" }),
  });
  const context = domain.addVcpu(vcpu);
  post({ kind: "ready", consolePort: domain.consolePort, xenstorePort: domain.xenstorePort });
  const loop = new VcpuLoop({ context, cpu: vcpu, instructions: () => vcpu.instructions });
  const end = runGuarded(loop);
  post({ kind: "end", end, registers: end.reason === "crash" ? registersOf(vcpu) : {} });
}

main(workerData as WorkerInput);
