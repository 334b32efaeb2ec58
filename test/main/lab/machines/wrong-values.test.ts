/** Values that cannot be: the lab says what is wrong with them, and not that versions differ. */
import { afterEach, beforeEach, expect, it } from "vitest";
import { LabFixture } from "./lab-fixture.ts";

let lab: LabFixture;
beforeEach(async () => {
  lab = await new LabFixture().open();
});
afterEach(() => lab.dispose());

it("are refused with what is wrong with them", async () => {
  await expect(lab.call("machineStart", { machine: "" })).rejects.toThrow(
    "the lab cannot take that: machine is empty; give it a value",
  );
  await expect(lab.call("machineShow", { machine: "x".repeat(200) })).rejects.toThrow(
    "the lab cannot take that: machine is longer than 128 characters; shorten it",
  );
  await expect(lab.call("machineAdopt", { id: "nope" })).rejects.toThrow(/; domlab adopt without an id lists them$/);
  const settings = (change: Record<string, string | number>) => lab.call("labSettings", { change });
  await expect(settings({ purgeDays: -1 })).rejects.toThrow(/^purgeDays: Too small.*; give it another value$/);
  await expect(settings({ colour: "red" })).rejects.toThrow(/^the lab has no setting colour; there are: suspendOnQuit/);
  const strange = { machine: "web", colour: "red" } as { machine: string };
  await expect(lab.call("machineStart", strange)).rejects.toThrow(
    /does not understand this machineStart; use the same/,
  );
});

it("are no names of snapshots", async () => {
  await lab.create("web");
  for (const name of ["", "two\nlines", "zero\0byte", "x".repeat(129)]) {
    const refusal = /^the lab cannot take that: name |is no name for a snapshot; use 1 to 128 characters in one line$/;
    await expect(lab.call("snapshotTake", { machine: "web", name }), name).rejects.toThrow(refusal);
    await expect(lab.call("labSnapshotTake", { name }), name).rejects.toThrow(refusal);
  }
  expect(await lab.call("snapshotList", { machine: "web" })).toEqual([]);
  await lab.call("snapshotTake", { machine: "web", name: "日本語 ✓" });
  await expect(lab.call("snapshotEdit", { machine: "web", snapshot: "日本語 ✓", name: "a\nb" })).rejects.toThrow(
    /no name for a snapshot/,
  );
});
