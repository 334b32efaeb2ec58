import { describe, expect, it } from "vitest";
import { DOUBLE_INTERRUPT_MS, EscapeKeys } from "../../main/escape-keys.ts";

const bytes = (text: string) => Buffer.from(text, "latin1");
const text = (value: Uint8Array) => Buffer.from(value).toString("latin1");

function readyKeys(): EscapeKeys {
  const keys = new EscapeKeys();
  keys.guestIsReady();
  return keys;
}

describe("escape keys", () => {
  it("forwards ordinary keys", () => {
    const result = readyKeys().feed(bytes("ls\r"), 0);
    expect(text(result.forward)).toBe("ls\r");
    expect(result.end).toBeUndefined();
  });

  it("ends at Ctrl-] and drops what follows", () => {
    const result = new EscapeKeys().feed(bytes("ab\x1dcd"), 0);
    expect(text(result.forward)).toBe("ab");
    expect(result.end).toBe("detach");
  });

  it("ends at a single Ctrl-C while the guest boots", () => {
    expect(new EscapeKeys().feed(bytes("\x03"), 0)).toEqual({ forward: bytes(""), end: "interrupt" });
  });

  it("gives the guest its Ctrl-C once it is ready", () => {
    const result = readyKeys().feed(bytes("\x03"), 0);
    expect(text(result.forward)).toBe("\x03");
    expect(result.end).toBeUndefined();
  });

  it("ends at two Ctrl-C within the time, even when the guest printed between", () => {
    const keys = readyKeys();
    keys.feed(bytes("\x03"), 0);
    keys.guestPrinted();
    expect(keys.feed(bytes("\x03"), DOUBLE_INTERRUPT_MS).end).toBe("interrupt");
  });

  it("takes the terminal's own answers for no keys", () => {
    for (const pieces of [["\x1b[12;40R"], ["\x1b", "[12", ";40R"]]) {
      const keys = readyKeys();
      keys.feed(bytes("\x03"), 0);
      keys.guestPrinted();
      for (const piece of pieces) keys.feed(bytes(piece), 10);
      expect(keys.feed(bytes("\x03"), 20).end).toBe("interrupt");
    }
  });

  it("takes a key after a control sequence for a key", () => {
    const keys = readyKeys();
    keys.feed(bytes("\x03"), 0);
    keys.feed(bytes("\x1b[Ax"), 10);
    expect(keys.feed(bytes("\x03"), 20).end).toBeUndefined();
  });

  it("ends at two Ctrl-C in one read", () => {
    const result = readyKeys().feed(bytes("\x03\x03"), 0);
    expect(text(result.forward)).toBe("\x03");
    expect(result.end).toBe("interrupt");
  });

  it("keeps on when the guest answered and time has passed", () => {
    const keys = readyKeys();
    keys.feed(bytes("\x03"), 0);
    keys.guestPrinted();
    expect(keys.feed(bytes("\x03"), DOUBLE_INTERRUPT_MS + 1).end).toBeUndefined();
  });

  it("ends at a late second Ctrl-C when the guest never answered the first", () => {
    const keys = readyKeys();
    keys.feed(bytes("\x03"), 0);
    expect(keys.unanswered).toBe(true);
    expect(keys.feed(bytes("\x03"), 60_000).end).toBe("interrupt");
  });

  it("starts anew when another key comes between", () => {
    const keys = readyKeys();
    keys.feed(bytes("\x03"), 0);
    keys.feed(bytes("a"), 1);
    expect(keys.feed(bytes("\x03"), 2).end).toBeUndefined();
  });
});
