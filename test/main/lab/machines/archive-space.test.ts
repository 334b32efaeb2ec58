/** Archives where there is no room for them: one line, and everything as it was. */
import { execFileSync, spawnSync } from "node:child_process";
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, rmSync, writeFileSync, writeSync } from "node:fs";
import path from "node:path";
import { afterEach, beforeEach, expect, it, onTestFinished, vi } from "vitest";
import { CatalogueImages } from "../../../../main/lab/machines/boot-image.ts";
import { labImages } from "../../../../main/lab/machines/lab-images.ts";
import { LabFixture, MIB } from "./lab-fixture.ts";

/** More than the lab keeps free. */
const SMALL = 96 * MIB;
const FULL = /^[^\n]*(MiB left|cannot be written: no space left[^\n;]*); free some[^\n]*$/;

let lab: LabFixture;
/** A file system of its own each. */
let places: { readonly home: string; readonly out: string };
const mounted: string[] = [];

beforeEach(async () => {
  lab = new LabFixture();
  places = { home: lab.home, out: path.join(lab.folder, "out") };
  for (const place of Object.values(places)) {
    mkdirSync(place);
    if (spawnSync("mount", ["-t", "tmpfs", "-o", `size=${SMALL}`, "domlab-test", place]).status === 0)
      mounted.push(place);
  }
  await lab.open({ boot: new CatalogueImages(() => [], path.join(lab.home, "images")) });
});

afterEach(async () => {
  await lab.quit("destroy").catch(() => undefined);
  for (const place of mounted.splice(0)) execFileSync("umount", ["-l", place]);
  rmSync(lab.folder, { recursive: true, force: true });
});

const filler = (place: string) => path.join(place, "fill");

/** Takes the last byte of a file system. */
function fill(place: string): void {
  const descriptor = openSync(filler(place), "a");
  const bytes = Buffer.alloc(MIB);
  for (let length = bytes.length; length >= 1; ) {
    try {
      if (writeSync(descriptor, bytes, 0, length) === 0) length = 0;
    } catch {
      length = Math.floor(length / 2);
    }
  }
  closeSync(descriptor);
}
const free = (place: string) => rmSync(filler(place), { force: true });

/** A machine that boots files of its own and has something on its disk. */
async function machine(name: string): Promise<void> {
  const kernel = path.join(lab.folder, "vmlinuz");
  writeFileSync(kernel, "a kernel".repeat(100_000));
  await lab.create(name, { image: null, kernel });
  execFileSync("qemu-io", ["-f", "qcow2", "-c", "write -P 7 0 4M", await lab.disk(name)], { stdio: "ignore" });
}

const line = (call: Promise<unknown>) =>
  call.then(
    () => "it was done",
    (error: Error) => error.message,
  );

/** Files that a lab has for its machines, and what it says of them. */
async function all() {
  const folders = ["tmp", "disks", "machines"].map((folder) => readdirSync(path.join(lab.home, folder)).sort());
  return { folders, machines: await lab.call("machineList", {}), out: readdirSync(places.out) };
}

it("are not written when there is no room, wherever it is missing", async (context) => {
  if (mounted.length < 2) return context.skip("mounting a tmpfs needs root");
  await machine("web");
  const file = path.join(places.out, "web.domlab");
  const before = await all();
  const call = () => line(lab.call("machineExport", { machine: "web", path: file }));
  for (const place of [places.home, places.out]) {
    fill(place);
    expect(await call()).toMatch(FULL);
    free(place);
    // Room enough when it was looked at, and none when it was needed.
    const copy = labImages.copy.bind(labImages);
    const spy = vi.spyOn(labImages, "copy").mockImplementation(async (...parts) => {
      if (place === places.home) fill(place);
      await copy(...parts);
      fill(place);
    });
    onTestFinished(() => spy.mockRestore());
    expect(await call()).toMatch(FULL);
    spy.mockRestore();
    free(place);
    expect(await all()).toEqual(before);
  }
  // One that is to be replaced is there still.
  writeFileSync(file, "an older one");
  const spy = vi.spyOn(labImages, "copy").mockImplementation(async () => fill(places.home));
  expect(await line(lab.call("machineExport", { machine: "web", path: file, force: true }))).not.toBe("it was done");
  spy.mockRestore();
  free(places.home);
  expect(execFileSync("cat", [file], { encoding: "utf8" })).toBe("an older one");
  rmSync(file);
  expect(await call()).toBe("it was done");
  expect(execFileSync("tar", ["tzf", file], { encoding: "utf8" })).toContain("disks/xvda.qcow2");
});

it("are not read in when there is no room, wherever it is missing", async (context) => {
  if (mounted.length < 2) return context.skip("mounting a tmpfs needs root");
  await machine("web");
  const file = path.join(places.out, "web.domlab");
  await lab.call("machineExport", { machine: "web", path: file });
  const before = await all();
  const call = () => line(lab.call("machineImport", { path: file, name: "copy" }));
  fill(places.home);
  expect(await call()).toMatch(FULL);
  free(places.home);
  const { layers, store } = lab.server.context;
  const newPath = layers.newPath.bind(layers);
  const unpacking = vi.spyOn(layers, "newPath").mockImplementation((...parts) => {
    fill(places.home);
    return newPath(...parts);
  });
  onTestFinished(() => unpacking.mockRestore());
  expect(await call()).toMatch(FULL);
  unpacking.mockRestore();
  free(places.home);
  expect(await all()).toEqual(before);
  const update = store.update.bind(store);
  const entering = vi.spyOn(store, "update").mockImplementation(async (change) => {
    fill(places.home);
    return await update(change);
  });
  onTestFinished(() => entering.mockRestore());
  expect(await call()).toMatch(FULL);
  entering.mockRestore();
  free(places.home);
  expect(await all()).toEqual(before);
  expect(await call()).toBe("it was done");
  expect((await all()).machines.map(({ name }) => name)).toEqual(["web", "copy"]);
  const { config } = await lab.call("machineShow", { machine: "copy" });
  expect(existsSync(String(config.kernel))).toBe(true);
});
