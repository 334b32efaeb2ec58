import { readdirSync } from "node:fs";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { checkQcow2 } from "../../../../engine/disk/image-tools/check.ts";
import { imageInfo } from "../../../../engine/disk/image-tools/info.ts";
import type { BootImages } from "../../../../main/lab/machines/boot-image.ts";
import { boot, LabFixture, reopened } from "./lab-fixture.ts";

let lab: LabFixture;
const others: LabFixture[] = [];
beforeEach(async () => {
  lab = await new LabFixture().open();
});
afterEach(async () => {
  await lab.dispose();
  for (const each of others.splice(0)) await each.dispose();
});

const chain = async (machine: string) => imageInfo(await lab.disk(machine), "qcow2").map((each) => each.path);
const files = (folder: string) => readdirSync(path.join(lab.home, folder)).sort();
const names = async () => (await lab.call("snapshotList", { machine: "web" })).map(({ name }) => name);

describe("snapshots of a stopped machine", () => {
  it("freeze its disks, form a tree, and are gone back to", async () => {
    await lab.create("web");
    const base = await lab.disk("web");
    const one = await lab.call("snapshotTake", { machine: "web", name: "one", note: "fresh" });
    expect(one).toMatchObject({ kind: "disk", pausedMs: 0 });
    expect(await chain("web")).toEqual([expect.any(String), base]);
    const two = await lab.call("snapshotTake", { machine: "web", name: "two" });
    await lab.call("machineSet", { machine: "web", settings: ["memoryMiB=1024", "notes=new"] });
    await lab.call("snapshotRestore", { machine: "web", snapshot: "one" });
    const { config } = await lab.call("machineShow", { machine: "web" });
    expect(config).toMatchObject({ memoryMiB: 512, notes: "new" });
    expect((await chain("web"))[1]).toBe(base);
    await lab.call("snapshotTake", { machine: "web", name: "three" });
    expect(await lab.call("snapshotList", { machine: "web" })).toMatchObject([
      { name: "one", note: "fresh", parent: null },
      { name: "two", parent: one.id, current: false },
      { name: "three", parent: one.id, current: true },
    ]);
    await expect(lab.call("snapshotTake", { machine: "web", name: "two" })).rejects.toThrow(
      /has a snapshot two already/,
    );
    await expect(lab.call("snapshotRestore", { machine: "web", snapshot: "four" })).rejects.toThrow(
      /it has: one, two, three/,
    );
    await lab.call("snapshotEdit", { machine: "web", snapshot: two.id, name: "zwei", note: "n" });
    expect(await names()).toEqual(["one", "zwei", "three"]);
  });

  it("when deleted are merged into the one image that needs them", async () => {
    await lab.create("web");
    for (const name of ["one", "two", "three"]) await lab.call("snapshotTake", { machine: "web", name });
    const before = await chain("web");
    expect(before).toHaveLength(4);
    expect(await lab.call("snapshotDelete", { machine: "web", snapshot: "two" })).toEqual({ deferred: false });
    expect(await chain("web")).toEqual([before[0], before[1], before[3]]);
    await lab.call("snapshotDelete", { machine: "web", snapshot: "three" });
    await lab.call("snapshotDelete", { machine: "web", snapshot: "one" });
    expect(await chain("web")).toEqual([before[0]]);
    expect(files("disks")).toEqual([path.basename(before[0] ?? "")]);
    expect((await checkQcow2(before[0] ?? "")).state).toBe("clean");
  });

  it("do not wait for what runs besides", async () => {
    for (const machine of ["web", "db"]) {
      await lab.create(machine);
      await lab.call("snapshotTake", { machine, name: "one" });
      // Its frozen layer lies between two others and is what a deletion merges.
      await lab.call("snapshotTake", { machine, name: "two" });
    }
    await lab.call("machineStart", { machine: "web" });
    expect(await lab.call("snapshotDelete", { machine: "web", snapshot: "two" })).toEqual({ deferred: true });
    expect(await lab.call("snapshotDelete", { machine: "db", snapshot: "two" })).toEqual({ deferred: false });
  });

  it("stay as layers while several images need them, and wait for a running machine", async () => {
    await lab.create("web");
    await lab.call("snapshotTake", { machine: "web", name: "one" });
    await lab.call("snapshotClone", { machine: "web", snapshot: "one", name: "clone" });
    await lab.call("machineStart", { machine: "web" });
    expect(await lab.call("snapshotDelete", { machine: "web", snapshot: "one" })).toEqual({ deferred: false });
    expect(await chain("clone")).toHaveLength(2);
    await lab.call("machineDelete", { machine: "clone" });
    await lab.call("machinePurge", { machine: "clone" });
    expect(await chain("web")).toHaveLength(2);
    await lab.call("machineShutdown", { machine: "web" });
    await lab.server.context.layers.tidy();
    expect(await chain("web")).toHaveLength(1);
    expect(files("disks")).toHaveLength(1);
  });
});

describe("snapshots of a running machine", () => {
  it("hold memory and disks, and bring both back", async () => {
    await lab.create("web");
    await lab.call("machineStart", { machine: "web" });
    const base = await lab.disk("web");
    expect(await lab.call("snapshotTake", { machine: "web", name: "live" })).toMatchObject({
      kind: "running",
      pausedMs: 3,
    });
    expect((await lab.call("machineShow", { machine: "web" })).state).toBe("running");
    expect(lab.host.disks[0]?.store).toMatchObject({
      kind: "qcow2",
      path: await lab.disk("web"),
      backing: [{ path: base }],
    });
    await expect(lab.call("snapshotRestore", { machine: "web", snapshot: "live" })).rejects.toThrow(
      /is running.*--force/,
    );
    expect((await lab.call("machineShow", { machine: "web" })).state).toBe("running");
    const { state, notes } = await lab.call("snapshotRestore", { machine: "web", snapshot: "live", force: true });
    expect([state, notes]).toEqual(["running", [expect.stringMatching(/web was destroyed/)]]);
    expect(files("memory")).toHaveLength(1);
    expect((await chain("web"))[1]).toBe(base);
    await lab.call("machineShutdown", { machine: "web" });
    await lab.call("snapshotDelete", { machine: "web", snapshot: "live" });
    expect(files("memory")).toEqual([]);
  });

  it("that fail leave all as it was", async () => {
    await lab.create("web");
    await lab.call("machineStart", { machine: "web" });
    const before = [await lab.disk("web"), files("disks")];
    lab.host.failNext = { call: "snapshot", error: new Error("disk full") };
    await expect(lab.call("snapshotTake", { machine: "web" })).rejects.toThrow("disk full");
    expect([await lab.disk("web"), files("disks")]).toEqual(before);
    expect(await names()).toEqual([]);
    expect((await lab.call("machineShow", { machine: "web" })).state).toBe("running");
    lab.host.moment = (what) => {
      if (what === "after the swap") throw new Error("no space for memory");
    };
    await expect(lab.call("snapshotTake", { machine: "web" })).rejects.toThrow("no space for memory");
    // The guest is on the new layer, which stays.
    expect(lab.host.disks[0]?.store).toMatchObject({ path: await lab.disk("web") });
    expect(await chain("web")).toHaveLength(2);
    expect([await names(), files("memory")]).toEqual([[], []]);
  });

  it("are cloned onto another switch only", async () => {
    await lab.create("web", { vifs: [{ bridge: "lab0" }] });
    await lab.call("machineStart", { machine: "web" });
    await lab.call("snapshotTake", { machine: "web", name: "live" });
    const clone = { machine: "web", snapshot: "live", name: "twin" };
    await expect(lab.call("snapshotClone", clone)).rejects.toThrow(/keeps the address .* lab0; .*--bridge/);
    await lab.call("snapshotClone", { ...clone, bridge: "lab1" });
    expect((await lab.call("machineShow", { machine: "twin" })).state).toBe("suspended");
    expect(await lab.call("machineStart", { machine: "twin" })).toMatchObject({ resumed: true });
    expect(files("memory")).toHaveLength(1);
  });

  it("of the whole lab are of one moment, and one machine comes back from it", async () => {
    for (const name of ["web", "db", "off"]) await lab.create(name);
    for (const machine of ["web", "db"]) await lab.call("machineStart", { machine });
    const { members } = await lab.call("labSnapshotTake", { name: "evening" });
    expect(members.map(({ pausedMs }) => pausedMs).sort()).toEqual([0, 3, 3]);
    expect(await lab.call("labSnapshotRestore", { snapshot: "evening", machines: ["off"] })).toMatchObject({
      restored: ["off"],
    });
    await expect(lab.call("labSnapshotRestore", { snapshot: "evening" })).rejects.toThrow(/is running.*--force/);
    const { restored } = await lab.call("labSnapshotRestore", { snapshot: "evening", force: true });
    expect(restored.sort()).toEqual(["db", "off", "web"]);
    expect((await lab.call("machineList", {})).map(({ state }) => state)).toEqual(["running", "running", "stopped"]);
    lab.host.failNext = { call: "snapshot", error: new Error("no") };
    const before = files("disks");
    await expect(lab.call("labSnapshotTake", { name: "night" })).rejects.toThrow("no");
    expect(files("disks")).toEqual(before);
    await lab.call("labSnapshotDelete", { snapshot: "evening", members: true });
    expect([await lab.call("labSnapshotList", {}), await names()]).toEqual([[], []]);
  });
});

describe("suspended machines", () => {
  it("go on once, and their memory is gone then", async () => {
    await lab.create("web");
    await lab.call("machineStart", { machine: "web" });
    expect(await lab.call("machineSuspend", { machine: "web" })).toEqual({ memoryBytes: 1000 });
    expect((await lab.call("machineShow", { machine: "web" })).state).toBe("suspended");
    expect([lab.host.guests.length, files("memory").length]).toEqual([0, 1]);
    lab.host.failNext = { call: "restore", error: new Error("not now") };
    await expect(lab.call("machineResume", { machine: "web" })).rejects.toThrow("not now");
    expect((await lab.call("machineShow", { machine: "web" })).state).toBe("suspended");
    await lab.call("machineResume", { machine: "web" });
    expect(files("memory")).toEqual([]);
    await lab.call("machineSuspend", { machine: "web" });
    await lab.call("machineDestroy", { machine: "web", discard: true });
    expect((await lab.call("machineShow", { machine: "web" })).state).toBe("stopped");
    expect(files("memory")).toEqual([]);
  });

  it("go on without the image that they booted from", async () => {
    let isThere = true;
    const missing: BootImages = {
      ...boot,
      boot: async (...given) => {
        if (!isThere) throw new Error("no image to be had");
        return await boot.boot(...given);
      },
    };
    await lab.quit();
    await lab.open({ boot: missing });
    await lab.create("web");
    await lab.call("machineStart", { machine: "web" });
    await lab.call("machineSuspend", { machine: "web" });
    isThere = false;
    await lab.call("machineResume", { machine: "web" });
    const guest = lab.host.get("web");
    guest.print("fake# ");
    await lab.call("machineWait", { machine: "web", until: { kind: "answering" }, timeoutSeconds: 20 });
    expect(guest.config).not.toHaveProperty("image");
  });

  it("are what running ones become when the lab ends, and go on when it starts", async () => {
    await lab.create("web");
    await lab.create("db", { suspendOnQuit: false });
    await lab.create("idle");
    for (const machine of ["web", "db"]) await lab.call("machineStart", { machine });
    expect(await lab.quit()).toEqual([]);
    await lab.open();
    await lab.call("machineWait", { machine: "web", until: { kind: "state", state: "running" }, timeoutSeconds: 20 });
    expect((await lab.call("machineList", {})).map(({ name, state }) => `${name} ${state}`)).toEqual([
      "web running",
      "db stopped",
      "idle stopped",
    ]);
  });

  it("that the guest does not let shut down are suspended when the lab ends", async () => {
    lab.host.obedient = false;
    await lab.create("web", { suspendOnQuit: false, shutdownTimeoutSeconds: 0.05 });
    await lab.call("machineStart", { machine: "web" });
    expect(await lab.quit()).toEqual([expect.stringMatching(/^web: .*takes no poweroff requests/)]);
    await lab.open();
    await lab.call("machineWait", { machine: "web", until: { kind: "state", state: "running" }, timeoutSeconds: 20 });
  });
});

describe("a lab that is killed", () => {
  const moments: Record<string, (what: string) => Promise<void>> = {
    "taking a snapshot": async () => {
      await lab.call("snapshotTake", { machine: "web", name: "two" });
    },
    suspending: async () => {
      await lab.call("machineSuspend", { machine: "web" });
    },
    "suspending and resuming": async () => {
      await lab.call("machineSuspend", { machine: "web" });
      await lab.call("machineResume", { machine: "web" });
    },
    "going back": async () => {
      await lab.call("snapshotRestore", { machine: "web", snapshot: "one", force: true });
    },
  };

  it.each(Object.keys(moments))("while %s loses nothing at any commit", async (what) => {
    await lab.create("web");
    await lab.call("machineStart", { machine: "web" });
    await lab.call("snapshotTake", { machine: "web", name: "one" });
    const copies: string[] = [];
    lab.server.context.store.onChange(() => void copies.push(lab.freeze()));
    lab.host.moment = () => void copies.push(lab.freeze());
    await moments[what]?.(what);
    lab.host.moment = () => {};
    expect(copies.length).toBeGreaterThan(2);
    for (const copy of copies) {
      // Image names are absolute: the copy's records are led to the copy's files.
      const found = await reopened(copy, lab.home);
      others.push(found);
      const [web] = await found.call("machineList", {});
      expect(web).toMatchObject({ name: "web" });
      expect(web?.unavailable).toBeUndefined();
      const rows = await found.call("snapshotList", { machine: "web" });
      expect(rows.map(({ name }) => name)).toContain("one");
      for (const { name } of rows) {
        await found.call("snapshotRestore", { machine: "web", snapshot: name, start: false, force: true });
        await found.call("machineDestroy", { machine: "web", discard: true }).catch(() => undefined);
      }
      await found.call("machineStart", { machine: "web" });
      const disks = path.join(found.home, "disks");
      for (const file of readdirSync(disks)) expect((await checkQcow2(path.join(disks, file))).state).toBe("clean");
    }
  });

  it("finds machines that ran as stopped, with a note, and starts those that start by themselves", async () => {
    await lab.create("web");
    await lab.create("auto", { autostart: true });
    for (const machine of ["web", "auto"]) await lab.call("machineStart", { machine });
    const found = await reopened(lab.freeze(), lab.home);
    others.push(found);
    await found.call("machineWait", {
      machine: "auto",
      until: { kind: "state", state: "running" },
      timeoutSeconds: 20,
    });
    const web = await found.call("machineShow", { machine: "web" });
    expect([web.state, web.message]).toEqual(["stopped", expect.stringMatching(/as after a power cut/)]);
    expect((await found.call("labInfo", {})).warnings).toEqual([
      expect.stringMatching(/^web ran when/),
      expect.stringMatching(/^auto ran when/),
    ]);
  });
});
