/** The load on a ring that a blocking vCPU of the frontend's domain serves. */
import { type BlkfrontConnection, BlkfrontQueue } from "../../../engine/device/block/blkfront-queue.ts";
import { PagePool } from "../../../engine/device/block/page-pool.ts";
import type { DomainThread } from "../../../engine/domain/domain-thread.ts";
import type { IoKernel } from "../../../engine/domain/typescript/kernel.ts";
import { grantSource } from "../../../engine/hypervisor/grant-source.ts";
import { type FrontendJob, LoadGenerator, type LoadPage, type Measured } from "./load.ts";

/** As plain data: it comes from the event loop's thread. */
export interface VcpuJob {
  readonly job: FrontendJob;
  readonly connection: BlkfrontConnection;
  readonly sectors: number;
  readonly pages: readonly LoadPage[];
}

const LONGEST_SLEEP_NS = 1e9;
/** How long the vCPU looks for answers before it sleeps, as the vCPUs of a driver domain do. */
const SPIN_MS = 0.015;

/** Serves the vCPU's events until `over`: looks for them for a moment, then sleeps. */
function serve(thread: DomainThread, over: () => boolean): void {
  const { delivery, vcpu } = thread;
  while (!over()) {
    const rung = delivery.doorbell(vcpu);
    if (thread.dispatch()) continue;
    const until = performance.now() + SPIN_MS;
    while (!delivery.upcallPending(vcpu) && performance.now() < until);
    if (!delivery.upcallPending(vcpu)) {
      delivery.sleep(vcpu, LONGEST_SLEEP_NS, () => delivery.upcallPending(vcpu), rung);
    }
  }
}

const frontendVcpu: IoKernel = (thread) => (request) => {
  const { job, connection, sectors, pages } = request as VcpuJob;
  const grants = grantSource({ mapping: thread.mapping });
  const port = connection.rings[0]?.port ?? 0;
  let sequence = 0;
  const queue = new BlkfrontQueue({
    connection,
    ring: 0,
    grants,
    pool: new PagePool(grants, 0),
    notify() {
      generator.notifications++;
      thread.events.send(port);
    },
    broken: (reason) => {
      throw new Error(`the backend broke the protocol: ${reason}`);
    },
  });
  const generator = new LoadGenerator(job, sectors, pages, (command, done) => {
    queue.submit({ command, done, sequence: sequence++, ownRefs: [] });
  });
  generator.start();
  queue.push();
  thread.onEvent(port, () => queue.handleEvent());
  serve(thread, () => generator.over);
  thread.offEvent(port);
  return generator.result() satisfies Measured;
};

export default frontendVcpu;
