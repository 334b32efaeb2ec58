/**
 * The cases of vectors.test.ts in compiled blocks: each is run, compiled and run again. Of the large files every third, unless
 * DOMLAB_ALL_VECTORS is set.
 */
import { describe, expect, it } from "vitest";
import { Machine } from "./vectors/machine.ts";
import { Replay } from "./vectors/replay.ts";
import { CORE, LEAST_PROGRAMS, report, vectorFile } from "./vectors/report.ts";

const ALL = process.env.DOMLAB_ALL_VECTORS !== undefined;
/** Cases that write over their own page: their block is gone whenever they have run. */
const MOST_INTERPRETED = 4;

describe("golden vectors in compiled blocks", () => {
  // Instructions beyond the integer ones are functions of the core that a compiled block calls.
  it.each([
    ["integer", 3, 30_000],
    ["system", 1, 3000],
    ["x87", 3, 19_000],
    ["mmx", 3, 5000],
    ["sse", 3, 24_000],
  ] as const)("%s: every case (of %d) ends as on the real processor", (name, stride, least) => {
    const outcome = new Replay(new Machine(CORE, true)).replayCompiled(vectorFile(name), ALL ? 1 : stride);
    if (outcome.failures.length > 0) expect.fail(report(outcome));
    expect(outcome.cases).toBeGreaterThanOrEqual(least);
    expect(outcome.interpreted).toBeLessThanOrEqual(MOST_INTERPRETED);
  });

  it("random programs end as on the real processor", () => {
    const outcome = new Replay(new Machine(CORE, true)).replayCompiledPrograms(vectorFile("programs"), ALL ? 1 : 3);
    if (outcome.failures.length > 0) expect.fail(report(outcome));
    expect(outcome.cases).toBeGreaterThanOrEqual(Math.floor(LEAST_PROGRAMS / (ALL ? 1 : 3)));
    expect(outcome.interpreted).toBe(0);
  });
});
