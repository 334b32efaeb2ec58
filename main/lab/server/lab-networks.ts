/**
 * The networks of a lab, in the records and in force: switches are made again when the lab starts, what is set for them and for
 * interfaces is put in force again, and what a user changes goes into the records when it has been done.
 */
import type { Host } from "../../../engine/domain/host.ts";
import { NO_SETTINGS, type SwitchConfig, type TargetSettings } from "../../../engine/domain/network-config.ts";
import { explain } from "../../failure.ts";
import { parseForward } from "../../network-option.ts";
import type { HostFunctions } from "../control-api.ts";
import type { Machine } from "../machines/machine.ts";
import type { Machines } from "../machines/machines.ts";
import { type LabNetwork, labNetwork } from "../store/schema.ts";
import type { LabStore } from "../store/store.ts";

type Network = Pick<
  Host["network"],
  "createSwitch" | "list" | "settingsOf" | "firewall" | "classes" | "impair" | "link" | "addForward"
>;
type Changing = Pick<
  HostFunctions,
  "switchCreate" | "switchDelete" | "firewall" | "account" | "impair" | "forward" | "networkLink"
>;

export interface NetworkHome {
  readonly network: Network;
  readonly vifs: {
    list(guest?: number): readonly { readonly name: string; readonly mac: string; readonly frontendId: number }[];
  };
}

export class LabNetworks {
  private readonly host: NetworkHome;
  private readonly store: LabStore;
  private readonly log: (line: string) => void;

  constructor(host: NetworkHome, store: LabStore, log: (line: string) => void) {
    this.host = host;
    this.store = store;
    this.log = log;
  }

  /** Makes the lab's switches. One that cannot be made (its uplink is gone, say) stays in the records. */
  async restore(): Promise<void> {
    for (const { forwards, settings, ...config } of this.store.data.networks) {
      try {
        await this.host.network.createSwitch(structuredClone(config) as SwitchConfig);
        for (const forward of forwards) await this.host.network.addForward(config.name, { ...forward });
        await this.apply(config.name, settings as TargetSettings);
        for (const each of settings.classes) await this.host.network.classes(config.name, { add: each });
      } catch (error) {
        this.log(`the switch ${config.name}: ${explain(error).line}`);
      }
    }
  }

  private async apply(target: string, settings: TargetSettings): Promise<void> {
    for (const rule of settings.rules) await this.host.network.firewall(target, rule);
    if (settings.impair !== "") await this.host.network.impair(target, settings.impair);
    if (settings.down) await this.host.network.link(target, false);
  }

  /** What is set for a machine's interfaces, when its guest has started. Never rejects. */
  async started(machine: Machine, domid: number): Promise<void> {
    for (const { name, mac } of this.host.vifs.list(domid)) {
      const settings = machine.record.vifSettings[mac];
      if (settings === undefined) continue;
      try {
        await this.apply(name, settings as TargetSettings);
      } catch (error) {
        this.log(`${machine.name}, interface ${name}: ${explain(error).line}`);
      }
    }
  }

  /** Changes what the records say of a switch, which enters them when it is first changed. */
  private async keep(name: string, change: (network: LabNetwork) => void): Promise<void> {
    const config = this.host.network.list().find((each) => each.name === name);
    await this.store.update((draft) => {
      let network = draft.networks.find((each) => each.name === name);
      if (network === undefined) {
        if (config === undefined) return;
        network = labNetwork.parse(config);
        draft.networks.push(network);
      }
      change(network);
    });
  }

  /** Keeps what is set for a switch or an interface now. */
  private async keepSettings(machines: Machines, target: string): Promise<void> {
    const settings = { ...NO_SETTINGS, ...this.host.network.settingsOf(target) };
    const vif = this.host.vifs.list().find(({ name }) => name === target);
    if (vif === undefined) {
      await this.keep(target, (network) => {
        network.settings = settings;
      });
      return;
    }
    const machine = machines.all().find(({ guest }) => guest?.handle.id === vif.frontendId);
    await machine?.commit((draft) => {
      draft.vifSettings[vif.mac] = settings;
    });
  }

  /** The functions that change networks, which keep what they have done. */
  keeping(functions: HostFunctions, machines: Machines): Changing {
    return {
      switchCreate: async (parameters, session) => {
        const result = await functions.switchCreate(parameters, session);
        try {
          await this.keep(parameters.name, () => {});
        } catch (error) {
          // It would be gone after the next start.
          await functions.switchDelete({ name: parameters.name }, session);
          throw error;
        }
        return result;
      },
      switchDelete: async (parameters, session) => {
        const result = await functions.switchDelete(parameters, session);
        await this.store.update((draft) => {
          draft.networks = draft.networks.filter(({ name }) => name !== parameters.name);
        });
        return result;
      },
      firewall: async (parameters, session) => {
        const result = await functions.firewall(parameters, session);
        if (parameters.command !== undefined) await this.keepSettings(machines, parameters.target);
        return result;
      },
      account: async (parameters, session) => {
        const result = await functions.account(parameters, session);
        // Counting alone is asked for every other second while somebody looks.
        const { add, remove } = parameters;
        if (add !== undefined || remove !== undefined) await this.keepSettings(machines, parameters.name);
        return result;
      },
      impair: async (parameters, session) => {
        const result = await functions.impair(parameters, session);
        await this.keepSettings(machines, parameters.target);
        return result;
      },
      networkLink: async (parameters, session) => {
        const result = await functions.networkLink(parameters, session);
        // It takes a number or an address as well as a name.
        for (const { name } of this.host.vifs.list()) {
          if (this.host.network.settingsOf(name) !== NO_SETTINGS) await this.keepSettings(machines, name);
        }
        return result;
      },
      forward: async (parameters, session) => {
        const result = await functions.forward(parameters, session);
        const parsed = parseForward(parameters.forward);
        await this.keep(parameters.name, (network) => {
          network.forwards = network.forwards.filter(
            ({ protocol, hostAddress, hostPort }) =>
              protocol !== parsed.protocol || hostAddress !== parsed.hostAddress || hostPort !== parsed.hostPort,
          );
          if (!parameters.remove) network.forwards.push(parsed);
        });
        return result;
      },
    };
  }
}
