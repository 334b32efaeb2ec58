/**
 * What the functions of an open image answer: 0 (or a count), a negated errno of its storage, or DAMAGED. The two are told
 * apart because storage that cannot be read now may be read the next time, and must not brand the image.
 */
import { constants } from "node:os";
import { errnoName } from "../errors.ts";

/** What stands in the image cannot be right. The number is no negated errno of any host. */
export const DAMAGED = -0x1_0000;

/** The errno that a guest or caller is given for a negative status. */
export function errnoOfStatus(status: number): number {
  return status === DAMAGED ? constants.errno.EIO : -status;
}

/** "EIO", or "damaged tables or data". */
export function statusName(status: number): string {
  return status === DAMAGED ? "damaged tables or data" : errnoName(-status);
}
