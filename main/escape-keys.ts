const CTRL_C = 0x03;
/** Ctrl-], the key that leaves a console in xl and telnet. */
const ESCAPE = 0x1d;
const ESC = 0x1b;
const LEFT_BRACKET = 0x5b;

/** Two Ctrl-C within this time always end the session, whatever the guest does. */
export const DOUBLE_INTERRUPT_MS = 1000;

/** What a piece of keyboard input asks for: bytes for the guest, and perhaps the end of the session. */
export interface KeyResult {
  readonly forward: Uint8Array;
  /** `detach`: Ctrl-]. `interrupt`: Ctrl-C in a state in which it must give the terminal back. */
  readonly end?: "detach" | "interrupt";
}

/**
 * Decides which keys are for the guest and which for us. Pure: time comes in.
 *
 * Ctrl-] ends the session at any time. Ctrl-C while the guest boots ends it. Once the guest has shown its prompt Ctrl-C
 * is the guest's key; a second one directly after it (no other key between) ends the session when it comes within one
 * second, or at any later time as long as the guest has shown no sign of life since the first. Control sequences between
 * the two do not count as keys: a shell asks the terminal for the cursor's position with every prompt, so also after the
 * first Ctrl-C, and the terminal's answer comes in here.
 */
export class EscapeKeys {
  #ready = false;
  #armedAt: number | undefined;
  #outputSince = false;
  #sequence: "none" | "escape" | "parameters" = "none";

  /** The guest has shown its prompt: Ctrl-C belongs to it from now on. */
  guestIsReady(): void {
    this.#ready = true;
  }

  /** The guest has printed something. */
  guestPrinted(): void {
    this.#outputSince = true;
  }

  /** Whether a Ctrl-C went to the guest and nothing came back since. */
  get unanswered(): boolean {
    return this.#armedAt !== undefined && !this.#outputSince;
  }

  /** Takes what the keyboard sent at time `now` (milliseconds). Keys after one that ends the session are dropped. */
  feed(input: Uint8Array, now: number): KeyResult {
    for (let i = 0; i < input.length; i++) {
      const key = input[i] ?? 0;
      const inSequence = this.#followSequence(key);
      if (key === ESCAPE) return { forward: input.subarray(0, i), end: "detach" };
      if (key !== CTRL_C) {
        if (!inSequence) this.#armedAt = undefined;
      } else if (this.#endsSession(now)) {
        return { forward: input.subarray(0, i), end: "interrupt" };
      } else {
        this.#armedAt = now;
        this.#outputSince = false;
      }
    }
    return { forward: input };
  }

  /** Whether the byte belongs to a control sequence: ESC [ parameters final (ECMA-48, section 5.4). */
  #followSequence(key: number): boolean {
    const before = this.#sequence;
    if (key === ESC) this.#sequence = "escape";
    else if (before === "escape" && key === LEFT_BRACKET) this.#sequence = "parameters";
    else if (before !== "parameters" || key < 0x20 || key >= 0x40) this.#sequence = "none";
    return key === ESC || this.#sequence !== "none" || (before === "parameters" && key >= 0x40);
  }

  #endsSession(now: number): boolean {
    if (!this.#ready) return true;
    if (this.#armedAt === undefined) return false;
    return now - this.#armedAt <= DOUBLE_INTERRUPT_MS || !this.#outputSince;
  }
}
