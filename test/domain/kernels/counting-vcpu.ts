/** A blocking vCPU that counts the events of its port, and says on which thread they were handled. */
import { threadId } from "node:worker_threads";
import type { IoKernel } from "../../../engine/domain/typescript/kernel.ts";

interface Request {
  readonly listen?: number;
  readonly report?: true;
  readonly fail?: string;
  readonly die?: true;
}

const countingVcpu: IoKernel = (thread) => {
  const threads = new Set<number>();
  let events = 0;
  return (message) => {
    const { listen, report, fail, die } = message as Request;
    if (fail !== undefined) throw new Error(fail);
    if (die) process.exit(3);
    if (listen !== undefined) {
      thread.onEvent(listen, () => {
        events++;
        threads.add(threadId);
      });
      // Handlers are called once at once.
      events = 0;
    }
    return report ? { vcpu: thread.vcpu, threads: [...threads], events } : null;
  };
};

export default countingVcpu;
