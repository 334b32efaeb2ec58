/** The last bytes of a stream. */
export class Tail {
  private readonly limit: number;
  private bytes = new Uint8Array(0);

  constructor(limit: number) {
    this.limit = limit;
  }

  push(bytes: Uint8Array): void {
    const joined = new Uint8Array(this.bytes.length + bytes.length);
    joined.set(this.bytes);
    joined.set(bytes, this.bytes.length);
    this.bytes = joined.slice(Math.max(0, joined.length - this.limit));
  }

  /** As lines without their ends; the first may be cut. At most `count`, the last ones. */
  lines(count: number): string[] {
    const text = Buffer.from(this.bytes).toString("utf8");
    return text
      .replace(/\r?\n$/, "")
      .split(/\r?\n/)
      .slice(-count);
  }
}
