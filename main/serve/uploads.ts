/** `PUT /upload?name=…`: a file of the browser's becomes a file in the lab's tmp/, from where the lab imports it. */
import { randomBytes } from "node:crypto";
import { mkdir, open, rm, stat, statfs } from "node:fs/promises";
import type { IncomingMessage, ServerResponse } from "node:http";
import { join } from "node:path";
import { errnoOf } from "../../engine/builder/errors.ts";
import { answerJson, type Refusal } from "./guard.ts";

/** Bytes that an upload leaves free for the machines that run. */
const SPARE_BYTES = 256 * 2 ** 20;
/** Uploads at the same time. */
const MOST_UPLOADS = 8;
/** An upload of which nothing comes for so long is given up, ms. */
const SILENCE_MS = 60_000;
/** What nobody has imported after so long is removed, ms. */
const KEEP_MS = 24 * 3600 * 1000;
/** How long the rest of a refused upload is read and thrown away, ms. */
const LINGER_MS = 10_000;
const LONGEST_NAME = 100;

export interface UploadOptions {
  /** The lab's tmp/. */
  readonly folder: string;
  /** Largest upload, bytes. */
  readonly most: number;
}

class UploadError extends Error {
  readonly refusal: Refusal;

  constructor(refusal: Refusal) {
    super(refusal.line);
    this.refusal = refusal;
  }
}

async function freeBytes(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder);
  return bavail * bsize;
}

const gibibytes = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`;

/** The file's own name, as far as it is harmless as the end of a file name. */
function safeName(name: string): string {
  const clean = name.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[.-]+/, "");
  return clean.slice(-LONGEST_NAME).replace(/^[.-]+/, "") || "file";
}

export class Uploads {
  private readonly options: UploadOptions;
  private running = 0;
  private readonly timers = new Map<string, NodeJS.Timeout>();

  constructor(options: UploadOptions) {
    this.options = options;
  }

  private tooLarge(): Refusal {
    const { most } = this.options;
    const remedy = "copy it to the host and name its path, or start with a larger --most-upload";
    return { status: 413, line: `the file is larger than ${gibibytes(most)}; ${remedy}` };
  }

  /** Why an upload of that length (NaN: not told) cannot be taken. */
  private async refusal(length: number): Promise<Refusal | undefined> {
    const { folder, most } = this.options;
    if (this.running >= MOST_UPLOADS) {
      return { status: 429, line: `${MOST_UPLOADS} uploads are under way; wait for one to end` };
    }
    if (length > most) return this.tooLarge();
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const left = (await freeBytes(folder)) - SPARE_BYTES;
    if (left > (length || 0)) return undefined;
    return {
      status: 507,
      line: `${folder} has no room for the file (${gibibytes(Math.max(0, left))} can be used); free some space`,
    };
  }

  /** Writes the body to a file. Nothing stays of an upload that fails. */
  private async take(request: IncomingMessage, file: string): Promise<number> {
    let bytes = 0;
    const output = await open(file, "wx", 0o600);
    try {
      // The connection outlives a failure of ours: it carries the answer.
      for await (const chunk of request.iterator({ destroyOnReturn: false })) {
        bytes += (chunk as Buffer).length;
        if (bytes > this.options.most) throw new UploadError(this.tooLarge());
        await output.writeFile(chunk as Buffer);
      }
      // A lab that was started meanwhile has swept its tmp/.
      await stat(file);
      return bytes;
    } catch (error) {
      await rm(file, { force: true });
      throw error;
    } finally {
      await output.close();
    }
  }

  private async accept(request: IncomingMessage, name: string): Promise<object> {
    const refused = await this.refusal(Number(request.headers["content-length"] ?? Number.NaN));
    if (refused !== undefined) throw new UploadError(refused);
    const path = join(this.options.folder, `upload-${randomBytes(8).toString("hex")}-${safeName(name)}`);
    request.setTimeout(SILENCE_MS, () => request.destroy());
    this.running++;
    try {
      const bytes = await this.take(request, path);
      const timer = setTimeout(() => this.forget(path), KEEP_MS);
      this.timers.set(path, timer.unref());
      return { path, bytes };
    } finally {
      this.running--;
      request.setTimeout(0);
    }
  }

  private forget(path: string): void {
    this.timers.delete(path);
    // Imported files are gone from here already.
    void rm(path, { force: true }).catch(() => {});
  }

  /** Serves one upload. */
  async serve(request: IncomingMessage, response: ServerResponse, name: string): Promise<void> {
    try {
      answerJson(response, 200, await this.accept(request, name));
    } catch (error) {
      if (request.socket.destroyed) return;
      const code = errnoOf(error) ?? "unknown error";
      const full = code === "ENOSPC" || code === "EDQUOT" || code === "EFBIG";
      const other: Refusal = full
        ? { status: 507, line: "the host's disk is full; free some space" }
        : { status: 500, line: `the file could not be kept (${code}); upload it again` };
      const { status, line } = error instanceof UploadError ? error.refusal : other;
      answerJson(response, status, { line });
      // The rest of the body is not wanted, but whoever sends it reads our answer only if we do not hang up at once.
      const timer = setTimeout(() => request.socket.destroy(), LINGER_MS);
      request.once("close", () => clearTimeout(timer));
      request.resume();
    }
  }

  close(): void {
    for (const timer of this.timers.values()) clearTimeout(timer);
    this.timers.clear();
  }
}
