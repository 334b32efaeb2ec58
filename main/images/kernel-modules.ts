/**
 * Kernel modules and what they need, read from the modules themselves: Debian's packages carry no modules.dep
 * (depmod makes it at installation). A module's ".modinfo" section is a list of NUL-terminated "key=value" strings.
 */

const SECTION_HEADER_SIZE = 64;

/** A module's name as the kernel spells it: from "kernel/drivers/block/xen-blkfront.ko.xz" to "xen_blkfront". */
export function moduleName(path: string): string {
  const file = path.slice(path.lastIndexOf("/") + 1);
  return file.replace(/\.ko(\.\w+)?$/, "").replaceAll("-", "_");
}

function sectionNamed(bytes: Buffer, name: string): Buffer | undefined {
  if (bytes.length < 64 || bytes.readUInt32BE(0) !== 0x7f454c46) return undefined;
  const table = Number(bytes.readBigUInt64LE(40));
  const count = bytes.readUInt16LE(60);
  const namesIndex = bytes.readUInt16LE(62);
  if (table + count * SECTION_HEADER_SIZE > bytes.length || namesIndex >= count) return undefined;
  const range = (index: number): { name: number; start: number; end: number } => {
    const at = table + index * SECTION_HEADER_SIZE;
    const start = Number(bytes.readBigUInt64LE(at + 24));
    return { name: bytes.readUInt32LE(at), start, end: start + Number(bytes.readBigUInt64LE(at + 32)) };
  };
  const names = range(namesIndex);
  for (let index = 0; index < count; index++) {
    const section = range(index);
    const wanted = Buffer.from(`${name}\0`, "latin1");
    const at = names.start + section.name;
    if (at + wanted.length <= names.end && bytes.subarray(at, at + wanted.length).equals(wanted)) {
      return bytes.subarray(section.start, section.end);
    }
  }
  return undefined;
}

/** Names of the modules that must be loaded before this one, or undefined if this is not a kernel module. */
export function dependenciesOf(module: Uint8Array): string[] | undefined {
  const info = sectionNamed(Buffer.from(module.buffer, module.byteOffset, module.byteLength), ".modinfo");
  if (info === undefined) return undefined;
  const line = info
    .toString("latin1")
    .split("\0")
    .find((text) => text.startsWith("depends="));
  if (line === undefined) return [];
  const names = line.slice("depends=".length).split(",");
  return names.filter((name) => name !== "").map((name) => name.replaceAll("-", "_"));
}

/**
 * Orders modules so that each comes after those it needs.
 *
 * @param wanted names to load; what they need is added
 * @param dependencies of every module that may be needed, by name; a name that is absent counts as built in
 */
export function loadOrder(wanted: readonly string[], dependencies: ReadonlyMap<string, readonly string[]>): string[] {
  const order: string[] = [];
  const seen = new Set<string>();
  const visit = (name: string): void => {
    if (seen.has(name)) return;
    seen.add(name);
    const needs = dependencies.get(name);
    if (needs === undefined) return;
    for (const need of needs) visit(need);
    order.push(name);
  };
  for (const name of wanted) visit(name);
  return order;
}
