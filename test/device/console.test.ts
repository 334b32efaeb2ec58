import { mkdtempSync, readFileSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { CONSOLE_IN_CONS, CONSOLE_IN_PROD, CONSOLE_OUT_CONS, CONSOLE_OUT_PROD } from "../../engine/abi/console.ts";
import { ConsoleBackend } from "../../engine/device/console/backend.ts";
import { LogFile } from "../../engine/device/console/log-file.ts";
import { ConsoleRing } from "../../engine/device/console/ring.ts";
import { Tail } from "../../engine/device/console/tail.ts";
import { planFrames } from "../../engine/memory/frame-plan.ts";
import { createGuestMemory } from "../../engine/memory/guest-memory.ts";

function guest() {
  const mapping = createGuestMemory(planFrames(1 << 20), 0, "threads").attach();
  const page = mapping.plan.console;
  let events = 0;
  let output = "";
  const backend = new ConsoleBackend({
    ring: new ConsoleRing(mapping),
    log: undefined,
    notify: () => events++,
    onOutput: (bytes) => {
      output += Buffer.from(bytes).toString("latin1");
    },
  });
  const word = (field: number) => mapping.view.getUint32(page + field, true);
  const setWord = (field: number, value: number) => mapping.view.setUint32(page + field, value, true);
  return {
    backend,
    word,
    setWord,
    events: () => events,
    output: () => output,
    /** Writes what fits, as hvc_xen does. */
    print(text: string): number {
      let producer = word(CONSOLE_OUT_PROD);
      let done = 0;
      while (done < text.length && (producer - word(CONSOLE_OUT_CONS)) >>> 0 < 2048) {
        mapping.bytes[page + 1024 + (producer % 2048)] = text.charCodeAt(done++);
        producer = (producer + 1) >>> 0;
      }
      setWord(CONSOLE_OUT_PROD, producer);
      backend.handleEvent();
      return done;
    },
    read(): string {
      let text = "";
      let consumer = word(CONSOLE_IN_CONS);
      for (; consumer !== word(CONSOLE_IN_PROD); consumer++) {
        text += String.fromCharCode(mapping.bytes[page + (consumer % 1024)] ?? 0);
      }
      setWord(CONSOLE_IN_CONS, consumer);
      backend.handleEvent();
      return text;
    },
  };
}

describe("console backend", () => {
  it("carries output around the ring", () => {
    const g = guest();
    const line = "0123456789".repeat(37);
    for (let i = 0; i < 20; i++) expect(g.print(line)).toBe(370);
    expect(g.output()).toBe(line.repeat(20));
    expect(g.events()).toBe(20);
  });

  it("takes more input than the ring holds as the guest reads", async () => {
    const g = guest();
    const text = "abcdefgh".repeat(400);
    const accepted = g.backend.write(Buffer.from(text));
    let read = "";
    for (let piece = g.read(); piece !== ""; piece = g.read()) read += piece;
    expect(read).toBe(text);
    await accepted;
  });

  it("lets the guest wait for a reader that is behind, and goes on when it has caught up", () => {
    const g = guest();
    const page = "x".repeat(2048);
    let taken = 0;
    for (let i = 0; i < 1000; i++) taken += g.print(page);
    expect(taken).toBeLessThan(1200 * 1024);
    expect(g.print("y")).toBe(0);
    g.backend.acknowledge(900 * 1024);
    expect(g.print("y")).toBe(1);
    expect(g.output().endsWith("y")).toBe(true);
  });

  it("takes impossible indexes as an empty and a full ring", () => {
    const g = guest();
    g.setWord(CONSOLE_OUT_PROD, 5000);
    g.backend.handleEvent();
    expect(g.output()).toBe("");
    g.setWord(CONSOLE_IN_CONS, 77);
    void g.backend.write(Buffer.from("a"));
    expect(g.word(CONSOLE_IN_PROD)).toBe(0);
  });
});

describe("console log", () => {
  it("never holds more than two files of its limit", () => {
    const path = join(mkdtempSync(join(tmpdir(), "domlab-test-")), "console.log");
    const log = new LogFile(path, 1000);
    for (let i = 0; i < 100; i++) log.write(Buffer.from(`line ${i} `.repeat(10)));
    log.close();
    expect(statSync(path).size).toBeLessThanOrEqual(1000);
    expect(statSync(`${path}.1`).size).toBe(1000);
    expect(readFileSync(path, "latin1").endsWith("line 99 ")).toBe(true);
  });

  it("keeps the last lines", () => {
    const tail = new Tail(20);
    for (let i = 0; i < 50; i++) tail.push(Buffer.from(`line ${i}\r\n`));
    expect(tail.lines(2)).toEqual(["line 48", "line 49"]);
  });
});
