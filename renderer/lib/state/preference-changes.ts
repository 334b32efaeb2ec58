/** How several windows of one browser share what is remembered: each writes what it changed, and takes over the rest. */

type Values = Readonly<Record<string, unknown>>;

/** What the storage holds; nothing for text that is no object. */
export function parsePreferences(text: string | null): Values {
  try {
    const found: unknown = JSON.parse(text ?? "{}");
    return typeof found === "object" && found !== null && !Array.isArray(found) ? (found as Values) : {};
  } catch {
    return {};
  }
}

const same = (a: unknown, b: unknown) => JSON.stringify(a) === JSON.stringify(b);

/** The keys of `now` whose values are not those of `before`, with their values. */
export function changedKeys(before: Values, now: Values): Values {
  return Object.fromEntries(Object.entries(now).filter(([key, value]) => !same(before[key], value)));
}
