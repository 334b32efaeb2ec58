/**
 * A guest's interface as its switch has it: a port that outlives the frontend's connections, and the policies on both ways.
 *
 *   guest ──▶ Vif ──▶ rate (back pressure) ──▶ switch: validation, OUTPUT of the interface ──▶ …
 *   guest ◀── Vif ◀── impairment ◀── INPUT of the interface ◀── switch
 */
import type { VifSpecification } from "../../device/net/channel.ts";
import type { DeliveryFailure, Frame, FramePort, FrameSink } from "../../device/net/frame.ts";
import type { Vif } from "../../device/net/vif.ts";
import { parseCidr, parseMac } from "../../network/address.ts";
import { Impairment } from "../../network/policy/impair.ts";
import type { ImpairmentSpec } from "../../network/policy/impair-spec.ts";
import { parseRateNode } from "../../network/policy/rate.ts";
import { RateLimiter } from "../../network/policy/shaping.ts";
import type { SwitchPort } from "../../network/port.ts";
import type { Clock } from "../../network/types.ts";
import type { ValidationRules } from "../../network/validation.ts";
import { type VifConfig, vifSchema } from "../network-config.ts";
import type { LabSwitch } from "./network-switch.ts";

/** What of the toolstack's description the backend acts on; the rest is in the specification. */
const settingsSchema = vifSchema.pick({ spoofing: true, vlan: true, notify: true, queues: true }).loose();
type Settings = Pick<VifConfig, "spoofing" | "vlan" | "notify" | "queues">;

const NO_SETTINGS: Settings = { spoofing: false };
const NS_PER_US = 1000;

/** @throws NetworkError for an address that is none */
function validation(spec: VifSpecification, { spoofing }: Settings): ValidationRules {
  const mac = parseMac(spec.mac);
  if (spoofing) return { mac, allowMac: true };
  return { mac, ...(spec.ips.length > 0 && { addresses: spec.ips.map(parseCidr) }) };
}

/** What an interface is constructed with. */
export interface InterfaceContext {
  readonly clock: Clock;
  /** Frames were delivered outside of a turn. */
  readonly delivered: () => void;
  /** It has left its switch. */
  readonly removed: () => void;
}

export class NetworkInterface implements FramePort {
  readonly name: string;
  readonly mac: string;
  readonly on: LabSwitch;
  /** Where the guest's frames go. */
  readonly sink: FrameSink;
  readonly port: SwitchPort;
  private readonly settings: Settings;
  private readonly limiter: RateLimiter | undefined;
  private readonly clock: Clock;
  private readonly delivered: () => void;
  private readonly removed: () => void;
  private vif: Vif | undefined;
  private impairment: Impairment | undefined;
  private up = true;

  /**
   * Puts the interface on its switch.
   * @throws NetworkError for a taken address or a VLAN that the switch does not know
   */
  constructor(name: string, spec: VifSpecification, on: LabSwitch, { clock, delivered, removed }: InterfaceContext) {
    const parsed = settingsSchema.safeParse(spec.settings);
    this.settings = parsed.success ? (parsed.data as Settings) : NO_SETTINGS;
    this.name = name;
    this.mac = spec.mac;
    this.on = on;
    this.clock = clock;
    this.delivered = delivered;
    this.removed = removed;
    const rate = spec.rate === undefined ? undefined : parseRateNode(spec.rate);
    this.limiter = rate && new RateLimiter(rate);
    const { vlan } = this.settings;
    this.port = on.bridge.addPort({
      name,
      port: this,
      rules: validation(spec, this.settings),
      ...(vlan !== undefined && { vlan: typeof vlan === "number" ? { untagged: vlan } : { tagged: vlan } }),
    });
    this.sink = this.port;
  }

  /** Queues that the guest is offered at most; undefined: as many as all are. */
  get queues(): number | undefined {
    return this.settings.queues;
  }

  deliver(frame: Frame): DeliveryFailure | undefined {
    return this.vif === undefined ? "down" : this.vif.deliver(frame);
  }

  flush(): void {
    this.vif?.flush();
  }

  /** The guest's rings are there. */
  connect(vif: Vif): void {
    this.vif = vif;
    const { limiter, clock } = this;
    const { notify } = this.settings;
    if (limiter !== undefined) vif.setAdmission((bytes) => limiter.allow(bytes, clock.now()));
    if (notify !== undefined) vif.setNotification({ messages: notify.frames, delay: notify.us * NS_PER_US });
    vif.setLink(this.up);
  }

  /** They are gone; frames are dropped until the next connection. */
  disconnect(): void {
    this.vif = undefined;
  }

  setLink(up: boolean): void {
    this.up = up;
    this.port.setLink(up);
    this.vif?.setLink(up);
  }

  /** Impairs what the guest is delivered; what is on its way already keeps its time. */
  impair(spec: ImpairmentSpec): void {
    if (this.impairment === undefined) {
      const { bridge } = this.on;
      this.impairment = new Impairment(spec, {
        clock: this.clock,
        release: (port, frame) => bridge.deliver(port, frame),
        batchEnd: () => {
          bridge.batchEnd();
          this.delivered();
        },
      });
      this.port.setHooks({ egress: this.impairment.hook });
    } else this.impairment.set(spec);
  }

  /** Takes the interface off its switch. */
  remove(): void {
    this.disconnect();
    this.impairment?.close();
    this.on.bridge.removePort(this.port);
    this.removed();
  }
}
