/** Rates from counters that only grow, of devices that come and go. */

export interface Counted {
  readonly key: string;
  readonly counters: Readonly<Record<string, number>>;
}

/** Per second since the look before, by the device's key and the counter's name; nothing at the first look. */
export class Rates {
  private before: { readonly at: number; readonly found: ReadonlyMap<string, Counted["counters"]> } | undefined;

  /** @param at milliseconds of a clock that runs evenly */
  look(found: readonly Counted[], at: number): Map<string, Record<string, number>> {
    const rates = new Map<string, Record<string, number>>();
    const { before } = this;
    const seconds = before === undefined ? 0 : (at - before.at) / 1000;
    for (const { key, counters } of found) {
      const earlier = before?.found.get(key);
      if (earlier === undefined || seconds <= 0) continue;
      // A device that was made anew counts from zero again.
      const change = (name: string, value: number) => Math.max(0, value - (earlier[name] ?? 0)) / seconds;
      rates.set(key, Object.fromEntries(Object.entries(counters).map(([name, value]) => [name, change(name, value)])));
    }
    this.before = { at, found: new Map(found.map(({ key, counters }) => [key, counters])) };
    return rates;
  }
}
