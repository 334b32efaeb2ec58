/** Numbers and times as people read them. */

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** "1.5 GiB"; three digits at most. */
export function bytes(value: number): string {
  let unit = 0;
  let amount = value;
  while (amount >= 999.5 && unit < UNITS.length - 1) {
    amount /= 1024;
    unit++;
  }
  const digits = unit === 0 || amount >= 99.95 ? 0 : amount >= 9.995 ? 1 : 2;
  return `${trim(amount.toFixed(digits))} ${UNITS[unit]}`;
}

const trim = (text: string) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);

/** "12.3 MiB/s"; a dash for nothing. */
export function rate(bytesPerSecond: number): string {
  return bytesPerSecond < 1 ? "–" : `${bytes(bytesPerSecond)}/s`;
}

/** A fraction as "42 %". */
export function percent(fraction: number): string {
  return `${Math.round(fraction * 100)} %`;
}

/** "1 234". */
export function count(value: number): string {
  return Math.round(value).toLocaleString("en").replaceAll(",", " ");
}

export function dateTime(iso: string): string {
  return new Date(iso).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const STEPS: readonly [Intl.RelativeTimeFormatUnit, number][] = [
  ["day", 86_400],
  ["hour", 3600],
  ["minute", 60],
];

/** "3 minutes ago". */
export function ago(iso: string, now = Date.now()): string {
  const seconds = (Date.parse(iso) - now) / 1000;
  for (const [unit, length] of STEPS) {
    if (Math.abs(seconds) >= length) return relative.format(Math.round(seconds / length), unit);
  }
  return "just now";
}

/** "10G", "512 MiB", "1.5T" in bytes; undefined when it is none. Without a unit: bytes. */
export function parseBytes(text: string): number | undefined {
  const match = /^\s*(\d+(?:[.,]\d+)?)\s*([kmgtp]?)(?:i?b)?\s*$/i.exec(text);
  if (match === null) return undefined;
  const factor = 1024 ** ["", "k", "m", "g", "t", "p"].indexOf(match[2]!.toLowerCase());
  return Math.round(Number(match[1]!.replace(",", ".")) * factor);
}

/** "1 machine", "2 machines". */
export function plural(amount: number, one: string, many = `${one}s`): string {
  return `${amount} ${amount === 1 ? one : many}`;
}
