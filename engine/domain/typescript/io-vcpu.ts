/**
 * Entry point of a TypeScript domain's blocking vCPU: a thread that serves rings. It sleeps on its own doorbell, so an event
 * wakes it without any event loop; requests from the domain's event loop come as messages, announced by the same doorbell.
 */
import { type MessagePort, parentPort, receiveMessageOnPort, workerData } from "node:worker_threads";
import { messageOf } from "../../errors/message.ts";
import { DomainThread, type ThreadInput } from "../domain-thread.ts";
import { HaltPoll } from "../halt-poll.ts";
import type { IoKernel } from "./kernel.ts";

export interface IoVcpuInput extends ThreadInput {
  /** URL of the module whose default export is an IoKernel. */
  readonly module: string;
  readonly requests: MessagePort;
}

export interface IoRequest {
  readonly id: number;
  readonly request: unknown;
}

/** What the thread says by itself. */
export type IoMessage = { readonly ready: true } | { readonly log: string };

export type IoAnswer =
  | { readonly id: number; readonly ok: true; readonly value: unknown }
  | { readonly id: number; readonly ok: false; readonly message: string };

const LONGEST_SLEEP_NS = 1e9;
const clock = () => performance.now() * 1e6;

async function answer(port: MessagePort, handle: (request: unknown) => unknown, message: IoRequest): Promise<void> {
  let reply: IoAnswer;
  try {
    reply = { id: message.id, ok: true, value: await handle(message.request) };
  } catch (error) {
    reply = { id: message.id, ok: false, message: messageOf(error) };
  }
  port.postMessage(reply);
}

/** Waits until the doorbell has rung more than `rung` times: for a moment by looking, then asleep. */
function idle(thread: DomainThread, rung: number, poll: HaltPoll): void {
  const { delivery, mapping, vcpu } = thread;
  const rings = () => delivery.upcallPending(vcpu) || delivery.doorbell(vcpu) !== rung;
  const start = clock();
  if (poll.look({ clock, giveWay: () => mapping.giveWay() }, LONGEST_SLEEP_NS, rings)) return;
  delivery.sleep(vcpu, LONGEST_SLEEP_NS, () => delivery.upcallPending(vcpu), rung);
  poll.waited(clock() - start);
}

async function main(input: IoVcpuInput): Promise<never> {
  const thread = new DomainThread(input);
  const { default: create } = (await import(input.module)) as { default: IoKernel };
  const poll = new HaltPoll();
  const handle = create(thread, (line) => parentPort?.postMessage({ log: line } satisfies IoMessage));
  parentPort?.postMessage({ ready: true } satisfies IoMessage);
  for (;;) {
    // Read before looking for messages and events: what comes later rings it again.
    const rung = thread.delivery.doorbell(thread.vcpu);
    for (;;) {
      const received = receiveMessageOnPort(input.requests);
      if (received === undefined) break;
      await answer(input.requests, handle, received.message as IoRequest);
    }
    if (!thread.dispatch()) idle(thread, rung, poll);
  }
}

void main(workerData as IoVcpuInput);
