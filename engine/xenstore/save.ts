/**
 * Saving what the store knows of one domain and giving it to a new domain, which may have another number.
 *
 * Nodes keep their values as they are. What the domain permitted to other domains ends with the save, as with a domain
 * that is destroyed (XSA-322): their numbers may be anybody's when it is restored.
 */
import { Aliases } from "./aliases.ts";
import type { Xenstored } from "./daemon.ts";
import { homeOf, type Path, parsePath } from "./path.ts";
import {
  formatPermission,
  type Permission,
  type Permissions,
  PRIVILEGED_ONLY,
  parsePermissions,
} from "./permissions.ts";
import { Accounts, exceeds, type QuotaName, type Quotas, type Usage } from "./quota.ts";
import {
  damaged,
  restoreValue,
  type SavedConnection,
  type SavedNode,
  type SavedStore,
  STAMP_MAX,
  StoreStateError,
  savedStoreSchema,
  saveValue,
} from "./saved-state.ts";
import type { StoreNode } from "./toolstack-store.ts";
import type { Transaction } from "./transaction.ts";
import type { Node, NodeDraft } from "./tree.ts";
import { makeWatch, type Watch, watchBytes } from "./watches.ts";

/** What the toolstack writes anew for every domain: who it is, where its pages are, and devices. */
const TOOLSTACK_NODES: ReadonlySet<string> = new Set(["name", "domid", "console", "store", "device", "backend"]);

export interface RestoreOptions {
  /** Domain whose rights it has as well: a right over another domain is the toolstack's to give, not the file's. */
  readonly target?: number;
}

/** See Xenstored.saveDomain(). @throws Error for a domain that is not known or has several connections: a bug */
export function saveDomain(daemon: Xenstored, id: number): SavedStore {
  const record = daemon.find(id);
  if (record === undefined || record.connections.size > 1) throw new Error(`domain ${id} cannot be saved`);
  const [connection] = record.connections;
  const home = pathOf(homeOf(id));
  const nodes: SavedNode[] = [];
  for (const [path, node] of daemon.store.tree.walk(home)) {
    if (path.length > home.length) nodes.push(saveNode(id, path.slice(home.length).join("/"), node));
  }
  const quotas: Partial<Quotas> = {};
  for (const name of Object.keys(record.quotas) as QuotaName[]) {
    if (record.quotas[name] !== daemon.quotas[name]) quotas[name] = record.quotas[name];
  }
  const saved: SavedStore = {
    domain: id,
    aliases: [...record.aliases.earlier],
    generation: daemon.store.latest,
    nodes,
    quotas,
    features: record.features,
    ...(record.target !== undefined && { target: record.target }),
    ...(connection !== undefined && { connection: connection.save() }),
  };
  // What could not be read again must not become a snapshot.
  if (savedStoreSchema.safeParse(saved).success) return saved;
  throw new StoreStateError(
    "too-large",
    `domain ${id} has more in XenStore than a snapshot holds`,
    `remove what it does not need below ${homeOf(id)}`,
  );
}

function saveNode(id: number, path: string, { value, permissions }: Node): SavedNode {
  const known = ({ domain }: Permission) => domain === 0 || domain === id;
  const [owner, ...others] = known(permissions[0]) ? permissions : [PRIVILEGED_ONLY[0], ...permissions.slice(1)];
  // Only the first entry of a domain counts.
  const first = others.filter((entry, i) => known(entry) && others.findIndex((e) => e.domain === entry.domain) === i);
  return { path, value: saveValue(value), permissions: [owner, ...first].map(formatPermission) };
}

function pathOf(text: string): Path {
  const path = parsePath(text, 0);
  if (path === undefined) throw damaged(`a path of ${text.length} characters`);
  return path;
}

/** See Xenstored.restoreDomain(). @throws Error for a domain that is not introduced, or that was just restored: a bug */
export function restoreDomain(daemon: Xenstored, id: number, saved: SavedStore, options: RestoreOptions): void {
  const record = daemon.find(id);
  if (!record?.introduced || record.restoring !== undefined) throw new Error(`domain ${id} cannot be restored`);
  const quotas = restoredQuotas(daemon, saved);
  const aliases = new Aliases(id, [...saved.aliases, saved.domain]);
  daemon.store.passStamp(Math.min(saved.generation, STAMP_MAX));
  const transaction = daemon.store.begin(false);
  const own = restoreNodes(transaction, id, saved);
  checkRoom(quotas, own, restoredWatches(aliases, saved.connection), saved.connection?.transactions ?? []);
  const error = daemon.store.commit(transaction, () => true);
  if (error !== undefined) throw new Error(`restoring domain ${id}: ${error}`);
  Object.assign(record.quotas, quotas);
  record.features = saved.features;
  record.target = options.target;
  record.aliases = aliases;
  record.restoring = saved.connection ?? null;
}

/** A file may lower quotas; what the daemon grants new domains is the most that it can ask for. */
function restoredQuotas(daemon: Xenstored, saved: SavedStore): Quotas {
  const quotas = { ...daemon.quotas };
  for (const name of Object.keys(quotas) as QuotaName[]) {
    const wanted = saved.quotas[name] ?? quotas[name];
    if (wanted !== 0 && (quotas[name] === 0 || wanted < quotas[name])) quotas[name] = wanted;
  }
  return quotas;
}

/**
 * Makes the home hold what was saved and nothing else, but for what is the toolstack's.
 * @returns what the domain owns of it
 */
function restoreNodes(transaction: Transaction, id: number, saved: SavedStore): Usage {
  const home = pathOf(homeOf(id));
  const accounts = new Accounts();
  const drafts = new Map<string, NodeDraft>();
  for (const node of saved.nodes) {
    const path = pathOf(`${homeOf(id)}/${node.path}`);
    const below = node.path.lastIndexOf("/");
    const parent = drafts.get(node.path.slice(0, Math.max(below, 0)));
    if (drafts.has(node.path)) throw damaged(`node ${node.path} is there twice`);
    if (below >= 0 && parent === undefined) throw damaged(`node ${node.path} has no parent`);
    const draft = transaction.draft(restoreValue(node.value), restoredPermissions(id, saved, node));
    drafts.set(node.path, draft);
    parent?.children.set(path.at(-1) ?? "", draft);
    if (isToolstacks(node.path)) continue;
    accounts.count(path, draft, 1);
    transaction.event(path);
  }
  const here = transaction.tree.get(home);
  if (here === undefined) throw new Error(`domain ${id} has no home`);
  for (const [path] of transaction.tree.walk(home)) {
    const name = path.slice(home.length).join("/");
    if (path.length > home.length && !isToolstacks(name) && !drafts.has(name)) transaction.event(path, true);
  }
  for (const name of here.children.keys()) {
    if (!isToolstacks(name) && !drafts.has(name)) transaction.remove([...home, name]);
  }
  for (const [name, draft] of drafts) {
    if (!name.includes("/") && !isToolstacks(name)) transaction.graft([...home, name], draft);
  }
  return accounts.of(id);
}

/** Whether a node below a domain's home is one that the toolstack writes anew. */
function isToolstacks(path: string): boolean {
  return TOOLSTACK_NODES.has(path.split("/", 1)[0] ?? "");
}

function restoredPermissions(id: number, saved: SavedStore, node: SavedNode): Permissions {
  const permissions = parsePermissions(node.permissions);
  const strange = permissions?.some(({ domain }) => domain !== 0 && domain !== saved.domain);
  if (permissions === undefined || strange) throw damaged(`permissions of node ${node.path}`);
  const change = (entry: Permission): Permission => ({ ...entry, domain: entry.domain === 0 ? 0 : id });
  const [first, ...others] = permissions;
  return [change(first), ...others.map(change)];
}

function restoredWatches(aliases: Aliases, connection: SavedConnection | undefined): Watch[] {
  return (connection?.watches ?? []).map(({ path, token, depth }) => {
    const watch = makeWatch(aliases, path, token, depth, 0);
    if (watch === undefined) throw damaged("path of a watch");
    return watch;
  });
}

/** @throws StoreStateError for more than the quotas permit; the toolstack's nodes do not count */
function checkRoom(quotas: Quotas, own: Usage, watches: readonly Watch[], transactions: readonly number[]): void {
  if (new Set(transactions).size !== transactions.length) throw damaged("a transaction is there twice");
  const uses = {
    nodes: own.nodes,
    memory: watches.reduce((sum, watch) => sum + watchBytes(watch), own.bytes),
    watches: watches.length,
    transactions: transactions.length,
  };
  for (const [name, used] of Object.entries(uses) as [keyof typeof uses, number][]) {
    if (!exceeds(used, quotas[name])) continue;
    throw new StoreStateError(
      "over-quota",
      `the snapshot's guest uses ${used} of its XenStore quota "${name}" and may use ${quotas[name]}`,
      "raise that quota for new domains, or restore from another snapshot",
    );
  }
}

/** One device of a guest: `type` as in its path ("vbd", "vif"), and its number there. */
export interface DeviceName {
  readonly type: string;
  readonly number: number;
}

/**
 * Nodes of a saved guest's frontend, for domain `id`: to be written over those that the toolstack has made for the same
 * device, whose permissions they get. Where the backend is to be found stays the toolstack's word.
 */
export function frontendNodes(saved: SavedStore, id: number, device: DeviceName): StoreNode[] {
  const directory = `device/${device.type}/${device.number}/`;
  const nodes: StoreNode[] = [];
  for (const { path, value, permissions } of saved.nodes) {
    const name = path.slice(directory.length);
    const owner = Number(permissions[0]?.slice(1));
    if (!path.startsWith(directory) || owner !== saved.domain) continue;
    if (/^backend(-id)?(\/|$)/.test(name)) continue;
    nodes.push({ path: `${homeOf(id)}/${path}`, value: restoreValue(value) });
  }
  return nodes;
}
