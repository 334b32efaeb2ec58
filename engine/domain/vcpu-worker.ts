/** Entry point of the worker thread that owns a vCPU. */
import { type MessagePort, parentPort, receiveMessageOnPort } from "node:worker_threads";
import { CODE_FLAG, DIRTY_FLAG, FRAMES, PHYSMAP } from "../cpu/assembly/layout.ts";
import { createVcpu, type DevicePage, prepareCompiler, type Vcpu } from "../cpu/vcpu.ts";
import { cpuidEntries } from "../hypervisor/cpuid.ts";
import { Domain } from "../hypervisor/domain.ts";
import { createCpuMemory } from "../memory/cpu-memory.ts";
import { DomainDirectory } from "../memory/domain-directory.ts";
import { COMMAND_STOP, CONTROL_COMMAND, CONTROL_EMERGENCY_TAKEN } from "../memory/frame-plan.ts";
import { type Mapping, openGuestMemory } from "../memory/guest-memory.ts";
import { EMPTY_DIRECTORY, Peers } from "../memory/peers.ts";
import { domId, gfn } from "../memory/types.ts";
import { prepareCodec } from "../snapshot/codec.ts";
import { DemandLoader } from "../snapshot/demand-loader.ts";
import { SnapshotError } from "../snapshot/errors.ts";
import { DomainClock } from "./domain-clock.ts";
import { HypervisorEnvironment } from "./driver/hypervisor-environment.ts";
import { perform } from "./driver/storage-io.ts";
import { VbdThread } from "./driver/vbd-thread.ts";
import { pvhEntryState } from "./entry-state.ts";
import { type Json, toJson } from "./json-state.ts";
import { LOCAL_APIC_FRAME, VcpuControl } from "./vcpu-control.ts";
import { type LoopEnd, VcpuLoop } from "./vcpu-loop.ts";
import type {
  BackendAnswer,
  BackendRequest,
  VcpuRequestMessage,
  WorkerInput,
  WorkerMessage,
} from "./worker-protocol.ts";

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

/** The snapshot that a restored guest's memory comes from. @throws SnapshotError */
async function openPages({ start, memory }: WorkerInput, mapping: Mapping): Promise<DemandLoader | undefined> {
  if (!("saved" in start) || start.pages === undefined || memory.kind !== "mapped") return undefined;
  return await DemandLoader.open({ ...start.pages, mapping, descriptor: memory.descriptor });
}

/** Does what the domain lives by; an exception in it, which is a bug of ours, ends it like a crash of the guest. */
function guarded<T>(work: () => T): T | LoopEnd {
  try {
    return work();
  } catch (error) {
    // The file that its memory comes from is not what it was: that is for the user to know.
    if (error instanceof SnapshotError) return { reason: "crash", cause: error.message };
    const cause = error instanceof Error ? (error.stack ?? error.message) : String(error);
    return { reason: "crash", cause: `internal error: ${cause}` };
  }
}

/** Answers the requests for backends on this thread that have come meanwhile. */
async function answerBackends(port: MessagePort, devices: VbdThread): Promise<void> {
  for (;;) {
    const received = receiveMessageOnPort(port);
    if (received === undefined) return;
    const { id, request } = received.message as BackendRequest;
    const answer: BackendAnswer = { id, value: await perform(devices, request) };
    port.postMessage(answer);
  }
}

/** Answers the requests for the vCPU itself. */
function answerControl(port: MessagePort, control: VcpuControl): undefined {
  for (;;) {
    const received = receiveMessageOnPort(port);
    if (received === undefined) return undefined;
    const { id, request } = received.message as VcpuRequestMessage;
    const answer: BackendAnswer = { id, value: control.perform(request) };
    port.postMessage(answer);
  }
}

async function main(input: WorkerInput): Promise<void> {
  const saved = "saved" in input.start ? input.start.saved : undefined;
  const memory = createCpuMemory(openGuestMemory(input.memory), {
    frames: FRAMES,
    physmap: PHYSMAP,
    codeFlags: CODE_FLAG,
    dirtyFlags: DIRTY_FLAG,
    // Until it is restored, nobody may map a grant of a page that is on its way.
    empty: saved !== undefined,
  });
  const { mapping } = memory;
  const pages = await openPages(input, mapping);
  if (pages !== undefined) memory.physmap.fetch = (offset) => pages.fetch(offset);
  const clock = new DomainClock(saved?.domain.clock ?? 0);
  // The guest runs only once the context exists.
  const device: DevicePage = {
    read: (offset, size) => context.apic.readPage(offset, size),
    write: (offset, size, value) => context.apic.writePage(offset, size, value),
  };
  const vcpu = createVcpu({
    memory: mapping.memory,
    core: input.core,
    nanoseconds: clock.now,
    device,
    arrive: (frame) => memory.physmap.arrive(frame),
    compiler: { background: true },
  });
  vcpu.setCpuid(cpuidEntries({ vcpu: 0, domain: input.domain, tscKhz: TSC_KHZ }));
  const log = (line: string) => post({ kind: "log", line });
  const directory = input.directory === undefined ? EMPTY_DIRECTORY : DomainDirectory.open(input.directory);
  const domain = new Domain({
    id: domId(input.domain),
    memory,
    clock: clock.now,
    wallclockNs: BigInt(Date.now()) * 1_000_000n,
    log,
    emergencyConsole: emergencyConsole(mapping),
    notifyHost: () => post({ kind: "event" }),
    peers: new Peers(directory, input.domain, mapping),
  });
  const context = domain.addVcpu(vcpu);
  if ("entry" in input.start) {
    vcpu.state = pvhEntryState(input.start.entry);
    memory.physmap.mapDevice(gfn(LOCAL_APIC_FRAME));
    clock.start();
  }
  const loop = new VcpuLoop({
    context,
    cpu: vcpu,
    instructions: () => vcpu.instructions,
    ...(saved && { restored: { wait: saved.wait } }),
  });
  const control = new VcpuControl({ context, cpu: vcpu, loop, clock, saved, pages });
  let devices: VbdThread | undefined;
  post({ kind: "ready" });
  let end = guarded(() => loop.run());
  while (end.reason === "request") {
    const failure = guarded(() => answerControl(input.control, control));
    if (failure !== undefined) {
      end = failure;
      break;
    }
    devices ??= new VbdThread(new HypervisorEnvironment(domain, vcpu, log));
    await answerBackends(input.backends, devices);
    end = guarded(() => loop.run());
  }
  loop.close();
  post({ kind: "end", end, registers: end.reason === "crash" ? registersOf(vcpu) : {} });
}

// What to run comes by message: the thread may have been made before that was known, and gets ready meanwhile.
prepareCompiler();
prepareCodec();
parentPort?.once("message", (input: WorkerInput) => {
  main(input).catch((error: unknown) => {
    // The file that its memory is to come from cannot be opened any more.
    if (!(error instanceof SnapshotError)) throw error;
    post({ kind: "end", end: { reason: "crash", cause: error.message }, registers: {} });
  });
});
