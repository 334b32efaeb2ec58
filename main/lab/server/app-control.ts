/** What the lab does for the desktop app beyond what the command line asks for (app-rows.ts). */
import { hostChecks } from "../../host-checks.ts";
import type { AppFunctions } from "../control-api.ts";
import type { MachineContext } from "../machines/context.ts";
import type { Machines } from "../machines/machines.ts";
import { captureControl } from "./capture-control.ts";
import { checkMachineConfig } from "./check-config.ts";
import { type GuestCatalogue, imageControl } from "./image-control.ts";
import type { LabHost } from "./lab-server.ts";
import { readLog } from "./log-read.ts";
import type { Metrics } from "./metrics.ts";
import { topologyOf } from "./topology.ts";
import { xenstoreControl } from "./xenstore-control.ts";

export interface AppParts {
  readonly context: MachineContext;
  readonly machines: Machines;
  readonly host: LabHost;
  readonly metrics: Metrics;
  readonly catalogue: GuestCatalogue;
  /** The lab's own log. */
  readonly logPath: string;
}

export function appControl({ context, machines, host, metrics, catalogue, logPath }: AppParts): AppFunctions {
  const { paths } = context.store;
  return {
    ...metrics.functions(),
    ...xenstoreControl(host.xenstore),
    ...imageControl(context, machines, catalogue),
    ...captureControl(host, paths.tmp),
    hostChecks: () => hostChecks({ home: paths.folder }),
    topology: () => topologyOf(host, machines),
    logRead: async ({ which, offset, bytes }) => {
      if (which === "lab") return await readLog(logPath, offset, bytes);
      const { consoleLog, hypervisorLog, crashReport } = machines.find(which.machine).logs;
      const files = { console: consoleLog, hypervisor: hypervisorLog, crash: crashReport };
      return await readLog(files[which.log], offset, bytes);
    },
    machineCheckConfig: ({ config, machine }) =>
      checkMachineConfig(context, machines, config, machine === undefined ? undefined : machines.find(machine)),
  };
}
