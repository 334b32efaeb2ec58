/** `domlab image list`, `import` and the like, and disks made from images of the library. */
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { FakeLab } from "./machine-commands-lab.ts";

const DATE = "2026-11-28T10:00:00.000Z";
const MIB = 1 << 20;

let lab: FakeLab;
beforeEach(() => {
  lab = new FakeLab();
});
afterEach(() => lab.close());

const base = {
  path: "/lab/images/library/base.qcow2",
  kind: "base" as const,
  size: 4096,
  usedBy: ["db", "web"],
  format: "qcow2" as const,
  virtualSize: 8 * MIB,
  managed: true,
  name: "base",
};
const memory = { path: "/lab/memory/web.dsnap", kind: "memory" as const, size: 3 * MIB, usedBy: ["web"] };
const deletedRow = (deleted: string, name: string) => ({ deleted, name, date: DATE, purgeAfter: DATE, size: MIB });

describe("the library's commands", () => {
  it("list images and who uses them, all files, and deleted ones", async () => {
    await lab.serve({
      imageList: () => [base, memory],
      imageDeleted: () => [deletedRow("1700000000000-old.img", "old")],
    });
    const { printed } = await lab.command("image", "list");
    expect(printed).toMatch(/^Image +Format +Size +On disk +Used by\nbase +qcow2 +8 MiB +4 KiB +db,web\n$/);
    const all = (await lab.command("image", "list", "--all")).printed;
    expect(all.split("\n")[1]).toMatch(/^library +qcow2 .* \/lab\/images\/library\/base\.qcow2$/);
    expect(all.split("\n")[2]).toMatch(/^memory +3 MiB +web +\/lab\/memory\/web\.dsnap$/);
    expect((await lab.command("image", "list", "--deleted")).printed).toMatch(/\nold +1 MiB +2026-11-28 /);
    expect(JSON.parse((await lab.command("image", "list", "--json")).printed)).toEqual([base]);
    await lab.command("image", "list", "--deleted", "--json");
  });

  it("say so when there is none", async () => {
    await lab.serve({ imageList: () => [memory], imageDeleted: () => [] });
    expect((await lab.command("image", "list")).told).toEqual([
      expect.stringMatching(/no image yet: domlab image import/),
    ]);
    expect((await lab.command("image", "list", "--deleted")).told).toHaveLength(1);
    expect((await lab.command("image", "list", "--json")).printed).toBe("[]\n");
  });

  it("show one with what lies behind it and its users", async () => {
    const facts = { format: "qcow2" as const, virtualSize: 8 * MIB, fileSize: 4096, diskSize: 4096 };
    await lab.serve({
      imageList: () => [base],
      imageInfo: () => [
        { path: base.path, ...facts, dirty: true },
        { path: "/lab/images/debian/root.qcow2", ...facts },
      ],
    });
    const { printed } = await lab.command("image", "show", "base");
    expect(printed).toMatch(/^Image: +base$/m);
    expect(printed).toMatch(/^Behind it: +\/lab\/images\/debian\/root\.qcow2$/m);
    expect(printed).toMatch(/^State: +not closed$/m);
    expect(printed).toMatch(/^Used by: +db, web$/m);
    expect(JSON.parse((await lab.command("image", "show", "base", "--json")).printed)).toMatchObject({
      name: "base",
      usedBy: ["db", "web"],
      chain: [{ path: base.path }, {}],
    });
    expect(lab.calls.filter(({ method }) => method === "imageInfo")).toEqual(
      Array(2).fill({ method: "imageInfo", parameters: { path: "base" } }),
    );
  });

  it("take images in, with paths as the user's folder has them", async () => {
    const taken = { name: "base", path: base.path, format: "qcow2" as const, virtualSize: 8 * MIB };
    await lab.serve({ imageImport: () => taken });
    expect((await lab.command("image", "import", "disk.vhd")).printed).toBe("base is in the library: qcow2, 8 MiB\n");
    const more = ["--name", "base", "--move", "--source-format", "vpc", "--json"];
    expect(JSON.parse((await lab.command("image", "import", "/x/disk", ...more)).printed)).toEqual(taken);
    expect(lab.calls.map(({ parameters }) => parameters)).toEqual([
      { path: path.join(lab.folder, "disk.vhd"), move: false },
      { path: "/x/disk", name: "base", move: true, format: "vhd" },
    ]);
  });

  it("rename, delete, take back by name and purge", async () => {
    const rows = [deletedRow("1700000000002-old.img", "old"), deletedRow("1700000000001-old.img", "old")];
    await lab.serve({
      imageRename: ({ name }) => ({ name, path: base.path, format: "qcow2", virtualSize: MIB }),
      imageDelete: ({ path: wanted }) => ({ deleted: `1-${wanted}.img`, purgeAfter: DATE }),
      imageDeleted: () => rows,
      imageUndelete: () => ({ name: "old-2", path: base.path, format: "raw", virtualSize: MIB }),
      imagePurge: () => ({}),
    });
    await lab.command("image", "rename", "base", "base2");
    expect((await lab.command("image", "remove", "a", "b")).printed).toMatch(
      /^a is deleted; until 2026-11-28 .* domlab image undelete a takes it back\nb is deleted; /,
    );
    expect((await lab.command("image", "undelete", "old")).printed).toBe("old is back as old-2\n");
    await lab.command("image", "purge", "1700000000001-old.img");
    expect(lab.calls.filter(({ method }) => method !== "imageDeleted")).toEqual([
      { method: "imageRename", parameters: { path: "base", name: "base2" } },
      { method: "imageDelete", parameters: { path: "a" } },
      { method: "imageDelete", parameters: { path: "b" } },
      // The last one that was deleted.
      { method: "imageUndelete", parameters: { deleted: "1700000000002-old.img" } },
      { method: "imagePurge", parameters: { deleted: "1700000000001-old.img" } },
    ]);
    expect(await lab.refused("image", "undelete", "none")).toEqual({
      line: "there is no deleted image none; there are: old",
      status: 2,
    });
  });

  it("make disks from images", async () => {
    await lab.serve({
      diskCreate: ({ disk: { vdev } }) => ({ vdev, path: "/lab/disks/web-xvdb.qcow2", live: false }),
      labSettings: () => ({ defaultPlacement: "driver-domain" }),
      switchShow: () => [],
      machineCreate: () => ({ id: "1", name: "web", notes: [] }),
    });
    await lab.command("disk", "create", "web", "xvdb", "--from", "base");
    await lab.command("disk", "create", "web", "xvdc", "20G", "--from", "base", "--copy");
    await lab.command("create", "web", "--new-disk", "vdev=xvda,from=base,copy=on", "--new-disk", "from=b,vdev=xvdb");
    const disks = lab.calls.flatMap(({ parameters }) => {
      const { disk, newDisks } = parameters as { disk?: unknown; newDisks?: unknown[] };
      return newDisks ?? (disk === undefined ? [] : [disk]);
    });
    expect(disks).toEqual([
      { vdev: "xvdb", format: "qcow2", from: "base" },
      { vdev: "xvdc", format: "qcow2", from: "base", copy: true, size: 20 * 2 ** 30 },
      { vdev: "xvda", format: "qcow2", from: "base", copy: true },
      { vdev: "xvdb", format: "qcow2", from: "b" },
    ]);
  });

  it.each([
    [["image", "list", "--all", "--deleted"], /^--all and --deleted contradict each other; /],
    [["image", "import", ""], /^the file's name is empty; /],
    [["image", "import", "a", "--source-format", "vmdk"], /^--source-format vmdk is no format/],
    [["image", "import", "a", "--name", "../a"], /^"\.\.\/a" is no name for an image; /],
    [["image", "import", "a", "--name", ""], /^"" is no name for an image; /],
    [["image", "rename", "a", "ü"], /^"ü" is no name for an image; /],
    [["image", "rename", "a", "x".repeat(5000)], /^"x{100}" is no name for an image; /],
    [["disk", "create", "web", "xvdb"], /^an empty disk needs a size; /],
    [["disk", "create", "web", "xvdb", "1G", "--copy"], /^--copy without --from/],
    [["disk", "create", "web", "xvdb", "--from", ""], /^--from is empty; /],
    [["create", "web", "--new-disk", "vdev=xvdb,copy=on,size=1G"], /copy= without from=/],
    [["create", "web", "--new-disk", "vdev=xvdb,from=a,copy=yes"], /copy=yes is neither on nor off/],
    [["create", "web", "--new-disk", "vdev=xvdb,from="], /from is empty/],
  ])("%j is refused in one line before a lab is asked", async (args, message) => {
    const { line, status } = await lab.refused(...args);
    expect(line).toMatch(message);
    expect(line).not.toContain("\n");
    expect(status).toBe(2);
    expect(lab.started).toBe(false);
  });
});
