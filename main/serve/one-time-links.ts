/** One-time tokens: a page that has one gets a session, once. */
import { createHash, randomBytes } from "node:crypto";

const TOKEN_BYTES = 32;
/** How long a token is good for while nobody uses it, ms. */
const LIFETIME_MS = 10 * 60 * 1000;
/** Tokens that wait for use; the oldest gives way to a newer one. */
const MOST_WAITING = 64;

/** Tokens are kept as hashes: looking one up tells nothing about the others by its timing. */
const digest = (token: string): string => createHash("sha256").update(token).digest("hex");

export class OneTimeLinks {
  private readonly now: () => number;
  private readonly waiting = new Map<string, number>();

  /** @param now the clock, ms */
  constructor(now: () => number = Date.now) {
    this.now = now;
  }

  /** A new token. */
  make(): string {
    const token = randomBytes(TOKEN_BYTES).toString("base64url");
    this.waiting.set(digest(token), this.now() + LIFETIME_MS);
    const [oldest] = this.waiting.keys();
    if (this.waiting.size > MOST_WAITING && oldest !== undefined) this.waiting.delete(oldest);
    return token;
  }

  /** Whether the token is good; it is not any more afterwards. */
  use(token: string): boolean {
    const key = digest(token);
    const expiry = this.waiting.get(key);
    this.waiting.delete(key);
    return expiry !== undefined && this.now() < expiry;
  }
}
