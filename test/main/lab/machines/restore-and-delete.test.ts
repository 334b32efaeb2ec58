/** A snapshot is deleted while its machine goes back to it: one of both is refused, or both are done; nothing is missing. */
import { existsSync, readdirSync } from "node:fs";
import path from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { imageInfo } from "../../../../engine/disk/image-tools/info.ts";
import type { ControlResult } from "../../../../main/lab/control-api.ts";
import { LabFixture } from "./lab-fixture.ts";

let lab: LabFixture;
beforeEach(async () => {
  lab = await new LabFixture().open();
});
afterEach(() => lab.dispose());

const memoryFiles = () => readdirSync(path.join(lab.home, "memory"));
const restore = () => lab.call("snapshotRestore", { machine: "web", snapshot: "one" });
const remove = () => lab.call("snapshotDelete", { machine: "web", snapshot: "one" });
const names = (rows: ControlResult<"snapshotList">) => rows.map(({ name }) => name);

/** The machine has all that it needs, and the lab nothing besides. */
async function wantWhole(): Promise<void> {
  const { disks, state, snapshots } = await lab.call("machineShow", { machine: "web" });
  expect(disks).toMatchObject([{ available: true }]);
  for (const { path: file } of imageInfo(disks[0]?.source ?? "", "qcow2")) expect(existsSync(file)).toBe(true);
  const kept = snapshots > 0 || state === "suspended" ? 1 : 0;
  await expect.poll(memoryFiles).toHaveLength(kept);
  if (state === "suspended") await lab.call("machineStart", { machine: "web" });
}

/** A machine that is off, with a snapshot of itself while it ran. */
async function machine(): Promise<void> {
  await lab.create("web");
  await lab.call("machineStart", { machine: "web" });
  await lab.call("snapshotTake", { machine: "web", name: "one" });
  await lab.call("machineDestroy", { machine: "web" });
}

/** Keeps what the machine is asked to do waiting. @returns how to end that */
function keepBusy(): () => void {
  let go = () => {};
  const { queue } = lab.server.machines.find("web");
  void queue.run(
    () =>
      new Promise<void>((resolve) => {
        go = resolve;
      }),
  );
  return () => go();
}

const isRestoring = async () => (await lab.call("operationList", {})).some(({ what }) => what.startsWith("restoring"));

it.each([
  ["restore first", true],
  ["delete first", false],
])("at once, %s", async (_, first) => {
  await machine();
  const wishes = first ? [restore(), remove()] : [remove(), restore()];
  const ended = await Promise.allSettled(wishes);
  const [restored, removed] = first ? ended : ended.toReversed();
  expect(removed?.status).toBe("fulfilled");
  if (restored?.status === "rejected") expect(restored.reason.message).toBe("web has no snapshot one; it has none");
  expect(names(await lab.call("snapshotList", { machine: "web" }))).toEqual([]);
  await wantWhole();
});

it("after the restore was accepted and before it began", async () => {
  await machine();
  const go = keepBusy();
  const gone = remove();
  const refused = expect(restore()).rejects.toThrow("web has no snapshot one; it has none");
  await expect.poll(isRestoring).toBe(true);
  go();
  await gone;
  await refused;
  expect((await lab.call("machineShow", { machine: "web" })).state).toBe("stopped");
  await wantWhole();
});

it.each([
  ["comes to its end", undefined],
  ["fails, and can be tried again", new Error("the host has no memory")],
])("while its memory is loaded: the restore %s", async (_, failure) => {
  await machine();
  const { store } = lab.server.context;
  let committed = () => {};
  const begun = new Promise<void>((resolve) => {
    committed = resolve;
  });
  let looked = () => {};
  const discarded = new Promise<void>((resolve) => {
    looked = resolve;
  });
  // The deletion looks for what nobody needs at the very moment at which no record names the memory.
  const unreferenced = store.unreferenced.bind(store);
  store.unreferenced = async (...asked) => {
    if ((asked[0].memory ?? []).length > 0) await begun;
    return await unreferenced(...asked);
  };
  const restoreGuest = lab.host.restoreGuest.bind(lab.host);
  lab.host.restoreGuest = (config, file, beforeRun) =>
    restoreGuest(config, file, async () => {
      await beforeRun?.();
      committed();
      await discarded;
      expect(existsSync(file)).toBe(true);
      if (failure !== undefined) throw failure;
    });
  // The deletion comes between the two steps of the restore: the disks, and the memory.
  const go = keepBusy();
  const restored = restore();
  const outcome = failure === undefined ? restored : expect(restored).rejects.toThrow(failure.message);
  await expect.poll(isRestoring).toBe(true);
  const removed = remove();
  await lab.call("machineList", {});
  go();
  await removed;
  looked();
  await outcome;
  lab.host.restoreGuest = restoreGuest;
  const { state } = await lab.call("machineShow", { machine: "web" });
  expect(state).toBe(failure === undefined ? "running" : "suspended");
  await wantWhole();
});
