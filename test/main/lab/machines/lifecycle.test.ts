import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, statSync } from "node:fs";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { LabFixture, MIB } from "./lab-fixture.ts";

let lab: LabFixture;
beforeEach(async () => {
  lab = await new LabFixture().open();
});
afterEach(() => lab.dispose());

const state = async (machine: string) => (await lab.call("machineShow", { machine })).state;

describe("a machine", () => {
  it("is made, started, shut down and found again", async () => {
    await lab.create("web", { memoryMiB: 256, vifs: [{ bridge: "lab0" }] });
    const { config, disks } = await lab.call("machineShow", { machine: "web" });
    expect(config).toMatchObject({ name: "web", memoryMiB: 256, vifs: [{ mac: expect.stringMatching(/^00:16:3e/) }] });
    expect(disks).toMatchObject([{ vdev: "xvda", format: "qcow2", available: true, size: 8 * MIB }]);
    const { domid, resumed } = await lab.call("machineStart", { machine: "web" });
    expect(resumed).toBe(false);
    expect(lab.host.get("web").config).toMatchObject({ name: "web", memoryMiB: 256, disks: [{ vdev: 51712 }] });
    expect((await lab.call("list", {})).guests).toMatchObject([{ id: domid, name: "web" }]);
    expect(await lab.call("machineShutdown", { machine: "web" })).toEqual({ state: "stopped", forced: false });
    await lab.quit();
    await lab.open();
    expect(await lab.call("machineList", {})).toMatchObject([{ name: "web", state: "stopped" }]);
  });

  it("refuses what its state does not allow, in words", async () => {
    await lab.create("web");
    await expect(lab.call("machinePause", { machine: "web" })).rejects.toThrow("web is stopped: it cannot be paused; ");
    await lab.call("machineStart", { machine: "web" });
    await expect(lab.call("machineStart", { machine: "web" })).rejects.toThrow(/web is running.*shutdown web/);
    await expect(lab.call("machineDelete", { machine: "web" })).rejects.toThrow(/web is running/);
    await lab.call("machinePause", { machine: "web" });
    expect(lab.host.get("web").paused).toBe(true);
    await expect(lab.call("machineShutdown", { machine: "web" })).rejects.toThrow(/web is paused.*unpause/);
    await lab.call("machineUnpause", { machine: "web" });
    expect(await state("web")).toBe("running");
    await expect(lab.call("machineStart", { machine: "wbe" })).rejects.toThrow(
      "there is no machine wbe; did you mean web?",
    );
  });

  it("that takes no requests is told from one that does not answer", async () => {
    lab.host.obedient = false;
    await lab.create("web");
    await lab.call("machineStart", { machine: "web" });
    await expect(lab.call("machineShutdown", { machine: "web" })).rejects.toThrow(/feature-poweroff.*destroy web/);
    const { domid } = await lab.call("machineShow", { machine: "web" });
    lab.host.xenstore.toolstack.write(`/local/domain/${domid}/control/feature-poweroff`, "1");
    const late = lab.call("machineShutdown", { machine: "web", timeoutSeconds: 0.05 });
    await expect(late).rejects.toThrow(/not powered off within 0.05 s.*withdrawn.*domlab destroy web/);
    expect(lab.host.xenstore.toolstack.read(`/local/domain/${domid}/control/shutdown`)).toBe("");
    expect(await state("web")).toBe("running");
    const forced = await lab.call("machineShutdown", { machine: "web", timeoutSeconds: 0.05, force: true });
    expect(forced).toEqual({ state: "stopped", forced: true });
  });

  it("can be destroyed while somebody waits for it to shut down", async () => {
    lab.host.obedient = false;
    await lab.create("web");
    const { domid } = await lab.call("machineStart", { machine: "web" });
    lab.host.xenstore.toolstack.write(`/local/domain/${domid}/control/feature-poweroff`, "1");
    const waiting = lab.call("machineShutdown", { machine: "web", timeoutSeconds: 60 });
    await lab.call("machineWait", { machine: "web", until: { kind: "state", state: "stopping" }, timeoutSeconds: 10 });
    await lab.call("machineDestroy", { machine: "web" });
    expect(await waiting).toEqual({ state: "stopped", forced: false });
  });

  it("reboots by request, whatever its policy", async () => {
    await lab.create("web", { onReboot: "destroy" });
    const { domid } = await lab.call("machineStart", { machine: "web" });
    const { domid: next } = await lab.call("machineReboot", { machine: "web" });
    expect(next).toBeGreaterThan(domid);
    expect(await state("web")).toBe("running");
  });

  it("follows its policies when its guest ends", async () => {
    await lab.create("web", { onCrash: "preserve", onReboot: "restart", onPoweroff: "destroy" });
    await lab.call("machineStart", { machine: "web" });
    lab.host.get("web").finish({ reason: "reboot" });
    await lab.server.machines
      .find("web")
      .until(() => lab.host.started.length === 2 && lab.server.machines.find("web").state === "running");
    lab.host.get("web").crash();
    await lab.call("machineWait", { machine: "web", until: { kind: "state", state: "crashed" }, timeoutSeconds: 10 });
    const shown = await lab.call("machineShow", { machine: "web" });
    expect(shown.message).toMatch(/triple fault/);
    expect(JSON.parse(readFileSync(shown.crashReport ?? "", "utf8"))).toMatchObject({ registers: { rip: "0x10" } });
    await lab.call("machineDestroy", { machine: "web" });
    expect(await state("web")).toBe("stopped");
  });

  it("whose start fails is stopped, with the reason", async () => {
    await lab.create("web");
    lab.host.failNext = { call: "start", error: new Error("no memory left") };
    await expect(lab.call("machineStart", { machine: "web" })).rejects.toThrow("no memory left");
    const { state: now, message } = await lab.call("machineShow", { machine: "web" });
    expect([now, message]).toEqual(["stopped", "internal error: no memory left"]);
    await lab.call("machineStart", { machine: "web" });
  });

  it("with a missing image stays listed", async () => {
    await lab.create("web");
    const image = await lab.disk("web");
    const { renameSync } = await import("node:fs");
    renameSync(image, `${image}.away`);
    expect(await lab.call("machineList", {})).toMatchObject([{ name: "web", unavailable: `${image} is missing` }]);
    await expect(lab.call("machineStart", { machine: "web" })).rejects.toThrow(image);
    renameSync(`${image}.away`, image);
    await lab.call("machineStart", { machine: "web" });
  });

  it("is deleted, taken back under a free name, and purged with its files", async () => {
    await lab.create("web");
    const image = await lab.disk("web");
    await lab.call("machineSet", { machine: "web", settings: ["protected=on"] });
    await expect(lab.call("machineDelete", { machine: "web" })).rejects.toThrow(/web is protected/);
    await lab.call("machineSet", { machine: "web", settings: ["protected=off"] });
    await lab.call("machineDelete", { machine: "web" });
    expect(await lab.call("machineList", {})).toEqual([]);
    expect(existsSync(image)).toBe(true);
    await lab.create("web");
    expect(await lab.call("machineUndelete", { machine: "web" })).toEqual({ name: "web-2" });
    expect(await lab.disk("web-2")).toBe(image);
    await lab.call("machineDelete", { machine: "web-2" });
    await lab.call("machinePurge", { machine: "web-2" });
    expect(existsSync(image)).toBe(false);
    expect(existsSync(await lab.disk("web"))).toBe(true);
  });

  it("that cannot be saved at the lab's end is asked to power off before it is ended", async () => {
    await lab.create("web");
    await lab.create("deaf");
    for (const machine of ["web", "deaf"]) await lab.call("machineStart", { machine });
    const [web, deaf] = [lab.host.get("web"), lab.host.get("deaf")];
    lab.host.xenstore.toolstack.write(`/local/domain/${deaf.id}/control/feature-poweroff`, "");
    lab.host.snapshot = async () => {
      throw new Error("no space");
    };
    const notes = await lab.quit("suspend");
    expect([(await web.exited).reason, (await deaf.exited).reason]).toEqual(["poweroff", "killed"]);
    expect(notes).toContain("deaf was ended at once");
    expect(notes).not.toContain("web was ended at once");
  });

  it("tells until when it is kept once it is deleted, as the settings say", async () => {
    const id = await lab.create("web");
    const events: unknown[] = [];
    await lab.call("subscribe", { topics: ["machines"] });
    lab.client.onEvent((event) => {
      if (event.kind === "machine") events.push(event.machine?.purgeAfter);
    });
    const before = Date.now();
    const { purgeAfter } = await lab.call("machineDelete", { machine: "web" });
    const days = (Date.parse(purgeAfter) - before) / 86_400_000;
    expect(days).toBeGreaterThanOrEqual(7);
    expect(days).toBeLessThan(7.1);
    expect(await lab.call("machineList", { deleted: true })).toMatchObject([{ id, purgeAfter }]);
    await lab.call("labSettings", { change: { purgeDays: 8 } });
    const later = new Date(Date.parse(purgeAfter) + 86_400_000).toISOString();
    expect(await lab.call("machineList", { deleted: true })).toMatchObject([{ id, purgeAfter: later }]);
    await lab.call("machineUndelete", { machine: id });
    expect((await lab.call("machineList", {}))[0]).not.toHaveProperty("purgeAfter");
    expect([...new Set(events)]).toEqual([purgeAfter, later, undefined]);
  });

  it("is purged when its time is over, while the lab runs", async () => {
    await lab.quit();
    await lab.open({ purgeMs: 20 });
    await lab.create("old");
    await lab.create("new");
    const [old, kept] = [await lab.disk("old"), await lab.disk("new")];
    await lab.call("machineDelete", { machine: "old" });
    await delay(100);
    expect(existsSync(old)).toBe(true);
    await lab.call("labSettings", { change: { purgeDays: 0 } });
    await expect.poll(() => existsSync(old)).toBe(false);
    expect(await lab.call("machineList", { deleted: true })).toEqual([]);
    expect(existsSync(kept)).toBe(true);
  });

  it("tells what purging it makes free: what no other machine needs", async () => {
    await lab.create("web");
    const used = (file: string) => statSync(file).blocks * 512;
    const original = await lab.disk("web");
    execFileSync("qemu-io", ["-f", "qcow2", "-c", "write -P 7 0 2M", original], { stdio: "ignore" });
    await lab.call("machineClone", { machine: "web", name: "link", linked: true });
    await lab.create("alone");
    const space = async (...machines: string[]) => (await lab.call("machinePurgeSpace", { machines })).bytes;
    await expect(space("web")).rejects.toThrow(/there is no deleted machine web/);
    const disks = [await lab.disk("web"), await lab.disk("link"), await lab.disk("alone")];
    const [web, link, alone] = disks.map(used) as [number, number, number];
    for (const machine of ["web", "link", "alone"]) await lab.call("machineDelete", { machine });
    // A machine's folder with its record is some blocks more.
    const isAbout = (bytes: number, least: number) => {
      expect(bytes).toBeGreaterThanOrEqual(least);
      expect(bytes).toBeLessThan(least + 64 * 1024);
    };
    isAbout(await space("alone"), alone);
    // The layer with the content is behind both.
    isAbout(await space("web"), web);
    expect(used(original)).toBeGreaterThanOrEqual(2 * MIB);
    const both = await space("web", "link");
    expect(both).toBeGreaterThanOrEqual(used(original) + web + link);
    expect(await space("web", "link", "web")).toBe(both);
  });

  it("is cloned, as a copy and linked", async () => {
    await lab.create("web", { vifs: [{ bridge: "lab0" }] });
    const before = await lab.disk("web");
    await lab.call("machineClone", { machine: "web", name: "copy", linked: false });
    expect(await lab.disk("web")).toBe(before);
    await lab.call("machineClone", { machine: "web", name: "link", linked: true });
    const files = [await lab.disk("web"), await lab.disk("copy"), await lab.disk("link"), before];
    expect(new Set(files).size).toBe(4);
    const macs = await Promise.all(
      ["web", "copy", "link"].map(async (machine) =>
        JSON.stringify((await lab.call("machineShow", { machine })).config.vifs),
      ),
    );
    expect(new Set(macs).size).toBe(3);
    await expect(lab.call("machineClone", { machine: "web", name: "WEB", linked: true })).rejects.toThrow(/already/);
    for (const machine of ["web", "copy", "link"]) await lab.call("machineStart", { machine });
  });

  it("gets, loses and grows disks, running or not", async () => {
    await lab.create("web");
    const disk = { vdev: "xvdb", size: 4 * MIB, format: "raw" as const };
    const { path: image } = await lab.call("diskCreate", { machine: "web", disk });
    await expect(lab.call("diskCreate", { machine: "web", disk })).rejects.toThrow(/has a disk xvdb already/);
    expect(await lab.call("diskResize", { machine: "web", vdev: "xvdb", size: 6 * MIB })).toEqual({
      size: 6 * MIB,
      live: false,
    });
    await expect(lab.call("diskResize", { machine: "web", vdev: "xvdb", size: MIB })).rejects.toThrow(/would cut/);
    const { source } = await lab.call("diskDetach", { machine: "web", vdev: "xvdb" });
    expect(source).toBe(path.join(lab.home, "detached", path.basename(image)));
    expect([existsSync(source), existsSync(image)]).toEqual([true, false]);
    await lab.call("machineStart", { machine: "web" });
    await lab.call("diskAttach", { machine: "web", disk: `${source},raw,xvdc`, cwd: "/" });
    expect(lab.host.disks.map(({ vdev }) => vdev)).toEqual([51712, 51744]);
    await lab.call("diskResize", { machine: "web", vdev: "xvdc", size: 9 * MIB });
    expect(lab.host.resized).toMatchObject([{ vdev: 51744, bytes: 9 * MIB }]);
  });

  it("has its disks served where the lab's settings or their maker say", async () => {
    await lab.call("labSettings", { change: { defaultPlacement: "hypervisor" } });
    const empty = { size: MIB, format: "qcow2" as const };
    const newDisks = [
      { ...empty, vdev: "xvda" },
      { ...empty, vdev: "xvdb", placement: "driver-domain" as const },
    ];
    const { id } = await lab.call("machineCreate", { config: { name: "web" }, newDisks });
    await lab.call("diskCreate", { machine: id, disk: { ...empty, vdev: "xvdc" } });
    const { config } = await lab.call("machineShow", { machine: id });
    expect(config.disks).toMatchObject([
      { vdev: "xvda", placement: "hypervisor" },
      { vdev: "xvdb", placement: "driver-domain" },
      { vdev: "xvdc", placement: "hypervisor" },
    ]);
  });

  it("is not made when anything is wrong, and nothing is left", async () => {
    const { readdirSync } = await import("node:fs");
    await lab.create("web");
    const before = readdirSync(path.join(lab.home, "disks"));
    const newDisks = [
      { vdev: "xvda", size: MIB, format: "qcow2" as const },
      { vdev: "floppy", size: MIB, format: "qcow2" as const },
    ];
    await expect(lab.call("machineCreate", { config: { name: "db" }, newDisks })).rejects.toThrow(
      /"floppy" names no disk/,
    );
    await expect(lab.call("machineCreate", { config: { name: "db", memroy: 1 } })).rejects.toThrow(/memroy/);
    await expect(lab.call("machineCreate", { config: { name: "web" } })).rejects.toThrow(/already.*web-2/);
    const text = { text: '{\n "name": "db",\n "memroy": 1}', file: "/x/db.json" };
    await expect(lab.call("machineCreate", { config: text })).rejects.toThrow(
      "db.json, line 3: there is no key memroy",
    );
    expect(readdirSync(path.join(lab.home, "disks"))).toEqual(before);
    expect(await lab.call("machineList", {})).toHaveLength(1);
  });
});

describe("crash loops", () => {
  it("are slowed down and end", async () => {
    const { RestartBrake } = await import("../../../../main/lab/machines/policy.ts");
    const brake = new RestartBrake();
    const waits = Array.from({ length: 9 }, () => brake.next(100));
    expect(waits).toEqual([0, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, undefined]);
    expect(brake.next(60_000)).toBe(0);
    expect(brake.next(100)).toBe(0);
  });
});
