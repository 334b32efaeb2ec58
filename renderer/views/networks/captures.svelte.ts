/**
 * Captures that this window has begun. They go on while the user is elsewhere (at the console that makes the traffic,
 * say) and end with the connection.
 */

import { fromBase64 } from "../../lib/base64.ts";
import { download } from "../../lib/download.ts";
import { errorLine } from "../../lib/error-line.ts";
import { call } from "../../lib/rpc/client.ts";
import { notices } from "../../lib/state/notices.svelte.ts";

export interface Capture {
  /** The lab's number for it. */
  readonly id: number;
  readonly target: string;
  readonly filter: string;
  readonly begun: Date;
  frames: number;
  /** Frames that were not kept, as the disk did not keep up. */
  dropped: number;
  bytes: number;
  state: "running" | "saving" | "ended" | "lost";
  /** Why it has ended by itself. */
  why?: string;
}

const LOOK_MS = 1000;
const PIECE = 1 << 20;

class Captures {
  list = $state<Capture[]>([]);
  private timer: number | undefined;

  /** @throws LabError, for a filter that does not parse, say */
  async start(target: string, filter: string, snapLength: number): Promise<void> {
    const { capture } = await call("captureOpen", {
      target,
      ...(filter.trim() !== "" && { filter: filter.trim() }),
      ...(snapLength > 0 && { snapLength }),
    });
    const begun = new Date();
    this.list.push({ id: capture, target, filter, begun, frames: 0, dropped: 0, bytes: 0, state: "running" });
    this.timer ??= window.setInterval(() => void this.look(), LOOK_MS);
  }

  private async look(): Promise<void> {
    const running = this.list.filter(({ state }) => state === "running");
    if (running.length === 0) {
      window.clearInterval(this.timer);
      this.timer = undefined;
    }
    await Promise.all(running.map((capture) => this.count(capture)));
  }

  private async count(capture: Capture): Promise<void> {
    try {
      const { frames, dropped, end, full } = await call("captureRead", {
        capture: capture.id,
        offset: capture.bytes,
        bytes: 1,
      });
      Object.assign(capture, { frames, dropped, bytes: end });
      if (full && capture.state === "running") {
        Object.assign(capture, { state: "ended", why: "It is as long as it may be, or the network was made anew." });
      }
    } catch (error) {
      if (capture.state === "running") this.lost(capture, error);
    }
  }

  private lost(capture: Capture, error: unknown): void {
    Object.assign(capture, { state: "lost", why: errorLine(error) });
  }

  /** Ends it and hands the user its file. */
  async save(capture: Capture): Promise<void> {
    capture.state = "saving";
    try {
      const counts = await call("captureEnd", { capture: capture.id });
      Object.assign(capture, counts);
      const parts: BlobPart[] = [];
      for (let offset = 0; ; ) {
        const piece = await call("captureRead", { capture: capture.id, offset, bytes: PIECE });
        const bytes = fromBase64(piece.data);
        if (bytes.length === 0) break;
        parts.push(bytes);
        offset += bytes.length;
        capture.bytes = offset;
      }
      download(fileName(capture), parts, "application/x-pcapng");
      await this.discard(capture);
    } catch (error) {
      this.lost(capture, error);
      notices.error(error);
    }
  }

  /** Ends it; what was captured is gone. */
  async discard(capture: Capture): Promise<void> {
    const { id, state } = capture;
    this.list = this.list.filter((each) => each.id !== id || each.begun !== capture.begun);
    if (state !== "lost") await call("captureClose", { capture: id }).catch((error: unknown) => notices.error(error));
  }
}

/** "lab0-2026-01-31-101500.pcapng" */
function fileName({ target, begun }: Capture): string {
  const time = begun.toISOString().slice(0, 19).replace("T", "-").replaceAll(":", "");
  return `${target}-${time}.pcapng`;
}

export const captures = new Captures();
