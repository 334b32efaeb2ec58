/** What is typed, in order: one call under way at a time, and what comes meanwhile goes in the next one. */

/** Bytes of one call, before base64. */
const PIECE = 64 * 1024;

export class InputQueue {
  private readonly send: (bytes: Uint8Array) => Promise<unknown>;
  private readonly failed: (error: unknown) => void;
  private waiting: Uint8Array[] = [];
  private sending = false;

  /**
   * @param send takes at most 64 KiB; the next call waits for its end
   * @param failed is told why a piece could not be sent; what waited behind it is dropped then
   */
  constructor(send: (bytes: Uint8Array) => Promise<unknown>, failed: (error: unknown) => void) {
    this.send = send;
    this.failed = failed;
  }

  push(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    this.waiting.push(bytes);
    if (!this.sending) void this.drain();
  }

  /** Forgets what was not sent yet. */
  clear(): void {
    this.waiting = [];
  }

  private next(): Uint8Array {
    const total = this.waiting.reduce((sum, { length }) => sum + length, 0);
    const piece = new Uint8Array(Math.min(total, PIECE));
    let at = 0;
    while (at < piece.length) {
      const first = this.waiting[0]!;
      const part = first.subarray(0, piece.length - at);
      piece.set(part, at);
      at += part.length;
      if (part.length === first.length) this.waiting.shift();
      else this.waiting[0] = first.subarray(part.length);
    }
    return piece;
  }

  private async drain(): Promise<void> {
    this.sending = true;
    try {
      while (this.waiting.length > 0) await this.send(this.next());
    } catch (error) {
      this.clear();
      this.failed(error);
    } finally {
      this.sending = false;
    }
  }
}
