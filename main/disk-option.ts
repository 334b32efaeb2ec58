/**
 * `--disk`: xl's disk syntax (docs/man/xl-disk-configuration.5), with keys of our own for what Xen leaves to scripts.
 * Differences: a relative target belongs to the current folder, not to /dev; images of other formats than raw and qcow2, scripts,
 * COLO and empty CD-ROM drives are refused in words.
 */
import { resolve } from "node:path";
import { parseVdev, vdevName } from "../engine/device/block/vdev.ts";
import { chainSpec } from "../engine/disk/chain.ts";
import { isNbdAddress, parseNbdAddress } from "../engine/disk/nbd/uri.ts";
import type { StoreSpec } from "../engine/disk/spec.ts";
import type { VbdConfig } from "../engine/domain/vbd-toolstack.ts";
import { BadInput } from "./failure.ts";

/** A disk as the user wants it. */
export interface DiskOption {
  /**
   * What the text says, without a look at the file: a store of format "probe" may be a qcow2 image, and of a qcow2 image the
   * backing images are not named. vbdConfig() looks.
   */
  readonly store: StoreSpec;
  /** The target as the user wrote it. */
  readonly target: string;
  /** Virtual-device number: the name of the disk's directories in XenStore. */
  readonly vdev: number;
  /** "xvda" */
  readonly name: string;
  readonly readOnly: boolean;
  readonly cdrom: boolean;
  /** Domain that serves it; undefined: the usual driver domain. */
  readonly backend: string | undefined;
  readonly placement: "driver-domain" | "hypervisor";
  /** Whether persistent grants are offered; off unless asked for: with them the guest copies all data. */
  readonly persistent: boolean;
  /** Accepted for xl's sake: pages are never lent to a network stack, so there is no workaround to disable. */
  readonly directIoSafe: boolean;
}

const POSITIONS = ["target", "format", "vdev", "access"] as const;
const KEYS = [
  ...POSITIONS,
  "devtype",
  "backend",
  "backendtype",
  "script",
  "offset",
  "length",
  "placement",
  "persistent",
] as const;
type Key = (typeof KEYS)[number];
const FLAGS: Readonly<Record<string, readonly ["devtype" | "discard" | "directIoSafe", string]>> = {
  cdrom: ["devtype", "cdrom"],
  discard: ["discard", "on"],
  "no-discard": ["discard", "off"],
  "direct-io-safe": ["directIoSafe", "on"],
};
/** A comma and the name of a parameter or a flag. */
const PARAMETER_FOLLOWS = new RegExp(`,\\s*((${KEYS.join("|")})=|(${Object.keys(FLAGS).join("|")})(,|$))`);
/** xl's names and those of image formats that users know from elsewhere. */
const FORMATS = ["raw", "qcow2", "qcow", "vhd", "vhdx", "vmdk", "vdi", "qed"] as const;
const ACCESS: Readonly<Record<string, boolean>> = { r: true, ro: true, w: false, rw: false };
/** xend's prefixes, stripped and ignored as xl does; those of formats count as format=. */
const IGNORED_PREFIX = /^(tapdisk|tap2?|aio|ioemu|file|phy):/;
const FORMAT_PREFIX = /^(raw|qcow2?|vhd):/;
const SCRIPT_PREFIX = /^(iscsi|enbd|drbd):/;
const UNITS: Readonly<Record<string, number>> = { "": 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };

/** What has been read so far: values by key, empty where the user left a position empty. */
type Values = Map<Key | "discard" | "directIoSafe", string>;

function bad(text: string, what: string, remedy: string): BadInput {
  return new BadInput("bad-option", `disk "${text}": ${what}`, remedy);
}

function isKey(word: string): word is Key {
  return (KEYS as readonly string[]).includes(word);
}

class Parser {
  readonly #text: string;
  readonly values: Values = new Map();
  /** A deprecated prefix takes the place of the format: "phy:/dev/sda,hda,w". */
  #withoutFormat = false;

  constructor(text: string) {
    this.#text = text;
  }

  parse(): Values {
    let rest = this.#text;
    for (;;) {
      rest = rest.replace(/^\s+/, "");
      if (rest.startsWith("target=")) {
        const value = rest.slice("target=".length);
        // In a text that xl takes, vdev stands before target=. So without it what follows can only be parameters.
        const end = this.values.has("vdev") ? -1 : value.search(PARAMETER_FOLLOWS);
        this.#set("target", end < 0 ? value : value.slice(0, end));
        if (end < 0) return this.values;
        rest = value.slice(end + 1);
        continue;
      }
      const comma = rest.indexOf(",");
      this.#item(comma < 0 ? rest : rest.slice(0, comma));
      if (comma < 0) return this.values;
      rest = rest.slice(comma + 1);
      // A comma at the very end is allowed: "[<key>=<value>|<flag>,]*".
      if (rest.trim() === "") return this.values;
    }
  }

  #set(key: Key | "discard" | "directIoSafe", value: string): void {
    if ((this.values.get(key) ?? "") !== "") {
      throw bad(this.#text, `${key} is given twice`, "leave one of the two out");
    }
    this.values.set(key, value);
  }

  #item(word: string): void {
    const flag = FLAGS[word];
    const named = /^([A-Za-z][\w-]*)=(.*)$/s.exec(word);
    if (flag && Object.hasOwn(FLAGS, word)) this.#set(flag[0], flag[1]);
    else if (named) this.#named(named[1]!, named[2]!);
    else this.#position(word);
  }

  #named(key: string, value: string): void {
    if (!isKey(key)) {
      const why = /^colo(-|$)|^(active|hidden)-disk$/.test(key)
        ? "COLO is not offered"
        : `no parameter is named ${key}`;
      throw bad(this.#text, why, `use ${KEYS.join(", ")} or cdrom, discard, no-discard, direct-io-safe`);
    }
    this.#set(key, value);
  }

  #position(word: string): void {
    const free = POSITIONS.find((key) => !this.values.has(key) && !(key === "format" && this.#withoutFormat));
    if (free === undefined) {
      throw bad(this.#text, `"${word}" comes after target, format, vdev and access`, "remove it or name its parameter");
    }
    // xend's short form without a format: ",hdc:cdrom,r".
    const isDevice = /:(cdrom|disk)$/.test(word);
    if (free === "target") this.#target(word);
    else if (free === "vdev" || (free === "format" && isDevice)) this.#device(word);
    else this.#set(free, word);
  }

  #target(word: string): void {
    let target = word;
    while (!isNbdAddress(target)) {
      if (SCRIPT_PREFIX.test(target)) {
        throw bad(this.#text, `"${target}" wants a script`, "attach the storage to the host and name its block device");
      }
      const format = FORMAT_PREFIX.exec(target);
      const prefix = format ?? IGNORED_PREFIX.exec(target);
      if (!prefix) break;
      if (format) this.#set("format", format[1]!);
      this.#withoutFormat = true;
      target = target.slice(prefix[0].length);
    }
    this.values.set("target", target);
  }

  #device(word: string): void {
    const [device = "", type] = word.split(":", 2);
    this.#set("vdev", device);
    if (type === "cdrom") this.#set("devtype", "cdrom");
    else if (type !== undefined && type !== "disk")
      throw bad(this.#text, `no device type is named ${type}`, "use cdrom");
    // Nothing is left for a format in this form.
    if (!this.values.has("format")) this.values.set("format", "");
  }
}

function oneOf<Value extends string>(text: string, key: string, value: string, allowed: readonly Value[]): Value {
  const found = allowed.find((one) => one === value);
  if (found === undefined) throw bad(text, `${key}=${value} is not known`, `say ${allowed.join(" or ")}`);
  return found;
}

function bytes(text: string, key: string, value: string): number {
  const match = /^(\d+)([KMGT]?)(?:iB|B)?$/i.exec(value);
  const number = match ? Number(match[1]) * UNITS[match[2]!.toUpperCase()]! : Number.NaN;
  if (!Number.isSafeInteger(number) || number % 512 !== 0) {
    throw bad(text, `${key}=${value} is no multiple of 512 bytes`, `say for example ${key}=1M`);
  }
  return number;
}

function device(text: string, values: Values): { vdev: number; name: string } {
  const word = values.get("vdev") ?? "";
  if (word === "") {
    const misplaced = values.get("format") ?? "";
    if (parseVdev(misplaced) !== undefined) {
      throw bad(text, `"${misplaced}" stands where the format belongs`, `write ",," before it or vdev=${misplaced}`);
    }
    throw bad(text, "vdev is missing", "say how the guest is to see the disk, for example vdev=xvda");
  }
  const vdev = parseVdev(word);
  if (vdev === undefined) throw bad(text, `vdev "${word}" names no disk`, "use xvda, xvdb, sda, hda or a number");
  return { vdev, name: vdevName(vdev) ?? word };
}

function formatOf(text: string, values: Values): "raw" | "qcow2" | "probe" {
  const given = values.get("format") ?? "";
  if (given === "") return "probe";
  const format = oneOf(text, "format", given, FORMATS);
  if (format === "raw" || format === "qcow2") return format;
  throw bad(text, `format ${format} is not served`, "convert the image with qemu-img convert -O qcow2");
}

/** What a target that is no raw image cannot have. */
function checkQcow2(text: string, values: Values): void {
  if (values.get("offset") || values.get("length")) {
    throw bad(text, "offset and length are for raw images", "leave them out, a qcow2 image is served whole");
  }
  if (values.get("backend")) {
    throw bad(
      text,
      "a backend domain serves raw images and block devices",
      "leave backend out, or convert the image with domlab image convert -O raw",
    );
  }
}

function storeOf(text: string, values: Values, cwd: string, readOnly: boolean): StoreSpec {
  const target = values.get("target") ?? "";
  const value = (key: "offset" | "length") => values.get(key) || undefined;
  const [offset, length] = [value("offset"), value("length")];
  const format = formatOf(text, values);
  const common = { readOnly, ...(values.get("discard") === "off" && { discard: false }) };
  if (target === "") {
    const empty = values.get("devtype") === "cdrom" ? "an empty CD-ROM drive is not offered" : "target is missing";
    throw bad(text, empty, "name an image, a block device or an nbd:// address");
  }
  if (target.includes("\0")) throw bad(text, "target holds a zero byte, which no path has", "remove it");
  if (isNbdAddress(target)) {
    if (offset !== undefined || length !== undefined) {
      throw bad(text, "offset and length are for images and block devices", "let the NBD server export the part");
    }
    if (format === "qcow2") {
      throw bad(text, "an NBD export is served as it is", "leave the format out; qemu-nbd -f qcow2 exports an image");
    }
    return { kind: "nbd", ...parseNbdAddress(target), ...common };
  }
  if (format === "qcow2") {
    checkQcow2(text, values);
    return { kind: "qcow2", path: resolve(cwd, target), ...common, backing: [] };
  }
  return {
    kind: "file",
    path: resolve(cwd, target),
    format,
    ...common,
    ...(offset !== undefined && { offset: bytes(text, "offset", offset) }),
    ...(length !== undefined && { length: bytes(text, "length", length) }),
  };
}

/**
 * Reads one disk in xl's syntax: `target,format,vdev,access` and `key=value`, where `target=` takes the rest of the text
 * (unless vdev was not given before: then it ends at the next parameter, so that they may come in any order).
 * @param cwd folder that a relative target belongs to
 * @throws BadInput or DiskError, one line that quotes what is wrong and says what to write
 */
export function parseDisk(text: string, cwd: string): DiskOption {
  const values = new Parser(text).parse();
  const given = (key: Key) => values.get(key) || undefined;
  const cdrom =
    given("devtype") !== undefined && oneOf(text, "devtype", given("devtype")!, ["cdrom", "disk"]) === "cdrom";
  const { vdev, name } = device(text, values);
  const access = given("access") ?? (cdrom ? "r" : "rw");
  const readOnly = ACCESS[oneOf(text, "access", access, ["r", "ro", "w", "rw"])]!;
  if (cdrom && !readOnly) throw bad(text, "a CD-ROM cannot be written", "say access=ro or leave cdrom out");
  if (given("script") !== undefined) {
    throw bad(text, "scripts are not run", "attach the storage to the host and name its block device");
  }
  if (given("backendtype") !== undefined) oneOf(text, "backendtype", given("backendtype")!, ["phy", "qdisk", "tap"]);
  const placement = oneOf(text, "placement", given("placement") ?? "driver-domain", ["driver-domain", "hypervisor"]);
  if (placement === "hypervisor" && given("backend") !== undefined) {
    throw bad(text, "placement=hypervisor has no backend domain", "leave backend out");
  }
  const backend = given("backend");
  return {
    // A backend guest looks for its targets as xl does: relative ones in /dev.
    store: storeOf(text, values, backend === undefined ? cwd : "/dev", readOnly),
    target: values.get("target") ?? "",
    vdev,
    name,
    readOnly,
    cdrom,
    backend,
    placement,
    persistent: oneOf(text, "persistent", given("persistent") ?? "off", ["on", "off"]) === "on",
    directIoSafe: values.get("directIoSafe") === "on",
  };
}

/**
 * What is served: of an image of this host its format, looked up unless it was said, with the images behind it. From here on
 * nobody looks again: a guest could write into a raw image what makes it look like another over any file of the host.
 */
function servedStore({ store, backend }: DiskOption): StoreSpec {
  if (store.kind === "nbd" || backend !== undefined) return store;
  const ranged = store.kind === "file" && (store.offset !== undefined || store.length !== undefined);
  if (ranged || (store.kind === "file" && store.format === "raw")) return store;
  const { path, readOnly, discard } = store;
  return chainSpec(path, {
    readOnly,
    ...(store.kind === "qcow2" && { format: "qcow2" }),
    ...(discard !== undefined && { discard }),
  });
}

/**
 * A disk as the toolstack attaches it; looks at the image and those behind it.
 * @throws DiskError for an image that cannot be served
 */
export function vbdConfig(disk: DiskOption): VbdConfig {
  const { vdev, readOnly, target, placement, persistent, backend } = disk;
  return {
    vdev,
    store: servedStore(disk),
    readOnly,
    deviceType: disk.cdrom ? "cdrom" : "disk",
    target,
    placement,
    persistent,
    ...(backend !== undefined && { backend }),
  };
}
