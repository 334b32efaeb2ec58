/**
 * Sessions as signed cookies, `<expiry>.<nonce>.<hmac>`: nothing is kept but the key, in the lab's folder, so that sessions
 * outlive the server.
 */
import { createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { readFile } from "node:fs/promises";
import { errnoOf } from "../../engine/builder/errors.ts";
import { BadInput } from "../failure.ts";
import { replaceFile } from "../lab/store/durable-file.ts";

const KEY_BYTES = 32;
const NONCE_BYTES = 16;
/** How long a session lasts, s; whoever comes back within gets a new one. */
const LIFETIME_S = 30 * 24 * 3600;
const RENEW_AFTER_S = 24 * 3600;

/** The key in a file, made when there is none. @throws BadInput when it can be neither read nor made */
export async function sessionKey(file: string): Promise<Buffer> {
  try {
    const key = await readFile(file).catch((error: unknown) => {
      if (errnoOf(error) === "ENOENT") return undefined;
      throw error;
    });
    if (key?.length === KEY_BYTES * 2) return Buffer.from(key.toString("latin1"), "hex");
    // None yet, or a torn one: whoever had a session needs a new link.
    const fresh = randomBytes(KEY_BYTES);
    await replaceFile(file, fresh.toString("hex"));
    return fresh;
  } catch (error) {
    const what = `${file} cannot be used (${errnoOf(error) ?? "unknown error"})`;
    throw new BadInput("bad-folder", what, "make the lab's folder your own and writable", error);
  }
}

/** The cookie's value in a Cookie header; undefined when it is not there. */
function cookieValue(header: string | undefined, name: string): string | undefined {
  for (const part of header?.split(";") ?? []) {
    const equals = part.indexOf("=");
    if (equals > 0 && part.slice(0, equals).trim() === name) return part.slice(equals + 1).trim();
  }
  return undefined;
}

export class SessionCookies {
  /** Cookies do not know ports: two labs of one host need two names. */
  readonly name: string;
  private readonly key: Buffer;
  private readonly now: () => number;

  /** @param home folder of the lab  @param now the clock, ms */
  constructor(home: string, key: Buffer, now: () => number = Date.now) {
    this.name = `domlab-${createHash("sha256").update(home).digest("hex").slice(0, 8)}`;
    this.key = key;
    this.now = now;
  }

  private sign(text: string): Buffer {
    return createHmac("sha256", this.key).update(`${this.name}.${text}`).digest();
  }

  /** A Set-Cookie header for a new session. */
  issue(): string {
    const expiry = Math.floor(this.now() / 1000) + LIFETIME_S;
    const text = `${expiry}.${randomBytes(NONCE_BYTES).toString("base64url")}`;
    const value = `${text}.${this.sign(text).toString("base64url")}`;
    return `${this.name}=${value}; Path=/; Max-Age=${LIFETIME_S}; HttpOnly; SameSite=Strict`;
  }

  /** When the session of a Cookie header ends, s since 1970; undefined when there is no good one. */
  private expiryOf(header: string | undefined): number | undefined {
    const match = /^((\d{1,12})\.[\w-]{1,64})\.([\w-]{43})$/.exec(cookieValue(header, this.name) ?? "");
    const [, text, expiry, signature] = match ?? [];
    if (text === undefined || signature === undefined) return undefined;
    if (!timingSafeEqual(this.sign(text), Buffer.from(signature, "base64url"))) return undefined;
    return Number(expiry) * 1000 > this.now() ? Number(expiry) : undefined;
  }

  /** Whether the Cookie header holds a session. */
  accepts(header: string | undefined): boolean {
    return this.expiryOf(header) !== undefined;
  }

  /** A Set-Cookie header when the session is good and no longer fresh. */
  renewal(header: string | undefined): string | undefined {
    const expiry = this.expiryOf(header);
    if (expiry === undefined) return undefined;
    return expiry - this.now() / 1000 < LIFETIME_S - RENEW_AFTER_S ? this.issue() : undefined;
  }
}
