/** The time of a domain, which stands still until the guest runs for the first time and then follows the host's clock. */
export class DomainClock {
  /** Domain time at `since` of performance.now(). */
  private base: number;
  private since: number | undefined;

  /** @param base domain time now, ns: 0, or where a restored guest was stopped */
  constructor(base: number) {
    this.base = base;
  }

  /** Domain time, ns. */
  readonly now = (): number =>
    this.since === undefined ? this.base : this.base + (performance.now() - this.since) * 1e6;

  /** The clock runs from here on. */
  start(): void {
    this.since ??= performance.now();
  }

  /** Puts a clock forward. */
  advance(nanoseconds: number): void {
    this.base += Math.max(0, nanoseconds);
  }
}
