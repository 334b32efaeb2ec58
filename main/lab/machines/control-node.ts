/**
 * Asking a guest to power off or reboot: the node control/shutdown, as xen/include/public/io/… and
 * docs/misc/xenstore-paths.pandoc have it. The toolstack writes the request, the guest clears it when it has taken it up, and
 * says beforehand with control/feature-poweroff and control/feature-reboot that it would.
 */
import type { ToolstackStore } from "../../../engine/xenstore/toolstack-store.ts";
import { MachineError } from "./errors.ts";

export type GuestRequest = "poweroff" | "reboot";

const control = (domid: number) => `/local/domain/${domid}/control`;

/**
 * Writes the request.
 * @param name of the machine, for messages
 * @throws MachineError "unsupported" for a guest that has not offered to take it
 */
export function askGuest(store: ToolstackStore, domid: number, name: string, request: GuestRequest): void {
  store.transaction((transaction) => {
    if (transaction.read(`${control(domid)}/feature-${request}`) !== "1") {
      const what = `the guest of ${name} takes no ${request} requests (control/feature-${request} is not set)`;
      const remedy =
        request === "poweroff"
          ? `wait until it has booted, power it off from inside, or use domlab destroy ${name}`
          : `wait until it has booted, or reboot it from inside`;
      throw new MachineError("unsupported", what, remedy);
    }
    transaction.write(`${control(domid)}/shutdown`, request);
  });
}

/** Whether the guest has taken the request up; a domain that is gone has. */
export function hasTaken(store: ToolstackStore, domid: number): boolean {
  return (store.read(`${control(domid)}/shutdown`) ?? "") === "";
}

/** Takes back a request that the guest has not taken up. */
export function takeBack(store: ToolstackStore, domid: number): void {
  if (!hasTaken(store, domid)) store.write(`${control(domid)}/shutdown`, "");
}
