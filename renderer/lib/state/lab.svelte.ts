/** The lab as this window knows it: kept up to date by events, loaded anew after every reconnection. */
import { SvelteMap } from "svelte/reactivity";
import type { MachineSummary, OperationRow } from "../../../main/lab/machine-api.ts";
import type { HostSample, MachineSample, MetricsSeries } from "../../../main/lab/metrics-api.ts";
import { type Connection, call, client, type Result } from "../rpc/client.ts";
import { notices } from "./notices.svelte.ts";

export type { HostSample, MachineSample, MachineSummary, OperationRow };

/** Samples of a machine that are kept for its sparklines: three minutes. */
const HISTORY = 180;

/** A sample with the time of its taking, milliseconds since 1970. */
export type TimedSample = MachineSample & { readonly time: number };

/** The history's columns as samples like those of the events. */
function samplesOf(series: MetricsSeries): TimedSample[] {
  return series.time.map((time, index) => {
    const at = (column: readonly number[]) => column[index] ?? 0;
    return {
      id: series.id,
      time,
      cpu: at(series.cpu),
      mips: at(series.mips),
      residentBytes: at(series.residentBytes),
      disk: {
        readBytes: at(series.readBytes),
        writtenBytes: at(series.writtenBytes),
        requests: at(series.requests),
      },
      net: {
        receivedBytes: at(series.receivedBytes),
        sentBytes: at(series.sentBytes),
        frames: at(series.frames),
      },
    };
  });
}

class Lab {
  connection = $state<Connection>(client.connection);
  /** False: the app process is there and the lab behind it is not. */
  up = $state(true);
  /** Down on purpose: it stays so until labStart(). */
  ended = $state(false);
  /** Whether machines have been loaded once. */
  loaded = $state(false);
  readonly machines = new SvelteMap<string, MachineSummary>();
  readonly deleted = new SvelteMap<string, MachineSummary>();
  readonly operations = new SvelteMap<string, OperationRow>();
  readonly history = new SvelteMap<string, readonly TimedSample[]>();
  host = $state.raw<HostSample | undefined>();
  info = $state.raw<Result<"labInfo"> | undefined>();
  app = $state.raw<Result<"appInfo"> | undefined>();
  /** Names ask for order: capitals and numbers as people sort them. */
  readonly sorted = $derived(
    [...this.machines.values()].sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true })),
  );

  start(): void {
    client.onConnection((connection) => {
      this.connection = connection;
      if (connection === "open") void this.load();
    });
    client.onEvent((event) => {
      switch (event.kind) {
        case "machine":
          this.machineChanged(event.id, event.machine);
          break;
        case "operation":
          if (event.ended) this.operations.delete(event.operation.id);
          else this.operations.set(event.operation.id, event.operation);
          break;
        case "metrics":
          this.host = event.host;
          for (const sample of event.machines) this.addSample({ ...sample, time: Date.parse(event.date) });
          break;
        case "lab":
          this.up = event.state === "up";
          this.ended = event.ended ?? false;
          if (this.up) void this.load();
          else this.operations.clear();
          break;
      }
    });
    client.start();
  }

  private machineChanged(id: string, machine: MachineSummary | undefined): void {
    this.machines.delete(id);
    this.deleted.delete(id);
    if (machine === undefined) this.history.delete(id);
    else (machine.state === "deleted" ? this.deleted : this.machines).set(id, machine);
  }

  private addSample(sample: TimedSample): void {
    this.history.set(sample.id, [...(this.history.get(sample.id) ?? []), sample].slice(-HISTORY));
  }

  /** Everything anew: first subscribed, then asked, so that no change falls between. */
  async load(): Promise<void> {
    try {
      this.app = await call("appInfo", {});
      await call("subscribe", { topics: ["machines", "operations", "metrics"] });
      const [present, deleted, operations, info, history] = await Promise.all([
        call("machineList", {}),
        call("machineList", { deleted: true }),
        call("operationList", {}),
        call("labInfo", {}),
        call("metricsHistory", {}),
      ]);
      const all = [...present, ...deleted];
      const known = new Set(all.map(({ id }) => id));
      for (const id of [...this.machines.keys(), ...this.deleted.keys()]) {
        if (!known.has(id)) this.machineChanged(id, undefined);
      }
      for (const machine of all) this.machineChanged(machine.id, machine);
      this.operations.clear();
      for (const operation of operations) this.operations.set(operation.id, operation);
      for (const series of history.machines) this.history.set(series.id, samplesOf(series).slice(-HISTORY));
      this.host = history.host;
      this.info = info;
      this.up = true;
      this.loaded = true;
    } catch (error) {
      // A lab that goes down meanwhile is told of by the banner.
      if (this.connection === "open" && this.up) notices.error(error);
    }
  }

  /** Looks at a machine again: its files may have come back, which no event tells. @throws LabError */
  async refresh(id: string): Promise<void> {
    // More than a summary; what is more does no harm.
    this.machineChanged(id, await call("machineShow", { machine: id }));
  }

  async refreshInfo(): Promise<void> {
    this.info = await call("labInfo", {});
  }

  /** A machine by its id; deleted ones are not found. */
  machine(id: string): MachineSummary | undefined {
    return this.machines.get(id);
  }

  latest(id: string): TimedSample | undefined {
    return this.history.get(id)?.at(-1);
  }

  /** The operation that works on the machine of this id, if any. */
  operationOf(id: string): OperationRow | undefined {
    return [...this.operations.values()].find(({ machine }) => machine === id);
  }
}

export const lab = new Lab();

/** A name for an operation, under which its progress comes. */
export function newOperation(): string {
  return crypto.randomUUID();
}
