/** HYPERVISOR_console_io: the emergency console (`earlyprintk=xen`, `xen_raw_printk`). */
import { Errno } from "../abi/errors.ts";
import { low32 } from "./arguments.ts";
import type { HypercallHandler } from "./hypercall.ts";

const CONSOLEIO_WRITE = 0;
const CONSOLEIO_READ = 1;
/** Bytes copied at a time. */
const PIECE = 16384;
/** Bytes taken per call; a longer text is cut, as nothing obliges the guest to be brief. */
const MAX_WRITE = 1 << 20;

export const consoleIo: HypercallHandler = (vcpu, [command, count, pointer]) => {
  if (low32(command) === CONSOLEIO_READ) return 0; // nothing is ever typed there
  if (low32(command) !== CONSOLEIO_WRITE) return -Errno.ENOSYS;
  const length = Math.min(low32(count), MAX_WRITE);
  for (let done = 0; done < length; done += PIECE) {
    const bytes = vcpu.copy.read(pointer + BigInt(done), Math.min(length - done, PIECE));
    if (bytes === undefined) return -Errno.EFAULT;
    vcpu.domain.emergencyConsole(bytes);
  }
  return 0;
};
