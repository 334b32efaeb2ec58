/** What the CPU asks of the program that runs it. */

/** Throws the CPU's fault sentinel through the WebAssembly frames; the run loop then delivers the exception. */
export declare function hostThrow(): void;
/** Nanoseconds of a monotonic clock: the time stamp counter runs at 1 GHz. */
export declare function hostNanoseconds(): f64;

/** Time stamp counter before the guest's own offset. */
export function hostTsc(): u64 {
  return u64(hostNanoseconds());
}
