/** The lab's snapshots of all machines, kept fresh while somebody looks. */
import type { LabSnapshotRow } from "../../../main/lab/machine-api.ts";
import { call } from "../../lib/rpc/client.ts";
import { lab } from "../../lib/state/lab.svelte.ts";
import { attempt } from "../../lib/state/notices.svelte.ts";

export class LabSnapshots {
  rows = $state.raw<readonly LabSnapshotRow[]>([]);
  loaded = $state(false);

  /**
   * Loads them now, and whenever an operation began or ended or a machine came, went or changed its snapshots: the lab has
   * no event of its own for them. Use within $effect.
   * @returns how to stop
   */
  watch(): () => void {
    let isWatched = true;
    // Only read, for what the effect depends on.
    void lab.operations.size;
    for (const { snapshots } of lab.machines.values()) void snapshots;
    if (lab.up && lab.connection === "open") {
      void attempt(async () => {
        const rows = await call("labSnapshotList", {});
        if (!isWatched) return;
        this.rows = [...rows].sort((a, b) => Date.parse(b.date) - Date.parse(a.date));
        this.loaded = true;
      });
    }
    return () => {
      isWatched = false;
    };
  }
}
