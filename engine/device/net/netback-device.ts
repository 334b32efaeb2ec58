/**
 * One virtual network interface of netback, as XenStore sees it: what it publishes, and what it makes of the toolstack's and
 * the frontend's nodes. Linux's netfront goes from Initialising to Connected at once, when it sees InitWait; the backend
 * connects then.
 */
import { Errno } from "../../abi/errors.ts";
import { BackendDevice, type BackendDeviceOptions, type OpenedDevice } from "../xenbus/backend-device.ts";
import { parseDecimal, quoteValue, readFlag, readJson } from "../xenbus/keys.ts";
import type { OtherEnd } from "../xenbus/xenbus.ts";
import type { VifFacts, VifIdentity, VifResult, VifService, VifSpecification } from "./channel.ts";
import { type NetTransportLimits, readNetTransportParameters } from "./transport-parameters.ts";
import { SETTINGS_KEY } from "./vif-nodes.ts";

export interface NetbackDeviceOptions extends BackendDeviceOptions<VifIdentity, VifService> {
  readonly limits: NetTransportLimits;
}

type OpenedVif = OpenedDevice<VifSpecification, VifFacts>;

const MULTICAST_KEY = "request-multicast-control";

export class NetbackDevice extends BackendDevice<VifIdentity, VifSpecification, VifFacts, VifService> {
  private readonly limits: NetTransportLimits;
  private multicastControl = false;

  constructor(options: NetbackDeviceOptions) {
    super(options);
    this.limits = options.limits;
  }

  protected override async watchFrontend(frontend: OtherEnd): Promise<void> {
    await super.watchFrontend(frontend);
    await this.xenbus.watch(`${frontend.directory}/${MULTICAST_KEY}`);
  }

  private limitsOf({ queues }: VifFacts): NetTransportLimits {
    const { limits } = this;
    return queues === undefined ? limits : { ...limits, queues: Math.min(queues, limits.queues) };
  }

  protected override features({ facts }: OpenedVif): Record<string, string> {
    const limits = this.limitsOf(facts);
    return {
      "feature-sg": "1",
      "feature-gso-tcpv4": "1",
      "feature-gso-tcpv6": "1",
      "feature-ipv6-csum-offload": "1",
      "feature-rx-copy": "1",
      "feature-rx-flip": facts.flip ? "1" : "0",
      "feature-multicast-control": "1",
      "feature-dynamic-multicast-control": "1",
      "feature-split-event-channels": limits.split ? "1" : "0",
      "multi-queue-max-queues": String(limits.queues),
      // What a hotplug script would say when the interface is on its switch.
      "hotplug-status": "connected",
    };
  }

  protected override async attach({ facts }: OpenedVif, frontend: OtherEnd, resume: boolean): Promise<VifResult<void>> {
    const read = await readNetTransportParameters(this.store, frontend.directory, this.limitsOf(facts));
    if ("problem" in read) return { ok: false, errno: Errno.EINVAL, message: read.problem };
    if (read.value.receive === "flip" && !facts.flip) {
      const message = "request-rx-copy is not 1, and pages cannot be exchanged";
      return { ok: false, errno: Errno.EOPNOTSUPP, message };
    }
    const result = await this.service.attach({ ...this.identity, ...read.value, resume });
    if (result.ok) this.multicastControl = read.value.multicastControl;
    return result;
  }

  /** feature-dynamic-multicast-control: the frontend may change its mind while it is connected. */
  protected override async connectedStep(_opened: OpenedVif, frontend: OtherEnd): Promise<void> {
    const wanted = await readFlag(this.store, frontend.directory, MULTICAST_KEY);
    if (wanted === this.multicastControl) return;
    this.multicastControl = wanted;
    this.service.setMulticastControl(this.identity, wanted);
  }

  protected override async specification(): Promise<VifSpecification | string> {
    const { store } = this;
    const { directory } = this.xenbus;
    const mac = (await store.read(`${directory}/mac`))?.toLowerCase();
    if (mac === undefined || !/^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/.test(mac)) {
      return `mac is ${mac === undefined ? "missing" : quoteValue(mac)}`;
    }
    const settings = await readJson(store, directory, SETTINGS_KEY);
    if ("problem" in settings) return settings.problem;
    const mtu = await store.read(`${directory}/mtu`);
    return {
      ...this.identity,
      mac,
      bridge: (await store.read(`${directory}/bridge`)) ?? "",
      ips: ((await store.read(`${directory}/ip`)) ?? "").split(/[\s,]+/).filter((ip) => ip !== ""),
      mtu: mtu === undefined ? undefined : parseDecimal(mtu),
      rate: await store.read(`${directory}/rate`),
      settings: settings.value,
    };
  }
}
