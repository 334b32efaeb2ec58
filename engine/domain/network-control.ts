/**
 * The toolstack's part of the network: which switches there are, what is set for them and their interfaces, and the questions
 * to the driver domain that does it all. A change is first made there, where it may be refused, and then written down for
 * that domain's next process.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { ToolstackStore } from "../xenstore/toolstack-store.ts";
import { type NetworkArgument, type NetworkMethod, type NetworkResult, networkCalls } from "./network-calls.ts";
import {
  DEFAULT_SWITCH,
  type ForwardConfig,
  LabNetworkError,
  NO_SETTINGS,
  parseVifName,
  type SwitchConfig,
  type SwitchWish,
  switchSchema,
  type TargetSettings,
} from "./network-config.ts";
import { SettingsWriter } from "./network-nodes.ts";
import type { TypescriptHandle } from "./typescript/handle.ts";
import { ProcessGone } from "./typescript/start.ts";

/** Calls that are made again when the driver domain was killed before it answered, and how long it may take to be back. */
const TRIES = 40;
const RETRY_MS = 50;

export interface NetworkControlOptions {
  readonly store: ToolstackStore;
  /** The driver domain, started when it is first wanted. */
  readonly domain: () => Promise<Pick<TypescriptHandle, "id" | "call">>;
  /** The interfaces on a switch. */
  readonly interfacesOf: (bridge: string) => readonly { readonly name: string; readonly mac: string }[];
  /** The switch of an interface; undefined when there is none of that name. */
  readonly switchOf: (vif: string) => string | undefined;
}

interface Switch {
  readonly config: SwitchConfig;
  forwards: readonly ForwardConfig[];
}

const sameForward = (a: ForwardConfig, b: ForwardConfig): boolean =>
  a.protocol === b.protocol && a.hostAddress === b.hostAddress && a.hostPort === b.hostPort;

export class NetworkControl {
  private readonly options: NetworkControlOptions;
  private readonly switches = new Map<string, Switch>();
  private readonly settings = new Map<string, TargetSettings>();
  /** Switches that are being made: whoever wants one waits for it. */
  private readonly making = new Map<string, Promise<void>>();
  private writer: SettingsWriter | undefined;

  constructor(options: NetworkControlOptions) {
    this.options = options;
  }

  /**
   * Asks the driver domain.
   * @throws CallError with the domain's line; ProcessGone when it stays down
   */
  async ask<Method extends NetworkMethod>(
    method: Method,
    argument: NetworkArgument<Method>,
  ): Promise<NetworkResult<Method>> {
    const domain = await this.options.domain();
    for (let n = 1; ; n++) {
      try {
        return networkCalls[method].result.parse(await domain.call(method, argument)) as NetworkResult<Method>;
      } catch (error) {
        if (!(error instanceof ProcessGone) || n === TRIES) throw error;
        // It was killed; the next process knows what was written down, so the call is good for it too.
        await delay(RETRY_MS);
      }
    }
  }

  private async written(): Promise<SettingsWriter> {
    this.writer ??= new SettingsWriter(this.options.store, (await this.options.domain()).id);
    return this.writer;
  }

  /** The switches, by name. */
  list(): SwitchConfig[] {
    return [...this.switches.values()].map(({ config }) => config).sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /**
   * Makes a switch and opens its uplink.
   * @throws LabNetworkError for a name in use, CallError for an uplink that cannot be opened
   */
  async createSwitch(wish: SwitchWish): Promise<SwitchConfig> {
    const config = switchSchema.parse(wish);
    if (this.switches.has(config.name) || this.making.has(config.name)) {
      throw new LabNetworkError(`there is a switch ${config.name} already`, "choose another name, or delete that one");
    }
    await this.make(config);
    return config;
  }

  private make(config: SwitchConfig): Promise<void> {
    const made = (async () => {
      await this.ask("createSwitch", config);
      this.switches.set(config.name, { config, forwards: [] });
      (await this.written()).writeSwitch(config, []);
    })().finally(() => this.making.delete(config.name));
    this.making.set(config.name, made);
    return made;
  }

  /**
   * Makes sure that there is a switch for an interface; the default one is made when it is missing.
   * @throws LabNetworkError for an unknown one
   */
  async want(name: string): Promise<SwitchConfig> {
    if (!this.switches.has(name)) {
      if (name === DEFAULT_SWITCH && !this.making.has(name)) {
        await this.make(switchSchema.parse({ name, uplink: { kind: "user" } }));
      } else await this.making.get(name);
    }
    return this.known(name).config;
  }

  private known(name: string): Switch {
    const found = this.switches.get(name);
    if (found !== undefined) return found;
    const names = [...this.switches.keys()].join(", ");
    const make = `make it with domlab network create ${name}`;
    throw new LabNetworkError(`there is no switch ${name}`, names === "" ? make : `use ${names}, or ${make}`);
  }

  /** @throws LabNetworkError for an unknown one, or one with interfaces */
  async deleteSwitch(name: string): Promise<void> {
    this.known(name);
    const [first] = this.options.interfacesOf(name);
    if (first !== undefined) {
      throw new LabNetworkError(`the switch ${name} has the interface ${first.name}`, "detach its interfaces first");
    }
    await this.ask("deleteSwitch", { name });
    this.switches.delete(name);
    this.settings.delete(name);
    (await this.written()).remove(name);
  }

  /** What is set for a switch or an interface. */
  settingsOf(target: string): TargetSettings {
    return this.settings.get(target) ?? NO_SETTINGS;
  }

  private async keep(target: string, change: Partial<TargetSettings>): Promise<void> {
    const settings = { ...this.settingsOf(target), ...change };
    this.settings.set(target, settings);
    (await this.written()).writeTarget(target, settings, this.options.switchOf(target));
  }

  /**
   * A switch, or an interface with its switch.
   * @throws LabNetworkError for what is neither
   */
  target(name: string): { readonly on: string; readonly vif?: string } {
    if (this.switches.has(name)) return { on: name };
    return { on: this.switchOf(name), vif: name };
  }

  private switchOf(vif: string): string {
    const on = this.options.switchOf(vif);
    if (on !== undefined) return on;
    throw new LabNetworkError(
      `there is no ${parseVifName(vif) === undefined ? "switch or interface" : "interface"} ${vif}`,
      "domlab network list and domlab network-list show those there are",
    );
  }

  /**
   * Applies a firewall command in iptables' terms, or with none only lists the rules.
   * @throws LabNetworkError for an unknown target, CallError for a command that does not parse
   */
  async firewall(target: string, command?: string): Promise<NetworkResult<"firewall">> {
    const answer = await this.ask("firewall", { ...this.target(target), ...(command !== undefined && { command }) });
    if (command !== undefined) await this.keep(target, { rules: answer.rules });
    return answer;
  }

  /** Adds, removes, resets or only counts the classes of a switch. @throws as firewall() */
  async classes(
    name: string,
    change: Omit<NetworkArgument<"classes">, "name"> = {},
  ): Promise<NetworkResult<"classes">> {
    this.known(name);
    const answer = await this.ask("classes", { name, ...change });
    if (change.add !== undefined || change.remove !== undefined) await this.keep(name, { classes: answer.classes });
    return answer;
  }

  /** Impairs what an interface is delivered; "" ends that. @throws as firewall() */
  async impair(vif: string, text: string): Promise<void> {
    this.switchOf(vif);
    await this.ask("impair", { vif, text });
    await this.keep(vif, { impair: text });
  }

  /** Takes the link of an interface down, or up again. @throws LabNetworkError for an unknown one */
  async link(vif: string, up: boolean): Promise<void> {
    this.switchOf(vif);
    await this.ask("link", { vif, up });
    await this.keep(vif, { down: !up });
  }

  /**
   * Leads a port of the host to a guest.
   * @param mac interface that is meant when the forward names no address; the first on the switch unless said
   * @returns the forward with the guest's address
   * @throws LabNetworkError for an unknown switch, CallError for a port in use or an uplink that cannot forward
   */
  async addForward(name: string, forward: ForwardConfig, mac = this.firstMac(name)): Promise<ForwardConfig> {
    const entry = this.known(name);
    const made = await this.ask("addForward", { name, forward, ...(mac !== undefined && { mac }) });
    entry.forwards = [...entry.forwards.filter((other) => !sameForward(other, made)), made];
    (await this.written()).writeSwitch(entry.config, entry.forwards);
    return made;
  }

  private firstMac(name: string): string | undefined {
    return this.options.interfacesOf(name)[0]?.mac;
  }

  /** @throws LabNetworkError for an unknown switch or forward */
  async removeForward(name: string, forward: ForwardConfig): Promise<void> {
    const entry = this.known(name);
    const made = entry.forwards.find((other) => sameForward(other, forward));
    if (made === undefined) {
      const port = `${forward.protocol} port ${forward.hostPort} of ${forward.hostAddress}`;
      throw new LabNetworkError(
        `${port} is not forwarded by ${name}`,
        `domlab network show ${name} lists those that are`,
      );
    }
    await this.ask("removeForward", { name, forward: made });
    entry.forwards = entry.forwards.filter((other) => other !== made);
    (await this.written()).writeSwitch(entry.config, entry.forwards);
  }

  /** State of all switches; none while nothing has a network. */
  async show(): Promise<NetworkResult<"showSwitches">> {
    return this.switches.size === 0 ? [] : await this.ask("showSwitches", {});
  }

  /** Lines of the firewalls' logs after a number. */
  async log(after: number): Promise<NetworkResult<"log">> {
    return this.switches.size === 0 ? [] : await this.ask("log", { after });
  }

  /** An interface is gone, and what was set for it with it. */
  async interfaceEnded(vif: string, on: string): Promise<void> {
    if (!this.settings.delete(vif)) return;
    (await this.written()).remove(vif);
    // The domain may be gone as well, and then it has forgotten.
    await this.ask("forget", { on, vif }).catch(() => undefined);
  }
}
