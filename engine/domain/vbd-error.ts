/** Errors of the toolstack's part of block devices: one line, "what; remedy". */
import { InputError } from "../errors/input-error.ts";

export class VbdError extends InputError<"vbd"> {
  constructor(what: string, remedy: string) {
    super("vbd", what, remedy);
  }
}

/**
 * Whoever served the devices was started anew while they were to be held: requests may have been served meanwhile, so what was
 * done under the hold is not one moment's state. The disks themselves are in order.
 */
export class HoldLostError extends VbdError {
  /** Whether the disks are served from the images that were to replace theirs, all the same. */
  readonly swapped: boolean;

  constructor(domain: "storage" | "network", swapped: boolean) {
    super(`the ${domain} domain was started anew while the guest's devices were held`, "try again");
    this.swapped = swapped;
  }
}
