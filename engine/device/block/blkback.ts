/**
 * The block backend of a domain, its XenStore side: a device for every directory under backend/vbd. The rings are served by
 * whoever implements VbdService.
 */

import { BackendDirectory } from "../xenbus/backend-directory.ts";
import type { XenbusStore } from "../xenbus/store-access.ts";
import { BlkbackDevice, type BlkbackLimits } from "./blkback-device.ts";
import type { VbdService } from "./channel.ts";

export interface BlkbackOptions {
  readonly store: XenbusStore;
  readonly service: VbdService;
  /** One line. */
  readonly log: (message: string) => void;
  readonly limits?: Partial<BlkbackLimits>;
  /** Serves this frontend only; others have a backend of their own in the same domain. */
  readonly frontend?: number;
}

const DEFAULT_LIMITS: BlkbackLimits = { ringPageOrder: 4, queues: 4, indirectSegments: 256 };

export class Blkback extends BackendDirectory<BlkbackDevice> {
  constructor({ store, service, log, limits, frontend }: BlkbackOptions) {
    super({
      store,
      log,
      type: "vbd",
      digits: 9,
      frontend,
      make: ({ key, frontendId, number, ended }) =>
        new BlkbackDevice({
          store,
          service,
          log,
          limits: { ...DEFAULT_LIMITS, ...limits },
          identity: { key, frontendId, vdev: number },
          ended,
        }),
    });
  }

  /** The image of a device has another size now, in bytes. Unknown keys are ignored: the device may have just gone. */
  resized(key: string, size: number): void {
    this.devices.get(key)?.resized(size);
  }
}
