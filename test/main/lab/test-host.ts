/** A host with disks in a list and no processes, for the control functions. */
import type { AttachedVbd, VbdConfig } from "../../../engine/domain/vbd-toolstack.ts";
import { VbdError } from "../../../engine/domain/vbd-toolstack.ts";
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
