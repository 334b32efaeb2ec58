/**
 * `PUT /upload?name=…&page=…`: a file of the browser's becomes a file in the lab's tmp/, from where the lab imports it. It
 * belongs to the page that sent it until the lab is asked to take it over; what a page leaves behind is removed.
 */
import { randomBytes } from "node:crypto";
import { mkdir, open, readdir, rm, stat, statfs } from "node:fs/promises";
import type { IncomingMessage, ServerResponse } from "node:http";
import { basename, dirname, join } from "node:path";
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
/** A page that has lost its connection may come back and import what it has sent, ms. */
const RETURN_MS = 30_000;
/** What an app that was killed has left is younger than this only while the lab may be importing it, ms. */
const LEFT_MS = 600_000;
const UPLOADED = /^upload-[0-9a-f]{16}-/;
/** How long the rest of a refused upload is read and thrown away, ms. */
const LINGER_MS = 10_000;
const LONGEST_NAME = 100;

export interface UploadOptions {
  /** The lab's tmp/. */
  readonly folder: string;
  /** Largest upload, bytes. */
  readonly most: number;
  /** In place of RETURN_MS, for tests. */
  readonly returnMs?: number | undefined;
}

/** What is being received or waits for its import. */
interface Kept {
  readonly page: string | undefined;
  readonly timer: NodeJS.Timeout;
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
  /** By their paths. */
  private readonly kept = new Map<string, Kept>();
  private readonly pages = new Set<string>();

  constructor(options: UploadOptions) {
    this.options = options;
  }

  /** Removes what an app that was killed has left; what is young a while later. Never rejects. */
  async sweep(): Promise<void> {
    const { folder } = this.options;
    const names = await readdir(folder).catch(() => []);
    for (const name of names.filter((each) => UPLOADED.test(each))) {
      const path = join(folder, name);
      const age = await stat(path).then(
        ({ mtimeMs }) => Date.now() - mtimeMs,
        () => Number.NaN,
      );
      // An app that serves already knows its own.
      if (Number.isNaN(age) || this.kept.has(path)) continue;
      if (age > LEFT_MS) this.forget(path);
      else this.keep(path, undefined, LEFT_MS);
    }
  }

  /** A page is there, and may send files. */
  pageBegan(page: string): void {
    this.pages.add(page);
  }

  /** Its connection has ended: what it has sent goes unless the lab is asked for it soon. */
  pageEnded(page: string): void {
    this.pages.delete(page);
    for (const [path, kept] of [...this.kept]) if (kept.page === page) this.keep(path, page, this.returnMs);
  }

  /** The lab was asked to take a file over, and removes it when it is done. */
  handedOver(path: string): void {
    clearTimeout(this.kept.get(path)?.timer);
    this.kept.delete(path);
  }

  /** The lab has not taken it over, or has refused it, while its page was there. */
  refused(path: string): void {
    if (dirname(path) === this.options.folder && UPLOADED.test(basename(path))) this.forget(path);
  }

  private get returnMs(): number {
    return this.options.returnMs ?? RETURN_MS;
  }

  private keep(path: string, page: string | undefined, ms: number): void {
    clearTimeout(this.kept.get(path)?.timer);
    this.kept.set(path, { page, timer: setTimeout(() => this.forget(path), ms).unref() });
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

  private async accept(request: IncomingMessage, name: string, page: string | undefined): Promise<object> {
    const refused = await this.refusal(Number(request.headers["content-length"] ?? Number.NaN));
    if (refused !== undefined) throw new UploadError(refused);
    const path = join(this.options.folder, `upload-${randomBytes(8).toString("hex")}-${safeName(name)}`);
    request.setTimeout(SILENCE_MS, () => request.destroy());
    this.running++;
    try {
      const bytes = await this.take(request, path);
      this.keep(path, page, page === undefined || this.pages.has(page) ? KEEP_MS : this.returnMs);
      return { path, bytes };
    } finally {
      this.running--;
      request.setTimeout(0);
    }
  }

  private forget(path: string): void {
    this.handedOver(path);
    // Imported files are gone from here already.
    void rm(path, { force: true }).catch(() => {});
  }

  /** Serves one upload. @param page that sends it, if it is one */
  async serve(request: IncomingMessage, response: ServerResponse, name: string, page?: string): Promise<void> {
    try {
      answerJson(response, 200, await this.accept(request, name, page));
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

  /** Nothing is kept for pages that can reach nobody any more. */
  close(): void {
    for (const path of [...this.kept.keys()]) this.forget(path);
  }
}
