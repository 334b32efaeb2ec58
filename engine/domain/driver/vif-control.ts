/** Holds the interfaces of guests: see network-calls.ts. */
import type { Netback } from "../../device/net/netback.ts";
import type { HeldVifs } from "./network-functions.ts";
import type { NetworkVifs } from "./network-vifs.ts";

export class VifControl implements HeldVifs {
  private readonly backend: Pick<Netback, "freeze" | "thaw">;
  private readonly vifs: Pick<NetworkVifs, "hold" | "serve">;
  private readonly started: Promise<unknown>;
  /** Guests that are held, each by the last call of hold(). */
  private readonly held = new Map<number, object>();

  /** @param started fulfilled when what an earlier life of the domain has left is taken over */
  constructor(backend: VifControl["backend"], vifs: VifControl["vifs"], started: Promise<unknown>) {
    this.backend = backend;
    this.vifs = vifs;
    this.started = started;
  }

  async hold(frontendId: number): Promise<void> {
    await this.started;
    const token = {};
    this.held.set(frontendId, token);
    await this.backend.freeze(frontendId);
    // It may have been released meanwhile.
    if (this.held.get(frontendId) === token) this.vifs.hold(frontendId);
  }

  release(frontendId: number): boolean {
    if (!this.held.delete(frontendId)) return false;
    this.vifs.serve(frontendId);
    this.backend.thaw(frontendId);
    return true;
  }

  abandon(frontendId: number): void {
    if (this.held.delete(frontendId)) this.backend.thaw(frontendId);
  }
}
