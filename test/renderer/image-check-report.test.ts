import { describe, expect, it } from "vitest";
import type { ImageCheckReport } from "../../main/lab/image-api.ts";
import { repairedText, repairsFor, verdictOf } from "../../renderer/views/images/check-report.ts";

const report = (part: Partial<ImageCheckReport>): ImageCheckReport => ({
  path: "/lab/a.qcow2",
  state: "clean",
  leaks: 0,
  errors: 0,
  problems: [],
  allocatedClusters: 1,
  totalClusters: 2,
  dirty: false,
  corrupt: false,
  ...part,
});
const ids = (part: Partial<ImageCheckReport>) => repairsFor(report(part)).map(({ id }) => id);

describe("the report of an image check", () => {
  it("is told in one sentence, the worst first", () => {
    expect(verdictOf(report({})).tone).toBe("ok");
    expect(verdictOf(report({ state: "leaks", leaks: 1 }))).toMatchObject({
      tone: "warn",
      text: expect.stringMatching(/^1 cluster /),
    });
    const bad = verdictOf(report({ state: "errors", errors: 2, leaks: 3, dirty: true }));
    expect(bad).toMatchObject({
      tone: "bad",
      text: "The image is damaged: 2 errors and 3 clusters that nothing uses.",
    });
    expect(verdictOf(report({ corrupt: true })).text).toContain("marked as damaged");
    expect(verdictOf(report({ dirty: true })).text).toContain("not closed");
  });

  it("offers the repairs that help, and losing ones only for errors", () => {
    expect(ids({})).toEqual([]);
    expect(ids({ state: "leaks", leaks: 1 })).toEqual(["leaks"]);
    expect(ids({ dirty: true })).toEqual(["errors"]);
    expect(ids({ state: "errors", errors: 1, leaks: 1 })).toEqual(["leaks", "errors", "all"]);
    expect(repairsFor(report({ state: "errors", errors: 1 })).filter(({ danger }) => danger)).toHaveLength(1);
  });

  it("says what a repair did", () => {
    expect(repairedText(report({}))).toBeUndefined();
    expect(repairedText(report({ repaired: { leaks: 0, errors: 0, dropped: 0 } }))).toBe("There was nothing to mend.");
    expect(repairedText(report({ repaired: { leaks: 2, errors: 1, dropped: 1 } }))).toBe(
      "1 error mended, 2 clusters freed, 1 reference dropped that led nowhere.",
    );
  });
});
