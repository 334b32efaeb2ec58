/** Restored guests whose memory is on its way still. */
import { messageOf } from "../errors/message.ts";
import type { GuestProcess } from "./guest.ts";
import type { GuestLoad } from "./guest-load.ts";

export class GuestLoads {
  private readonly loading = new Map<number, { readonly load: GuestLoad; readonly done: Promise<void> }>();

  /**
   * Sees to it that a restored guest has all its memory in the end, or ends.
   * @returns fulfilled when the memory is there or the guest has ended
   */
  follow(guest: GuestProcess, load: GuestLoad): Promise<void> {
    const { id } = guest;
    const done = Promise.race([load.finished, guest.exited])
      .then(() => guest.loaded())
      .catch((error: unknown) => guest.fail(messageOf(error)))
      .then(() => load.close())
      .then(() => void this.loading.delete(id));
    this.loading.set(id, { load, done });
    return done;
  }

  /** Has the rest of some guests' memory loaded now. @returns fulfilled when it is there */
  async hurry(ids: readonly number[]): Promise<void> {
    const loading = ids.flatMap((id) => this.loading.get(id) ?? []);
    for (const { load } of loading) load.hurry();
    await Promise.all(loading.map(({ done }) => done));
  }
}
