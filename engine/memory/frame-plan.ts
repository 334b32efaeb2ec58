/**
 * Where a domain's RAM and its special frames lie in the shared file.
 *
 * RAM comes first (file offset = guest-physical address at start), then the frames Xen would own: shared_info, the
 * grant table, the console and XenStore pages, and the control frames, which no guest frame ever maps.
 */
import { GRANT_TABLE_FRAMES } from "../abi/grant-table.ts";
import { PAGE_SIZE, sharedInfo } from "../abi/xen.ts";
import { type FileOffset, fileOffset, type Gfn, gfn } from "./types.ts";

const MIB = 1 << 20;
/** Most guest RAM: it shares 4 GiB of WebAssembly address space with the CPU's own state. */
export const MAX_RAM_MIB = 3584;
export const MAX_RAM_BYTES = MAX_RAM_MIB * MIB;
/** WebAssembly memories grow in these units. */
export const WASM_PAGE = 65536;
export const MAX_VCPUS = 32;

/** Guest frames of the two toolstack pages: Xen's special region for HVM guests ends at 0xff000. */
export const XENSTORE_GFN: Gfn = gfn(0xfeffc);
export const CONSOLE_GFN: Gfn = gfn(0xfefff);
/** First frame and number of frames that the memory map must reserve for special pages. */
export const SPECIAL_GFN: Gfn = gfn(0xfeff8);
export const SPECIAL_GFNS = 8;

/**
 * The control frames: what processes of one domain share besides the guest's own memory. Byte offsets from
 * FramePlan.control; every vCPU has a block of CONTROL_VCPU_SIZE bytes.
 */
export const CONTROL_VCPU_SIZE = 64;
export const VCPU_DOORBELL = 0; // u32, counts up at every event; the futex a halted vCPU sleeps on
export const VCPU_SLEEPING = 4; // u32, 1 while it sleeps or is about to
export const VCPU_INFO_OFFSET = 8; // u32, file offset of its vcpu_info
export const VCPU_INSTRUCTIONS = 16; // f64, retired instructions
export const VCPU_BUSY_NS = 24; // f64, time spent running guest code
export const CONTROL_COMMAND = 2048; // u32, COMMAND_*
export const CONTROL_NARROW = 2052; // u32, 1 when shared_info has its 32-bit layout
export const CONTROL_EMERGENCY_TAKEN = 2056; // u32, bytes of console_io output that the host has dealt with, modulo 2^32
export const COMMAND_RUN = 0;
export const COMMAND_STOP = 1;
export const CONTROL_HOST_PENDING = 4096; // 4096 bits: events for the host's end of the channel with that local port
export const CONTROL_PORT_VCPU = 8192; // u8 an event channel: the vCPU that it notifies
export const CONTROL_FRAMES = 3;

export interface FramePlan {
  readonly ramBytes: number;
  readonly sharedInfo: FileOffset;
  readonly grantTable: FileOffset;
  readonly console: FileOffset;
  readonly xenstore: FileOffset;
  readonly control: FileOffset;
  /** Length of the file, a multiple of 64 KiB. */
  readonly length: number;
}

/**
 * Plans the shared file of a domain with `ramBytes` of RAM.
 * @throws RangeError unless ramBytes is a positive multiple of the page size up to MAX_RAM_BYTES
 */
export function planFrames(ramBytes: number): FramePlan {
  if (!Number.isInteger(ramBytes) || ramBytes <= 0 || ramBytes > MAX_RAM_BYTES || ramBytes % PAGE_SIZE !== 0) {
    throw new RangeError(`guest RAM of ${ramBytes} bytes is not a whole number of pages up to ${MAX_RAM_MIB} MiB`);
  }
  let next = ramBytes;
  const take = (frames: number): FileOffset => {
    const start = next;
    next += frames * PAGE_SIZE;
    return fileOffset(start);
  };
  return {
    ramBytes,
    sharedInfo: take(1),
    grantTable: take(GRANT_TABLE_FRAMES),
    console: take(1),
    xenstore: take(1),
    control: take(CONTROL_FRAMES),
    length: Math.ceil(next / WASM_PAGE) * WASM_PAGE,
  };
}

/** File offset of a vCPU's block in the control frames. */
export function vcpuControl(plan: FramePlan, vcpu: number): number {
  return plan.control + vcpu * CONTROL_VCPU_SIZE;
}

/** File offset of the vcpu_info inside shared_info that a vCPU has until it registers another. */
export function legacyVcpuInfo(plan: FramePlan, vcpu: number): number {
  return plan.sharedInfo + sharedInfo.offsets.vcpuInfo + vcpu * 64;
}
