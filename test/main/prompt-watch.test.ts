import { describe, expect, it } from "vitest";
import { PromptWatch } from "../../main/prompt-watch.ts";

function feed(...chunks: string[]): boolean[] {
  const watch = new PromptWatch();
  return chunks.map((chunk) => watch.feed(Buffer.from(chunk)));
}

describe("prompt watch", () => {
  it.each(["~ # ", "/ # \x1b[6n", "user@host:~$ ", "\x1b[1;32mroot\x1b[0m:/# ", "(initramfs) ", "debian login: "])(
    "recognizes %j",
    (prompt) => expect(feed(`[    0.5] last line of the log\r\n${prompt}`)).toEqual([true]),
  );

  it.each(["[    0.500000] Memory: 500000K", "done.\n", "# comment\n", "[#] ", "loading [# "])(
    "does not take %j for a prompt",
    (line) => expect(feed(`x\r\n${line}`)).toEqual([false]),
  );

  it("finds a prompt that comes in pieces, and tells it once", () => {
    expect(feed("boot\r\n~", " ", "#", " ", "ls\r\n~ # ")).toEqual([false, false, false, true, false]);
  });

  it("knows the last line", () => {
    const watch = new PromptWatch();
    watch.feed(Buffer.from("one\r\ntwo\r\n"));
    expect(watch.lastLine).toBe("two");
    watch.feed(Buffer.from("thr"));
    expect(watch.lastLine).toBe("thr");
  });
});
