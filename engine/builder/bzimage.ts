/**
 * From a kernel file to the bytes of its ELF: bzImage, compressed vmlinux or bare ELF.
 * Source: Documentation/arch/x86/boot.rst of the Linux kernel ("The Real-Mode Kernel Header").
 */

import { decompressAt, detectCompression } from "./decompress.ts";
import { isElf, PVH_REMEDY } from "./elf.ts";
import { BuildError } from "./errors.ts";

/** Greatest accepted kernel, compressed or not, in bytes. */
export const KERNEL_LIMIT = 1024 * 1024 * 1024;

const SECTOR = 512;
/* Offsets in the first sector and the setup header. */
const SETUP_SECTS = 0x1f1;
const BOOT_FLAG = 0x1fe;
const HEADER_MAGIC = 0x202;
const VERSION = 0x206;
const PAYLOAD_OFFSET = 0x248;
const PAYLOAD_LENGTH = 0x24c;
const HEADER_END = 0x250;

const BOOT_FLAG_VALUE = 0xaa55;
/** "HdrS" */
const HEADER_MAGIC_VALUE = 0x53726448;
/** Protocol 2.08 (Linux 2.6.26) brought payload offset and length. */
const FIRST_VERSION_WITH_PAYLOAD = 0x0208;
/** Length of the uncompressed size that the build appends to every payload (gzip has its own in this place). */
const SIZE_TRAILER = 4;

function hasSetupHeader(bytes: Uint8Array, view: DataView): boolean {
  return (
    bytes.length >= HEADER_END &&
    view.getUint16(BOOT_FLAG, true) === BOOT_FLAG_VALUE &&
    view.getUint32(HEADER_MAGIC, true) === HEADER_MAGIC_VALUE
  );
}

/** True for a file that has been cut inside its first sectors but was a boot sector with "HdrS" or an EFI stub. */
function looksCut(bytes: Uint8Array): boolean {
  return bytes.length < HEADER_END && bytes[0] === 0x4d && bytes[1] === 0x5a;
}

function notAKernel(bytes: Uint8Array): BuildError {
  if (bytes.length === 0) return new BuildError("not-a-kernel", "the kernel file is empty", "fetch or copy it again");
  if (looksCut(bytes)) {
    return new BuildError("truncated-image", "the kernel is truncated in its header", "fetch or copy it again");
  }
  return new BuildError(
    "not-a-kernel",
    "the kernel file is neither a bzImage nor an ELF file",
    "name an x86-64 Linux kernel, such as /boot/vmlinuz-*",
  );
}

/** The compressed ELF inside a bzImage, without the size that follows it, and that size. */
function payloadOf(bytes: Uint8Array, view: DataView): { payload: Uint8Array; size: number } {
  if (view.getUint16(VERSION, true) < FIRST_VERSION_WITH_PAYLOAD) {
    throw new BuildError("no-pvh-note", "the kernel is older than Linux 2.6.26", "use Linux 4.11 or later");
  }
  const setupSectors = bytes[SETUP_SECTS] || 4;
  const start = (setupSectors + 1) * SECTOR + view.getUint32(PAYLOAD_OFFSET, true);
  const length = view.getUint32(PAYLOAD_LENGTH, true);
  if (length === 0) {
    // Programs that only borrow Linux's header, such as Memtest86+.
    throw new BuildError("no-pvh-note", "the kernel file is a boot program without an ELF kernel in it", PVH_REMEDY);
  }
  if (length <= SIZE_TRAILER) {
    throw new BuildError("corrupt-image", "the kernel is damaged: its payload is empty", "fetch or copy it again");
  }
  if (start + length > bytes.length) {
    const missing = start + length - bytes.length;
    throw new BuildError("truncated-image", `the kernel is truncated: ${missing} bytes are missing`, "fetch it again");
  }
  const size = view.getUint32(start + length - SIZE_TRAILER, true);
  const isGzip = detectCompression(bytes, start) === "gzip";
  return { payload: bytes.subarray(start, start + length - (isGzip ? 0 : SIZE_TRAILER)), size };
}

/**
 * Extracts the ELF file from a kernel file of any accepted form.
 *
 * @throws BuildError `not-a-kernel`, `truncated-image`, `corrupt-image`, `unknown-compression`, `file-too-large`,
 * `no-pvh-note` (too old, or no kernel in it)
 */
export async function extractKernel(bytes: Uint8Array): Promise<Uint8Array> {
  if (isElf(bytes)) return bytes;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (!hasSetupHeader(bytes, view)) {
    if (detectCompression(bytes) === undefined) throw notAKernel(bytes);
    const { data } = await decompressAt(bytes, 0, KERNEL_LIMIT, "kernel");
    if (!isElf(data)) throw notAKernel(data);
    return data;
  }
  const { payload, size } = payloadOf(bytes, view);
  // An uncompressed payload occurs with CONFIG_KERNEL_UNCOMPRESSED.
  if (isElf(payload)) return payload;
  const { data } = await decompressAt(payload, 0, KERNEL_LIMIT, "kernel");
  if (data.length !== size) {
    const found = `it decompresses to ${data.length} bytes instead of ${size}`;
    throw new BuildError("corrupt-image", `the kernel is damaged: ${found}`, "fetch or copy it again");
  }
  return data;
}
