import { DEFAULT_SWITCH, type ForwardConfig, type VifConfig } from "../engine/domain/network-config.ts";
import { formatMac, randomMac } from "../engine/network/address.ts";
import { type DiskOption, parseDisk } from "./disk-option.ts";
import { BadInput } from "./failure.ts";
import { formatForward, type NetworkOption, parseForward, parseNetwork } from "./network-option.ts";
import { parseVif } from "./vif-option.ts";

/** Guest RAM when the user says nothing, in MiB. */
export const DEFAULT_MEMORY_MIB = 512;
/** Image that runs when the user names none. */
export const DEFAULT_IMAGE = "debian-shell";
/** Longest --timeout, in seconds: what a timer of the host can hold (2^31 - 1 ms). */
const LONGEST_TIMEOUT_S = 2_147_483;

/** What commander hands over: text as the user typed it. */
export interface RawRunOptions {
  readonly image?: string;
  readonly kernel?: string;
  readonly initrd?: string;
  readonly memory?: string;
  readonly cmdline?: string;
  readonly exec?: string;
  readonly timeout?: string;
  readonly disk?: readonly string[];
  readonly vif?: readonly string[];
  readonly network?: readonly string[];
  readonly forward?: readonly string[];
  readonly json?: boolean;
  readonly verbose?: boolean;
}

/** What a run is to do, checked. */
export interface RunOptions {
  /** Image that provides what `kernel` and `initrd` do not. */
  readonly image: string;
  readonly kernel: string | undefined;
  readonly initrd: string | undefined;
  readonly memoryMiB: number;
  /** Kernel command line in place of the image's. */
  readonly cmdline: string | undefined;
  /** Shell command to run in the guest instead of an interactive session. */
  readonly exec: string | undefined;
  /** Most seconds that the guest may run, counted from the start of its domain. */
  readonly timeoutSeconds: number | undefined;
  readonly disks: readonly DiskOption[];
  readonly vifs: readonly VifConfig[];
  /** Switches that are made first. */
  readonly networks: readonly NetworkOption[];
  /** Ports of the host, led through the default switch. */
  readonly forwards: readonly ForwardConfig[];
  readonly json: boolean;
  readonly verbose: boolean;
}

function parseMemory(text: string): number {
  const match = /^([0-9]+)(?:M|MiB)?$/i.exec(text.trim());
  const value = match ? Number(match[1]) : Number.NaN;
  if (!Number.isSafeInteger(value) || value === 0) {
    throw new BadInput("bad-option", `--memory ${text} is no whole number of MiB`, "say for example --memory 512");
  }
  return value;
}

function parseTimeout(text: string): number {
  const value = /^[0-9]+(\.[0-9]+)?$/.test(text.trim()) ? Number(text) : Number.NaN;
  if (!(value > 0 && value <= LONGEST_TIMEOUT_S)) {
    throw new BadInput(
      "bad-option",
      `--timeout ${text} is no number of seconds between 0 and ${LONGEST_TIMEOUT_S}`,
      "say for example --timeout 60",
    );
  }
  return value;
}

function notEmpty(option: string, value: string | undefined): string | undefined {
  if (value === "") throw new BadInput("bad-option", `--${option} is empty`, "name a file or leave the option out");
  return value;
}

function parseDisks(texts: readonly string[], cwd: string): DiskOption[] {
  const disks = texts.map((text) => parseDisk(text, cwd));
  const twice = disks.find((disk, index) => disks.findIndex((other) => other.vdev === disk.vdev) !== index);
  if (twice !== undefined) {
    throw new BadInput("bad-option", `two disks are called ${twice.name}`, "give one of them another vdev");
  }
  return disks;
}

/** An interface with the address that forwards mean: known before the guest is. */
function forwardTarget(vif: VifConfig): VifConfig {
  return { ...vif, mac: vif.mac ?? formatMac(randomMac()) };
}

function firstTwice<T>(values: readonly T[]): T | undefined {
  return values.find((value, index) => value !== undefined && values.indexOf(value) !== index);
}

/** Interfaces, switches and forwards; a network or a forward alone means one interface on it. */
function parseNetworking(raw: RawRunOptions, cwd: string): Pick<RunOptions, "vifs" | "networks" | "forwards"> {
  const named = (raw.network ?? []).map((text) => parseNetwork(text, cwd));
  const forwards = (raw.forward ?? []).map(parseForward);
  const fail = (what: string, remedy: string) => new BadInput("bad-option", what, remedy);
  const name = firstTwice(named.map((network) => network.name));
  if (name !== undefined) throw fail(`two networks are called ${name}`, "name one: --network other=user");
  const port = firstTwice(
    forwards.map(({ protocol, hostAddress, hostPort }) => `${protocol}:${hostAddress}:${hostPort}`),
  );
  if (port !== undefined) throw fail(`${port} is forwarded twice`, "choose another port of the host");
  const [forward] = forwards;
  const networks: NetworkOption[] =
    forward !== undefined && !named.some((network) => network.name === DEFAULT_SWITCH)
      ? [{ name: DEFAULT_SWITCH, uplink: { kind: "user" } }, ...named]
      : named;
  const main = networks.find((network) => network.name === DEFAULT_SWITCH);
  if (forward !== undefined && main?.uplink.kind !== "user") {
    throw fail(
      `--forward ${formatForward(forward)} needs the uplink user`,
      "say --network user, or leave --forward out",
    );
  }
  const texts = raw.vif ?? [];
  const given =
    texts.length > 0 ? texts.map(parseVif) : networks.slice(0, 1).map((each) => parseVif(`bridge=${each.name}`));
  const vifs = forward === undefined ? given : given.map(forwardTarget);
  const mac = firstTwice(vifs.map((vif) => vif.mac));
  if (mac !== undefined) throw fail(`two interfaces have the MAC address ${mac}`, "choose another, or leave mac out");
  const devid = firstTwice(vifs.map((vif) => vif.handle));
  if (devid !== undefined) throw fail(`two interfaces have devid=${devid}`, "choose another, or leave devid out");
  const known = [DEFAULT_SWITCH, ...networks.map((network) => network.name)];
  const stray = vifs.find((vif) => vif.backend === undefined && !known.includes(vif.bridge));
  if (stray !== undefined) {
    throw fail(`there is no switch ${stray.bridge}`, `say --network ${stray.bridge}=none, or bridge=${DEFAULT_SWITCH}`);
  }
  // An interface with an address of its own gets no other by DHCP.
  const own = vifs.find((vif) => vif.bridge === DEFAULT_SWITCH)?.ips.find((ip) => !/[:/]/.test(ip));
  const aimed = forwards.map((each) =>
    own !== undefined && each.guestAddress === "" ? { ...each, guestAddress: own } : each,
  );
  return { vifs, networks, forwards: aimed };
}

/**
 * Checks the options of `domlab run`.
 * @param cwd folder that relative targets of disks belong to
 * @throws BadInput or DiskError, one line with cause and remedy
 */
export function parseRunOptions(raw: RawRunOptions, cwd = process.cwd()): RunOptions {
  const kernel = notEmpty("kernel", raw.kernel);
  const initrd = notEmpty("initrd", raw.initrd);
  if (raw.image !== undefined && kernel !== undefined && initrd !== undefined) {
    throw new BadInput("bad-option", "--image and --kernel with --initrd exclude each other", "leave one out");
  }
  if (raw.exec?.includes("\0")) {
    throw new BadInput("bad-option", "--exec holds a zero byte, which no shell takes", "remove it");
  }
  if (raw.exec !== undefined && initrd !== undefined && /(^|\s)rdinit=/.test(raw.cmdline ?? "")) {
    throw new BadInput(
      "bad-option",
      "--cmdline holds rdinit=, which --exec sets itself when the initrd is yours",
      "leave one of the two out",
    );
  }
  return {
    image: raw.image ?? DEFAULT_IMAGE,
    kernel,
    initrd,
    memoryMiB: raw.memory === undefined ? DEFAULT_MEMORY_MIB : parseMemory(raw.memory),
    cmdline: raw.cmdline,
    exec: raw.exec,
    timeoutSeconds: raw.timeout === undefined ? undefined : parseTimeout(raw.timeout),
    disks: parseDisks(raw.disk ?? [], cwd),
    ...parseNetworking(raw, cwd),
    json: raw.json ?? false,
    verbose: raw.verbose ?? false,
  };
}
