/** The process's main thread asks the vCPU's thread for something (vcpu-control.ts). */
import type { MessagePort } from "node:worker_threads";
import type { BackendAnswer, VcpuRequest, VcpuRequestMessage } from "./worker-protocol.ts";

export class VcpuRequests {
  private readonly port: MessagePort;
  private readonly ring: () => void;
  private readonly waiting = new Map<number, (value: unknown) => void>();
  private next = 0;

  /** @param ring tells the thread that there is a request */
  constructor(port: MessagePort, ring: () => void) {
    this.port = port;
    this.ring = ring;
    port.on("message", ({ id, value }: BackendAnswer) => {
      this.waiting.get(id)?.(value);
      this.waiting.delete(id);
    });
    // The guest's end must not wait for this port.
    port.unref();
  }

  /** Fulfilled with the answer; never, when the guest ends first. */
  call(request: VcpuRequest): Promise<unknown> {
    const message: VcpuRequestMessage = { id: this.next++, request };
    return new Promise((resolve) => {
      this.waiting.set(message.id, resolve);
      this.port.postMessage(message);
      this.ring();
    });
  }
}
