import { spawn } from "node:child_process";
import { once } from "node:events";
import { cp, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { type Json, type LabFormat, labFormat } from "../../../main/lab/store/migrations.ts";
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

describe("recovery", () => {
  /** A lab with machines a and b, closed; b was changed and c added in its last two commits. */
  async function lab(): Promise<{ folder: string; b: string; c: string }> {
    const folder = await temporaryFolder();
    const store = await openStore(folder);
    await add(store, { name: "a" });
    const b = await add(store, { name: "b" });
    const c = await store.update((draft) => {
      draft.machines[1]!.config.disks.push({
        vdev: "xvda",
        source: join(folder, "disks", "overlay.qcow2"),
        format: "qcow2",
        access: "rw",
        deviceType: "disk",
        placement: "driver-domain",
        persistent: false,
        discard: true,
      });
      const record = machine({ name: "c" });
      draft.machines.push(record);
      return record.id;
    });
    await store.close();
    return { folder, b, c };
  }

  it.each([
    ["nothing", ""],
    ["half of itself", '{"version":1,"id":"'],
    ["zeros", "\0".repeat(512)],
    ["another schema", '{"version":1,"machines":7}'],
    ["no version", "{}"],
    ["a list", "[]"],
  ])("takes the backup and later copies of records when lab.json holds %s", async (_, text) => {
    const { folder, b, c } = await lab();
    await writeFile(join(folder, "lab.json"), text);
    const lines: string[] = [];
    const store = await openStore(folder, { log: (line) => lines.push(line) });
    expect(store.recovered).toBe(true);
    expect(names(store)).toEqual(["a", "b", "c"]);
    // The commit that is lost froze b's disk: the backup's record would write to what others rely on.
    expect(store.machine(b)?.config.disks[0]?.source).toMatch(/overlay\.qcow2$/);
    expect(store.machine(c)).toBeDefined();
    expect(lines.join("\n")).toMatch(/lab\.json cannot be used/);
    const aside = (await readdir(folder)).find((name) => name.startsWith("lab.json.damaged-"));
    expect(await readFile(join(folder, aside!), "utf8")).toBe(text);
    await store.close();
    const again = await openStore(folder);
    expect(names(again)).toEqual(["a", "b", "c"]);
    expect(again.recovered).toBe(true);
    await again.acknowledgeRecovery();
    expect(again.recovered).toBe(false);
  });

  it("does the same when lab.json is gone", async () => {
    const { folder } = await lab();
    await rm(join(folder, "lab.json"));
    const store = await openStore(folder);
    expect([store.recovered, names(store)]).toEqual([true, ["a", "b", "c"]]);
  });

  it("finds machines again when both files are gone, and takes them up under a free name", async () => {
    const { folder, b } = await lab();
    await writeFile(join(folder, "lab.json"), "?");
    await writeFile(join(folder, "lab.json.bak"), "?");
    const store = await openStore(folder);
    expect(store.recovered).toBe(true);
    expect(names(store)).toEqual([]);
    const { machines } = await store.unknownMachines();
    expect(machines.map(({ record }) => record.config.name).sort()).toEqual(["a", "b", "c"]);
    await add(store, { name: "B" });
    expect((await store.adopt(b)).config.name).toBe("b-2");
    expect(store.machine("b-2")?.config.disks).toHaveLength(1);
    await expect(store.adopt(b)).rejects.toThrow(/no machine .* to take up/);
    await store.close();
    expect(names(await openStore(folder))).toEqual(["B", "b-2"]);
  });

  it("lists broken folders as damaged", async () => {
    const folder = await temporaryFolder();
    const store = await openStore(folder);
    const id = await add(store, { name: "web" });
    const good = await readFile(store.paths.machineFile(id), "utf8");
    const other = "11111111-2222-4333-8444-555555555555";
    const contents: Record<string, string> = {
      [other]: good,
      "11111111-2222-4333-8444-666666666666": "{",
      "11111111-2222-4333-8444-777777777777": good.replace('"version": 1', '"version": 9'),
      stray: good,
    };
    for (const [name, content] of Object.entries(contents)) {
      await mkdir(store.paths.machineFolder(name));
      await writeFile(store.paths.machineFile(name), content);
    }
    const { machines, damaged } = await store.unknownMachines();
    expect(machines).toEqual([]);
    const reasons = Object.fromEntries(damaged.map((each) => [each.folder.slice(-12), each.reason]));
    expect(reasons).toMatchObject({
      "555555555555": expect.stringContaining(`it holds the machine ${id}`),
      "666666666666": "it is no JSON",
      "777777777777": expect.stringContaining("later version"),
    });
    expect(damaged).toHaveLength(4);
  });

  it("never opens a damaged file as something else, and never refuses to open", async () => {
    const { folder } = await lab();
    const good = await readFile(join(folder, "lab.json"));
    const bak = await readFile(join(folder, "lab.json.bak"));
    const damage = fc.oneof(
      fc.record({ at: fc.nat(good.length - 1), byte: fc.nat(255), keep: fc.constant(good.length) }),
      fc.record({ at: fc.constant(0), byte: fc.constant(good[0]!), keep: fc.nat(good.length - 2) }),
    );
    await fc.assert(
      fc.asyncProperty(damage, async ({ at, byte, keep }) => {
        const bytes = Buffer.from(good.subarray(0, keep));
        if (at < bytes.length) bytes[at] = byte;
        await writeFile(join(folder, "lab.json"), bytes);
        await writeFile(join(folder, "lab.json.bak"), bak);
        let store: LabStore;
        try {
          store = await LabStore.open(folder);
        } catch (error) {
          // One digit of the version is a later version.
          expect(String(error)).toMatch(/later version/);
          return;
        }
        expect(store.data.machines).toHaveLength(3);
        await store.close();
      }),
      { numRuns: 60 },
    );
  });
});

describe("versions", () => {
  /** A lab of the future: version 2 calls memoryMiB memory, in KiB; a machine record has a rank. */
  const future = {
    version: 2,
    steps: {
      1: {
        lab: (data: Json) => ({ ...data, motto: `once ${String(data.revision)}` }),
        machine: (record: Json) => {
          if (record.id === undefined) throw new Error("a machine without id");
          return { ...record, rank: 1 };
        },
      },
    },
    lab: z.looseObject({
      version: z.literal(2),
      machines: z.array(z.looseObject({ rank: z.literal(1) })).default([]),
      recoveredAt: z.string().nullable().default(null),
    }),
    machine: z.looseObject({ version: z.literal(2), machine: z.looseObject({ rank: z.literal(1) }) }),
  } as unknown as LabFormat;

  it("migrates older records and keeps them as they were", async () => {
    const folder = await temporaryFolder();
    const old = await openStore(folder);
    const id = await add(old, { name: "web" });
    await old.close();
    const text = await readFile(join(folder, "lab.json"), "utf8");
    const store = await openStore(folder, { format: future });
    expect(store.data).toMatchObject({ version: 2, motto: "once 1", machines: [{ id, rank: 1 }] });
    expect(await readFile(join(folder, "lab.json.v1"), "utf8")).toBe(text);
    expect(await json(join(folder, "lab.json"))).toEqual(store.data);
    expect(await json(store.paths.machineFile(id))).toMatchObject({ version: 2, machine: { id, rank: 1 } });
    await store.close();
    const message = /was made by a later version of domlab \(its version is 2, this one's 1\); update domlab/;
    await expect(LabStore.open(folder)).rejects.toThrow(message);
    // The refusal left everything, the lock too.
    expect((await openStore(folder, { format: future })).data).toMatchObject({ machines: [{ id }] });
  });

  it("migrates machines that lab.json does not know", async () => {
    const folder = await temporaryFolder();
    const old = await openStore(folder);
    await add(old, { name: "web" });
    await old.close();
    for (const name of ["lab.json", "lab.json.bak"]) await writeFile(join(folder, name), "");
    const store = await openStore(folder, { format: future });
    expect((await store.unknownMachines()).machines).toMatchObject([{ record: { rank: 1, config: { name: "web" } } }]);
  });

  it("treats records as damaged when no step leads on", async () => {
    const folder = await temporaryFolder();
    await (await openStore(folder)).close();
    const lines: string[] = [];
    const store = await openStore(folder, { format: { ...future, steps: {} }, log: (line) => lines.push(line) });
    expect(lines.join()).toMatch(/no migration leads from version 1/);
    await store.close();
  });

  it("has a step for every older version", () => {
    const older = Array.from({ length: labFormat.version - 1 }, (_, index) => String(index + 1));
    expect(Object.keys(labFormat.steps)).toEqual(older);
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
