/**
 * Text for networks: uplinks (`--network`, `domlab network create --uplink`) and forwarded ports (`--forward`).
 *
 * An uplink is its kind and settings: `user`, `user,subnet=10.0.5.0/24,host=8080`, `tap,name=tap0,bridge=br0`,
 * `socket,listen=/path`, `socket,connect=/path`, `pcap,write=out.pcapng,play=in.pcap`, `passt`, `none`.
 * A forward is `tcp:[host address:]host port:[guest address:]guest port`; IPv6 addresses stand in brackets.
 */
import { resolve } from "node:path";
import { DEFAULT_SWITCH, type ForwardConfig, type UplinkConfig } from "../engine/domain/network-config.ts";
import { type Cidr, parseCidr } from "../engine/network/address.ts";
import { BadInput } from "./failure.ts";

/** Address of the host that a forward opens unless it names another: nobody else reaches it. */
const LOOPBACK = "127.0.0.1";
const SWITCH_NAME = /^[A-Za-z][A-Za-z0-9_-]{0,14}$/;
/** Linux takes 15 bytes without blanks and slashes. */
const INTERFACE_NAME = /^[^\s/:]{1,15}$/;

/** A switch as `--network` describes it. */
export interface NetworkOption {
  readonly name: string;
  readonly uplink: UplinkConfig;
}

function bad(kind: string, text: string, what: string, remedy: string): BadInput {
  return new BadInput("bad-option", `${kind} "${text}": ${what}`, remedy);
}

/** A port number; undefined for text that is none. */
function portOf(text: string): number | undefined {
  const value = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  return value >= 1 && value <= 65_535 ? value : undefined;
}

/** @throws BadInput for a name that a switch cannot have */
export function parseSwitchName(name: string): string {
  if (SWITCH_NAME.test(name)) return name;
  const remedy = "use a letter, then letters, digits, - and _, 15 at most";
  throw new BadInput("bad-option", `"${name}" is no name for a switch`, remedy);
}

/** Settings behind an uplink's kind, each key with its values in order. */
class Settings {
  readonly #text: string;
  readonly #values = new Map<string, string[]>();

  constructor(text: string, words: readonly string[], keys: readonly string[]) {
    this.#text = text;
    for (const word of words) {
      const equals = word.indexOf("=");
      const key = equals < 0 ? word : word.slice(0, equals);
      if (!keys.includes(key)) {
        const remedy = keys.length === 0 ? "leave it out" : `use ${keys.map((name) => `${name}=`).join(", ")}`;
        throw this.bad(`"${key}" is no setting of this uplink`, remedy);
      }
      const value = equals < 0 ? "" : word.slice(equals + 1);
      if (value === "") throw this.bad(`${key}= has no value`, "write one behind it");
      this.#values.set(key, [...(this.#values.get(key) ?? []), value]);
    }
  }

  bad(what: string, remedy: string): BadInput {
    return bad("uplink", this.#text, what, remedy);
  }

  all(key: string): readonly string[] {
    return this.#values.get(key) ?? [];
  }

  /** The value of a key that may be given once. */
  one(key: string): string | undefined {
    const [first, second] = this.all(key);
    if (second !== undefined) throw this.bad(`${key} is given twice`, "leave one of the two out");
    return first;
  }
}

/** An address or network; undefined for text that is none. */
function parsed(text: string): Cidr | undefined {
  try {
    return parseCidr(text);
  } catch {
    return undefined;
  }
}

function isNetwork4(text: string): boolean {
  const network = parsed(text);
  return network?.version === 4 && network.bits < 31;
}

function userUplink(text: string, words: readonly string[]): UplinkConfig {
  const settings = new Settings(text, words, ["subnet", "host"]);
  const subnet = settings.one("subnet");
  if (subnet !== undefined && !isNetwork4(subnet)) {
    throw settings.bad(`subnet ${subnet} is no IPv4 network`, "say for example subnet=10.0.5.0/24");
  }
  const hostPorts = settings.all("host").map((value) => {
    const port = portOf(value);
    if (port === undefined) throw settings.bad(`host=${value} is no port`, "use a number from 1 to 65535");
    return port;
  });
  return {
    kind: "user",
    ...(subnet !== undefined && { subnet }),
    ...(hostPorts.length > 0 && { hostPorts }),
  };
}

function tapUplink(text: string, words: readonly string[]): UplinkConfig {
  const settings = new Settings(text, words, ["name", "bridge"]);
  const named = (key: "name" | "bridge") => {
    const value = settings.one(key);
    if (value !== undefined && !INTERFACE_NAME.test(value)) {
      throw settings.bad(
        `${key}=${value} is no name of an interface`,
        "use at most 15 characters, no blanks or slashes",
      );
    }
    return value === undefined ? {} : { [key]: value };
  };
  return { kind: "tap", ...named("name"), ...named("bridge") };
}

function socketUplink(text: string, words: readonly string[], cwd: string): UplinkConfig {
  const settings = new Settings(text, words, ["listen", "connect"]);
  const [listen, connect] = [settings.one("listen"), settings.one("connect")];
  const path = listen ?? connect;
  if (path === undefined || (listen !== undefined && connect !== undefined)) {
    throw settings.bad("it needs one path", "say socket,listen=path or socket,connect=path");
  }
  return { kind: "socket", path: resolve(cwd, path), listen: listen !== undefined };
}

function pcapUplink(text: string, words: readonly string[], cwd: string): UplinkConfig {
  const settings = new Settings(text, words, ["write", "play"]);
  const [write, play] = [settings.one("write"), settings.one("play")];
  if (write === undefined && play === undefined) {
    throw settings.bad("it has no file", "say pcap,write=file.pcapng, pcap,play=file.pcap, or both");
  }
  return {
    kind: "pcap",
    ...(write !== undefined && { write: resolve(cwd, write) }),
    ...(play !== undefined && { play: resolve(cwd, play) }),
  };
}

function withoutSettings(text: string, words: readonly string[], kind: "none" | "passt"): UplinkConfig {
  new Settings(text, words, []);
  return { kind };
}

/**
 * Reads an uplink.
 * @param cwd folder that relative paths belong to
 * @throws BadInput
 */
export function parseUplink(text: string, cwd: string): UplinkConfig {
  const [kind = "", ...words] = text.split(",").map((word) => word.trim());
  switch (kind) {
    case "none":
    case "passt":
      return withoutSettings(text, words, kind);
    case "user":
      return userUplink(text, words);
    case "tap":
      return tapUplink(text, words);
    case "socket":
      return socketUplink(text, words, cwd);
    case "pcap":
      return pcapUplink(text, words, cwd);
    default:
      throw bad("uplink", text, `"${kind}" is no kind of uplink`, "use user, tap, socket, pcap, passt or none");
  }
}

/**
 * Reads `[switch=]uplink`.
 * @throws BadInput
 */
export function parseNetwork(text: string, cwd: string): NetworkOption {
  const named = /^([^=,]*)=(.*)$/s.exec(text);
  if (named === null) return { name: DEFAULT_SWITCH, uplink: parseUplink(text, cwd) };
  return { name: parseSwitchName(named[1]!), uplink: parseUplink(named[2]!, cwd) };
}

/** Cuts at colons outside of brackets; brackets are taken off. */
function colonWords(text: string): string[] {
  return [...text.matchAll(/(?:^|:)(\[[^\]]*\]|[^:]*)/g)].map((match) => match[1]!.replace(/^\[(.*)\]$/, "$1"));
}

function isAddress(text: string): boolean {
  return !text.includes("/") && parsed(text) !== undefined;
}

/**
 * Reads a forwarded port.
 * @throws BadInput
 */
export function parseForward(text: string): ForwardConfig {
  const remedy = "write tcp:8080:80, or in full tcp:127.0.0.1:8080:10.0.2.15:80";
  const [protocol, ...rest] = colonWords(text);
  if (protocol !== "tcp" && protocol !== "udp") throw bad("forward", text, "it begins with no protocol", remedy);
  const hostAddress = rest.length > 2 && portOf(rest[0]!) === undefined ? rest.shift()! : LOOPBACK;
  const hostText = rest.shift() ?? "";
  const guestAddress = rest.length > 1 ? rest.shift()! : "";
  const guestText = rest.shift() ?? "";
  if (rest.length > 0) throw bad("forward", text, "it has too many parts", remedy);
  for (const address of [hostAddress, guestAddress]) {
    if (address !== "" && !isAddress(address)) throw bad("forward", text, `"${address}" is no IP address`, remedy);
  }
  const [hostPort, guestPort] = [portOf(hostText), portOf(guestText)];
  if (hostPort === undefined) throw bad("forward", text, `"${hostText}" is no port of the host`, remedy);
  if (guestPort === undefined) throw bad("forward", text, `"${guestText}" is no port of the guest`, remedy);
  return { protocol, hostAddress, hostPort, guestAddress, guestPort };
}

/** A forward as a user writes it. */
export function formatForward({ protocol, hostAddress, hostPort, guestAddress, guestPort }: ForwardConfig): string {
  const bracketed = (address: string) => (address.includes(":") ? `[${address}]` : address);
  const guest = guestAddress === "" ? "" : `${bracketed(guestAddress)}:`;
  return `${protocol}:${bracketed(hostAddress)}:${hostPort}:${guest}${guestPort}`;
}

/** An uplink as a user writes it. */
export function formatUplink(uplink: UplinkConfig): string {
  const words: string[] = [uplink.kind];
  const add = (key: string, value: string | number | undefined) => {
    if (value !== undefined) words.push(`${key}=${value}`);
  };
  if (uplink.kind === "user") {
    add("subnet", uplink.subnet);
    for (const port of uplink.hostPorts ?? []) add("host", port);
  } else if (uplink.kind === "tap") {
    add("name", uplink.name);
    add("bridge", uplink.bridge);
  } else if (uplink.kind === "socket") add(uplink.listen ? "listen" : "connect", uplink.path);
  else if (uplink.kind === "pcap") {
    add("write", uplink.write);
    add("play", uplink.play);
  }
  return words.join(",");
}
