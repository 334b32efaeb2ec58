/**
 * Captures for who cannot open files of this host: kept in the lab's tmp/, read in pieces, removed with the
 * connection.
 */
import { randomBytes } from "node:crypto";
import { type FileHandle, open, rm } from "node:fs/promises";
import { join } from "node:path";
import type { AppFunctions, ControlSession } from "../control-api.ts";
import { MachineError } from "../machines/errors.ts";
import type { NetworkHost } from "../network-control.ts";
import { MOST_CAPTURE_BYTES } from "../view-api.ts";

/** Captures of one connection at a time. */
const MOST_OPEN = 8;
/**
 * How often the network domain is asked, which ends a capture that nobody asks about; and the file's length looked
 * at.
 */
const ASK_MS = 1000;
const PIECE = 256 * 1024;

type Counts = { frames: number; dropped: number };

/** One capture and its file. */
class OpenCapture {
  private readonly network: NetworkHost["network"];
  private readonly id: number;
  private readonly path: string;
  private readonly file: FileHandle;
  private readonly most: number;
  private counts: Counts = { frames: 0, dropped: 0 };
  private timer: NodeJS.Timeout | undefined;
  private full = false;
  private stopped: Promise<void> | undefined;
  private closed: Promise<Counts> | undefined;

  constructor(network: NetworkHost["network"], id: number, path: string, file: FileHandle, most: number) {
    this.network = network;
    this.id = id;
    this.path = path;
    this.file = file;
    this.most = most;
    this.schedule();
  }

  private schedule(): void {
    this.timer = setTimeout(() => void this.look().then(() => this.stopped ?? this.schedule()), ASK_MS);
    this.timer.unref();
  }

  private async look(): Promise<void> {
    try {
      this.counts = await this.network.ask("captureCount", { id: this.id });
      if ((await this.file.stat()).size >= this.most) {
        this.full = true;
        await this.stop();
      }
    } catch {
      // It has ended with the network domain: what was captured stays to be read.
      this.full = true;
      this.stopped ??= Promise.resolve();
    }
  }

  private stop(): Promise<void> {
    clearTimeout(this.timer);
    this.stopped ??= this.network.ask("captureStop", { id: this.id }).then(
      (counts) => {
        this.counts = counts;
      },
      // It had ended already.
      () => undefined,
    );
    return this.stopped;
  }

  async read(offset: number, bytes: number) {
    const { size } = await this.file.stat();
    const end = Math.min(size, this.most);
    const buffer = Buffer.alloc(Math.max(0, Math.min(bytes, end - offset)));
    const { bytesRead } =
      buffer.length === 0 ? { bytesRead: 0 } : await this.file.read(buffer, 0, buffer.length, offset);
    const data = buffer.subarray(0, bytesRead).toString("base64");
    return { ...this.counts, offset, data, end, full: this.full };
  }

  async end(): Promise<Counts> {
    await this.stop();
    return this.counts;
  }

  close(): Promise<Counts> {
    this.closed ??= this.closeNow();
    return this.closed;
  }

  private async closeNow(): Promise<Counts> {
    await this.stop();
    await this.file.close();
    await rm(this.path, { force: true });
    return this.counts;
  }
}

type CaptureRows = Extract<keyof AppFunctions, "captureOpen" | "captureRead" | "captureEnd" | "captureClose">;

/** @param folder the lab's tmp/ @param most bytes of one capture */
export function captureControl(
  { network }: Pick<NetworkHost, "network">,
  folder: string,
  most = MOST_CAPTURE_BYTES,
): Pick<AppFunctions, CaptureRows> {
  const sessions = new WeakMap<ControlSession, Map<number, OpenCapture>>();
  let last = 0;
  const capturesOf = (session: ControlSession): Map<number, OpenCapture> => {
    const known = sessions.get(session);
    if (known !== undefined) return known;
    const fresh = new Map<number, OpenCapture>();
    sessions.set(session, fresh);
    session.onEnd(() => {
      for (const capture of fresh.values()) void capture.close().catch(() => undefined);
      fresh.clear();
    });
    return fresh;
  };
  const captureOf = (session: ControlSession, id: number): OpenCapture => {
    const found = sessions.get(session)?.get(id);
    if (found === undefined) throw new MachineError("failed", `this connection has no capture ${id}`, "start one");
    return found;
  };
  return {
    captureOpen: async ({ target, filter = "", snapLength = 0 }, session) => {
      const captures = capturesOf(session);
      if (captures.size >= MOST_OPEN) {
        throw new MachineError("busy", `${MOST_OPEN} captures are open over this connection`, "end one of them first");
      }
      const on = network.target(target);
      const path = join(folder, `capture-${randomBytes(8).toString("hex")}.pcapng`);
      const file = await open(path, "wx+", 0o600);
      try {
        const { id } = await network.ask("captureStart", { ...on, file: path, filter, snapLength });
        captures.set(++last, new OpenCapture(network, id, path, file, most));
        return { capture: last };
      } catch (error) {
        await file.close();
        await rm(path, { force: true });
        throw error;
      }
    },
    captureRead: ({ capture, offset, bytes = PIECE }, session) => captureOf(session, capture).read(offset, bytes),
    captureEnd: ({ capture }, session) => captureOf(session, capture).end(),
    captureClose: async ({ capture }, session) => {
      const found = captureOf(session, capture);
      sessions.get(session)?.delete(capture);
      return await found.close();
    },
  };
}
