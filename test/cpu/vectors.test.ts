/** Every instruction form of the table, and random programs, against results of a real processor (vectors/README.md). */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { Machine } from "./vectors/machine.ts";
import { type Outcome, Replay } from "./vectors/replay.ts";

const FILES = ["integer", "system", "x87", "mmx", "sse"] as const;
const CORE = fileURLToPath(new URL("../../dist/engine/cpu/core.wasm", import.meta.url));
const LINES = 20;
const LEAST_CASES = 200_000;
const LEAST_PROGRAMS = 2000;

function vectorFile(name: string): Uint8Array {
  return readFileSync(fileURLToPath(new URL(`vectors/${name}.bin.br`, import.meta.url)));
}

/** At most 20 lines: the first failure of each form. */
function report(outcome: Outcome): string {
  const first = new Map<string, string>();
  for (const { form, index, bytes, difference } of outcome.failures) {
    if (!first.has(form)) first.set(form, `${form}  #${index}  ${bytes}  ${difference}`);
  }
  const lines = [...first.values()].slice(0, LINES - 1);
  return [`${outcome.failures.length} of ${outcome.cases} cases differ, in ${first.size} forms`, ...lines].join("\n");
}

describe("golden vectors", () => {
  let cases = 0;

  for (const name of FILES) {
    it(`${name}: every case ends as on the real processor`, { timeout: 60_000 }, () => {
      const outcome = new Replay(new Machine(CORE)).replayCases(vectorFile(name), "step");
      cases += outcome.cases;
      if (outcome.failures.length > 0) expect.fail(report(outcome));
    });

    it(`${name}: and as part of a decoded block`, { timeout: 60_000 }, () => {
      const outcome = new Replay(new Machine(CORE)).replayCases(vectorFile(name), "block");
      if (outcome.failures.length > 0) expect.fail(report(outcome));
    });
  }

  it("random programs end as on the real processor", { timeout: 60_000 }, () => {
    const outcome = new Replay(new Machine(CORE)).replayPrograms(vectorFile("programs"));
    expect(outcome.cases).toBeGreaterThanOrEqual(LEAST_PROGRAMS);
    if (outcome.failures.length > 0) expect.fail(report(outcome));
  });

  afterAll(() => {
    expect(cases).toBeGreaterThanOrEqual(LEAST_CASES);
  });
});
