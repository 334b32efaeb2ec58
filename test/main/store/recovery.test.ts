/** A store that was damaged, cut short or written by another version. */
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { type Json, type LabFormat, labFormat } from "../../../main/lab/store/migrations.ts";
import { LabStore } from "../../../main/lab/store/store.ts";
import { add, machine, openStore, temporaryFolder } from "./helpers.ts";

const names = (store: LabStore) => store.data.machines.map(({ config }) => config.name).sort();
const json = async (file: string) => JSON.parse(await readFile(file, "utf8"));

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
