import { spawn } from "node:child_process";
import { once } from "node:events";
import { cp, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { LabStore } from "../../../main/lab/store/store.ts";
import { add, faultyFiles, machine, openStore, systemError, temporaryFolder } from "./helpers.ts";

const names = (store: LabStore) => store.data.machines.map(({ config }) => config.name).sort();
const json = async (file: string) => JSON.parse(await readFile(file, "utf8"));

describe("lab store", () => {
  it("finds again what was committed", async () => {
    const folder = await temporaryFolder();
    const first = await openStore(folder);
    const id = await add(first, { name: "web", memoryMiB: 128 });
    await first.update((draft) => {
      draft.settings.purgeDays = 3;
      draft.networks.push({
        name: "lab0",
        mtu: 1500,
        isolated: false,
        vlans: false,
        uplink: { kind: "user" },
        forwards: [],
        settings: { rules: ["-P deny"], classes: [], impair: "", down: false },
      });
    });
    const before = first.data;
    await first.close();
    const second = await openStore(folder);
    expect(second.data).toEqual(before);
    expect(second.recovered).toBe(false);
    expect(second.machine("WEB")?.id).toBe(id);
    expect(second.machine(id)?.config.memoryMiB).toBe(128);
    expect(second.machine("db")).toBeUndefined();
  });

  it("lets no one change what it hands out", async () => {
    const store = await openStore(await temporaryFolder());
    await add(store, { name: "web" });
    const { config } = store.data.machines[0] as unknown as { config: { name: string } };
    expect(() => {
      config.name = "other";
    }).toThrow(TypeError);
  });

  it("makes updates follow one another and counts them", async () => {
    const store = await openStore(await temporaryFolder());
    const revision = store.data.revision;
    const twenty = Array.from({ length: 20 }, (_, index) => add(store, { name: `m${index}` }));
    await Promise.all(twenty);
    expect(store.data.machines).toHaveLength(20);
    expect(store.data.revision).toBe(revision + 20);
    expect(store.data.machines.map((record) => record.revision - revision)).toEqual(
      twenty.map((_, index) => index + 1),
    );
  });

  it("stamps only the records that changed and writes nothing for no change", async () => {
    const store = await openStore(await temporaryFolder());
    await add(store, { name: "a" });
    const id = await add(store, { name: "b" });
    const [a, b] = store.data.machines;
    await store.update((draft) => {
      draft.machines[1]!.config.notes = "new";
    });
    expect(store.data.machines[0]).toEqual(a);
    expect(store.data.machines[1]?.revision).toBe(b!.revision + 1);
    expect((await json(store.paths.machineFile(id))).machine).toEqual(store.data.machines[1]);
    const text = await readFile(store.paths.records, "utf8");
    await store.update(() => {});
    expect(await readFile(store.paths.records, "utf8")).toBe(text);
  });

  it("does not call it a change that a machine was started", async () => {
    const store = await openStore(await temporaryFolder());
    const changed = "2026-01-01T00:00:00.000Z";
    await store.update((draft) => draft.machines.push(machine({ name: "a" })));
    const [before] = store.data.machines;
    await store.update((draft) => Object.assign(draft.machines[0]!, { wasRunning: true, changed }));
    expect(store.data.machines[0]).toEqual({ ...before, wasRunning: true, revision: before!.revision + 1 });
  });

  it("says so when the folder cannot be one", async () => {
    const file = join(await temporaryFolder(), "file");
    await writeFile(file, "");
    await expect(LabStore.open(file)).rejects.toThrow(
      /file cannot be written: \w+; choose another folder \(DOMLAB_HOME\)$/,
    );
  });

  it("changes nothing when the draft is wrong or the change throws", async () => {
    const store = await openStore(await temporaryFolder());
    await add(store, { name: "web" });
    const [before, text] = [store.data, await readFile(store.paths.records, "utf8")];
    const failing: [() => Promise<unknown>, RegExp][] = [
      [() => add(store, { name: "WEB" }), /two machines are called web/],
      [() => store.update((draft) => Object.assign(draft.machines[0]!.config, { memoryMiB: 0.5 })), /memoryMiB/],
      [() => store.update((draft) => Object.assign(draft, { more: 1 })), /unknown key more/],
      [
        () =>
          store.update((draft) => {
            draft.machines[0]!.currentSnapshot = draft.id;
          }),
        /currentSnapshot: names no snapshot/,
      ],
      [
        () =>
          store.update((draft) => {
            draft.machines.length = 0;
            throw new Error("changed my mind");
          }),
        /changed my mind/,
      ],
    ];
    for (const [update, message] of failing) await expect(update()).rejects.toThrow(message);
    expect(store.data).toBe(before);
    expect(await readFile(store.paths.records, "utf8")).toBe(text);
    await add(store, { name: "next" });
    expect(names(store)).toEqual(["next", "web"]);
  });

  it("allows a deleted machine's name to be used, and two deleted ones of one name", async () => {
    const store = await openStore(await temporaryFolder());
    const deleted = { state: "deleted", deletedAt: new Date().toISOString() } as const;
    for (const over of [deleted, deleted, {}]) await add(store, { name: "web" }, over);
    expect(store.machine("web")?.state).toBe("stopped");
  });

  it("tells those who listen", async () => {
    const store = await openStore(await temporaryFolder());
    const seen: number[] = [];
    const stop = store.onChange((data) => seen.push(data.machines.length));
    await add(store, { name: "a" });
    stop();
    await add(store, { name: "b" });
    expect(seen).toEqual([1]);
  });

  it("refuses updates after close, and closes behind those under way", async () => {
    const folder = await temporaryFolder();
    const store = await openStore(folder);
    const late = add(store, { name: "late" });
    await store.close();
    await late;
    await expect(add(store, { name: "too-late" })).rejects.toThrow("closed");
    expect(names(await openStore(folder))).toEqual(["late"]);
  });
});

describe("the lab's lock", () => {
  it("names the process that has the lab", async () => {
    const folder = await temporaryFolder();
    const first = await openStore(folder);
    const pattern = new RegExp(
      `the lab in .* is open in process ${process.pid} since \\d{4}-.*; use it through that one`,
    );
    await expect(LabStore.open(folder)).rejects.toThrow(pattern);
    await first.close();
    await openStore(folder);
  });

  it.skipIf(process.platform !== "linux")("ends with a process that is killed", async () => {
    const folder = await temporaryFolder();
    // The same lock by hand: F_OFD_SETLK with a write lock on byte 0.
    const source = `
      const { open } = await import("node:fs/promises");
      const koffi = (await import("koffi")).default;
      const libc = koffi.load(null);
      const fcntl = libc.func("fcntl", "int", ["int", "int", "..."]);
      const handle = await open(process.argv[1], "a+");
      const record = Buffer.alloc(32);
      record.writeInt16LE(1, 0);
      record.writeBigInt64LE(1n, 16);
      if (fcntl(handle.fd, 37, "void *", record) !== 0) process.exit(3);
      await handle.truncate(0);
      await handle.write("not what a lab writes\\n");
      process.stdout.write("locked");
      setInterval(() => {}, 1000);
    `;
    const child = spawn(process.execPath, ["--input-type=module", "-e", source, join(folder, "lab.lock")], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    try {
      await once(child.stdout, "data");
      await expect(LabStore.open(folder)).rejects.toThrow("is open in another process");
    } finally {
      child.kill("SIGKILL");
      await once(child, "exit");
    }
    await openStore(folder);
  });
});

describe("durability", () => {
  it.each(["ENOSPC", "EACCES", "EIO"])(
    "keeps the old state when a call fails with %s, whichever it is",
    async (code) => {
      for (let failAt = 1; ; failAt++) {
        const folder = await temporaryFolder();
        let countdown = Number.POSITIVE_INFINITY;
        const files = faultyFiles(() => (--countdown === 0 ? systemError(code) : undefined));
        const lines: string[] = [];
        const store = await openStore(folder, { files, log: (line) => lines.push(line) });
        const web = await add(store, { name: "web" });
        const before = store.data;
        countdown = failAt;
        const outcome = await add(store, { name: "db" }).then(
          () => "done",
          (error: Error) => error.message,
        );
        const cameTo = countdown <= 0;
        countdown = Number.POSITIVE_INFINITY;
        if (outcome !== "done") {
          expect(outcome).toMatch(/lab\.json cannot be written: .*; .*nothing was changed$/);
          expect(store.data).toBe(before);
        }
        const memory = store.data;
        await store.close();
        const again = await openStore(folder);
        expect(again.recovered).toBe(false);
        expect(again.data).toEqual(memory);
        expect((await json(again.paths.machineFile(web))).machine).toEqual(again.machine("web"));
        expect((await again.unknownMachines()).machines).toEqual([]);
        if (outcome === "done" && !cameTo) break;
      }
    },
  );

  it("loses neither lab nor machine wherever it is killed", async () => {
    const folder = await temporaryFolder();
    const store = await openStore(folder);
    const purged = await add(store, { name: "old" }, { state: "deleted", deletedAt: new Date(0).toISOString() });
    await add(store, { name: "web" });
    await store.close();
    const killed = new Error("killed");
    for (let killAt = 1, steps = 0; killAt === 1 || steps >= killAt - 1; killAt++) {
      steps = 0;
      let dead = false;
      // From the fatal call on the process does nothing any more.
      const files = faultyFiles(() => {
        dead ||= ++steps === killAt;
        return dead ? killed : undefined;
      });
      const copy = await temporaryFolder();
      await cp(folder, copy, { recursive: true });
      const victim = await openStore(copy, { files });
      const before = victim.data;
      await add(victim, { name: "new" }).catch(() => {});
      await victim.purge([purged]).catch(() => {});
      await victim.close();
      const again = await openStore(copy);
      expect(again.recovered).toBe(false);
      expect(names(again)).toContain("web");
      expect([
        ["old", "web"],
        ["new", "old", "web"],
        ["new", "web"],
      ]).toContainEqual(names(again));
      expect(again.data.id).toBe(before.id);
      const { machines, damaged } = await again.unknownMachines();
      expect({ machines, damaged }).toEqual({ machines: [], damaged: [] });
      for (const record of again.data.machines) {
        expect((await json(again.paths.machineFile(record.id))).machine).toEqual(record);
      }
      if (!dead) break;
    }
  });

  it("writes a copy of a record later when it could not at once", async () => {
    const folder = await temporaryFolder();
    let full = false;
    const files = faultyFiles((_, file) => (full && file.includes("machine.json") ? systemError("ENOSPC") : undefined));
    const lines: string[] = [];
    const store = await openStore(folder, { files, log: (line) => lines.push(line) });
    full = true;
    const id = await add(store, { name: "web" });
    expect(lines.join()).toMatch(/machine\.json cannot be written: no space left/);
    full = false;
    await add(store, { name: "db" });
    expect((await json(store.paths.machineFile(id))).machine.config.name).toBe("web");
  });
});

describe("purge", () => {
  it("forgets deleted machines whose time is over, and no others", async () => {
    const store = await openStore(await temporaryFolder());
    const now = new Date("2026-05-20T12:00:00.000Z");
    const at = (deletedAt: string) => ({ state: "deleted", deletedAt }) as const;
    const old = await add(store, { name: "old" }, at("2026-05-13T12:00:00.000Z"));
    const recent = await add(store, { name: "recent" }, at("2026-05-13T12:00:00.001Z"));
    const alive = await add(store, { name: "alive" });
    const snapshot = "11111111-2222-4333-8444-555555555555";
    await store.update((draft) => {
      const member = (id: string) => ({ machine: id, snapshot });
      const base = { note: "", date: now.toISOString() };
      draft.labSnapshots.push(
        { ...base, id: snapshot, name: "both", members: [member(old), member(alive)] },
        { ...base, id: recent, name: "only", members: [member(old)] },
      );
    });
    expect(store.expired(now)).toEqual([old]);
    await store.purge([old, alive]);
    expect(names(store)).toEqual(["alive", "recent"]);
    expect(store.data.labSnapshots.map(({ name, members }) => [name, members.length])).toEqual([["both", 1]]);
    expect((await readdir(store.paths.machines)).sort()).toEqual([alive, recent].sort());
  });
});
