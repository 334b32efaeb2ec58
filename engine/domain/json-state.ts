export type Json = string | number | boolean | null | Json[] | { [key: string]: Json };

/** Anything made of plain values as JSON: 64-bit integers and byte arrays become hexadecimal text. */
export function toJson(value: unknown): Json {
  if (typeof value === "bigint") return `0x${value.toString(16)}`;
  if (typeof value === "string" || typeof value === "number" || typeof value === "boolean") return value;
  if (value instanceof Uint8Array) return Buffer.from(value).toString("hex");
  if (Array.isArray(value)) return value.map(toJson);
  if (typeof value !== "object" || value === null) return null;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, toJson(item)]));
}
