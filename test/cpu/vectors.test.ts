/** Every instruction form of the table, and random programs, against results of a real processor (vectors/README.md). */
import { afterAll, describe, expect, it } from "vitest";
import { Machine } from "./vectors/machine.ts";
import { Replay } from "./vectors/replay.ts";
import { CORE, LEAST_PROGRAMS, report, vectorFile } from "./vectors/report.ts";

const FILES = ["integer", "system", "x87", "mmx", "sse"] as const;
const LEAST_CASES = 200_000;

describe("golden vectors", () => {
  let cases = 0;

  for (const name of FILES) {
    it(`${name}: every case ends as on the real processor`, () => {
      const outcome = new Replay(new Machine(CORE)).replayCases(vectorFile(name), "step");
      cases += outcome.cases;
      if (outcome.failures.length > 0) expect.fail(report(outcome));
    });

    it(`${name}: and as part of a decoded block`, () => {
      const outcome = new Replay(new Machine(CORE)).replayCases(vectorFile(name), "block");
      if (outcome.failures.length > 0) expect.fail(report(outcome));
    });
  }

  it("random programs end as on the real processor", () => {
    const outcome = new Replay(new Machine(CORE)).replayPrograms(vectorFile("programs"));
    expect(outcome.cases).toBeGreaterThanOrEqual(LEAST_PROGRAMS);
    if (outcome.failures.length > 0) expect.fail(report(outcome));
  });

  afterAll(() => {
    expect(cases).toBeGreaterThanOrEqual(LEAST_CASES);
  });
});
