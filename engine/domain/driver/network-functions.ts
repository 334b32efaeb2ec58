/** What the host may ask of the network driver domain, each argument checked. */
import { z } from "zod";
import type { Parsed } from "../../network/policy/errors.ts";
import { type NetworkFunctions, networkCalls, type SwitchState } from "../network-calls.ts";
import { LabNetworkError } from "../network-config.ts";
import type { KernelCalls } from "../typescript/kernel.ts";
import type { NetworkCaptures } from "./network-captures.ts";
import type { NetworkLab } from "./network-lab.ts";
import type { LabSwitch } from "./network-switch.ts";

/** Port counters with the drops by reason among them. */
function flatCounters({ drops, ...counters }: ReturnType<LabSwitch["bridge"]["describePorts"]>[number]["counters"]) {
  const named = Object.entries(drops).map(([reason, count]) => [`drop:${reason}`, count ?? 0] as const);
  return { ...counters, ...Object.fromEntries(named) };
}

function describe(lab: NetworkLab, entry: LabSwitch): SwitchState {
  const { config, bridge, uplink, problem } = entry;
  return {
    ...config,
    ports: bridge.describePorts().map(({ name, up, counters }) => ({
      name,
      up,
      counters: flatCounters(counters),
      impair: lab.impairmentOf(name),
    })),
    addresses: bridge
      .macTable()
      .map(({ mac, vlan, port, kind, age }) => ({ mac, vlan, port, age, fixed: kind === "fixed" })),
    uplinkState: z
      .record(z.string(), z.json())
      .catch({})
      .parse(uplink?.describe() ?? {}),
    uplinkCounters: { ...uplink?.counters },
    ...(problem !== undefined && { uplinkProblem: problem }),
    forwards: entry.forwards.list().map((forward) => ({ ...forward })),
  };
}

/** @throws PolicyError for a text that does not parse */
function accepted(result: Parsed<void>): void {
  if (!result.ok) throw result.error;
}

/** Holds guests: their interfaces as XenStore shows them, and their rings. */
export interface HeldVifs {
  hold(frontendId: number): Promise<void>;
  /** @returns whether it was held */
  release(frontendId: number): boolean;
  abandon(frontendId: number): void;
}

function functions(lab: NetworkLab, captures: NetworkCaptures, vifs: HeldVifs): NetworkFunctions {
  return {
    hold: async ({ frontendId }) => {
      await vifs.hold(frontendId);
      return {};
    },
    release: ({ frontendId }) => ({ held: vifs.release(frontendId) }),
    abandon: ({ frontendId }) => {
      vifs.abandon(frontendId);
      return {};
    },
    createSwitch: async (config) => {
      await lab.createSwitch(config);
      return {};
    },
    deleteSwitch: async ({ name }) => {
      await lab.deleteSwitch(name);
      return {};
    },
    showSwitches: () => lab.listSwitches().map((entry) => describe(lab, entry)),
    firewall: ({ on, vif, command }) => {
      const rules = lab.rulesOf(on, vif);
      if (command !== undefined) accepted(rules.edit(command));
      return { rules: rules.save(), listing: rules.list() };
    },
    classes: ({ name, add, remove, reset }) => {
      const { accounting } = lab.theSwitch(name).policy;
      if (add !== undefined) accepted(accounting.add(add));
      if (remove !== undefined && !accounting.remove(remove)) {
        throw new LabNetworkError(`there is no class ${remove}`, `domlab network account ${name} shows them`);
      }
      const counts = accounting.facts();
      if (reset) accounting.reset();
      return { classes: accounting.save(), counts };
    },
    impair: ({ vif, text }) => {
      lab.impair(vif, text);
      return {};
    },
    link: ({ vif, up }) => {
      lab.setLink(vif, up);
      return {};
    },
    forget: ({ on, vif }) => {
      lab.forget(on, vif);
      return {};
    },
    addForward: ({ name, forward, mac }) => lab.theSwitch(name).forwards.add(forward, mac),
    removeForward: async ({ name, forward }) => {
      await lab.theSwitch(name).forwards.remove(forward);
      return {};
    },
    log: ({ after }) => lab.lines.after(after),
    captureStart: async ({ on, vif, ...wish }) => {
      const tapped = vif === undefined ? lab.theSwitch(on).bridge : lab.findInterface(vif)?.port;
      if (tapped === undefined) {
        throw new LabNetworkError(
          `the guest has not started ${vif} yet`,
          "try again when it has, or capture the switch",
        );
      }
      return { id: await captures.start({ ...wish, once: vif === undefined }, (tap) => tapped.addTap(tap)) };
    },
    captureCount: ({ id }) => captures.count(id),
    captureStop: ({ id }) => captures.stop(id),
  };
}

/** The calls as a kernel serves them. */
export function serveNetworkCalls(lab: NetworkLab, captures: NetworkCaptures, vifs: HeldVifs): KernelCalls {
  return Object.fromEntries(
    Object.entries(functions(lab, captures, vifs)).map(([method, perform]) => {
      // The schema and the function are those of one row; the compiler does not see that rows match across two tables.
      const schema: z.ZodType = networkCalls[method as keyof typeof networkCalls].argument;
      const call = perform as (argument: unknown) => unknown;
      return [method, (argument: unknown) => call(schema.parse(argument))];
    }),
  );
}
