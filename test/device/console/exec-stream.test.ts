import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type ExecEvent, ExecStreamParser, execMark } from "../../../engine/device/console/exec-stream.ts";

const TOKEN = "0123456789abcdef";
const MARK = execMark(TOKEN);

function collect(events: readonly ExecEvent[]) {
  const text = { log: "", stdout: "", stderr: "" };
  let status: number | undefined;
  for (const event of events) {
    if (event.kind === "exit") status = event.status;
    else text[event.kind] += Buffer.from(event.bytes).toString("latin1");
  }
  return { ...text, status };
}

function parse(stream: string, sizes: readonly number[]) {
  const parser = new ExecStreamParser(TOKEN);
  const bytes = Buffer.from(stream, "latin1");
  const events: ExecEvent[] = [];
  let at = 0;
  for (let i = 0; at < bytes.length; i++) {
    const size = sizes[i % sizes.length] as number;
    events.push(...parser.feed(bytes.subarray(at, at + size)));
    at += size;
  }
  events.push(...parser.end());
  return collect(events);
}

// Data that looks like markers in every way but the complete one.
const piece = fc.oneof(
  fc.string({ unit: "binary-ascii" }),
  fc.constantFrom(
    "\x1e",
    MARK,
    `${MARK}begi`,
    `${MARK}end `,
    "\x1edomlab:",
    `${MARK}end 256\n`,
    `${MARK}end x\n`,
    "\n",
  ),
);
const data = fc
  .array(piece, { maxLength: 8 })
  .map((pieces) => pieces.join("").replace(/:(begin|stderr)\n|:end \d{1,3}\n/g, ""));

describe("exec stream", () => {
  it("separates log, output, errors and status, however the bytes arrive", () => {
    const sizes = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 5 });
    fc.assert(
      fc.property(data, data, data, fc.nat(255), sizes, (log, stdout, stderr, status, chunks) => {
        // A marker glued to the rest of a marker-like piece would be a different, valid stream.
        const stream = `${log}\0${MARK}begin\n${stdout}\0${MARK}stderr\n${stderr}\0${MARK}end ${status}\nbye`;
        const found = parse(stream, chunks);
        expect(found).toEqual({ log: `${log}\0bye`, stdout: `${stdout}\0`, stderr: `${stderr}\0`, status });
      }),
      { numRuns: 500 },
    );
  });

  it("hands out what was held back when the stream ends inside a marker", () => {
    expect(parse(`boot\n${MARK}begin\nhalf${MARK}std`, [7])).toEqual({
      log: "boot\n",
      stdout: `half${MARK}std`,
      stderr: "",
      status: undefined,
    });
  });

  it("does not hold back output that cannot be a marker", () => {
    const parser = new ExecStreamParser(TOKEN);
    parser.feed(Buffer.from(`${MARK}begin\n`));
    expect(parser.started).toBe(true);
    expect(collect(parser.feed(Buffer.from("prompt without a line end"))).stdout).toBe("prompt without a line end");
  });
});
