import { existsSync } from "node:fs";
import { mkdir, readdir, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { type MachineSnapshot, machineConfig } from "../../../main/lab/store/schema.ts";
import type { BackingOf, LabStore } from "../../../main/lab/store/store.ts";
import { add, openStore, temporaryFolder } from "./helpers.ts";

const SNAPSHOT = "11111111-2222-4333-8444-555555555555";

/** Chains as a table: name in disks/ → name behind it. A name without a row cannot be read. */
function chains(store: LabStore, table: Record<string, string | undefined>): BackingOf {
  return async (path) => {
    const name = path.slice(store.paths.disks.length + 1);
    if (!Object.hasOwn(table, name)) throw new Error(`no image ${path}`);
    const behind = table[name];
    return behind === undefined ? undefined : { path: join(store.paths.disks, behind), format: "qcow2" };
  };
}

function snapshot(folder: string, image: string): MachineSnapshot {
  return {
    id: SNAPSHOT,
    name: "first",
    note: "",
    date: new Date().toISOString(),
    parent: null,
    kind: "running",
    status: "complete",
    disks: [{ vdev: "xvda", image: join(folder, "disks", image), format: "qcow2" }],
    memory: "snap.dsnap",
    config: machineConfig.parse({ name: "web" }),
    sizes: { memoryFile: 0, touchedMemory: 0, disks: 0 },
  };
}

const FILES = {
  disks: ["active", "frozen", "base", "deleted", "deleted-base", "stray", "stray-base", "half.tmp"],
  memory: ["snap.dsnap", "sleep.dsnap", "stray.dsnap"],
  tmp: ["x"],
};
const TABLE = {
  active: "frozen",
  frozen: "base",
  base: undefined,
  deleted: "deleted-base",
  "deleted-base": undefined,
  stray: "stray-base",
  "stray-base": undefined,
  "half.tmp": undefined,
};

/** A lab whose machine has a snapshot, with a suspended deleted machine and files that nobody names; opened anew. */
async function lab(): Promise<{ folder: string; store: LabStore; deleted: string }> {
  const folder = await temporaryFolder();
  const first = await openStore(folder);
  const disk = (name: string) => ({ vdev: "xvda", source: join(folder, "disks", name), format: "qcow2" }) as const;
  const web = { name: "web", disks: [disk("active"), { vdev: "xvdb", source: "nbd://host/x" }] };
  await add(first, web, { snapshots: [snapshot(folder, "frozen")], currentSnapshot: SNAPSHOT });
  const over = { state: "deleted", deletedAt: new Date().toISOString(), memory: "sleep.dsnap" } as const;
  const deleted = await add(first, { name: "old", disks: [disk("deleted")] }, over);
  await first.close();
  for (const [sub, names] of Object.entries(FILES)) {
    for (const name of names) await writeFile(join(folder, sub, name), "");
  }
  await mkdir(join(folder, "tmp", "deep", "er"), { recursive: true });
  return { folder, store: await openStore(folder), deleted };
}

const left = async (folder: string, sub: string) => (await readdir(join(folder, sub))).sort();

describe("sweep", () => {
  it("removes what no record names, directly or behind an image", async () => {
    const { folder, store } = await lab();
    // What comes after the start is somebody's work in progress.
    await writeFile(join(folder, "disks", "later"), "");
    await writeFile(join(folder, "tmp", "later"), "");
    const report = await store.sweep({ backingOf: chains(store, TABLE) });
    expect(report.doubts).toEqual([]);
    expect(await left(folder, "disks")).toEqual(["active", "base", "deleted", "deleted-base", "frozen", "later"]);
    expect(await left(folder, "memory")).toEqual(["sleep.dsnap", "snap.dsnap"]);
    expect(await left(folder, "tmp")).toEqual(["later"]);
    expect(report.removed).toHaveLength(6);
  });

  it("removes what a purged machine had, at once too", async () => {
    const { folder, store, deleted } = await lab();
    const asked = {
      images: [{ path: join(folder, "disks", "deleted"), format: "qcow2" }],
      memory: ["sleep.dsnap"],
    } as const;
    expect(await store.unreferenced(asked, chains(store, TABLE))).toEqual([]);
    await store.purge([deleted]);
    const free = [join("disks", "deleted"), join("disks", "deleted-base"), join("memory", "sleep.dsnap")];
    expect(await store.unreferenced(asked, chains(store, TABLE))).toEqual(free.map((name) => join(folder, name)));
    await store.sweep({ backingOf: chains(store, TABLE) });
    expect(await left(folder, "disks")).toEqual(["active", "base", "frozen"]);
  });

  it("offers nothing outside the lab's folders", async () => {
    const { folder, store } = await lab();
    const outside = join(await temporaryFolder(), "mine.qcow2");
    await symlink(outside, join(folder, "disks", "link"));
    await writeFile(outside, "");
    const asked = {
      images: [outside, join(folder, "disks", "link")].map((path) => ({ path, format: "raw" as const })),
    };
    expect(await store.unreferenced(asked, chains(store, TABLE))).toEqual([]);
    await expect(store.unreferenced({ memory: ["../disks/stray"] }, chains(store, TABLE))).resolves.toEqual([]);
  });

  it("keeps an image that lies elsewhere behind a link", async () => {
    const { folder, store } = await lab();
    await store.close();
    const outside = join(await temporaryFolder(), "big.qcow2");
    await rm(join(folder, "disks", "active"));
    await writeFile(outside, "");
    await symlink(outside, join(folder, "disks", "active"));
    const again = await openStore(folder);
    const backingOf: BackingOf = async (path) => (path === outside ? undefined : chains(again, TABLE)(path));
    await again.sweep({ backingOf });
    expect(await left(folder, "disks")).toContain("active");
    expect(await left(folder, "disks")).not.toContain("stray");
  });

  it("keeps what a linked name of the folder leads to", async () => {
    const { folder, store } = await lab();
    const other = join(await temporaryFolder(), "alias");
    await symlink(folder, other);
    await store.update((draft) => {
      draft.machines[0]!.config.disks[0]!.source = join(other, "disks", "active");
    });
    await store.sweep({ backingOf: chains(store, TABLE) });
    expect(await left(folder, "disks")).toContain("active");
  });

  it("keeps all images while a named one cannot be read", async () => {
    const { folder, store } = await lab();
    const { active: _, ...rest } = TABLE;
    const report = await store.sweep({ backingOf: chains(store, rest) });
    expect(report.doubts.join()).toMatch(/active cannot be read/);
    expect(await left(folder, "disks")).toEqual([...FILES.disks].sort());
    expect(await left(folder, "memory")).toEqual(["sleep.dsnap", "snap.dsnap"]);
    const asked = { images: [{ path: join(folder, "disks", "stray"), format: "qcow2" }] } as const;
    expect(await store.unreferenced(asked, chains(store, rest))).toEqual([]);
  });

  it("does not look into raw images, whose content is a guest's", async () => {
    const { folder, store } = await lab();
    await store.update((draft) => {
      const [disk] = draft.machines[0]!.config.disks;
      Object.assign(disk!, { source: join(folder, "disks", "stray"), format: "raw" });
    });
    const { stray: _, ...rest } = TABLE;
    const report = await store.sweep({ backingOf: chains(store, rest) });
    expect(report.doubts).toEqual([]);
    expect(await left(folder, "disks")).toContain("stray");
  });

  it("ends when images lie behind each other in a circle", async () => {
    const { folder, store } = await lab();
    await store.sweep({ backingOf: chains(store, { ...TABLE, base: "active" }) });
    expect(await left(folder, "disks")).toContain("base");
  });

  it.each(["recovered", "unknown", "damaged"])("sweeps tmp/ only while records may be missing: %s", async (doubt) => {
    const { folder, store, deleted } = await lab();
    await store.close();
    if (doubt === "damaged") {
      await mkdir(join(folder, "machines", SNAPSHOT));
      await writeFile(join(folder, "machines", SNAPSHOT, "machine.json"), "{");
    } else {
      await writeFile(join(folder, "lab.json"), "");
      if (doubt === "unknown") await writeFile(join(folder, "lab.json.bak"), "");
    }
    const again = await openStore(folder);
    if (doubt === "unknown") await again.acknowledgeRecovery();
    const report = await again.sweep({ backingOf: chains(again, TABLE) });
    const pattern = { recovered: /were recovered at/, unknown: /does not know/, damaged: /is damaged/ }[doubt]!;
    expect(report.doubts.join()).toMatch(pattern);
    expect(await left(folder, "disks")).toEqual([...FILES.disks].sort());
    expect(await left(folder, "memory")).toEqual([...FILES.memory].sort());
    expect(await left(folder, "tmp")).toEqual([]);
    if (doubt !== "unknown") return;
    // Their files count as named, for whoever asks.
    const { images } = await again.references();
    expect(images.map(({ path }) => path)).toContain(join(again.paths.disks, "deleted"));
    expect((await again.adopt(deleted)).state).toBe("deleted");
  });

  it("removes folders of machines that are gone, and not those of machines that lack their copy", async () => {
    const { folder, store, deleted } = await lab();
    await store.close();
    await mkdir(join(folder, "machines", SNAPSHOT));
    await writeFile(join(folder, "machines", SNAPSHOT, "console.log"), "hello");
    await rm(join(folder, "machines", deleted, "machine.json"));
    const again = await openStore(folder);
    await again.sweep({ backingOf: chains(again, TABLE) });
    expect(existsSync(join(folder, "machines", SNAPSHOT))).toBe(false);
    expect(existsSync(join(folder, "machines", deleted, "machine.json"))).toBe(true);
  });
});
