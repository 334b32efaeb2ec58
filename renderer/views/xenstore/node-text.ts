/** Values and permissions of XenStore's nodes as people read and write them. */

/** Bytes as "de ad be ef", sixteen a line. */
export function toHex(bytes: Uint8Array): string {
  const lines: string[] = [];
  for (let at = 0; at < bytes.length; at += 16) {
    lines.push(Array.from(bytes.subarray(at, at + 16), (byte) => byte.toString(16).padStart(2, "0")).join(" "));
  }
  return lines.join("\n");
}

/** Bytes of hexadecimal digits, blanks between them allowed; undefined for anything else. */
export function fromHex(text: string): Uint8Array<ArrayBuffer> | undefined {
  const digits = text.replace(/\s+/g, "");
  if (digits.length % 2 !== 0 || !/^[0-9a-f]*$/i.test(digits)) return undefined;
  return Uint8Array.from({ length: digits.length / 2 }, (_, at) =>
    Number.parseInt(digits.slice(2 * at, 2 * at + 2), 16),
  );
}

/** What a domain may do. */
export type Access = "n" | "r" | "w" | "b";
export const accessTitles: Readonly<Record<Access, string>> = {
  n: "nothing",
  r: "read",
  w: "write",
  b: "read and write",
};

export interface Permission {
  readonly domid: number;
  readonly access: Access;
}

/** Entries as SET_PERMS takes them ("r7"); the first is the owner's, with what all others may. */
export function readPermissions(entries: readonly string[]): Permission[] {
  return entries.flatMap((entry) => {
    const [, access, domid] = /^([nrwb])(\d{1,5})$/.exec(entry) ?? [];
    return access === undefined ? [] : [{ access: access as Access, domid: Number(domid) }];
  });
}

export const permissionTexts = (permissions: readonly Permission[]): string[] =>
  permissions.map(({ access, domid }) => `${access}${domid}`);

/** A name that XenStore takes for a new node, or a way of several. */
export const isNodeName = (text: string): boolean => /^[A-Za-z0-9@_-]+(\/[A-Za-z0-9@_-]+)*$/.test(text);
