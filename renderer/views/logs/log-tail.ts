/** The end of a log, looked at again while it is shown. */
import { call, type Parameters } from "../../lib/rpc/client.ts";

export type Which = Parameters<"logRead">["which"];

const LOOK_MS = 2000;
/** Characters that are shown. */
const MOST = 400_000;

export class LogTail {
  private readonly which: Which;
  private readonly show: (text: string) => void;
  private text = "";
  private next: number | undefined;
  private timer: number | undefined;
  private stopped = false;

  constructor(which: Which, show: (text: string) => void) {
    this.which = which;
    this.show = show;
  }

  /** `failed` is told the first error, after which it ends. */
  start(failed: (error: unknown) => void): void {
    const look = async () => {
      try {
        await this.read();
        if (!this.stopped) this.timer = window.setTimeout(look, LOOK_MS);
      } catch (error) {
        if (!this.stopped) failed(error);
      }
    };
    void look();
  }

  private async read(): Promise<void> {
    for (;;) {
      const at = this.next === undefined ? {} : { offset: this.next };
      const piece = await call("logRead", { which: this.which, ...at });
      if (this.stopped) return;
      // A log that was put aside begins anew.
      const isAnew = this.next !== undefined && piece.offset !== this.next;
      this.next = piece.offset + piece.bytes;
      if (piece.bytes > 0 || isAnew) {
        this.text = ((isAnew ? "" : this.text) + piece.text).slice(-MOST);
        this.show(this.text);
      }
      if (this.next >= piece.end || piece.bytes === 0) return;
    }
  }

  stop(): void {
    this.stopped = true;
    window.clearTimeout(this.timer);
  }
}
