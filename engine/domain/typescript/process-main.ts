/** Entry point of a TypeScript domain's process. */
import { createBirpc } from "birpc";
import { planFrames } from "../../memory/frame-plan.ts";
import { openMappedPath } from "../../memory/mapped.ts";
import { XenstoreClient } from "../../xenstore/client.ts";
import { ClientRelay } from "../../xenstore/relay.ts";
import { relayMessage } from "../config.ts";
import { parentChannel } from "../parent-channel.ts";
import { RunningTypescriptDomain } from "./domain.ts";
import type { Kernel } from "./kernel.ts";
import { type TypescriptHostFunctions, type TypescriptProcessFunctions, typescriptConfig } from "./protocol.ts";
import { ServedCalls } from "./served-calls.ts";

const MIB = 1 << 20;
const stopping = new AbortController();
const calls = new ServedCalls();
let started = false;

/** The host decides about the end of a domain: Ctrl-C in its terminal reaches this process too, and is not meant for it. */
process.on("SIGINT", () => {});
/** A kernel that fails outside its promise has crashed too, and its host is told with what. */
process.on("uncaughtException", (error) => void end(error));
/** Without a host there is nobody to run for. Killed, because an orderly exit waits for threads that block. */
const die = () => process.kill(process.pid, "SIGKILL");
const parent = parentChannel();
parent.onEnd(die);

async function end(error?: unknown): Promise<void> {
  const text =
    error === undefined ? undefined : error instanceof Error ? (error.stack ?? error.message) : String(error);
  await host.ended(text).catch(() => undefined);
  process.kill(process.pid, "SIGKILL");
}

async function start(message: unknown): Promise<void> {
  if (started) throw new Error("the domain has been started already");
  started = true;
  const config = typescriptConfig.parse(message);
  const memory = openMappedPath(config.memory, planFrames(config.memoryMiB * MIB));
  const { default: kernel } = (await import(config.module)) as { default: Kernel };
  const input = { id: config.id, memory: memory.token, directory: config.directory, vcpu: 0 };
  const domain = new RunningTypescriptDomain(input, {
    name: config.name,
    restarted: config.restarted,
    parameters: config.parameters,
    store: new XenstoreClient(relay),
    log: (line) => void host.log.asEvent(line),
    stopping: stopping.signal,
    serve: (offered) => calls.serve(offered),
  });
  void Promise.race([kernel(domain), domain.failed]).then(() => end(), end);
}

const functions: TypescriptProcessFunctions = {
  start,
  xenstore: (message) => relay.receive(relayMessage.parse(message)),
  call: (method, argument) => calls.call(method, argument),
  stop: () => stopping.abort(),
};

const host = createBirpc<TypescriptHostFunctions, TypescriptProcessFunctions>(functions, {
  post: (message) => parent.send(message),
  on: (listener) => parent.onMessage(listener),
  timeout: -1,
});

const relay = new ClientRelay((message) => void host.xenstore.asEvent(message));
