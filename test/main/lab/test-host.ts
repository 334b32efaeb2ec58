/** A host with devices in lists and no processes, for the control functions. */
import { type VifWish, vifSchema } from "../../../engine/domain/network-config.ts";
import { NetworkControl } from "../../../engine/domain/network-control.ts";
import { CallError } from "../../../engine/domain/typescript/handle.ts";
import type { AttachedVbd, VbdConfig } from "../../../engine/domain/vbd-toolstack.ts";
import { VbdError } from "../../../engine/domain/vbd-toolstack.ts";
import { type AttachedVif, VifToolstack } from "../../../engine/domain/vif-toolstack.ts";
import { Xenstored } from "../../../engine/xenstore/daemon.ts";
import type { ControlHost, KnownGuest } from "../../../main/lab/host-control.ts";

const BACKEND = 2;

export const GUEST: KnownGuest = { id: 1, name: "web", pid: 4711, memoryMiB: 256 };

export class TestHost implements ControlHost {
  readonly xenstore = new Xenstored();
  readonly disks: AttachedVbd[] = [];
  readonly detached: { guest: number; vdev: number; force: boolean }[] = [];
  readonly vbds = {
    list: (guest?: number): AttachedVbd[] =>
      this.disks.filter((disk) => (guest ?? disk.frontendId) === disk.frontendId),
  };

  readonly vifs = new VifToolstack(this.xenstore.toolstack);
  /** Calls that the network driver domain would have got. */
  readonly calls: { readonly method: string; readonly argument: unknown }[] = [];
  /** Its answers, an empty object unless said; "refuse" has it refuse. */
  answers: Readonly<Record<string, unknown>> = {};
  readonly network = new NetworkControl({
    store: this.xenstore.toolstack,
    domain: async () => ({ id: BACKEND, call: (method, argument) => this.ask(method, argument) }),
    interfacesOf: (bridge) => this.vifs.list().filter((vif) => vif.bridge === bridge),
    switchOf: (name) => this.vifs.get(name)?.bridge,
  });

  private async ask(method: string, argument: unknown): Promise<unknown> {
    this.calls.push({ method, argument });
    const answer = this.answers[method] ?? {};
    if (answer === "refuse") throw new CallError("it cannot be; do something else", "do something else");
    return answer;
  }

  async attachVif(guest: number, vif: VifWish): Promise<AttachedVif> {
    const { mtu } = await this.network.want(vif.bridge);
    return this.vifs.attach(guest, BACKEND, vifSchema.parse(vif), mtu);
  }

  async detachVif(name: string, force = false): Promise<void> {
    const on = this.vifs.get(name)?.bridge ?? "";
    const done = this.vifs.detach(name, force);
    // The backend's part.
    const found = this.vifs.get(name);
    if (found) {
      const state = `/local/domain/${BACKEND}/backend/vif/${found.frontendId}/${found.handle}/state`;
      this.xenstore.toolstack.write(state, "6");
    }
    await done;
    await this.network.interfaceEnded(name, on);
  }

  constructor() {
    this.xenstore.toolstack.write(`/local/domain/${BACKEND}/name`, "storage");
  }

  async attachDisk(guest: number, disk: VbdConfig): Promise<void> {
    if (this.disks.some((other) => other.vdev === disk.vdev)) throw new VbdError("it has that one", "choose another");
    this.disks.push({ ...disk, frontendId: guest, backendId: BACKEND });
    this.xenstore.toolstack.write(`/local/domain/${BACKEND}/backend/vbd/${guest}/${disk.vdev}/state`, "4");
  }

  async detachDisk(guest: number, vdev: number, force = false): Promise<void> {
    this.detached.push({ guest, vdev, force });
  }

  vbdStatistics(): ReturnType<ControlHost["vbdStatistics"]> {
    return this.disks.map(({ frontendId, vdev }) => ({
      frontendId,
      vdev,
      counters: { rd_req: 12, wr_req: 3 } as ReturnType<ControlHost["vbdStatistics"]>[number]["counters"],
    }));
  }
}
