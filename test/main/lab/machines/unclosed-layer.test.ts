/** Layers below others that a killed storage domain has not closed: nobody opens them for writing any more. */
import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import { afterEach, beforeEach, expect, it } from "vitest";
import { lockImage } from "../../../../engine/disk/image.ts";
import { checkQcow2 } from "../../../../engine/disk/image-tools/check.ts";
import { imageInfo } from "../../../../engine/disk/image-tools/info.ts";
import { LabFixture } from "./lab-fixture.ts";

/** The lowest byte of a qcow2 header's incompatible features; bit 0 says that the image is in use. */
const FEATURES = 79;

let lab: LabFixture;
beforeEach(async () => {
  lab = await new LabFixture().open();
});
afterEach(() => lab.dispose());

function leaveOpen(file: string): void {
  const descriptor = openSync(file, "r+");
  writeSync(descriptor, Uint8Array.of((readFileSync(file)[FEATURES] ?? 0) | 1), 0, 1, FEATURES);
  closeSync(descriptor);
}

const isDirty = (file: string) => imageInfo(file, "qcow2")[0]?.dirty;
const log = () => readFileSync(`${lab.home}/lab.log`, "utf8");

async function frozenLayer(): Promise<string> {
  await lab.create("web");
  const layer = await lab.disk("web");
  await lab.call("snapshotTake", { machine: "web", name: "one" });
  leaveOpen(layer);
  expect(isDirty(layer)).toBe(true);
  return layer;
}

it("are closed when no machine needs them, and not before", async () => {
  const layer = await frozenLayer();
  await lab.call("machineStart", { machine: "web" });
  await lab.call("snapshotTake", { machine: "web", name: "two" });
  await lab.call("snapshotDelete", { machine: "web", snapshot: "two" });
  expect(isDirty(layer)).toBe(true);
  await lab.call("machineDestroy", { machine: "web" });
  await expect.poll(() => isDirty(layer)).toBe(false);
  expect(log()).toContain(`${layer} was not closed by its last writer; that is made up for`);
  expect(await checkQcow2(layer)).toMatchObject({ state: "clean", dirty: false });
  expect(imageInfo(await lab.disk("web"), "qcow2").length).toBeGreaterThan(1);
});

it("are closed when the lab starts", async () => {
  const layer = await frozenLayer();
  await lab.quit();
  await lab.open();
  await expect.poll(() => isDirty(layer)).toBe(false);
});

it("that somebody else has open are left as they are, and keep nobody from anything", async () => {
  const layer = await frozenLayer();
  const lock = lockImage({ kind: "file", path: layer, format: "raw", readOnly: true });
  try {
    await lab.call("machineStart", { machine: "web" });
    await lab.call("machineDestroy", { machine: "web" });
    await expect.poll(log).toContain(`${layer} was not closed by its last writer, and is left so: `);
    expect(isDirty(layer)).toBe(true);
  } finally {
    lock.release();
  }
  await lab.create("other");
  await lab.call("machineDelete", { machine: "other" });
  await lab.call("machinePurge", { machine: "other" });
  expect(isDirty(layer)).toBe(false);
});

it("that are the images of machines stay as they are until those start", async () => {
  await lab.create("web");
  const image = await lab.disk("web");
  leaveOpen(image);
  await lab.create("other");
  await lab.call("machineDelete", { machine: "other" });
  await lab.call("machinePurge", { machine: "other" });
  expect(isDirty(image)).toBe(true);
});

it("keep no machine from starting while they are closed", async () => {
  const layer = await frozenLayer();
  await lab.create("other");
  await lab.call("machineDelete", { machine: "other" });
  await Promise.all([
    lab.call("machinePurge", { machine: "other" }),
    lab.call("machineStart", { machine: "web" }),
    lab.call("snapshotClone", { machine: "web", snapshot: "one", name: "clone", linked: true }),
  ]);
  for (const machine of ["web", "clone"]) {
    expect((await lab.call("machineShow", { machine })).disks).toMatchObject([{ available: true }]);
  }
  expect((await checkQcow2(layer)).errors).toBe(0);
});
