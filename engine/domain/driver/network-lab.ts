/** The switches and interfaces of a lab, in the driver domain that has them. */
import { Errno } from "../../abi/errors.ts";
import type { VifResult, VifSpecification } from "../../device/net/channel.ts";
import { messageOf } from "../../errors/message.ts";
import { parseImpairment } from "../../network/policy/impair-spec.ts";
import type { RuleSet } from "../../network/policy/rule-set.ts";
import { type Clock, NetworkError } from "../../network/types.ts";
import type { OnReadable } from "../../network/uplink/tap.ts";
import type { ForwardConfig, SwitchConfig, TargetSettings } from "../network-config.ts";
import { LabNetworkError } from "../network-config.ts";
import type { NetworkSettings } from "../network-nodes.ts";
import { NetworkInterface } from "./network-interface.ts";
import { LogLines } from "./network-log.ts";
import { LabSwitch } from "./network-switch.ts";
import { createUplink } from "./network-uplinks.ts";

export interface NetworkLabOptions {
  readonly clock: Clock;
  readonly log: (line: string) => void;
  /** Frames were delivered outside of a turn: rings may have deadlines now. */
  readonly delivered: () => void;
  /** Watches a descriptor of the host. */
  readonly onReadable: OnReadable;
}

export class NetworkLab {
  readonly clock: Clock;
  private readonly log: (line: string) => void;
  private readonly delivered: () => void;
  private readonly onReadable: OnReadable;
  private readonly switches = new Map<string, LabSwitch>();
  private readonly interfaces = new Map<string, NetworkInterface>();
  /** Text of what is set for interfaces, by their names. */
  private readonly impairments = new Map<string, string>();
  private readonly links = new Map<string, boolean>();
  /** What the firewalls have logged. */
  readonly lines: LogLines;

  constructor({ clock, log, delivered, onReadable }: NetworkLabOptions) {
    this.clock = clock;
    this.log = log;
    this.delivered = delivered;
    this.onReadable = onReadable;
    this.lines = new LogLines(log);
  }

  /** Makes again what an earlier process had; an uplink that does not come back leaves its switch without one. */
  async restore({ switches, targets }: NetworkSettings): Promise<void> {
    for (const { config } of switches) this.switches.set(config.name, this.newSwitch(config));
    for (const { on, vif, settings } of targets) if (this.switches.has(on)) this.restoreTarget(on, vif, settings);
    await Promise.all(
      switches.map(({ config, forwards }) => this.restoreUplink(this.theSwitch(config.name), forwards)),
    );
  }

  private async restoreUplink(to: LabSwitch, forwards: readonly ForwardConfig[]): Promise<void> {
    const { name } = to.config;
    try {
      await this.connectUplink(to);
    } catch (error) {
      to.problem = messageOf(error);
      this.log(`${name}: ${to.problem}`);
    }
    for (const forward of forwards) {
      await to.forwards.add(forward).catch((error: Error) => this.log(`${name}: ${error.message}`));
    }
  }

  /** @throws an error with a remedy when the uplink cannot be opened */
  async createSwitch(config: SwitchConfig): Promise<LabSwitch> {
    if (this.switches.has(config.name)) {
      throw new LabNetworkError(`there is a switch ${config.name} already`, "choose another name");
    }
    const made = this.newSwitch(config);
    await this.connectUplink(made);
    this.switches.set(config.name, made);
    return made;
  }

  private newSwitch(config: SwitchConfig): LabSwitch {
    return new LabSwitch(config, this.clock, (line) => this.lines.add(config.name, line));
  }

  /** Sets again what an earlier process had been told. */
  private restoreTarget(on: string, vif: string | undefined, settings: TargetSettings): void {
    const texts = this.rulesOf(on, vif).replace(settings.rules.join("\n"));
    if (!texts.ok) this.log(`${vif ?? on}: ${texts.error.message}`);
    if (vif === undefined) {
      this.theSwitch(on).policy.accounting.replace(settings.classes.join("\n"));
      return;
    }
    if (settings.down) this.links.set(vif, false);
    if (settings.impair !== "") this.impair(vif, settings.impair);
  }

  private async connectUplink(to: LabSwitch): Promise<void> {
    const context = {
      send: to.fromUplink,
      batchEnd: () => {
        to.uplinkBatchEnd();
        this.delivered();
      },
      log: (line: string) => this.log(`${to.config.name}: ${line}`),
      clock: this.clock,
    };
    const uplink = createUplink(to.config, context, this.onReadable);
    if (uplink === undefined) return;
    try {
      await to.connectUplink(uplink);
    } catch (error) {
      await uplink.uplink.close();
      throw error;
    }
  }

  /** Closes a switch. Interfaces on it go on without: their frames are dropped. */
  async deleteSwitch(name: string): Promise<void> {
    const found = this.switches.get(name);
    this.switches.delete(name);
    await found?.close();
  }

  /** @throws LabNetworkError */
  theSwitch(name: string): LabSwitch {
    const found = this.switches.get(name);
    if (found === undefined) throw new LabNetworkError(`there is no switch ${name}`, "domlab network list shows them");
    return found;
  }

  listSwitches(): readonly LabSwitch[] {
    return [...this.switches.values()];
  }

  findInterface(name: string): NetworkInterface | undefined {
    return this.interfaces.get(name);
  }

  /** Puts an interface on the switch that its description names. */
  addInterface(name: string, spec: VifSpecification): VifResult<NetworkInterface> {
    const on = this.switches.get(spec.bridge);
    if (on === undefined) return { ok: false, errno: Errno.ENODEV, message: `there is no switch ${spec.bridge}` };
    try {
      const removed = () => {
        this.interfaces.delete(name);
        on.interfaceRemoved(made.port, spec.mac);
      };
      const { clock, delivered } = this;
      const made: NetworkInterface = new NetworkInterface(name, spec, on, { clock, delivered, removed });
      this.interfaces.set(name, made);
      on.interfaceAdded(spec.mac, spec.ips);
      if (this.impairments.has(name)) this.impair(name, this.impairmentOf(name));
      made.setLink(this.links.get(name) ?? true);
      return { ok: true, value: made };
    } catch (error) {
      if (!(error instanceof NetworkError)) throw error;
      return { ok: false, errno: Errno.EINVAL, message: error.message };
    }
  }

  /** Takes an interface's link down, or up again; one that is not there yet will find it so. */
  setLink(name: string, up: boolean): void {
    this.links.set(name, up);
    this.interfaces.get(name)?.setLink(up);
  }

  /** Rules of a switch, or of an interface on it, which may be on its way still. */
  rulesOf(on: string, vif: string | undefined): RuleSet {
    const { policy } = this.theSwitch(on);
    return vif === undefined ? policy.rules : policy.interfaceRules(vif);
  }

  /** Impairs what an interface is delivered; "" ends that. @throws PolicyError */
  impair(vif: string, text: string): void {
    const parsed = parseImpairment(text);
    if (!parsed.ok) throw parsed.error;
    this.impairments.set(vif, text);
    this.interfaces.get(vif)?.impair(parsed.value);
  }

  impairmentOf(vif: string): string {
    return this.impairments.get(vif) ?? "";
  }

  /** What was set for an interface is void. */
  forget(on: string, vif: string): void {
    this.links.delete(vif);
    this.impairments.delete(vif);
    this.switches.get(on)?.policy.removeInterface({ name: vif, id: -1 });
  }

  async close(): Promise<void> {
    await Promise.all([...this.switches.values()].map((each) => each.close()));
  }
}
