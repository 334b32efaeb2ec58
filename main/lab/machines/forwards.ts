/** A machine's ports of the host: open while its guest runs. */
import type { ForwardConfig } from "../../../engine/domain/network-config.ts";
import type { DeepReadonly, MachineConfig } from "../store/schema.ts";
import type { MachineHost } from "./machine-host.ts";

export interface OpenForward {
  readonly bridge: string;
  readonly forward: ForwardConfig;
}

type Network = Pick<MachineHost, "network">;

/** Opens them. @throws an error with a remedy for one in use; none is open then */
export async function openForwards(host: Network, config: DeepReadonly<MachineConfig>): Promise<OpenForward[]> {
  const open: OpenForward[] = [];
  try {
    for (const { bridge, ...forward } of config.forwards) {
      const mac = config.vifs.find((vif) => vif.bridge === bridge)?.mac;
      await host.network.addForward(bridge, forward, mac);
      open.push({ bridge, forward });
    }
    return open;
  } catch (error) {
    await closeForwards(host, open);
    throw error;
  }
}

export async function closeForwards(host: Network, forwards: readonly OpenForward[]): Promise<void> {
  for (const { bridge, forward } of forwards) {
    // A switch that is gone has taken its ports along.
    await host.network.removeForward(bridge, forward).catch(() => undefined);
  }
}
