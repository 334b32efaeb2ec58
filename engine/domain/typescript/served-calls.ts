/** Calls of the host to a kernel, in the kernel's process. */
import type { KernelCalls } from "./kernel.ts";
import type { CallAnswer } from "./protocol.ts";

/** An error's text, and what the user can do about it if it says so. */
function failure(error: unknown): CallAnswer {
  if (!(error instanceof Error)) return { ok: false, message: String(error) };
  const remedy = "remedy" in error && typeof error.remedy === "string" ? error.remedy : undefined;
  return { ok: false, message: error.message, ...(remedy !== undefined && { remedy }) };
}

export class ServedCalls {
  private readonly served: Promise<KernelCalls>;
  private resolve: (calls: KernelCalls) => void = () => {};

  constructor() {
    this.served = new Promise((resolve) => {
      this.resolve = resolve;
    });
  }

  /** From now on calls are performed; the first set of functions counts. */
  serve(calls: KernelCalls): void {
    this.resolve(calls);
  }

  /** Performs a call as soon as there are functions. Never rejects. */
  async call(method: unknown, argument: unknown): Promise<CallAnswer> {
    const calls = await this.served;
    const perform = typeof method === "string" && Object.hasOwn(calls, method) ? calls[method] : undefined;
    if (perform === undefined) return { ok: false, message: `the kernel serves no ${String(method)}` };
    try {
      return { ok: true, result: await perform(argument) };
    } catch (error) {
      return failure(error);
    }
  }
}
