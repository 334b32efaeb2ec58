/** HYPERVISOR_console_io: the emergency console (`earlyprintk=xen`, `xen_raw_printk`). */
import { Errno } from "../abi/errors.ts";
import type { HypercallHandler } from "./hypercall.ts";

const CONSOLEIO_WRITE = 0n;
const CONSOLEIO_READ = 1n;
/** Bytes taken per call; a longer text is cut, as nothing obliges the guest to be brief. */
const MAX_WRITE = 16384;

export const consoleIo: HypercallHandler = (vcpu, [command, count, pointer]) => {
  if (command === CONSOLEIO_READ) return 0;
  if (command !== CONSOLEIO_WRITE) return -Errno.ENOSYS;
  const length = Math.min(Number(BigInt.asUintN(32, count)), MAX_WRITE);
  const bytes = vcpu.copy.read(pointer, length);
  if (bytes === undefined) return -Errno.EFAULT;
  vcpu.domain.emergencyConsole(bytes);
  return 0;
};
