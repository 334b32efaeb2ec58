/** What the toolstack writes for a new domain before it runs (docs/misc/xenstore-paths.pandoc, and as libxl does). */
import { homeOf } from "./path.ts";
import type { StoreNode } from "./toolstack-store.ts";

export interface DomainFacts {
  readonly id: number;
  readonly name: string;
  readonly ramKib: number;
  readonly vcpus: number;
  /** Ports and frames of console and store; a domain without a guest kernel has none. */
  readonly consolePort?: number;
  readonly consoleGfn?: number;
  readonly storePort?: number;
  readonly storeGfn?: number;
  /** It serves devices: it owns `backend` below its home. */
  readonly driverDomain?: boolean;
}

/** Nodes that a domain reads at boot, parents first, with who may read and write them. */
export function domainNodes(facts: DomainFacts): StoreNode[] {
  const home = homeOf(facts.id);
  // Domain 0 owns what the domain may only read; the domain owns what it may write.
  const readable = ["n0", `r${facts.id}`];
  const own = [`n${facts.id}`];
  const nodes: StoreNode[] = [{ path: home, value: "", permissions: readable }];
  const add = (permissions: readonly string[], values: Readonly<Record<string, string | number | undefined>>) => {
    for (const [path, value] of Object.entries(values)) {
      if (value !== undefined) nodes.push({ path: `${home}/${path}`, value: String(value), permissions });
    }
  };
  add(readable, {
    name: facts.name,
    domid: facts.id,
    memory: "",
    "memory/target": facts.ramKib,
    "memory/static-max": facts.ramKib,
    "memory/videoram": 0,
    control: "",
    "control/platform-feature-xs_reset_watches": 1,
    "control/platform-feature-multiprocessor-suspend": 1,
    device: "",
    cpu: "",
  });
  for (let vcpu = 0; vcpu < facts.vcpus; vcpu++) add(readable, { [`cpu/${vcpu}/availability`]: "online" });
  if (facts.consolePort !== undefined) {
    add(readable, {
      console: "",
      "console/type": "xenconsoled",
      "console/port": facts.consolePort,
      "console/ring-ref": facts.consoleGfn,
    });
  }
  if (facts.storePort !== undefined) {
    add(readable, { store: "", "store/port": facts.storePort, "store/ring-ref": facts.storeGfn });
  }
  add(own, {
    "control/shutdown": "",
    "control/sysrq": "",
    "control/feature-poweroff": "",
    "control/feature-reboot": "",
    "control/feature-suspend": "",
    data: "",
    drivers: "",
    feature: "",
    attr: "",
    error: "",
    suspend: "",
    hvmloader: "",
  });
  if (facts.driverDomain) add(own, { backend: "" });
  return nodes;
}
