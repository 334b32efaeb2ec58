/** Reading of a hostile peer's keys: a value is a number in its range, a word of a list, or missing; never anything else. */
import type { StoreAccess } from "./store-access.ts";

/** Why a key's value cannot be used; one line. */
export interface KeyProblem {
  readonly problem: string;
}

export type KeyResult<T> = { readonly value: T } | KeyProblem;

/** A value as a log and an error node may show it: short, printable. */
export function quoteValue(value: string): string {
  const clean = value.replace(/[^\x20-\x7e]/g, "?");
  return JSON.stringify(clean.length > 40 ? `${clean.slice(0, 40)}...` : clean);
}

/** A decimal number as XenStore's keys hold it; undefined for anything else. */
export function parseDecimal(text: string): number | undefined {
  if (!/^\d{1,16}$/.test(text)) return undefined;
  const number = Number(text);
  return Number.isSafeInteger(number) ? number : undefined;
}

/** Reads a decimal number from minimum to maximum; a missing key is `fallback`, or a problem when there is none. */
export async function readNumber(
  store: StoreAccess,
  directory: string,
  key: string,
  range: { readonly minimum: number; readonly maximum: number; readonly fallback?: number },
): Promise<KeyResult<number>> {
  const text = await store.read(`${directory}/${key}`);
  if (text === undefined) {
    return range.fallback === undefined ? { problem: `${key} is missing` } : { value: range.fallback };
  }
  const value = parseDecimal(text);
  if (value === undefined) return { problem: `${key} is ${quoteValue(text)}, not a number` };
  if (value < range.minimum || value > range.maximum) {
    return { problem: `${key} is ${value}, outside ${range.minimum}…${range.maximum}` };
  }
  return { value };
}

/** Reads a boolean key: only "1" (and any other number but 0) is true; missing or senseless values are false. */
export async function readFlag(store: StoreAccess, directory: string, key: string): Promise<boolean> {
  const text = await store.read(`${directory}/${key}`);
  const value = text === undefined ? undefined : parseDecimal(text);
  return value !== undefined && value !== 0;
}

/** Reads a key that holds JSON; missing: undefined. */
export async function readJson(store: StoreAccess, directory: string, key: string): Promise<KeyResult<unknown>> {
  const text = await store.read(`${directory}/${key}`);
  try {
    return { value: text === undefined ? undefined : JSON.parse(text) };
  } catch {
    return { problem: `${key} is not JSON` };
  }
}
