/** The store as several connections share it: the current tree, and who is told of changes. */
import { encodeText } from "./protocol.ts";
import { splitPath, Tree } from "./tree.ts";

export type ChangeListener = (path: string) => void;

export class Store {
  /** The committed tree. */
  tree = Tree.empty;
  private readonly listeners = new Set<ChangeListener>();

  /** Calls `listener` with the path of each committed change; returns how to stop that. */
  onChange(listener: ChangeListener): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Makes `tree` the current one and reports the paths that changed. */
  commit(tree: Tree, paths: Iterable<string>): void {
    this.tree = tree;
    for (const path of paths) for (const listener of this.listeners) listener(path);
  }

  /** Writes a text as the control plane: no permission, no quota. @throws RangeError for a malformed path */
  write(path: string, value: string): void {
    const parts = splitPath(path);
    if (parts === undefined) throw new RangeError(`malformed XenStore path ${path}`);
    this.commit(this.tree.with(parts, encodeText(value)), [path]);
  }

  /** Value of a node as text, or undefined. */
  read(path: string): string | undefined {
    const value = this.tree.get(splitPath(path) ?? ["@none"])?.value;
    return value && Buffer.from(value).toString("latin1");
  }
}

/** What the toolstack writes for a new domain before it runs. */
export interface DomainFacts {
  readonly id: number;
  readonly name: string;
  readonly ramKib: number;
  readonly vcpus: number;
  readonly consolePort: number;
  readonly consoleGfn: number;
  readonly storePort: number;
  readonly storeGfn: number;
}

/** Nodes that a stock kernel reads at boot (docs/misc/xenstore-paths.pandoc). */
export function introduceDomain(store: Store, facts: DomainFacts): void {
  const home = `/local/domain/${facts.id}`;
  const nodes: Readonly<Record<string, string | number>> = {
    name: facts.name,
    domid: facts.id,
    "memory/target": facts.ramKib,
    "memory/static-max": facts.ramKib,
    "memory/videoram": 0,
    "control/platform-feature-xs_reset_watches": 1,
    "control/platform-feature-multiprocessor-suspend": 1,
    "control/shutdown": "",
    "control/sysrq": "",
    "console/type": "xenconsoled",
    "console/port": facts.consolePort,
    "console/ring-ref": facts.consoleGfn,
    "store/port": facts.storePort,
    "store/ring-ref": facts.storeGfn,
    device: "",
    data: "",
    error: "",
    attr: "",
  };
  for (const [path, value] of Object.entries(nodes)) store.write(`${home}/${path}`, String(value));
  for (let vcpu = 0; vcpu < facts.vcpus; vcpu++) store.write(`${home}/cpu/${vcpu}/availability`, "online");
}
