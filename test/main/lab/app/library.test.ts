import { existsSync, readdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createQcow2 } from "../../../../engine/disk/image-tools/create.ts";
import { imageInfo } from "../../../../engine/disk/image-tools/info.ts";
import { progressOf } from "../../../../main/images/progress-text.ts";
import { LabFixture, MIB } from "../machines/lab-fixture.ts";

let lab: LabFixture;
let fetched: string[];
beforeEach(async () => {
  fetched = [];
  lab = await new LabFixture().open({
    catalogue: {
      state: async (name) => (name === "debian" ? { state: "ready", sizeBytes: 5 } : { state: "absent" }),
      fetch: async (name, { progress, signal }) => {
        fetched.push(name);
        progress("making the Debian image: 20 %, unpacking");
        if (name !== "debian") return;
        await new Promise((_, reject) => signal.addEventListener("abort", () => reject(new Error("stopped"))));
      },
    },
  });
});
afterEach(() => lab.dispose());

const file = (name: string) => path.join(lab.folder, name);
/** A raw image that begins with a text. */
function rawImage(name: string, text = "content"): string {
  writeFileSync(file(name), Buffer.concat([Buffer.from(text), Buffer.alloc(MIB - text.length)]));
  return file(name);
}
const libraryFiles = () => readdirSync(path.join(lab.home, "images", "library")).sort();

describe("the library", () => {
  it("takes images in, as copies or themselves, in their formats", async () => {
    const raw = rawImage("My disk (1).img");
    expect(await lab.call("imageImport", { path: raw, move: false })).toMatchObject({
      name: "My-disk-1",
      format: "raw",
      virtualSize: MIB,
    });
    expect(existsSync(raw)).toBe(true);
    await createQcow2(file("b.qcow2"), { size: 3 * MIB });
    const moved = await lab.call("imageImport", { path: file("b.qcow2"), name: "base", move: true });
    expect(moved).toMatchObject({ name: "base", format: "qcow2", virtualSize: 3 * MIB });
    expect(existsSync(file("b.qcow2"))).toBe(false);
    expect(libraryFiles()).toEqual(["My-disk-1.img", "base.qcow2"]);
    expect(readFileSync(path.join(lab.home, "images/library/My-disk-1.img"), "utf8")).toMatch(/^content/);
    expect((await lab.call("imageImport", { path: raw, move: false })).name).toBe("My-disk-1-2");
    expect(readdirSync(path.join(lab.home, "tmp"))).toEqual([]);
  });

  it("makes a qcow2 image of a VHD, known by its end", async () => {
    const footer = Buffer.alloc(512);
    footer.write("conectix");
    footer.writeBigUInt64BE(0xffff_ffff_ffff_ffffn, 16);
    footer.writeBigUInt64BE(BigInt(MIB), 48);
    footer.writeUInt32BE(2, 60);
    footer.writeUInt32BE(~footer.reduce((sum, byte) => sum + byte, 0) >>> 0, 64);
    writeFileSync(rawImage("disk.vhd", "in a VHD"), footer, { flag: "a" });
    const imported = await lab.call("imageImport", { path: file("disk.vhd"), move: true });
    expect(imported).toMatchObject({ name: "disk", format: "qcow2", virtualSize: MIB });
    expect(existsSync(file("disk.vhd"))).toBe(false);
    const { path: flat } = await lab.call("imageConvert", { path: "disk", format: "raw", to: "flat" });
    expect(readFileSync(flat).subarray(0, 9).toString()).toBe("in a VHD\0");
  });

  it("refuses what it cannot take, and leaves everything as it was", async () => {
    const raw = rawImage("a.img");
    await lab.call("imageImport", { path: raw, name: "a", move: false });
    const again = lab.call("imageImport", { path: raw, name: "A", move: true });
    await expect(again).rejects.toThrow(/has an image A already; choose another name, for example A-2/);
    expect(existsSync(raw)).toBe(true);
    await createQcow2(file("over.qcow2"), { backing: { path: raw, format: "raw" } });
    await expect(lab.call("imageImport", { path: file("over.qcow2"), move: true })).rejects.toThrow(/overlay.*flatten/);
    writeFileSync(file("x.vmdk"), Buffer.concat([Buffer.from("KDMV"), Buffer.alloc(MIB)]));
    await expect(lab.call("imageImport", { path: file("x.vmdk"), move: true })).rejects.toThrow(/vmdk/i);
    await expect(lab.call("imageImport", { path: lab.folder, move: false })).rejects.toThrow(/no file/);
    await expect(lab.call("imageImport", { path: file("none"), move: false })).rejects.toThrow(/does not exist/);
    await expect(lab.call("imageImport", { path: raw, name: "../a", move: false })).rejects.toThrow(/no name/);
    await lab.create("web");
    const own = await lab.disk("web");
    symlinkSync(own, file("link"));
    await expect(lab.call("imageImport", { path: file("link"), move: true })).rejects.toThrow(/belongs to the lab/);
    expect(existsSync(own)).toBe(true);
    expect(libraryFiles()).toEqual(["a.img"]);
    expect(readdirSync(path.join(lab.home, "tmp"))).toEqual([]);
  });

  it("has machines made from its images, and keeps those that are used", async () => {
    await lab.call("imageImport", { path: rawImage("a.img"), name: "a", move: false });
    const disk = { vdev: "xvda", format: "qcow2" as const, from: "a" };
    await lab.call("machineCreate", { config: { name: "web" }, newDisks: [disk] });
    const full = { ...disk, copy: true, size: 2 * MIB };
    await lab.call("machineCreate", { config: { name: "own" }, newDisks: [full] });
    const overlay = imageInfo(await lab.disk("web"), "qcow2");
    expect(overlay.map(({ path: at }) => path.basename(at))).toEqual([expect.stringMatching(/^web-/), "a.img"]);
    const copy = imageInfo(await lab.disk("own"), "qcow2");
    expect(copy).toMatchObject([{ virtualSize: 2 * MIB }]);
    const rows = await lab.call("imageList", {});
    expect(rows.find(({ name }) => name === "a")).toMatchObject({ managed: true, format: "raw", usedBy: ["web"] });
    await expect(lab.call("imageDelete", { path: "a" })).rejects.toThrow(/a is used by web: it cannot be deleted; /);
    await expect(lab.call("imageResize", { path: "a", size: 4 * MIB })).rejects.toThrow(/used by web/);
    const small = { ...disk, vdev: "xvdb", size: 512 };
    await expect(lab.call("diskCreate", { machine: "web", disk: small })).rejects.toThrow(/cut something off/);
    await expect(lab.call("diskCreate", { machine: "web", disk: { ...disk, from: "b" } })).rejects.toThrow(
      /no image b/,
    );
    await lab.call("machineDelete", { machine: "web" });
    await lab.call("machinePurge", { machine: "web" });
    await lab.call("imageDelete", { path: "a" });
    expect(existsSync(path.join(lab.home, "images/library/a.img"))).toBe(false);
  });

  it("brings deleted images back, and purges them in time", async () => {
    await lab.call("imageCreate", { name: "a", size: MIB, format: "qcow2" });
    const { deleted, purgeAfter } = await lab.call("imageDelete", { path: "a" });
    expect(new Date(purgeAfter).getTime()).toBeGreaterThan(Date.now());
    expect(await lab.call("imageDeleted", {})).toMatchObject([{ deleted, name: "a" }]);
    expect((await lab.call("imageList", {})).filter(({ managed }) => managed)).toEqual([]);
    await lab.call("imageCreate", { name: "a", size: 2 * MIB, format: "qcow2" });
    expect(await lab.call("imageUndelete", { deleted })).toMatchObject({ name: "a-2", virtualSize: MIB });
    await expect(lab.call("imageUndelete", { deleted })).rejects.toThrow(/no deleted image/);
    await lab.call("imageDelete", { path: "a-2" });
    const trash = path.join(lab.home, "images", "trash");
    const [old = ""] = readdirSync(trash);
    renameSync(path.join(trash, old), path.join(trash, old.replace(/^\d+/, "1000")));
    await lab.quit();
    await lab.open();
    await expect.poll(() => readdirSync(trash)).toEqual([]);
  });

  it("gives images other names that no machine uses", async () => {
    await lab.call("imageImport", { path: rawImage("a.img"), name: "a", move: false });
    await lab.call("imageCreate", { name: "b", size: MIB, format: "qcow2" });
    expect(await lab.call("imageRename", { path: "a", name: "base.v2" })).toMatchObject({
      name: "base.v2",
      path: path.join(lab.home, "images/library/base.v2.img"),
      format: "raw",
      virtualSize: MIB,
    });
    // Only the case is another one.
    await lab.call("imageRename", { path: "base.v2", name: "Base.v2" });
    expect(await lab.call("imageRename", { path: "b", name: "b" })).toMatchObject({ name: "b" });
    expect(libraryFiles()).toEqual(["Base.v2.img", "b.qcow2"]);
    await expect(lab.call("imageRename", { path: "b", name: "base.V2" })).rejects.toThrow(
      /has an image base.V2 already/,
    );
    await expect(lab.call("imageRename", { path: "b", name: "../b" })).rejects.toThrow(/no name for an image; /);
    await expect(lab.call("imageRename", { path: "c", name: "d" })).rejects.toThrow(/no image c/);
    const newDisks = [{ vdev: "xvda", format: "qcow2" as const, from: "b" }];
    await lab.call("machineCreate", { config: { name: "web" }, newDisks });
    await expect(lab.call("imageRename", { path: "b", name: "d" })).rejects.toThrow(/b is used by web: .* renamed; /);
    expect(libraryFiles()).toEqual(["Base.v2.img", "b.qcow2"]);
    expect(imageInfo(await lab.disk("web"), "qcow2")).toHaveLength(2);
  });

  it("has either a machine made from an image or the image taken away, and never both", async () => {
    for (let round = 0; round < 8; round++) {
      await lab.call("imageCreate", { name: "a", size: MIB, format: "qcow2" });
      const at = path.join(lab.home, "images/library/a.qcow2");
      // By its name, and by its path.
      const newDisks = [{ vdev: "xvda", format: "qcow2" as const, from: round % 2 === 0 ? "a" : at }];
      const wishes = [
        () => lab.call("machineCreate", { config: { name: `web${round}` }, newDisks }),
        () => (round < 4 ? lab.call("imageDelete", { path: "a" }) : lab.call("imageRename", { path: "a", name: "b" })),
      ];
      const [made, gone] = await Promise.allSettled(
        (round % 4 < 2 ? wishes : wishes.toReversed()).map((wish) => wish()),
      ).then((ended) => (round % 4 < 2 ? ended : ended.toReversed()));
      expect([made?.status, gone?.status].sort()).toEqual(["fulfilled", "rejected"]);
      if (made?.status === "fulfilled") {
        expect(imageInfo(await lab.disk(`web${round}`), "qcow2")).toHaveLength(2);
        await lab.call("machineDelete", { machine: `web${round}` });
        await lab.call("machinePurge", { machine: `web${round}` });
      }
      for (const { managed, path: left } of await lab.call("imageList", {})) {
        if (managed) await lab.call("imageDelete", { path: left });
      }
    }
  });

  it("removes a deleted image for good when it is asked to", async () => {
    await lab.call("imageCreate", { name: "a", size: MIB, format: "qcow2" });
    await lab.call("imageCreate", { name: "b", size: MIB, format: "qcow2" });
    const { deleted } = await lab.call("imageDelete", { path: "a" });
    const other = await lab.call("imageDelete", { path: "b" });
    await lab.call("imagePurge", { deleted });
    expect(await lab.call("imageDeleted", {})).toMatchObject([{ deleted: other.deleted }]);
    expect(readdirSync(path.join(lab.home, "images", "trash"))).toEqual([other.deleted]);
    await expect(lab.call("imagePurge", { deleted })).rejects.toThrow(/no deleted image/);
    await expect(lab.call("imagePurge", { deleted: "../library/a.qcow2" })).rejects.toThrow(/no deleted image/);
  });

  it("calls an uploaded file as its user does", async () => {
    const raw = rawImage("upload-0123456789abcdef-My-disk.img");
    expect((await lab.call("imageImport", { path: raw, move: true })).name).toBe("My-disk");
    const bare = rawImage("upload-0123456789abcdef-");
    expect((await lab.call("imageImport", { path: bare, move: true })).name).toBe("upload-0123456789abcdef");
  });

  it("removes an uploaded file that is refused, and no other", async () => {
    const uploaded = path.join(lab.home, "tmp", "upload-0123456789abcdef-x.vmdk");
    for (const bad of [uploaded, file("x.vmdk")]) {
      writeFileSync(bad, Buffer.concat([Buffer.from("KDMV"), Buffer.alloc(MIB)]));
      await expect(lab.call("imageImport", { path: bad, move: true })).rejects.toThrow(/vmdk/i);
    }
    expect([existsSync(uploaded), existsSync(file("x.vmdk"))]).toEqual([false, true]);
  });

  it("describes, resizes, converts and checks", async () => {
    const { path: at } = await lab.call("imageCreate", { name: "a", size: MIB, format: "qcow2" });
    expect(await lab.call("imageResize", { path: at, size: 2 * MIB })).toEqual({ size: 2 * MIB });
    await expect(lab.call("imageResize", { path: "a", size: MIB })).rejects.toThrow(/more than the new size/);
    expect(await lab.call("imageResize", { path: "a", size: MIB, shrink: true })).toEqual({ size: MIB });
    expect(await lab.call("imageInfo", { path: "a" })).toMatchObject([{ format: "qcow2", virtualSize: MIB }]);
    expect(await lab.call("imageConvert", { path: "a", format: "raw", to: "flat" })).toMatchObject({ format: "raw" });
    expect(await lab.call("imageCheck", { path: "a" })).toMatchObject({ state: "clean", problems: [] });
    const repaired = await lab.call("imageCheck", { path: "a", repair: "errors" });
    expect(repaired).toMatchObject({ state: "clean", repaired: { leaks: 0, errors: 0, dropped: 0 } });
    await expect(lab.call("imageCheck", { path: "flat" })).rejects.toThrow(/raw image/);
    await expect(lab.call("imageInfo", { path: "/etc/passwd" })).rejects.toThrow(/the lab has no image/);
  });

  it("is cancelled without a trace", async () => {
    writeFileSync(file("big.img"), Buffer.alloc(48 * MIB, 1));
    for (const move of [true, false]) {
      const made = lab.call("imageImport", { path: file("big.img"), move, operation: "import" });
      const stopped = expect(made).rejects.toThrow(/cancelled/);
      expect(await lab.call("operationCancel", { operation: "import" })).toEqual({ cancelled: true });
      await stopped;
    }
    expect(existsSync(file("big.img"))).toBe(true);
    expect(readdirSync(path.join(lab.home, "tmp"))).toEqual([]);
    expect((await lab.call("imageList", {})).filter(({ managed }) => managed)).toEqual([]);
  });
});

describe("the catalogue", () => {
  it("tells what images there are", async () => {
    const rows = await lab.call("imageCatalogue", {});
    expect(rows).toMatchObject([
      { name: "debian-shell", hasDisk: false, state: "absent" },
      { name: "debian", hasDisk: true, state: "ready", sizeBytes: 5 },
    ]);
    for (const { defaultMemoryMiB, minimumMemoryMiB } of rows)
      expect(defaultMemoryMiB).toBeGreaterThanOrEqual(minimumMemoryMiB);
  });

  it("gets an image ahead, with progress, until it is cancelled", async () => {
    await lab.call("imageFetch", { name: "debian-shell" });
    const steps: unknown[] = [];
    await lab.call("subscribe", { topics: ["operations"] });
    lab.client.onEvent((event) => {
      if (event.kind !== "operation") return;
      steps.push([event.operation.step, event.operation.done, event.operation.total]);
      if (event.operation.total > 0 && event.ended === undefined)
        void lab.call("operationCancel", { operation: "get" }).catch(() => undefined);
    });
    await expect(lab.call("imageFetch", { name: "debian", operation: "get" })).rejects.toThrow(/cancelled/);
    expect(steps).toContainEqual(["making the Debian image: unpacking", 20, 100]);
    expect(fetched).toEqual(["debian-shell", "debian"]);
    await expect(lab.call("imageFetch", { name: "nope" })).rejects.toThrow(
      /no guest image nope; there are: debian-shell/,
    );
  });

  it("reads how far a line says it is", () => {
    expect(progressOf("fetching the guest image: 3 of 12 MiB")).toEqual({
      step: "fetching the guest image",
      done: 3,
      total: 12,
    });
    expect(progressOf("unpacking the guest image")).toEqual({ step: "unpacking the guest image", done: 0, total: 0 });
  });
});
