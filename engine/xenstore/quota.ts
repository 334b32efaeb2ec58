/**
 * What an unprivileged domain may use up, and the books about it (docs/misc/xenstore.txt, SET_QUOTA).
 *
 * A limit of 0 means that there is none.
 */
import { XS_RELATIVE_PATH_MAX } from "../abi/xs-wire.ts";
import type { Path } from "./path.ts";
import { ownerOf } from "./permissions.ts";
import type { Node } from "./tree.ts";

/** Xen's default quotas: counts, and sizes in bytes. */
export const DEFAULT_QUOTAS = {
  nodes: 1000,
  watches: 128,
  transactions: 10,
  outstanding: 20,
  "transaction-nodes": 1024,
  memory: 2_621_440,
  "node-size": 2048,
  "path-length": XS_RELATIVE_PATH_MAX,
  permissions: 5,
} as const;

export type QuotaName = keyof typeof DEFAULT_QUOTAS;
export type Quotas = Record<QuotaName, number>;

export function isQuotaName(name: string | undefined): name is QuotaName {
  return name !== undefined && Object.hasOwn(DEFAULT_QUOTAS, name);
}

export function exceeds(count: number, limit: number): boolean {
  return limit !== 0 && count > limit;
}

/** What the store's own records about a thing cost, besides its texts. */
export const RECORD_BYTES = 64;
const PERMISSION_BYTES = 8;

/** Bytes that a node costs its owner. */
export function nodeBytes(name: string, node: Pick<Node, "value" | "permissions">): number {
  return RECORD_BYTES + name.length + node.value.length + PERMISSION_BYTES * node.permissions.length;
}

export interface Usage {
  readonly nodes: number;
  readonly bytes: number;
}

const NOTHING: Usage = { nodes: 0, bytes: 0 };

/** Nodes and their bytes by owner. */
export class Accounts {
  private readonly usages = new Map<number, Usage>();

  of(owner: number): Usage {
    return this.usages.get(owner) ?? NOTHING;
  }

  add(owner: number, { nodes, bytes }: Usage): void {
    const old = this.of(owner);
    const usage = { nodes: old.nodes + nodes, bytes: old.bytes + bytes };
    if (usage.nodes === 0 && usage.bytes === 0) this.usages.delete(owner);
    else this.usages.set(owner, usage);
  }

  /** Counts a node in (+1) or out (-1). */
  count(path: Path, node: Pick<Node, "value" | "permissions">, sign: 1 | -1): void {
    const bytes = nodeBytes(path.at(-1) ?? "", node);
    this.add(ownerOf(node.permissions), { nodes: sign, bytes: sign * bytes });
  }

  entries(): IterableIterator<[number, Usage]> {
    return this.usages.entries();
  }
}
