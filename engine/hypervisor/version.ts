/** HYPERVISOR_xen_version (xen/include/public/version.h). */
import { Errno } from "../abi/errors.ts";
import * as abi from "../abi/version.ts";
import { PAGE_SIZE } from "../abi/xen.ts";
import { low32 } from "./arguments.ts";
import type { HypercallHandler } from "./hypercall.ts";

export const XEN_MAJOR = 4;
export const XEN_MINOR = 17;
const EXTRAVERSION = ".0-domlab";

/** Without hvm_safe_pvclock Linux calibrates its clock against a PIT that is not there. */
const FEATURES =
  (1 << abi.Feature.auto_translated_physmap) |
  (1 << abi.Feature.hvm_callback_vector) |
  (1 << abi.Feature.hvm_safe_pvclock) |
  (1 << abi.Feature.memory_op_vnode_supported) |
  (1 << abi.Feature.not_direct_mapped);

/** Zero-padded char arrays, one after the other. */
function texts(...fields: readonly (readonly [text: string, length: number])[]): Uint8Array {
  const bytes = new Uint8Array(fields.reduce((sum, [, length]) => sum + length, 0));
  let offset = 0;
  for (const [text, length] of fields) {
    bytes.set(new TextEncoder().encode(text).subarray(0, length - 1), offset);
    offset += length;
  }
  return bytes;
}

const [COMPILER, COMPILE_BY, COMPILE_DOMAIN, COMPILE_DATE] = abi.COMPILE_INFO_LENGTHS;

/** What each operation copies to the guest. */
const ANSWERS = new Map<number, Uint8Array>([
  [abi.VersionOp.extraversion, texts([EXTRAVERSION, abi.EXTRAVERSION_LENGTH])],
  [
    abi.VersionOp.compile_info,
    texts(["TypeScript", COMPILER], ["domlab", COMPILE_BY], ["domlab", COMPILE_DOMAIN], ["", COMPILE_DATE]),
  ],
  [abi.VersionOp.capabilities, texts(["hvm-3.0-x86_32 hvm-3.0-x86_32p hvm-3.0-x86_64 ", abi.CAPABILITIES_LENGTH])],
  [abi.VersionOp.changeset, texts(["unavailable", abi.CHANGESET_LENGTH])],
  [abi.VersionOp.guest_handle, new Uint8Array(16)],
  [abi.VersionOp.commandline, texts(["<denied>", abi.COMMANDLINE_LENGTH])],
]);

export const xenVersion: HypercallHandler = (vcpu, [operation, pointer]) => {
  const op = low32(operation);
  if (op === abi.VersionOp.version) return (XEN_MAJOR << 16) | XEN_MINOR;
  if (op === abi.VersionOp.pagesize) return PAGE_SIZE;
  if (op === abi.VersionOp.get_features) {
    const submap = vcpu.copy.read(pointer, 8);
    if (submap === undefined) return -Errno.EFAULT;
    const view = new DataView(submap.buffer);
    if (view.getUint32(0, true) !== 0) return -Errno.EINVAL;
    view.setUint32(4, FEATURES, true);
    return vcpu.copy.write(pointer, submap) ? 0 : -Errno.EFAULT;
  }
  if (op === abi.VersionOp.build_id) return -Errno.EPERM; // Xen keeps it from unprivileged guests
  // Where the hypervisor begins: an unsigned long, 0 for a hardware-virtualised guest.
  const answer = op === abi.VersionOp.platform_parameters ? new Uint8Array(vcpu.copy.longSize) : ANSWERS.get(op);
  if (answer === undefined) return -Errno.ENOSYS;
  return vcpu.copy.write(pointer, answer) ? 0 : -Errno.EFAULT;
};
