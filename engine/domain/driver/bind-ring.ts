/** Taking what a frontend offers for a ring: its pages are mapped and its channels bound, all or nothing. */
import { Errno } from "../../abi/errors.ts";
import type { AdoptingMapper, BoundRing } from "./ring-environment.ts";

/** Why a device cannot be served: an Errno, and the line that stands in XenStore and in the log. */
export interface Failure {
  readonly ok: false;
  readonly errno: number;
  readonly message: string;
}

export function failed(errno: number, message: string): Failure {
  return { ok: false, errno, message };
}

/**
 * @param refs grants of the ring's pages
 * @param bind binds the ring with these mapped pages. @returns a negated Errno when it cannot
 * @param channels what it binds, for the message
 */
export function bindRing(
  mapper: AdoptingMapper,
  refs: readonly number[],
  bind: (handles: readonly number[]) => BoundRing | number,
  channels: string,
): BoundRing | Failure {
  const handles: number[] = [];
  const undo = (errno: number, message: string) => {
    for (const handle of handles) mapper.unmap(handle);
    return failed(errno, message);
  };
  for (const ref of refs) {
    const handle = mapper.map(ref, false);
    if (handle < 0) return undo(Errno.EINVAL, `ring page, grant ${ref}, cannot be mapped (status ${handle})`);
    handles.push(handle);
  }
  const bound = bind(handles);
  if (typeof bound !== "number") return bound;
  return undo(-bound, `${channels} cannot be bound (error ${bound})`);
}
