/** What the CPU asks of the program that runs it. */

/** Throws the CPU's fault sentinel through the WebAssembly frames; the run loop then delivers the exception. */
export declare function hostThrow(): void;
/** Nanoseconds of a monotonic clock: the time stamp counter runs at 1 GHz. */
export declare function hostNanoseconds(): f64;

/** A read of up to 4 bytes from the device page, or a write to it (then the result is unused). */
export declare function hostDevice(offset: u32, size: u32, write: bool, value: u32): u32;

/** Waits for the contents of a guest frame whose physmap entry says PHYSMAP_LATER; then the entry says so no more. */
export declare function hostArrive(frame: u32): void;

/** Time stamp counter before the guest's own offset. */
export function hostTsc(): u64 {
  return u64(hostNanoseconds());
}
