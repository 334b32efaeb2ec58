/**
 * The network driver domain: a TypeScript domain whose kernel has switches, uplinks and network backends. All of it runs on
 * the event loop: a frame goes from one guest's pages into another's within one call.
 */
import { PAGE_SIZE } from "../../abi/xen.ts";
import { Netback } from "../../device/net/netback.ts";
import { type GrantedPages, grantSource } from "../../hypervisor/grant-source.ts";
import { monotonicClock } from "../../network/types.ts";
import type { DomainThread } from "../domain-thread.ts";
import { MOST_QUEUES } from "../network-config.ts";
import { readSettings } from "../network-nodes.ts";
import { pageExchange } from "../page-exchange.ts";
import type { Kernel } from "../typescript/kernel.ts";
import { DriverEnvironment } from "./driver-environment.ts";
import { NetworkCaptures } from "./network-captures.ts";
import { serveNetworkCalls } from "./network-functions.ts";
import { NetworkLab } from "./network-lab.ts";
import { PollLoop } from "./network-poll.ts";
import { prepareFrame } from "./network-prepare.ts";
import { NetworkVifs } from "./network-vifs.ts";
import { REGISTRY_BYTES } from "./ring-registry.ts";
import { VifControl } from "./vif-control.ts";

/** Pages that are exchanged with frontends that receive so: what the ring registry leaves of RAM. */
function exchangePool({ mapping }: DomainThread): GrantedPages {
  return grantSource({ mapping, firstFrame: Math.ceil(REGISTRY_BYTES / PAGE_SIZE) });
}

const network: Kernel = async (domain) => {
  const log = (line: string) => domain.log(line);
  const clock = monotonicClock;
  const environment = new DriverEnvironment(domain.thread, log);
  const pages = exchangePool(domain.thread);
  if (domain.restarted) {
    environment.recover();
    pages.reclaim();
  }
  const loop = new PollLoop({ clock });
  const lab = new NetworkLab({
    clock,
    log,
    delivered: () => loop.kick(),
    onReadable: (descriptor, handler) => domain.onInterrupt(descriptor, handler),
  });
  await lab.restore(await readSettings(domain.store));
  const captures = new NetworkCaptures(clock);
  const service = new NetworkVifs({
    environment,
    lab,
    loop,
    clock,
    prepare: prepareFrame,
    exchange: (frontend) => pageExchange(domain.thread, pages, frontend),
    log,
  });
  const backend = new Netback({ store: domain.store, service, log, limits: { queues: MOST_QUEUES } });
  const started = backend.start();
  domain.serve(serveNetworkCalls(lab, captures, new VifControl(backend, service, started)));
  const devices = await started;
  // Only now, so that after a restart no frame finds its destination not attached yet.
  loop.start();
  if (domain.restarted) {
    environment.sweep((frontend, handle) =>
      devices.some((device) => device.frontendId === frontend && device.handle === handle),
    );
  }
  await new Promise<void>((resolve) => {
    if (domain.stopping.aborted) resolve();
    domain.stopping.addEventListener("abort", () => resolve(), { once: true });
  });
  loop.close();
  await backend.close();
  await captures.close();
  await lab.close();
};

export default network;
