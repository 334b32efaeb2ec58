/**
 * Where a domain's RAM and its special frames lie in the shared file.
 *
 * RAM comes first (file offset = guest-physical address at start), then the frames Xen would own: shared_info, the
 * grant table, the console and XenStore pages, and the control frames, which no guest frame ever maps.
 */
import { GRANT_TABLE_FRAMES, GRANTS_PER_FRAME_V1 } from "../abi/grant-table.ts";
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
 * The control frames: what the hypervisor's parts in all processes share about one domain, and no guest frame ever maps.
 * Byte offsets from FramePlan.control. First a block of CONTROL_VCPU_SIZE bytes for every vCPU.
 */
export const CONTROL_VCPU_SIZE = 64;
export const VCPU_DOORBELL = 0; // u32, counts up at every event; the futex a halted vCPU sleeps on
export const VCPU_SLEEPING = 4; // u32, 1 while it sleeps or is about to
export const VCPU_INFO_OFFSET = 8; // u32, file offset of its vcpu_info
export const VCPU_INSTRUCTIONS = 16; // f64, retired instructions
export const VCPU_BUSY_NS = 24; // f64, time spent running guest code
export const VCPU_CODE_REQUEST = 32; // u32, counts up when somebody else wrote over decoded code (code-shootdown.ts)
export const VCPU_CODE_DONE = 36; // u32, the last request that the vCPU has dealt with
export const VCPU_DECODES = 40; // u32, 1 while a vCPU runs that keeps decoded code
export const CONTROL_COMMAND = 2048; // u32, COMMAND_*
export const CONTROL_NARROW = 2052; // u32, 1 when shared_info has its 32-bit layout
export const CONTROL_EMERGENCY_TAKEN = 2056; // u32, bytes of console_io output that the host has dealt with, modulo 2^32
export const CONTROL_PHYSMAP_BASE = 2060; // u32, what physmap entries have added to their file offsets
export const CONTROL_VCPUS = 2064; // u32, vCPUs of the domain
export const CONTROL_REQUESTS = 2068; // u32, counts up when the process's main thread has a message for the vCPU's
export const CONTROL_WANTED = 2072; // u32, 1 + the window of memory that somebody waits for (arrival.ts), or 0
export const CONTROL_ARRIVALS = 2076; // u32, counts up with every window that has been loaded
export const CONTROL_AWAITING = 2080; // u32, threads that wait for a window
export const CONTROL_ABANDONED = 2084; // u32, not 0: windows that are not there will never be
export const COMMAND_RUN = 0;
export const COMMAND_STOP = 1;
export const CONTROL_HOST_PENDING = 4096; // 4096 bits: events for the host's end of the channel with that local port
export const CONTROL_PORT_VCPU = 8192; // u8 an event channel: the vCPU that it notifies
export const CONTROL_PORTS = 12288; // u32 an event channel: what it is (hypervisor/port-table.ts)
export const CONTROL_VIRQS = 28672; // u32 by vCPU × NR_VIRQS + VIRQ: the port bound to it, or 0
export const CONTROL_GRANT_PINS = 32768; // u32 a grant reference: its mappings (hypervisor/grant-pins.ts)
export const GRANT_REFS = GRANT_TABLE_FRAMES * GRANTS_PER_FRAME_V1;
export const CONTROL_MAPTRACK = 98304; // MAPTRACK_ENTRY bytes a handle: what this domain has mapped of others (maptrack.ts)
export const MAPTRACK_ENTRY = 16;
export const MAPTRACK_ENTRIES = 16384;
/** Special frames behind RAM: shared_info, the grant table, the console and XenStore pages. */
const SPECIAL_FRAMES = GRANT_TABLE_FRAMES + 3;
const CONTROL_BYTES = CONTROL_MAPTRACK + MAPTRACK_ENTRIES * MAPTRACK_ENTRY;

/** Entries of the physmap: 4 GiB of guest-physical space. */
export const PHYSMAP_ENTRIES = 1 << 20;
/** Pages of a linear memory: each has a byte in the code flags and one in the dirty flags. */
export const LINEAR_PAGES = 1 << 20;
export const DEVICE_STATISTICS_BYTES = 0x10000;
/** Memory of a restored guest is loaded in windows of so many pages (arrival.ts). */
export const WINDOW_PAGES = 32;
export const WINDOW_BYTES = WINDOW_PAGES * PAGE_SIZE;

export interface FramePlan {
  readonly ramBytes: number;
  readonly sharedInfo: FileOffset;
  readonly grantTable: FileOffset;
  readonly console: FileOffset;
  readonly xenstore: FileOffset;
  readonly control: FileOffset;
  /** u32 a RAM frame: mappings of it by other domains, and marks (hypervisor/grant-pins.ts). */
  readonly framePins: FileOffset;
  /** A bit a RAM frame: written by another party although decoded code came from it. */
  readonly codeWritten: FileOffset;
  /** u8 a page of the vCPU's linear memory: 1 while decoded code from it exists. */
  readonly codeFlags: FileOffset;
  /** u32 a guest frame (physmap.ts). */
  readonly physmap: FileOffset;
  /** What backends in the guest's own process count: DEVICE_STATISTICS_BYTES. */
  readonly deviceStatistics: FileOffset;
  /** u8 a page of the vCPU's linear memory: not 0 when it was written since the byte was cleared (dirty-log.ts). */
  readonly dirtyFlags: FileOffset;
  /** u8 a window of WINDOW_BYTES in front of `control`: whether its contents are there (arrival.ts). */
  readonly arrivals: FileOffset;
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
  /** A region that can be mapped by itself: hosts have pages of up to 64 KiB. */
  const takeRegion = (bytes: number): FileOffset => {
    next = Math.ceil(next / WASM_PAGE) * WASM_PAGE;
    return take(Math.ceil(bytes / PAGE_SIZE));
  };
  const frames = ramBytes / PAGE_SIZE;
  return {
    ramBytes,
    sharedInfo: take(1),
    grantTable: take(GRANT_TABLE_FRAMES),
    console: take(1),
    xenstore: take(1),
    control: take(CONTROL_BYTES / PAGE_SIZE),
    framePins: takeRegion(frames * 4),
    codeWritten: takeRegion(Math.ceil(frames / 32) * 4),
    codeFlags: takeRegion(LINEAR_PAGES),
    physmap: takeRegion(PHYSMAP_ENTRIES * 4),
    deviceStatistics: takeRegion(DEVICE_STATISTICS_BYTES),
    dirtyFlags: takeRegion(LINEAR_PAGES),
    arrivals: takeRegion(Math.ceil((frames + SPECIAL_FRAMES) / WINDOW_PAGES)),
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
