/**
 * Domain numbers as arguments. Most operations take one and may be done by an unprivileged domain to itself alone; Xen tells
 * apart whether another number is anybody's at all (xen/common: rcu_lock_domain_by_any_id, then XSM_TARGET).
 */
import { Errno } from "../abi/errors.ts";
import { DOMID_SELF } from "../abi/xen.ts";
import type { Domain } from "./domain.ts";

/** Whether a domain number means the caller. */
export function isSelf(domain: Domain, id: number): boolean {
  return id === DOMID_SELF || id === domain.id;
}

/** 0 for the caller itself, else the negated Errno with which it is refused: ESRCH for a number that no domain has, EPERM. */
export function checkSelf(domain: Domain, id: number): number {
  if (isSelf(domain, id)) return 0;
  return domain.peers.exists(id) ? -Errno.EPERM : -Errno.ESRCH;
}
