/** Entry point of a domain process: the host's control channel on one side, the machine on the other. */
import { createBirpc } from "birpc";
import { InputError } from "../errors/input-error.ts";
import { messageOf } from "../errors/message.ts";
import {
  byteCount,
  consoleBytes,
  type DomainExit,
  type DomainHostFunctions,
  type DomainProcessFunctions,
  domainStart,
  pauseSchema,
  relayMessage,
  type StartAnswer,
} from "./config.ts";
import { Machine, type MachineEvents } from "./machine.ts";
import { parentChannel } from "./parent-channel.ts";
import type { CallAnswer } from "./typescript/protocol.ts";
import { compiledCore, startVcpuThread } from "./vcpu-thread.ts";

const NOT_STARTED: CallAnswer = { ok: false, message: "the domain has not been started" };

let machine: Machine | undefined;
/** Made at once: it is ready by the time the kernel has been read. */
const thread = startVcpuThread();
compiledCore();

/** The host decides about the end of a domain: Ctrl-C in its terminal reaches this process too, and is not meant for it. */
process.on("SIGINT", () => {});
/** Without a host there is nobody to run for. Killed, because an orderly exit waits for the vCPU's thread. */
const die = () => process.kill(process.pid, "SIGKILL");
const parent = parentChannel();
parent.onEnd(die);

async function reportExit(exit: DomainExit): Promise<void> {
  // The answer tells that the host has it, and all console output before it; then this process may go.
  await host.exited(exit, machine?.statistics()).catch(() => undefined);
  process.exit(0);
}

async function start(message: unknown): Promise<StartAnswer> {
  try {
    if (machine !== undefined) throw new Error("the domain has been started already");
    const events: MachineEvents = {
      consoleOutput: (bytes) => void host.consoleOutput.asEvent(bytes),
      exited: (exit) => void reportExit(exit),
      xenstore: (relayed) => void host.xenstore.asEvent(relayed),
      backendStore: (relayed) => void host.backendStore.asEvent(relayed),
    };
    machine = await Machine.start(domainStart.parse(message), events, thread);
    return { ok: true };
  } catch (error) {
    if (error instanceof InputError) {
      return { ok: false, code: error.code, message: error.message, remedy: error.remedy };
    }
    return { ok: false, message: messageOf(error) };
  }
}

const functions: DomainProcessFunctions = {
  start,
  writeConsole: async (bytes) => machine?.writeConsole(consoleBytes.parse(bytes)),
  acknowledgeConsole: (bytes) => machine?.acknowledgeConsole(byteCount.parse(bytes)),
  statistics: () => machine?.statistics() ?? { instructions: 0, busySeconds: 0, residentBytes: 0 },
  stop: () => machine?.stop(),
  restored: async () => machine?.restored(),
  loaded: async () => machine?.loaded(),
  pause: async () => machine?.pause(),
  unpause: async (after) => machine?.unpause(pauseSchema.parse(after)),
  capture: async (method, argument) => machine?.captures.call(method, argument) ?? NOT_STARTED,
  storage: async (method, argument) => machine?.devices.call(String(method), argument) ?? NOT_STARTED,
  xenstore: (message) => machine?.receiveXenstore(relayMessage.parse(message)),
  backendStore: (message) => machine?.receiveBackendStore(relayMessage.parse(message)),
};

const host = createBirpc<DomainHostFunctions, DomainProcessFunctions>(functions, {
  post: (message) => parent.send(message),
  on: (listener) => parent.onMessage(listener),
  timeout: -1,
});
