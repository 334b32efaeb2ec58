/**
 * `--vif`: xl's syntax (docs/man/xl-network-configuration.5), comma-separated `key=value`, with keys of our own for what Xen
 * leaves to hotplug scripts. Differences: `bridge` names a switch of the lab, `ip` is enforced by the switch, scripts and
 * emulated cards are refused in words.
 */
import {
  DEFAULT_SWITCH,
  LEAST_MTU,
  MOST_MTU,
  MOST_QUEUES,
  MOST_VIFS,
  type VifConfig,
  vifSchema,
} from "../engine/domain/network-config.ts";
import { formatCidr, formatMac, parseCidr, parseInterfaceMac } from "../engine/network/address.ts";
import { parseRate } from "../engine/network/policy/rate.ts";
import { NetworkError } from "../engine/network/types.ts";
import { BadInput } from "./failure.ts";
import { parseSwitchName } from "./network-option.ts";

/** Keys of xl that are understood. */
const KEYS = ["mac", "bridge", "ip", "rate", "backend", "devid", "mtu", "type", "model", "script", "vifname"] as const;
/** Keys of ours. */
const OWN_KEYS = ["queues", "spoofing", "vlan", "notify"] as const;
type Key = (typeof KEYS)[number] | (typeof OWN_KEYS)[number];

/** What xl knows and this host has no use for, and what to do about it. */
const REFUSED: Readonly<Record<string, string>> = {
  gatewaydev: "leave it out: a switch's way out is its uplink (domlab network create --uplink)",
  accel: "leave it out: there is no accelerated card to hand on",
  netdev: "leave it out: domlab network create --uplink tap joins the host's network",
};

function bad(text: string, what: string, remedy: string): BadInput {
  return new BadInput("bad-option", `vif "${text}": ${what}`, remedy);
}

function isKey(key: string): key is Key {
  return ([...KEYS, ...OWN_KEYS] as readonly string[]).includes(key);
}

function valuesOf(text: string): Map<Key, string> {
  const values = new Map<Key, string>();
  // A comma at the very end is allowed, and so is nothing at all.
  for (const word of text.split(",").map((part) => part.trim())) {
    if (word === "") continue;
    const equals = word.indexOf("=");
    const key = equals < 0 ? word : word.slice(0, equals).trim();
    if (Object.hasOwn(REFUSED, key)) throw bad(text, `${key} is not offered`, REFUSED[key]!);
    if (equals < 0) throw bad(text, `"${word}" is no parameter`, "write key=value, for example mac=00:16:3e:00:00:01");
    if (!isKey(key)) throw bad(text, `no parameter is named ${key}`, `use ${[...KEYS, ...OWN_KEYS].join(", ")}`);
    if (values.has(key)) throw bad(text, `${key} is given twice`, "leave one of the two out");
    values.set(key, word.slice(equals + 1).trim());
  }
  return values;
}

function number(text: string, key: string, value: string, least: number, most: number): number {
  const parsed = /^\d{1,9}$/.test(value) ? Number(value) : Number.NaN;
  if (!(parsed >= least && parsed <= most)) {
    throw bad(text, `${key}=${value} is no number from ${least} to ${most}`, `say for example ${key}=${least}`);
  }
  return parsed;
}

/** Parses a part of the text; its error becomes one about the whole. */
function within<T>(text: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof NetworkError)) throw error;
    throw bad(text, error.message.slice(0, -`; ${error.remedy}`.length), error.remedy);
  }
}

function mac(text: string, value: string): string {
  return formatMac(within(text, () => parseInterfaceMac(value)));
}

/** Addresses or networks between blanks, as vif-common.sh takes them. */
function addresses(text: string, value: string): string[] {
  const words = value.split(/\s+/).filter((word) => word !== "");
  return words.map((word) => formatCidr(within(text, () => parseCidr(word))));
}

/** "8" alone, or "8/50": frames, and microseconds. */
function notify(text: string, value: string): NonNullable<VifConfig["notify"]> {
  const match = /^(\d+)(?:\/(\d+))?$/.exec(value);
  if (match === null) throw bad(text, `notify=${value} is no moderation`, "write frames/microseconds: notify=8/50");
  return {
    frames: number(text, "notify", match[1]!, 1, 4096),
    us: number(text, "notify", match[2] ?? "100", 0, 1_000_000),
  };
}

/** "10" for an access port; "10 20 30" for a trunk. */
function vlan(text: string, value: string): NonNullable<VifConfig["vlan"]> {
  const tags = value.split(/\s+/).map((word) => number(text, "vlan", word, 1, 4094));
  return tags.length === 1 ? tags[0]! : tags;
}

/** xl's words for what is emulated: there is no device model. */
function checkType(text: string, values: Map<Key, string>): void {
  const type = values.get("type") ?? "vif";
  if (type === "ioemu") throw bad(text, "no network card is emulated", "leave type out: the guest needs xen-netfront");
  if (type !== "vif") throw bad(text, `type=${type} is not known`, "say type=vif or leave it out");
  if (values.has("model"))
    throw bad(text, "no network card is emulated", "leave model out: the guest needs xen-netfront");
  const script = values.get("script");
  if (script !== undefined && !/(^|\/)vif-bridge$/.test(script)) {
    throw bad(text, "scripts are not run", "leave script out; the switch does what vif-bridge does");
  }
  if (values.has("vifname")) {
    throw bad(
      text,
      "interfaces of the host are not renamed",
      "leave vifname out; the switch calls it vif<domain>.<number>",
    );
  }
}

/**
 * Reads one interface in xl's syntax; an empty text is an interface on the default switch.
 * @throws BadInput, one line that quotes what is wrong and says what to write
 */
export function parseVif(text: string): VifConfig {
  const values = valuesOf(text);
  checkType(text, values);
  const given = (key: Key) => values.get(key) || undefined;
  const [rateText, spoofing] = [given("rate"), given("spoofing") ?? "off"];
  const rate = rateText === undefined ? undefined : parseRate(rateText);
  if (rate !== undefined && !rate.ok) throw bad(text, rate.error.what, rate.error.remedy);
  if (spoofing !== "on" && spoofing !== "off") {
    throw bad(text, `spoofing=${spoofing} is not known`, "say spoofing=on to allow any address, or leave it out");
  }
  const count = (key: Key, least: number, most: number) => {
    const value = given(key);
    return value === undefined ? undefined : number(text, key, value, least, most);
  };
  const optional = {
    mac: given("mac") === undefined ? undefined : mac(text, given("mac")!),
    rate: rate?.ok ? { bytes: rate.value.bytes, intervalUs: rate.value.intervalUs } : undefined,
    mtu: count("mtu", LEAST_MTU, MOST_MTU),
    queues: count("queues", 1, MOST_QUEUES),
    vlan: given("vlan") === undefined ? undefined : vlan(text, given("vlan")!),
    notify: given("notify") === undefined ? undefined : notify(text, given("notify")!),
    backend: given("backend"),
    handle: count("devid", 0, MOST_VIFS - 1),
  };
  const present = Object.fromEntries(Object.entries(optional).filter(([, value]) => value !== undefined));
  return vifSchema.parse({
    bridge: parseSwitchName(given("bridge") ?? DEFAULT_SWITCH),
    ips: given("ip") === undefined ? [] : addresses(text, given("ip")!),
    spoofing: spoofing === "on",
    ...present,
  });
}
