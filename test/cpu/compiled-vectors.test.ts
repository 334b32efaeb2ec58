/** The cases of vectors.test.ts in compiled blocks: each is run, compiled and run again. */
import { describe, expect, it } from "vitest";
import { Machine } from "./vectors/machine.ts";
import { Replay } from "./vectors/replay.ts";
import { CORE, LEAST_PROGRAMS, report, vectorFile } from "./vectors/report.ts";

/** Cases that write over their own page: their block is gone whenever they have run. */
const MOST_INTERPRETED = 4;

describe("golden vectors in compiled blocks", () => {
  // Instructions beyond the integer ones are functions of the core that a compiled block calls.
  it.each([
    ["integer", 1, 90_000],
    ["system", 1, 3000],
    ["x87", 3, 19_000],
    ["mmx", 3, 5000],
    ["sse", 3, 24_000],
  ] as const)("%s: every case (of %d) ends as on the real processor", { timeout: 60_000 }, (name, stride, least) => {
    const outcome = new Replay(new Machine(CORE, true)).replayCompiled(vectorFile(name), stride);
    if (outcome.failures.length > 0) expect.fail(report(outcome));
    expect(outcome.cases).toBeGreaterThanOrEqual(least);
    expect(outcome.interpreted).toBeLessThanOrEqual(MOST_INTERPRETED);
  });

  it("random programs end as on the real processor", { timeout: 60_000 }, () => {
    const outcome = new Replay(new Machine(CORE, true)).replayCompiledPrograms(vectorFile("programs"));
    if (outcome.failures.length > 0) expect.fail(report(outcome));
    expect(outcome.cases).toBeGreaterThanOrEqual(LEAST_PROGRAMS);
    expect(outcome.interpreted).toBe(0);
  });
});
