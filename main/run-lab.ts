/** The host of one run with its guest, which tools can reach while it lasts. */
import { appendFileSync } from "node:fs";
import type { DomainHandle } from "../engine/domain/guest.ts";
import { type GuestConfig, Host } from "../engine/domain/host.ts";
import { PACKET_LOG } from "../engine/domain/network-calls.ts";
import type { ForwardConfig, SwitchWish } from "../engine/domain/network-config.ts";
import { hostControl, type KnownGuest } from "./lab/host-control.ts";
import { type ServedLab, serveLab } from "./lab/lab.ts";
import { runtimeRoot } from "./lab/runtime-folder.ts";
import type { StateFolder } from "./state-folder.ts";

/** How long domains may take to be gone; longer than a backend gets to let go of a disk. */
const CLOSE_WAIT_MS = 15_000;

/** Fulfilled when `work` is, or after that long. */
export async function within(milliseconds: number, work: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, milliseconds);
  });
  try {
    await Promise.race([work, limit]);
  } finally {
    clearTimeout(timer);
  }
}

export interface RunLabOptions {
  readonly folder: StateFolder;
  /** Shows what the host says about driver domains and images, beside its place in the hypervisor's log. */
  readonly say: (line: string) => void;
}

export class RunLab {
  private readonly host: Host;
  private readonly served: ServedLab;
  private readonly guests: KnownGuest[];

  private constructor(host: Host, served: ServedLab, guests: KnownGuest[]) {
    this.host = host;
    this.served = served;
    this.guests = guests;
  }

  /** @throws BadInput for a runtime folder that cannot be used */
  static async open({ folder, say }: RunLabOptions): Promise<RunLab> {
    const log = (line: string) => {
      if (!line.startsWith(PACKET_LOG)) say(line);
      try {
        appendFileSync(folder.hypervisorLog, `${line}\n`, { mode: 0o600 });
      } catch {
        // A full disk must not end the guest.
      }
    };
    const host = new Host({ log });
    const guests: KnownGuest[] = [];
    try {
      const served = await serveLab(runtimeRoot(), folder.name, host.xenstore, (name) =>
        hostControl(name, host, () => guests),
      );
      return new RunLab(host, served, guests);
    } catch (error) {
      await host.close();
      throw error;
    }
  }

  /**
   * Makes a switch before any guest is there.
   * @throws an error with a remedy for an uplink that cannot be opened
   */
  async createSwitch(wish: SwitchWish): Promise<void> {
    await this.host.network.createSwitch(wish);
  }

  /**
   * Leads a port of the host to a guest.
   * @param mac of the guest's interface, which need not be there yet
   * @throws an error with a remedy for a port in use
   */
  async forward(name: string, forward: ForwardConfig, mac?: string): Promise<void> {
    await this.host.network.addForward(name, forward, mac);
  }

  /** @throws as Host.startGuest */
  async start(config: GuestConfig): Promise<DomainHandle> {
    const guest = await this.host.startGuest(config);
    const known = { id: guest.id, name: config.name, pid: guest.pid, memoryMiB: config.memoryMiB };
    this.guests.push(known);
    void guest.exited.then(() => this.guests.splice(this.guests.indexOf(known), 1));
    return guest;
  }

  /** Ends the guest and all that served it; nobody can reach the lab any more. */
  async close(): Promise<void> {
    await within(CLOSE_WAIT_MS, Promise.all([this.served.close(), this.host.close()]));
  }
}
