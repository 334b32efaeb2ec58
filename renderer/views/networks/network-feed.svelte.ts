/** The topology as it is now, looked at again while somebody sees it, with the flows between two looks. */
import type { Topology } from "../../../main/lab/view-api.ts";
import { call } from "../../lib/rpc/client.ts";
import { lab } from "../../lib/state/lab.svelte.ts";
import { notices } from "../../lib/state/notices.svelte.ts";
import { type Flows, flowsBetween } from "./flow.ts";

export type Switch = Topology["switches"][number];
export type Port = Switch["ports"][number];

const LOOK_MS = 2000;
/** Least time that rates are taken over. */
const LEAST_SECONDS = 1;

class NetworkFeed {
  topology = $state.raw<Topology | undefined>();
  flows = $state.raw<Flows>(new Map());
  /** The look that rates count from, and when it was. */
  private counted: Topology | undefined;
  private countedAt = 0;
  private turn = 0;

  /** Looks every two seconds. @returns how to stop */
  start(): () => void {
    let timer: number | undefined;
    let stopped = false;
    const look = async () => {
      await this.refresh();
      if (!stopped) timer = window.setTimeout(look, LOOK_MS);
    };
    void look();
    return () => {
      stopped = true;
      window.clearTimeout(timer);
    };
  }

  /** Looks now: after a change. */
  async refresh(): Promise<void> {
    const turn = ++this.turn;
    try {
      const next = await call("topology", {});
      const now = performance.now();
      if (turn !== this.turn) return;
      // A look right after a change tells what there is; of rates it would say little.
      const seconds = (now - this.countedAt) / 1000;
      if (this.counted === undefined || seconds > LEAST_SECONDS) {
        if (this.counted !== undefined) this.flows = flowsBetween(this.counted, next, seconds);
        this.counted = next;
        this.countedAt = now;
      }
      this.topology = next;
    } catch (error) {
      if (lab.up && lab.connection === "open") notices.error(error);
    }
  }
}

export const feed = new NetworkFeed();
