/**
 * The network backend of a domain, its XenStore side: a device for every directory under backend/vif. The rings are served
 * by whoever implements VifService.
 */
import { BackendDirectory } from "../xenbus/backend-directory.ts";
import type { XenbusStore } from "../xenbus/store-access.ts";
import type { VifService } from "./channel.ts";
import { NetbackDevice } from "./netback-device.ts";
import type { NetTransportLimits } from "./transport-parameters.ts";

export interface NetbackOptions {
  readonly store: XenbusStore;
  readonly service: VifService;
  /** One line. */
  readonly log: (message: string) => void;
  readonly limits?: Partial<NetTransportLimits>;
}

const DEFAULT_LIMITS: NetTransportLimits = { queues: 4, split: true };

export class Netback extends BackendDirectory<NetbackDevice> {
  constructor({ store, service, log, limits }: NetbackOptions) {
    super({
      store,
      log,
      type: "vif",
      digits: 5,
      make: ({ key, frontendId, number, ended }) =>
        new NetbackDevice({
          store,
          service,
          log,
          limits: { ...DEFAULT_LIMITS, ...limits },
          identity: { key, frontendId, handle: number },
          ended,
        }),
    });
  }
}
