import type { Mapping } from "./guest-memory.ts";

/** Guest RAM as the domain builder sees it, before the guest runs: guest-physical addresses 0…ramBytes. */
export interface GuestFrames {
  readonly ramBytes: number;
  /** @throws RangeError when any byte lies outside RAM */
  write(gpa: number, bytes: Uint8Array): void;
  zero(gpa: number, length: number): void;
  /** The bytes themselves, not a copy. */
  view(gpa: number, length: number): Uint8Array;
}

export function createGuestFrames(mapping: Mapping): GuestFrames {
  const { ramBytes } = mapping.plan;
  const view = (gpa: number, length: number): Uint8Array => {
    if (
      !Number.isSafeInteger(gpa) ||
      !Number.isSafeInteger(length) ||
      gpa < 0 ||
      length < 0 ||
      gpa + length > ramBytes
    ) {
      throw new RangeError(`guest range ${gpa}+${length} lies outside ${ramBytes} bytes of RAM`);
    }
    return mapping.bytes.subarray(mapping.base + gpa, mapping.base + gpa + length);
  };
  return {
    ramBytes,
    view,
    write: (gpa, bytes) => view(gpa, bytes.length).set(bytes),
    zero: (gpa, length) => void view(gpa, length).fill(0),
  };
}
