/**
 * Rates as xl writes them (xl-network-configuration(5), "rate"): "10Mb/s", "250KB/s", "1MB/s@20ms".
 *
 * K, M, G are powers of 1000; b are bits, B are bytes. The interval is how often credit comes, 50 ms unless given. In
 * XenStore the backend's node `rate` has "bytes,microseconds": the credit of one interval, and the interval.
 */
import { attempt, type Parsed, PolicyError } from "./errors.ts";

export interface Rate {
  /** Credit of one interval. */
  readonly bytes: number;
  /** Microseconds. */
  readonly intervalUs: number;
}

/** libxl's and the backends' fields have 32 bits. */
const MOST = 0xffff_ffff;
const DEFAULT_INTERVAL_US = 50_000;
const multipliers: Readonly<Record<string, number>> = { "": 1, K: 1e3, M: 1e6, G: 1e9 };
const intervalUnits: Readonly<Record<string, number>> = { us: 1, ms: 1e3, s: 1e6 };
const EXAMPLE = "write for example 10Mb/s, 250KB/s or 1MB/s@20ms";

/**
 * Reads xl's `rate=`. A bare number is bytes a second, and "/s" may be left out. An interval needs its unit: xl's
 * manual and xl's parser disagree about what a bare one means.
 */
export function parseRate(text: string): Parsed<Rate> {
  return attempt(() => {
    const at = text.indexOf("@");
    const speed = at < 0 ? text : text.slice(0, at);
    const perSecond = bytesPerSecond(speed, text);
    const intervalUs = at < 0 ? DEFAULT_INTERVAL_US : interval(text.slice(at + 1), text, at + 1);
    const bytes = Math.floor((perSecond * intervalUs) / 1e6);
    if (bytes < 1) {
      throw new PolicyError("less than a byte an interval", "give a higher rate or a longer interval", text, 0, 1);
    }
    if (bytes > MOST) {
      throw new PolicyError("rate too high", "leave rate= out for no limit", text, 0, speed.length);
    }
    return { bytes, intervalUs };
  });
}

function bytesPerSecond(speed: string, whole: string): number {
  const found = /^(\d{1,10})([KMG]?)([bB]?)(\/s)?$/.exec(speed);
  if (found === null) throw new PolicyError(`"${speed}" is no rate`, EXAMPLE, whole, 0, speed.length);
  const [, digits = "", prefix = "", unit = ""] = found;
  if (prefix !== "" && unit === "") {
    throw new PolicyError(
      `rate without b or B`,
      `write ${digits}${prefix}b/s (bits) or ${digits}${prefix}B/s`,
      whole,
      0,
      speed.length,
    );
  }
  const amount = Number(digits) * (multipliers[prefix] ?? 1);
  if (amount === 0) throw new PolicyError("rate of 0", "leave rate= out for no limit", whole, 0, digits.length);
  return unit === "b" ? amount / 8 : amount;
}

function interval(text: string, whole: string, offset: number): number {
  const found = /^(\d{1,10})(us|ms|s)?$/.exec(text);
  if (found === null) {
    throw new PolicyError(`"${text}" is no interval`, "write for example @50ms", whole, offset, text.length);
  }
  const [, digits = "", unit] = found;
  if (unit === undefined) {
    throw new PolicyError(
      "interval without a unit",
      `write @${digits}us, @${digits}ms or @${digits}s`,
      whole,
      offset,
      text.length,
    );
  }
  const microseconds = Number(digits) * (intervalUnits[unit] ?? 1);
  if (microseconds === 0 || microseconds > MOST) {
    throw new PolicyError("interval out of range", "use 1us to 4294s", whole, offset, text.length);
  }
  return microseconds;
}

/** The value of the XenStore node `rate`. */
export function formatRateNode(rate: Rate): string {
  return `${rate.bytes},${rate.intervalUs}`;
}

/** Reads the XenStore node `rate`; undefined when it is not "bytes,usecs" with numbers of 32 bits above 0. */
export function parseRateNode(text: string): Rate | undefined {
  const found = /^(\d{1,10}),(\d{1,10})$/.exec(text.trim());
  if (found === null) return undefined;
  const bytes = Number(found[1]);
  const intervalUs = Number(found[2]);
  if (bytes < 1 || intervalUs < 1 || bytes > MOST || intervalUs > MOST) return undefined;
  return { bytes, intervalUs };
}

/** "10.00 Mbit/s every 50 ms" for people. */
export function describeRate(rate: Rate): string {
  const bits = (rate.bytes * 8e6) / rate.intervalUs;
  const [scale, unit] = bits >= 1e9 ? [1e9, "Gbit/s"] : bits >= 1e6 ? [1e6, "Mbit/s"] : [1e3, "kbit/s"];
  return `${(bits / scale).toFixed(2)} ${unit} every ${rate.intervalUs / 1000} ms`;
}
