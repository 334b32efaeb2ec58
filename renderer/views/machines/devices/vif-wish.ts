/** An interface that somebody wants for a machine: what the fields of a form mean to the lab. */

export interface VifWish {
  bridge: string;
  mac: string;
  /** Between blanks. */
  ips: string;
  /** "10Mb/s" */
  rate: string;
  mtu: string;
  /** "10", or "10 20" for a trunk. */
  vlan: string;
  queues: string;
  spoofing: boolean;
  /** Name of the machine that serves it; empty: the network driver domain. */
  backend: string;
}

/** An interface as a machine's configuration has it (engine/domain/network-config.ts). */
export interface VifConfig {
  readonly bridge: string;
  readonly mac?: string;
  readonly ips?: readonly string[];
  readonly rate?: Rate;
  readonly mtu?: number;
  readonly vlan?: number | readonly number[];
  readonly queues?: number;
  readonly spoofing?: boolean;
  readonly backend?: string;
}

export interface Rate {
  readonly bytes: number;
  readonly intervalUs: number;
}

const INTERVAL_US = 50_000;
const FACTORS: Readonly<Record<string, number>> = { "": 1, K: 1e3, M: 1e6, G: 1e9 };

export function newVif(bridge = "lab0"): VifWish {
  return { bridge, mac: "", ips: "", rate: "", mtu: "", vlan: "", queues: "", spoofing: false, backend: "" };
}

/** xl's rates: "10Mb/s" are bits, "250KB/s" bytes. undefined for text that is none */
export function parseRate(text: string): Rate | undefined {
  const match = /^\s*(\d{1,10})\s*([KMG]?)([bB])(?:\/s)?\s*$/.exec(text);
  if (match === null) return undefined;
  const perSecond = (Number(match[1]) * FACTORS[match[2]!]!) / (match[3] === "b" ? 8 : 1);
  const bytes = Math.floor((perSecond * INTERVAL_US) / 1e6);
  return bytes < 1 ? undefined : { bytes, intervalUs: INTERVAL_US };
}

/** "10Mb/s" where that is exact, else bytes. */
export function rateText({ bytes, intervalUs }: Rate): string {
  const perSecond = Math.round((bytes * 1e6) / intervalUs);
  const bits = perSecond * 8;
  for (const unit of ["G", "M", "K"]) {
    const factor = FACTORS[unit]!;
    if (bits >= factor && bits % factor === 0) return `${bits / factor}${unit}b/s`;
  }
  return `${perSecond}B/s`;
}

/** The fields of an interface that is there. */
export function vifWishOf(vif: VifConfig): VifWish {
  return {
    bridge: vif.bridge,
    mac: vif.mac ?? "",
    ips: (vif.ips ?? []).join(" "),
    rate: vif.rate ? rateText(vif.rate) : "",
    mtu: vif.mtu === undefined ? "" : String(vif.mtu),
    vlan: vif.vlan === undefined ? "" : [vif.vlan].flat().join(" "),
    queues: vif.queues === undefined ? "" : String(vif.queues),
    spoofing: vif.spoofing ?? false,
    backend: vif.backend ?? "",
  };
}

/**
 * The interface that the fields mean, or what is wrong in one line; the lab checks the rest.
 * @param before the interface that is edited, whose other settings stay
 */
export function vifConfigOf(wish: VifWish, before: Partial<VifConfig> = {}): VifConfig | string {
  const rate = wish.rate.trim() === "" ? undefined : parseRate(wish.rate);
  if (wish.rate.trim() !== "" && rate === undefined) {
    return `${wish.rate} is not a rate; write 10Mb/s for bits or 250KB/s for bytes`;
  }
  const numbers = wish.vlan.split(/\s+/).filter((word) => word !== "");
  if (numbers.some((word) => !/^\d{1,4}$/.test(word))) return `${wish.vlan} is no VLAN; write 10, or 10 20 for a trunk`;
  const tags = numbers.map(Number);
  const { mac: _mac, rate: _rate, mtu: _mtu, vlan: _vlan, queues: _queues, backend: _backend, ...rest } = before;
  // A rate that reads the same keeps its interval.
  const sameRate = before.rate !== undefined && rateText(before.rate) === wish.rate.trim();
  return {
    ...rest,
    bridge: wish.bridge,
    ips: wish.ips.split(/[\s,]+/).filter((word) => word !== ""),
    spoofing: wish.spoofing,
    ...(wish.mac.trim() !== "" && { mac: wish.mac.trim() }),
    ...(rate && { rate: sameRate ? before.rate! : rate }),
    ...(wish.mtu !== "" && { mtu: Number(wish.mtu) }),
    ...(wish.queues !== "" && { queues: Number(wish.queues) }),
    ...(tags.length > 0 && { vlan: tags.length === 1 ? tags[0]! : tags }),
    ...(wish.backend !== "" && { backend: wish.backend }),
  };
}

/** The same for networkAttach, in xl's syntax. */
export function attachText(vif: VifConfig): string {
  const values = {
    bridge: vif.bridge,
    mac: vif.mac,
    ip: vif.ips && vif.ips.length > 0 ? vif.ips.join(" ") : undefined,
    rate: vif.rate && `${Math.ceil((vif.rate.bytes * 1e6) / vif.rate.intervalUs)}B/s@${vif.rate.intervalUs}us`,
    mtu: vif.mtu,
    vlan: vif.vlan === undefined ? undefined : [vif.vlan].flat().join(" "),
    queues: vif.queues,
    spoofing: vif.spoofing ? "on" : undefined,
    backend: vif.backend,
  };
  return Object.entries(values)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => `${key}=${value}`)
    .join(",");
}
