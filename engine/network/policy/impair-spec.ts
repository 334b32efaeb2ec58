/**
 * Impairments as text: `delay=50ms,jitter=10ms,loss=1%,duplicate=0.1%,reorder=5%`. The words and what they do are those
 * of Linux's netem (tc-netem(8)).
 */
import { attempt, type Parsed, PolicyError } from "./errors.ts";
import { parseRate } from "./rate.ts";
import { suggest } from "./words.ts";

/** What is done to frames. Shares are from 0 to 1, times in nanoseconds. */
export interface ImpairmentSpec {
  readonly delayNs: number;
  readonly jitterNs: number;
  /** "uniform": delay ± jitter, all alike; "normal": jitter is the standard deviation. */
  readonly distribution: "uniform" | "normal";
  readonly loss: number;
  readonly duplicate: number;
  /** Share of frames that overtake those that wait. */
  readonly reorder: number;
  /** Only every so manieth frame may overtake. */
  readonly gap: number;
  /** Share of frames with one bit turned. */
  readonly corrupt: number;
  /** Bytes a second; 0: not limited. */
  readonly bytesPerSecond: number;
  /** Frames and bytes that may wait; what comes then is dropped. */
  readonly frames: number;
  readonly bytes: number;
  /** Seed of the dice; undefined: other ones each time. */
  readonly seed: number | undefined;
}

type Draft = { -readonly [K in keyof ImpairmentSpec]: ImpairmentSpec[K] };

export const NO_IMPAIRMENT: ImpairmentSpec = {
  delayNs: 0,
  jitterNs: 0,
  distribution: "uniform",
  loss: 0,
  duplicate: 0,
  reorder: 0,
  gap: 1,
  corrupt: 0,
  bytesPerSecond: 0,
  frames: 1000,
  bytes: 4 * 1024 * 1024,
  seed: undefined,
};

const units: Readonly<Record<string, number>> = { us: 1e3, ms: 1e6, s: 1e9 };
const LONGEST_NS = 60e9;

/** A value in the text, and where it stands. */
interface Value {
  readonly text: string;
  readonly line: string;
  readonly offset: number;
}

function wrong(value: Value, what: string, remedy: string): PolicyError {
  return new PolicyError(what, remedy, value.line, value.offset, value.text.length);
}

function time(value: Value): number {
  const found = /^(\d{1,9}(?:\.\d{1,6})?)(us|ms|s)$/.exec(value.text);
  const ns = Number(found?.[1] ?? Number.NaN) * (units[found?.[2] ?? ""] ?? 0);
  if (found === null) throw wrong(value, `"${value.text}" is no time`, "write it like 50ms, 200us or 1s");
  if (ns > LONGEST_NS) throw wrong(value, "time too long", "use at most 60s");
  return ns;
}

function share(value: Value): number {
  const found = /^(\d{1,3}(?:\.\d{1,9})?)%$/.exec(value.text);
  if (found === null && /^\d+(\.\d+)?$/.test(value.text)) {
    throw wrong(value, "share without %", `write ${value.text}%`);
  }
  const percent = Number(found?.[1] ?? Number.NaN);
  if (found === null || percent > 100) throw wrong(value, `"${value.text}" is no share`, "write 0% to 100%");
  return percent / 100;
}

function count(value: Value, least: number, most: number): number {
  const number = /^\d{1,10}$/.test(value.text) ? Number(value.text) : -1;
  if (number < least || number > most) {
    throw wrong(value, `"${value.text}" is out of range`, `write a number from ${least} to ${most}`);
  }
  return number;
}

function bandwidth(value: Value): number {
  const rate = parseRate(value.text);
  if (!rate.ok) throw wrong(value, rate.error.what, rate.error.remedy);
  return (rate.value.bytes * 1e6) / rate.value.intervalUs;
}

function distribution(value: Value): "uniform" | "normal" {
  if (value.text === "uniform" || value.text === "normal") return value.text;
  throw wrong(value, `unknown distribution "${value.text}"`, "use uniform or normal");
}

const keys: ReadonlyMap<string, (value: Value) => Partial<ImpairmentSpec>> = new Map<
  string,
  (value: Value) => Partial<ImpairmentSpec>
>([
  ["delay", (value) => ({ delayNs: time(value) })],
  ["jitter", (value) => ({ jitterNs: time(value) })],
  ["distribution", (value) => ({ distribution: distribution(value) })],
  ["loss", (value) => ({ loss: share(value) })],
  ["duplicate", (value) => ({ duplicate: share(value) })],
  ["reorder", (value) => ({ reorder: share(value) })],
  ["gap", (value) => ({ gap: count(value, 1, 1_000_000) })],
  ["corrupt", (value) => ({ corrupt: share(value) })],
  ["rate", (value) => ({ bytesPerSecond: bandwidth(value) })],
  ["limit", (value) => ({ frames: count(value, 1, 100_000) })],
  ["bytes", (value) => ({ bytes: count(value, 65_536, 1 << 28) })],
  ["seed", (value) => ({ seed: count(value, 0, 0xffff_ffff) })],
]);

/** Reads impairments; "none" and the empty text mean none. */
export function parseImpairment(text: string): Parsed<ImpairmentSpec> {
  return attempt(() => {
    const draft: Draft = { ...NO_IMPAIRMENT };
    if (text.trim() === "" || text.trim() === "none") return draft;
    const places = new Map<string, number>();
    let offset = 0;
    for (const part of text.split(",")) {
      readPart(draft, places, part, text, offset);
      offset += part.length + 1;
    }
    check(draft, places, text);
    return draft;
  });
}

function readPart(draft: Draft, places: Map<string, number>, part: string, line: string, offset: number): void {
  const equals = part.indexOf("=");
  const key = (equals < 0 ? part : part.slice(0, equals)).trim();
  const read = keys.get(key);
  const at = offset + (part.length - part.trimStart().length);
  if (read === undefined) {
    const all = [...keys.keys()];
    throw new PolicyError(
      `unknown impairment "${key}"`,
      suggest(key, all, `there are ${all.join(", ")}`),
      line,
      at,
      key.length,
    );
  }
  if (places.has(key)) throw new PolicyError(`${key} given twice`, "write it once", line, at, key.length);
  if (equals < 0) throw new PolicyError(`${key} without a value`, `write ${key}=…`, line, at, key.length);
  places.set(key, at);
  const raw = part.slice(equals + 1);
  const value = raw.trim();
  const place = offset + equals + 1 + (raw.length - raw.trimStart().length);
  Object.assign(draft, read({ text: value, line, offset: place }));
}

/** What only makes sense together. */
function check(draft: Draft, places: ReadonlyMap<string, number>, line: string): void {
  const needs = (key: string, other: string, has: boolean, example: string) => {
    const at = places.get(key);
    if (at !== undefined && !has) {
      throw new PolicyError(`${key} without ${other}`, `add for example ${example}`, line, at, key.length);
    }
  };
  needs("jitter", "delay", draft.delayNs > 0, "delay=50ms");
  needs("distribution", "jitter", draft.jitterNs > 0, "jitter=10ms");
  // Frames overtake only where frames wait.
  needs("reorder", "delay or rate", draft.delayNs > 0 || draft.bytesPerSecond > 0, "delay=50ms");
  needs("gap", "reorder", draft.reorder > 0, "reorder=5%");
}

/** Whether frames pass as if there were no impairment. */
export function isNoImpairment(spec: ImpairmentSpec): boolean {
  return spec.delayNs + spec.loss + spec.duplicate + spec.corrupt + spec.bytesPerSecond === 0;
}

function timeText(ns: number): string {
  if (ns >= 1e9) return `${ns / 1e9}s`;
  return ns >= 1e6 ? `${ns / 1e6}ms` : `${ns / 1e3}us`;
}

/** The impairments as parseImpairment reads them; "none". */
export function formatImpairment(spec: ImpairmentSpec): string {
  const percent = (value: number) => `${Number((value * 100).toFixed(9))}%`;
  const parts: string[] = [];
  if (spec.delayNs > 0) parts.push(`delay=${timeText(spec.delayNs)}`);
  if (spec.jitterNs > 0) parts.push(`jitter=${timeText(spec.jitterNs)}`);
  if (spec.jitterNs > 0 && spec.distribution !== "uniform") parts.push(`distribution=${spec.distribution}`);
  if (spec.loss > 0) parts.push(`loss=${percent(spec.loss)}`);
  if (spec.duplicate > 0) parts.push(`duplicate=${percent(spec.duplicate)}`);
  if (spec.reorder > 0) parts.push(`reorder=${percent(spec.reorder)}`);
  if (spec.reorder > 0 && spec.gap > 1) parts.push(`gap=${spec.gap}`);
  if (spec.corrupt > 0) parts.push(`corrupt=${percent(spec.corrupt)}`);
  if (spec.bytesPerSecond > 0) parts.push(`rate=${Math.round(spec.bytesPerSecond * 8)}b/s`);
  if (spec.frames !== NO_IMPAIRMENT.frames) parts.push(`limit=${spec.frames}`);
  if (spec.bytes !== NO_IMPAIRMENT.bytes) parts.push(`bytes=${spec.bytes}`);
  if (spec.seed !== undefined) parts.push(`seed=${spec.seed}`);
  return parts.length === 0 ? "none" : parts.join(",");
}
