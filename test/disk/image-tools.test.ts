import { mkdirSync, readdirSync, readFileSync, renameSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { chainSpec, followChain, lockChain } from "../../engine/disk/chain.ts";
import { checkQcow2, recover } from "../../engine/disk/image-tools/check.ts";
import { convertImage, copyImage } from "../../engine/disk/image-tools/convert.ts";
import { createQcow2, createRaw } from "../../engine/disk/image-tools/create.ts";
import { imageInfo } from "../../engine/disk/image-tools/info.ts";
import { pullInto } from "../../engine/disk/image-tools/merge.ts";
import { rebase } from "../../engine/disk/image-tools/rebase.ts";
import { resizeImage } from "../../engine/disk/image-tools/resize.ts";
import { temporaryFolder } from "./helpers.ts";
import { contentOf, hasQemu, patch, pattern, qemuCheck, qemuImg, qemuIo, refusal, write } from "./image-helpers.ts";

const KiB = 1024;
const MiB = 1024 * KiB;

describe.runIf(hasQemu)("images we make, seen by qemu-img", () => {
  it.each([512, 4 * KiB, 64 * KiB, 2 * MiB])("qcow2 with clusters of %d bytes", async (clusterSize) => {
    const path = join(temporaryFolder(), "a.qcow2");
    await createQcow2(path, { size: 3 * MiB + 100, clusterSize });
    expect(qemuCheck(path)).toBe("clean");
    const info = JSON.parse(qemuImg("info", "--output=json", path));
    expect(info).toMatchObject({ format: "qcow2", "virtual-size": 3 * MiB + 512, "cluster-size": clusterSize });
    expect((await checkQcow2(path)).state).toBe("clean");
    expect(imageInfo(path)[0]).toMatchObject({ virtualSize: 3 * MiB + 512, clusterSize, version: 3, refcountBits: 16 });
    write(path, [[MiB, 100 * KiB, 7]]);
    expect(qemuCheck(path)).toBe("clean");
  });

  it("large disks: an L1 table of many clusters", async () => {
    const folder = temporaryFolder();
    await createQcow2(join(folder, "a"), { size: 64 * 2 ** 30, clusterSize: 512 });
    expect(qemuCheck(join(folder, "a"))).toBe("clean");
    await createQcow2(join(folder, "b"), { size: 2 ** 46 });
    expect(qemuCheck(join(folder, "b"))).toBe("clean");
    expect(await refusal(() => createQcow2(join(folder, "c"), { size: 2 ** 46, clusterSize: 512 }))).toBe("bad-size");
    expect(readdirSync(folder).sort()).toEqual(["a", "b"]);
  });

  it("raw images are holes, and nothing is replaced", async () => {
    const folder = temporaryFolder();
    const path = join(folder, "a.img");
    await createRaw(path, 10 * MiB);
    expect(statSync(path)).toMatchObject({ size: 10 * MiB, blocks: 0 });
    expect(await refusal(() => createRaw(path, MiB))).toBe("image-exists");
    expect(await refusal(() => createQcow2(path, { size: MiB }))).toBe("image-exists");
    expect(await refusal(() => createRaw(join(folder, "no", "b.img"), MiB))).toBe("missing-image");
    expect(await refusal(() => createRaw(join(folder, "b.img"), 0))).toBe("bad-size");
    expect(await refusal(() => createQcow2(join(folder, "b"), { size: MiB, clusterSize: 5000 }))).toBe("bad-size");
    expect(await refusal(() => createQcow2(join(folder, "b"), {}))).toBe("bad-size");
    expect(statSync(path).size).toBe(10 * MiB);
    expect(readdirSync(folder)).toEqual(["a.img"]);
  });

  it("overlays name neighbours by their bare names and show their content", async () => {
    const folder = temporaryFolder();
    mkdirSync(join(folder, "other"));
    const [base, near, far] = [join(folder, "base"), join(folder, "near"), join(folder, "other", "far")];
    await createQcow2(base, { size: 5 * MiB });
    write(base, [[0, MiB, 1]]);
    await createQcow2(near, { backing: { path: base, format: "qcow2" } });
    await createQcow2(far, { backing: { path: near, format: "qcow2" } });
    expect(JSON.parse(qemuImg("info", "--output=json", near))["backing-filename"]).toBe("base");
    expect(imageInfo(far).map(({ path }) => path)).toEqual([far, near, base]);
    expect(contentOf(far).equals(contentOf(base))).toBe(true);
    renameSync(base, join(folder, "gone"));
    expect(await refusal(() => followChain(far))).toBe("missing-image");
    expect(() => followChain(far)).toThrow(`${base} does not exist (layer 2 behind ${far})`);
  });
});

describe("chains", () => {
  it("refuses what is no path, loops, and too many images", async () => {
    const folder = temporaryFolder();
    const path = (name: string) => join(folder, name);
    await createQcow2(path("base"), { size: MiB });
    for (const name of ["json:{}", "nbd://host/x", "fat:x"]) {
      await createQcow2(path(`bad-${name.slice(0, 3)}`), {
        size: MiB,
        backing: { path: path("base"), format: "qcow2" },
      });
    }
    const image = path("bad-jso");
    // The name "base" in the header becomes "x:/e", which is a protocol's.
    const header = readFileSync(image);
    patch(image, header.indexOf("base"), Buffer.from("x:/e"));
    expect(await refusal(() => followChain(image))).toBe("broken-chain");
    patch(image, header.indexOf("base"), Buffer.from("json"));
    expect(await refusal(() => followChain(image))).toBe("missing-image");
    renameSync(image, path("json"));
    expect(await refusal(() => followChain(path("json")))).toBe("broken-chain");
    let last = path("base");
    for (let n = 0; n < 201; n++) {
      const next = path(`layer${n}`);
      await createQcow2(next, { size: MiB, clusterSize: 4096, backing: { path: path("base"), format: "qcow2" } });
      const named = readFileSync(next).indexOf("base");
      const link = `l${n}`.padEnd(4, "x");
      if (n > 0) {
        symlinkSync(last, path(link));
        patch(next, named, Buffer.from(link));
      }
      last = next;
    }
    expect(await refusal(() => followChain(last))).toBe("broken-chain");
    expect(followChain(path("layer199"))).toHaveLength(201);
  });

  it.runIf(hasQemu)(
    "does not believe a raw image that a guest has made look like qcow2 with a backing image",
    async () => {
      const folder = temporaryFolder();
      const [secret, guest, overlay] = [join(folder, "secret"), join(folder, "guest"), join(folder, "overlay")];
      writeFileSync(secret, pattern(MiB, 1));
      await createQcow2(guest, { backing: { path: secret, format: "raw" } });
      // As old programs did it: without a word about the format.
      await createQcow2(overlay, { size: MiB, backing: { path: guest, format: "qcow2" } });
      const at = readFileSync(overlay).indexOf(Buffer.from([0xe2, 0x79, 0x2a, 0xca]));
      patch(overlay, at, Buffer.from([0x12, 0x34, 0x56, 0x78]));
      expect(await refusal(() => followChain(overlay))).toBe("broken-chain");
      await rebase(guest, undefined);
      expect(followChain(overlay)).toHaveLength(2);
    },
  );

  it.runIf(hasQemu)("locks what it serves: the active image for itself, those behind it against writers", async () => {
    const folder = temporaryFolder();
    const [base, top, second] = [join(folder, "base"), join(folder, "top"), join(folder, "second")];
    await createQcow2(base, { size: MiB });
    for (const path of [top, second]) await createQcow2(path, { backing: { path: base, format: "qcow2" } });
    const lock = lockChain(chainSpec(top, { readOnly: false }));
    const other = lockChain(chainSpec(second, { readOnly: false }));
    expect(lock.spec).toMatchObject({ kind: "qcow2", path: top, backing: [{ path: base, format: "qcow2" }] });
    if (process.platform === "linux") {
      const [layer] = lock.spec.kind === "qcow2" ? lock.spec.backing : [];
      expect(statSync(layer!.openPath!).ino).toBe(statSync(base).ino);
    }
    expect(await refusal(() => lockChain(chainSpec(top, { readOnly: false })))).toBe("image-in-use");
    expect(await refusal(() => resizeImage(base, 2 * MiB))).toBe("image-in-use");
    expect(await refusal(() => pullInto(top))).toBe("image-in-use");
    expect(() => qemuImg("check", top)).toThrow(/lock/);
    expect(() => qemuIo(base, "write 0 512")).toThrow(/lock/);
    lock.release();
    expect(await refusal(() => resizeImage(base, 2 * MiB))).toBe("image-in-use");
    other.release();
    qemuIo(base, "write 0 512");
  });
});

describe.runIf(hasQemu)("convert", () => {
  it.each([
    ["raw", "qcow2", 64 * KiB],
    ["raw", "qcow2", 512],
    ["qcow2", "raw", 64 * KiB],
    ["qcow2", "qcow2", 2 * MiB],
  ] as const)("%s to %s, clusters of %d", async (from, to, clusterSize) => {
    const folder = temporaryFolder();
    const content = Buffer.alloc(7 * MiB + 1536);
    pattern(MiB, 3).copy(content, 100 * KiB);
    pattern(4096, 4).copy(content, 3 * MiB + 512);
    pattern(512, 5).copy(content, content.length - 512);
    const raw = join(folder, "raw");
    writeFileSync(raw, content);
    const source = from === "raw" ? raw : join(folder, "source");
    if (from === "qcow2") qemuImg("convert", "-f", "raw", "-O", "qcow2", raw, source);
    const seen: number[] = [];
    const target = join(folder, "target");
    await convertImage(source, target, to, { clusterSize, progress: ({ done, total }) => seen.push(done / total) });
    expect(seen.at(-1)).toBe(1);
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
    expect(contentOf(target, to).equals(content)).toBe(true);
    if (to === "qcow2") expect(qemuCheck(target)).toBe("clean");
    // Three places hold data; header, L1, L2 and refcounts take a cluster each.
    expect(statSync(target).blocks * 512).toBeLessThan(3 * MiB + 7 * clusterSize);
  });

  it("reads what QEMU writes: compressed (deflate, zstd), version 2, subformats, a chain", async () => {
    const folder = temporaryFolder();
    const raw = join(folder, "raw");
    const content = Buffer.concat([
      Buffer.alloc(MiB, "domlab "),
      pattern(200 * KiB, 1),
      Buffer.alloc(MiB),
      Buffer.alloc(MiB, 9),
    ]);
    writeFileSync(raw, content);
    const variants = [
      ["-c"],
      ["-c", "-o", "compression_type=zstd"],
      ["-o", "compat=0.10"],
      ["-o", "preallocation=metadata"],
      ["-o", "refcount_bits=1,cluster_size=4096"],
      ["-o", "refcount_bits=64,lazy_refcounts=on"],
    ];
    for (const [n, options] of variants.entries()) {
      const [source, target] = [join(folder, `s${n}`), join(folder, `t${n}`)];
      qemuImg("convert", "-f", "raw", "-O", "qcow2", ...options, raw, source);
      expect((await checkQcow2(source)).state, options.join(" ")).toBe("clean");
      await convertImage(source, target, "raw");
      expect(readFileSync(target).equals(content), options.join(" ")).toBe(true);
    }
    const overlay = join(folder, "overlay");
    await createQcow2(overlay, { size: 8 * MiB, backing: { path: join(folder, "s1"), format: "qcow2" } });
    write(overlay, [
      [0, 70 * KiB, 0x11],
      [6 * MiB, 512, 0x22],
    ]);
    await convertImage(overlay, join(folder, "all"), "qcow2");
    expect(contentOf(join(folder, "all")).equals(contentOf(overlay))).toBe(true);
  });

  it("cancelled, or onto a name that is taken, it leaves nothing behind", async () => {
    const folder = temporaryFolder();
    const raw = join(folder, "raw");
    writeFileSync(raw, pattern(16 * MiB, 1));
    const stop = new AbortController();
    const progress = ({ done, total }: { done: number; total: number }) => {
      if (done > total / 2) stop.abort();
    };
    const task = { progress, signal: stop.signal };
    expect(await refusal(() => convertImage(raw, join(folder, "x"), "qcow2", task))).toBe("cancelled");
    writeFileSync(join(folder, "taken"), "mine");
    expect(await refusal(() => convertImage(raw, join(folder, "taken"), "raw"))).toBe("image-exists");
    expect(readFileSync(join(folder, "taken"), "utf8")).toBe("mine");
    expect(readdirSync(folder).sort()).toEqual(["raw", "taken"]);
  });

  it("copies one image with its holes and its backing name", async () => {
    const folder = temporaryFolder();
    const [base, top, copy] = [join(folder, "base"), join(folder, "top"), join(folder, "copy")];
    await createQcow2(base, { size: 64 * MiB });
    await createQcow2(top, { backing: { path: base, format: "qcow2" } });
    write(top, [[40 * MiB, MiB, 5]]);
    await copyImage(top, copy);
    expect(readFileSync(copy).equals(readFileSync(top))).toBe(true);
    expect(statSync(copy).blocks).toBeLessThanOrEqual(statSync(top).blocks);
  });
});

describe.runIf(hasQemu)("resize", () => {
  it.each(["raw", "qcow2"] as const)("%s grows, and shrinks only over zeros", async (format) => {
    const path = join(temporaryFolder(), "a");
    if (format === "raw") await createRaw(path, 4 * MiB);
    else await createQcow2(path, { size: 4 * MiB, clusterSize: 4096 });
    const io = (command: string) =>
      qemuImg("bench", "-w", "-c", "1", "-d", "1", "-s", "4096", "-o", command, "--pattern=65", "-f", format, path);
    io(String(3 * MiB));
    const before = contentOf(path, format);
    expect(await resizeImage(path, 300 * MiB, { format })).toEqual({ before: 4 * MiB, after: 300 * MiB });
    if (format === "qcow2") expect(qemuCheck(path)).toBe("clean");
    expect(
      contentOf(path, format)
        .subarray(0, 4 * MiB)
        .equals(before),
    ).toBe(true);
    expect(await refusal(() => resizeImage(path, 4 * MiB, { format }))).toBe("data-loss");
    expect(await refusal(() => resizeImage(path, 3 * MiB, { format, shrink: true }))).toBe("data-loss");
    await resizeImage(path, 4 * MiB, { format, shrink: true });
    if (format === "qcow2") expect(qemuCheck(path)).toBe("clean");
    expect(contentOf(path, format).equals(before)).toBe(true);
    expect(await refusal(() => resizeImage(path, 0, { format }))).toBe("bad-size");
  });

  it.each(["qcow2", "v2"])("what becomes visible is zero, whatever the backing image has there (%s)", async (kind) => {
    const folder = temporaryFolder();
    const [base, top] = [join(folder, "base"), join(folder, "top")];
    await createQcow2(base, { size: 6 * MiB });
    write(base, [[0, 6 * MiB, 0xaa]]);
    qemuImg(
      "create",
      "-f",
      "qcow2",
      "-o",
      `compat=${kind === "v2" ? "0.10" : "1.1"}`,
      "-F",
      "qcow2",
      "-b",
      base,
      top,
      String(2 * MiB + 512),
    );
    write(top, [[MiB, 512, 0xbb]]);
    const before = contentOf(top);
    await resizeImage(top, 20 * MiB);
    expect(qemuCheck(top)).toBe("clean");
    const after = contentOf(top);
    expect(after.subarray(0, before.length).equals(before)).toBe(true);
    expect(after.subarray(before.length).equals(Buffer.alloc(after.length - before.length))).toBe(true);
  });

  it("keeps internal snapshots, whose tables it does not touch", async () => {
    const path = join(temporaryFolder(), "a");
    await createQcow2(path, { size: 4 * MiB, clusterSize: 512 });
    write(path, [[MiB, 64 * KiB, 1]]);
    qemuImg("snapshot", "-c", "one", path);
    write(path, [[MiB, 4096, 2]]);
    await resizeImage(path, 40 * MiB);
    expect(qemuCheck(path)).toBe("clean");
    expect(imageInfo(path)[0]?.snapshots).toMatchObject([{ name: "one" }]);
    qemuImg("snapshot", "-a", "one", path);
    expect(
      contentOf(path)
        .subarray(MiB, MiB + 64 * KiB)
        .equals(Buffer.alloc(64 * KiB, 1)),
    ).toBe(true);
  });
});

describe("recover", () => {
  it.runIf(hasQemu)(
    "takes back leaks, counts anew when the image is marked dirty, and leaves raw images alone",
    async () => {
      const folder = temporaryFolder();
      const path = join(folder, "a");
      await createQcow2(path, { size: MiB });
      expect((await recover(path)).state).toBe("untouched");
      write(path, [[0, MiB, 1]]);
      // An entry is lost, and its cluster nobody's.
      patch(path, findL2(readFileSync(path)), Buffer.alloc(8));
      expect(qemuCheck(path)).toBe("leaks");
      expect((await recover(path)).state).toBe("repaired");
      expect(qemuCheck(path)).toBe("clean");
      patch(path, 79, Buffer.from([1]));
      expect((await recover(path)).state).toBe("repaired");
      expect((await recover(path)).state).toBe("untouched");
      writeFileSync(join(folder, "raw"), Buffer.alloc(512));
      expect((await recover(join(folder, "raw"), "raw")).state).toBe("untouched");
      expect(await refusal(() => recover(join(folder, "raw")))).toBe("unsupported-format");
    },
  );
});

/** Where the first L2 table of an image begins. */
function findL2(image: Buffer): number {
  const l1 = Number(image.readBigUInt64BE(40));
  return Number(image.readBigUInt64BE(l1) & 0x00ff_ffff_ffff_fe00n);
}
