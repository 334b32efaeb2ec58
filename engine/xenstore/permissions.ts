/**
 * Who may do what with a node (docs/misc/xenstore.txt, SET_PERMS).
 *
 * The first entry names the owner, who may do everything; its letter is what domains may do that have no entry of
 * their own. Domain 0 is privileged and may do everything everywhere.
 */

export interface Permission {
  readonly domain: number;
  readonly read: boolean;
  readonly write: boolean;
}

/** At least one entry: the first is the owner's. */
export type Permissions = readonly [Permission, ...Permission[]];
export type Right = "read" | "write" | "owner";

/** On whose behalf a request is performed. */
export interface Actor {
  readonly domain: number;
  readonly privileged: boolean;
  /** Domain whose rights it has as well (SET_TARGET). */
  readonly target: number | undefined;
}

/** First domid that stands for something else than a domain (DOMID_FIRST_RESERVED of xen.h). */
export const FIRST_RESERVED_DOMAIN = 0x7ff0;

/** A domid in decimal, or undefined. */
export function parseDomain(text: string | undefined): number | undefined {
  const domain = text !== undefined && /^[0-9]{1,5}$/.test(text) ? Number(text) : FIRST_RESERVED_DOMAIN;
  return domain < FIRST_RESERVED_DOMAIN ? domain : undefined;
}

/** What only domain 0 may use, until it permits more. */
export const PRIVILEGED_ONLY: Permissions = [{ domain: 0, read: false, write: false }];

export function ownerOf(permissions: Permissions): number {
  return permissions[0].domain;
}

export function permits(actor: Actor, permissions: Permissions, right: Right): boolean {
  const owner = ownerOf(permissions);
  if (actor.privileged || owner === actor.domain || owner === actor.target) return true;
  if (right === "owner") return false;
  const named = permissions.find(
    ({ domain }, index) => index > 0 && (domain === actor.domain || domain === actor.target),
  );
  return (named ?? permissions[0])[right];
}

/** What a new node gets: its parent's permissions, but an unprivileged creator owns what it creates. */
export function inherit(actor: Actor, parent: Permissions): Permissions {
  if (actor.privileged) return parent;
  const [first, ...others] = parent;
  return [{ ...first, domain: actor.domain }, ...others];
}

/** Reads "r7", "w7", "b7", "n7"; undefined if an entry is malformed or there is none. */
export function parsePermissions(texts: readonly string[]): Permissions | undefined {
  const entries: Permission[] = [];
  for (const text of texts) {
    const letter = text.charAt(0);
    const domain = parseDomain(text.slice(1));
    if (!"rwbn".includes(letter) || letter === "" || domain === undefined) return undefined;
    entries.push({ domain, read: letter === "r" || letter === "b", write: letter === "w" || letter === "b" });
  }
  const [first, ...others] = entries;
  return first === undefined ? undefined : [first, ...others];
}

export function formatPermission({ domain, read, write }: Permission): string {
  return `${read ? (write ? "b" : "r") : write ? "w" : "n"}${domain}`;
}

/** The list with other numbers of domains in it. */
export function renumber(permissions: Permissions, number: (domain: number) => number): Permissions {
  const [first, ...others] = permissions;
  const change = (entry: Permission): Permission => ({ ...entry, domain: number(entry.domain) });
  return [change(first), ...others.map(change)];
}

/** The list without the entries of domains that do not pass; the owner's entry stays. */
export function keepEntries(permissions: Permissions, keep: (domain: number) => boolean): Permissions {
  const [first, ...others] = permissions;
  return [first, ...others.filter(({ domain }) => keep(domain))];
}
