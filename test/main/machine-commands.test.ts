/** The commands about machines against a lab that remembers what it was asked. */
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { BadInput, PassedOn } from "../../main/failure.ts";
import { details, FakeLab, summary } from "./machine-commands-lab.ts";

let lab: FakeLab;
beforeEach(() => {
  lab = new FakeLab();
});
afterEach(() => lab.close());

const made = { id: "1", name: "web", notes: ["a note"] };

describe("start and end", () => {
  it.each([
    [["start", "a"], "machineStart", { machine: "a" }],
    [["resume", "a"], "machineResume", { machine: "a" }],
    [["suspend", "a"], "machineSuspend", { machine: "a" }],
    [["pause", "a"], "machinePause", { machine: "a" }],
    [["unpause", "a"], "machineUnpause", { machine: "a" }],
    [["destroy", "a"], "machineDestroy", { machine: "a" }],
    [["destroy", "a", "--discard"], "machineDestroy", { machine: "a", discard: true }],
    [["shutdown", "a"], "machineShutdown", { machine: "a" }],
    [["shutdown", "a", "--no-wait"], "machineShutdown", { machine: "a", wait: false }],
    [
      ["shutdown", "a", "--timeout", "1.5", "--force"],
      "machineShutdown",
      { machine: "a", timeoutSeconds: 1.5, force: true },
    ],
    [["reboot", "a", "--timeout", "9"], "machineReboot", { machine: "a", timeoutSeconds: 9 }],
  ])("%j", async (args, method, parameters) => {
    await lab.serve({
      machineStart: () => ({ domid: 3, resumed: false }),
      machineResume: () => ({ domid: 3 }),
      machineSuspend: () => ({ memoryBytes: 1024 }),
      machinePause: () => ({}),
      machineUnpause: () => ({}),
      machineDestroy: () => ({}),
      machineShutdown: () => ({ state: "stopped", forced: false }),
      machineReboot: () => ({ domid: 3, forced: false }),
    });
    expect(await lab.command(...args)).toMatchObject({ status: 0, printed: "" });
    expect(lab.calls).toEqual([{ method, parameters }]);
  });

  it("goes on after one that fails, and ends with the worst status", async () => {
    await lab.serve({
      machineStart: ({ machine }) => {
        if (machine === "b") throw new BadInput("bad-option", "b is broken", "mend it");
        return { domid: 3, resumed: false };
      },
    });
    const { told, status } = await lab.command("start", "a", "b", "c");
    expect(lab.calls.map(({ parameters }) => parameters)).toEqual([
      { machine: "a" },
      { machine: "b" },
      { machine: "c" },
    ]);
    expect(told).toEqual(["b is broken; mend it"]);
    expect(status).toBe(2);
  });

  it("refuses what cannot be meant", async () => {
    expect((await lab.refused("shutdown", "a", "--timeout", "soon")).line).toMatch(/--timeout soon/);
    expect((await lab.refused("shutdown", "a", "--no-wait", "--force")).line).toMatch(/--no-wait/);
    expect((await lab.refused("start", "a", "b", "--console")).line).toMatch(/one machine/);
    expect(lab.started).toBe(false);
  });
});

describe("wait", () => {
  it.each([
    [[], { kind: "state", state: "running" }],
    [["--for", "stopped"], { kind: "state", state: "stopped" }],
    [["--for", "exit"], { kind: "exit" }],
    [["--for", "answering"], { kind: "answering" }],
    [["--for", "login: "], { kind: "answering", text: "login: " }],
    [["--text", "exit"], { kind: "answering", text: "exit" }],
  ])("%j", async (args, until) => {
    await lab.serve({ machineWait: () => ({ reached: true, state: "running" }) });
    expect(await lab.command("wait", "a", ...args, "--timeout", "5")).toMatchObject({ status: 0 });
    expect(lab.calls).toEqual([{ method: "machineWait", parameters: { machine: "a", until, timeoutSeconds: 5 } }]);
  });

  it("ends with the status of a timeout", async () => {
    await lab.serve({ machineWait: () => ({ reached: false, state: "crashed", message: "crashed (triple fault)" }) });
    const { line, status } = await lab.refused("wait", "a", "--timeout", "1");
    expect(line).toMatch(/^a is crashed \(crashed \(triple fault\)\): waited in vain for running; /);
    expect(status).toBe(124);
  });

  it("takes a slip for a slip and not for a text", async () => {
    expect((await lab.refused("wait", "a", "--for", "stoped")).line).toMatch(/did you mean stopped\?/);
    expect((await lab.refused("wait", "a", "--text", "")).line).toMatch(/1 to 256/);
  });
});

describe("machines", () => {
  it("are changed, renamed, cloned, deleted and taken back", async () => {
    await lab.serve({
      machineSet: () => ({ notes: ["memoryMiB: counts from the next start of a"] }),
      machineRename: () => ({}),
      machineClone: () => made,
      machineDelete: () => ({ purgeAfter: "2026-11-28T10:00:00.000Z" }),
      machineUndelete: () => ({ name: "a-2" }),
      machinePurge: () => ({}),
    });
    expect((await lab.command("set", "a", "memoryMiB=64", "notes=")).told).toHaveLength(1);
    await lab.command("rename", "a", "b");
    expect((await lab.command("clone", "a", "web", "--linked", "--json")).printed).toBe('{"id":"1","name":"web"}\n');
    expect((await lab.command("delete", "a")).printed).toMatch(/a is deleted; until 2026-11-28 .*domlab undelete a/);
    expect((await lab.command("undelete", "a")).printed).toBe("a is back as a-2\n");
    await lab.command("purge", "a");
    expect(lab.calls).toEqual([
      { method: "machineSet", parameters: { machine: "a", settings: ["memoryMiB=64", "notes="] } },
      { method: "machineRename", parameters: { machine: "a", name: "b" } },
      { method: "machineClone", parameters: { machine: "a", name: "web", linked: true } },
      { method: "machineDelete", parameters: { machine: "a" } },
      { method: "machineUndelete", parameters: { machine: "a" } },
      { method: "machinePurge", parameters: { machine: "a" } },
    ]);
  });

  it.each([
    [["set", "a"], /nothing is to be set/],
    [["rename", "a", "b c"], /"b c" is no name/],
    [["clone", "a", "-b"], /unknown option|no name/],
    [["snapshot", "clone", "a", "s", "b/c"], /"b\/c" is no name/],
  ])("%j is refused", async (args, cause) => {
    expect((await lab.refused(...args)).line).toMatch(cause);
    expect(lab.started).toBe(false);
  });

  it("are shown", async () => {
    const web = details("web", {
      state: "running",
      domid: 3,
      config: { name: "web", kernel: "/k", vifs: [{ mac: "00:16:3e:00:00:01", bridge: "lab0", ips: ["10.0.0.5"] }] },
      disks: [
        { vdev: "xvda", source: "/a.qcow2", format: "qcow2", access: "rw", available: true, size: 2 ** 30, used: 4096 },
        { vdev: "xvdb", source: "/b", format: "raw", access: "ro", available: false, reason: "/b is missing" },
      ],
      statistics: { instructions: 1, busySeconds: 1.25, residentBytes: 2 ** 20 },
    });
    await lab.serve({ machineShow: () => web });
    const { printed } = await lab.command("show", "web");
    expect(printed).toMatch(/State: +running, domain 3\n/);
    expect(printed).toMatch(/xvda +qcow2 +rw +1 GiB +4 KiB +\/a\.qcow2\n/);
    expect(printed).toMatch(/xvdb .*\(unavailable: \/b is missing\)/);
    expect(printed).toMatch(/0 +00:16:3e:00:00:01 +lab0 +10\.0\.0\.5\n/);
    expect(printed).toMatch(/ {2}kernel=\/k\n/);
    expect(JSON.parse((await lab.command("show", "web", "--json")).printed)).toEqual(web);
  });

  it("are listed with their facts, deleted ones on demand", async () => {
    await lab.serve({
      machineList: ({ deleted }) =>
        deleted
          ? [summary("old", { state: "deleted", purgeAfter: "2026-11-28T10:00:00.000Z" })]
          : [summary("web", { state: "running", domid: 3 })],
      machineShow: () => details("web", { config: { vifs: [{}, {}] } }),
    });
    expect((await lab.command("list")).printed).toMatch(/^Name .*\nweb +running +3 +512 +0\n$/);
    expect((await lab.command("list", "--all")).printed).toMatch(
      / Kept until\nweb .*\nold +deleted .* 2026-11-28 \d\d:00:00\n$/,
    );
    expect((await lab.command("list")).printed).not.toMatch(/Kept until/);
    expect(JSON.parse((await lab.command("list", "--deleted", "--json")).printed)).toMatchObject([{ name: "old" }]);
    expect((await lab.command("list", "--long")).printed).toMatch(/Disks +Vifs.*\nweb.* 0 +2/);
    expect((await lab.refused("list", "--all", "--deleted")).line).toMatch(/contradict/);
  });

  it("are listed from the records when no lab runs", async () => {
    expect(await lab.command("list", "--json")).toMatchObject({ printed: "[]\n" });
    expect((await lab.command("list")).told).toEqual(["there is no machine yet: domlab create makes one"]);
    expect(lab.started).toBe(false);
  });
});

describe("configurations", () => {
  it("are imported and exported", async () => {
    const text = 'name = "web"\nkernel = "/k"\n';
    await lab.serve({
      configImport: () => made,
      configExport: () => ({ text, notes: ["xl has no words for xvdb"] }),
      machineShow: () => details("web", { config: { name: "web", memoryMiB: 64 } }),
    });
    writeFileSync(path.join(lab.folder, "web.cfg"), text);
    await lab.command("import", "web.cfg", "--name", "www");
    expect(lab.calls[0]).toEqual({ method: "configImport", parameters: { text, cwd: lab.folder, name: "www" } });
    expect(await lab.command("export", "web")).toMatchObject({ printed: text, told: ["xl has no words for xvdb"] });
    expect((await lab.command("export", "web", "--json")).printed).toBe('{\n  "name": "web",\n  "memoryMiB": 64\n}\n');
    await lab.command("export", "web", "out.cfg");
    expect(readFileSync(path.join(lab.folder, "out.cfg"), "utf8")).toBe(text);
    expect((await lab.refused("export", "web", "out.cfg")).line).toMatch(/out\.cfg exists already; /);
    await lab.command("export", "web", "out.cfg", "--force");
  });

  it("of a wrong file start no lab", async () => {
    writeFileSync(path.join(lab.folder, "bad.cfg"), 'name = "web"\nkernel = "/k"\nmemry = 3\n');
    expect((await lab.refused("import", "bad.cfg")).line).toMatch(/bad\.cfg, line 3: .*memry.*memory/);
    expect(lab.started).toBe(false);
  });

  it("that nobody knows are listed and taken up", async () => {
    await lab.serve({
      machineUnknown: () => [{ id: "7", name: "lost" }],
      machineAdopt: () => ({ ...made, notes: [] }),
    });
    expect((await lab.command("adopt")).printed).toMatch(/\n7 +lost\n/);
    expect((await lab.command("adopt", "7")).printed).toBe("web is taken up\n");
    expect(lab.calls.at(-1)).toEqual({ method: "machineAdopt", parameters: { id: "7" } });
  });
});

describe("disks", () => {
  it("are listed, attached, made, detached and grown", async () => {
    await lab.serve({
      machineShow: () =>
        details("web", {
          disks: [{ vdev: "xvdb", source: "/b", format: "raw", access: "rw", available: true, size: 2 ** 30 }],
        }),
      diskAttach: () => ({ vdev: "xvdc", live: true }),
      diskCreate: () => ({ vdev: "xvdd", path: "/d.qcow2", live: false }),
      diskDetach: () => ({ source: "/b" }),
      diskResize: ({ size }) => ({ size, live: true }),
    });
    expect((await lab.command("disk", "list", "web")).printed).toMatch(/xvdb +raw +rw +1 GiB/);
    expect((await lab.command("disk", "attach", "web", "c.img,,xvdc")).printed).toBe("xvdc is attached\n");
    expect((await lab.command("disk", "create", "web", "xvdd", "1G")).printed).toMatch(/when web starts: \/d\.qcow2/);
    expect((await lab.command("disk", "detach", "web", "xvdb", "--force")).printed).toMatch(/its image is \/b/);
    expect((await lab.command("disk", "resize", "web", "xvdb", "+1G")).printed).toMatch(
      /2 GiB now, and the guest knows/,
    );
    expect(lab.calls.filter(({ method }) => method.startsWith("disk"))).toEqual([
      { method: "diskAttach", parameters: { machine: "web", disk: "c.img,,xvdc", cwd: lab.folder } },
      { method: "diskCreate", parameters: { machine: "web", disk: { vdev: "xvdd", size: 2 ** 30, format: "qcow2" } } },
      { method: "diskDetach", parameters: { machine: "web", vdev: "xvdb", force: true } },
      { method: "diskResize", parameters: { machine: "web", vdev: "xvdb", size: 2 ** 31 } },
    ]);
    expect((await lab.refused("disk", "resize", "web", "xvdz", "+1G")).line).toMatch(/no disk xvdz; it has xvdb/);
    expect((await lab.refused("disk", "resize", "web", "xvdb", "-1G")).line).toMatch(/not made smaller/);
    expect((await lab.refused("disk", "create", "web", "xvdd", "1G", "--format", "vdi")).line).toMatch(/vdi/);
  });
});

describe("the lab", () => {
  it("is described, set and ended", async () => {
    const info = { name: "main", pid: 7, home: "/home/lab", started: "2026-11-21T10:00:00.000Z", version: "1" };
    await lab.serve({
      labInfo: () => ({ ...info, machines: 3, running: 1, clients: 1, warnings: ["a warning"], freeBytes: 2 ** 30 }),
      labSettings: () => ({ purgeDays: 30, suspendOnQuit: false }),
      labQuit: (_, session) => {
        // The connection ends with the lab.
        session.onEnd(() => {});
        setTimeout(() => void lab.close(), 10);
        return { notes: ["web was ended at once"] };
      },
    });
    expect((await lab.command("lab", "info")).printed).toMatch(
      /Machines: +3, of which 1 run\n.*Warning: +a warning\n/s,
    );
    const { printed } = await lab.command("lab", "settings", "purgeDays=30", "suspendOnQuit=off");
    expect(printed).toBe("purgeDays=30\nsuspendOnQuit=false\n");
    expect(lab.calls.at(-1)).toEqual({
      method: "labSettings",
      parameters: { change: { purgeDays: 30, suspendOnQuit: false } },
    });
    expect((await lab.refused("lab", "settings", "purgeDays")).line).toMatch(/"purgeDays" sets nothing/);
    expect((await lab.refused("lab", "quit", "--machines", "kill")).line).toMatch(/suspend, shutdown or destroy/);
    expect((await lab.command("lab", "quit", "--machines", "suspend")).told).toEqual(["web was ended at once"]);
  });

  it("is not started to be described or ended", async () => {
    expect((await lab.command("lab", "info")).printed).toMatch(/does not run/);
    expect(JSON.parse((await lab.command("lab", "info", "--json")).printed)).toMatchObject({ open: false });
    expect((await lab.command("lab", "quit")).told).toEqual(["the lab does not run"]);
    expect(lab.started).toBe(false);
  });

  it("has snapshots of all machines", async () => {
    const members = [{ machine: "id-web", snapshot: "1", pausedMs: 12.4 }];
    await lab.serve({
      machineList: () => [summary("web")],
      labSnapshotTake: () => ({ id: "1", name: "monday", members }),
      labSnapshotList: () => [
        {
          id: "1",
          name: "monday",
          note: "n",
          date: "2026-11-21T10:00:00.000Z",
          members: [{ machine: "1", name: "web", snapshot: "2", present: false }],
        },
      ],
      labSnapshotRestore: () => ({ restored: ["web"], notes: [] }),
      labSnapshotDelete: () => ({}),
    });
    const taken = await lab.command("lab", "snapshot", "take", "monday", "--machine", "web", "--machine", "db");
    expect(taken.printed).toMatch(/monday is taken\n.*web +12 ms\n/s);
    expect((await lab.command("lab", "snapshot", "list")).printed).toMatch(/monday .*web \(gone\) +n\n/);
    await lab.command("lab", "snapshot", "restore", "monday", "web", "--force");
    await lab.command("lab", "snapshot", "delete", "monday", "--members");
    expect(lab.calls.map(({ parameters }) => parameters)).toEqual([
      { name: "monday", machines: ["web", "db"] },
      {},
      {},
      { snapshot: "monday", machines: ["web"], force: true },
      { snapshot: "monday", members: true },
    ]);
  });
});

describe("long work", () => {
  const operation = (id: string, done: number) => ({
    kind: "operation" as const,
    operation: { id, what: "snapshot of a", step: "writing memory", done, total: 200, cancellable: true },
  });

  it("shows its progress, and only its own", async () => {
    await lab.serve({
      snapshotTake: ({ operation: id }, session) => {
        session.send(operation("another", 20));
        session.send(operation(String(id), 80));
        return { id: "1", name: "s", kind: "running", pausedMs: 3.7 };
      },
    });
    const { printed } = await lab.command("snapshot", "take", "a", "s", "--note", "n");
    expect(printed).toBe("s is taken (disks and memory, the guest stood still for 4 ms)\n");
    expect(lab.progress).toEqual(["snapshot of a: writing memory, 40 %"]);
  });

  it("is cancelled by Ctrl-C, with the status of an interrupt", async () => {
    const asked: unknown[] = [];
    let cancel: (reason: Error) => void = () => {};
    await lab.serve({
      operationCancel: ({ operation: id }) => {
        asked.push(id);
        cancel(new PassedOn("snapshot of a was cancelled; nothing was changed", 2));
        return { cancelled: true };
      },
      snapshotTake: ({ operation: id }) => {
        asked.push(id);
        setImmediate(() => lab.interrupt());
        return new Promise((_, reject) => {
          cancel = reject;
        });
      },
    });
    expect(await lab.refused("snapshot", "take", "a")).toEqual({
      line: "snapshot of a was cancelled; nothing was changed",
      status: 130,
    });
    expect(asked[0]).toBe(asked[1]);
    expect(lab.interrupt()).toBe(0);
  });

  it("is left to the lab by a second Ctrl-C where it cannot be cancelled", async () => {
    await lab.serve({
      operationCancel: () => {
        setImmediate(() => lab.interrupt());
        return { cancelled: false };
      },
      snapshotDelete: () => {
        setImmediate(() => lab.interrupt());
        return new Promise(() => {});
      },
    });
    const { line, status } = await lab.refused("snapshot", "delete", "a", "s");
    expect(line).toMatch(/left to the lab/);
    expect(status).toBe(130);
  });

  it("that is only waited for is left by Ctrl-C", async () => {
    await lab.serve({
      machineShutdown: () => {
        setImmediate(() => lab.interrupt());
        return new Promise(() => {});
      },
    });
    const { line, status } = await lab.refused("shutdown", "a");
    expect(line).toMatch(/may still/);
    expect(status).toBe(130);
  });
});
