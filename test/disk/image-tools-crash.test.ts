/** What a process that is killed, and a disk that is full, leave of an image. */
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { checkQcow2, recover } from "../../engine/disk/image-tools/check.ts";
import { convertImage } from "../../engine/disk/image-tools/convert.ts";
import { createQcow2, createRaw } from "../../engine/disk/image-tools/create.ts";
import { imageInfo } from "../../engine/disk/image-tools/info.ts";
import { flatten, pullInto } from "../../engine/disk/image-tools/merge.ts";
import { rebase } from "../../engine/disk/image-tools/rebase.ts";
import { resizeImage } from "../../engine/disk/image-tools/resize.ts";
import { temporaryFolder } from "./helpers.ts";
import { contentOf, hasQemu, pattern, qemuCheck, qemuIo, refusal } from "./image-helpers.ts";

const MiB = 2 ** 20;
/** Kills of each tool; DOMLAB_CRASH_ROUNDS asks for more. */
const ROUNDS = Number(process.env.DOMLAB_CRASH_ROUNDS ?? 6);

const tools = {
  merge: (path: string) => `pullInto(${JSON.stringify(path)})`,
  flatten: (path: string) => `flatten(${JSON.stringify(path)})`,
  resize: (path: string) => `resizeImage(${JSON.stringify(path)}, ${3000 * MiB})`,
};

const builtModules = new URL("../../dist/engine/disk/image-tools/", import.meta.url);
const source = (action: string) => `
  const load = (name) => import(${JSON.stringify(builtModules.href)} + name + ".js");
  const [{ pullInto, flatten }, { resizeImage }, { createQcow2 }, { convertImage }] =
    await Promise.all(["merge", "resize", "create", "convert"].map(load));
  process.stdout.write("ready");
  process.stdin.once("data", async () => {
    try { await ${action}; process.exit(0); } catch (error) { process.stderr.write(String(error.message)); process.exit(2); }
  });
`;

/** A process that has loaded the tools and waits for a word. */
async function child(action: string): Promise<ChildProcess> {
  const started = spawn(process.execPath, ["--input-type=module", "-e", source(action)], {
    stdio: ["pipe", "pipe", "pipe"],
  });
  onTestFinished(() => void started.kill("SIGKILL"));
  await once(started.stdout!, "data");
  return started;
}

/** Lets it work for a while and kills it. @returns whether it had come to its end */
async function killedAfter(process: ChildProcess, milliseconds: number): Promise<boolean> {
  const exited = once(process, "exit");
  process.stdin!.write("go\n");
  const timer = setTimeout(() => process.kill("SIGKILL"), milliseconds);
  const [code] = await exited;
  clearTimeout(timer);
  return code === 0;
}

beforeAll(() => {
  // `npm test` builds before it tests.
  expect(existsSync(new URL("merge.js", builtModules)), "npm run build first").toBe(true);
});

async function chain(folder: string): Promise<{ top: string; content: Buffer }> {
  const [base, middle, top] = ["base", "middle", "top"].map((name) => join(folder, name)) as [string, string, string];
  writeFileSync(`${base}.raw`, Buffer.concat([pattern(10 * MiB, 1), Buffer.alloc(2 * MiB)]));
  await convertImage(`${base}.raw`, base, "qcow2");
  await createQcow2(middle, { clusterSize: 4096, backing: { path: base, format: "qcow2" } });
  qemuIo(middle, "write -P 1 1M 3M", "write -z 8M 1M", "write -P 2 11M 64k");
  await createQcow2(top, { clusterSize: 4096, size: 16 * MiB, backing: { path: middle, format: "qcow2" } });
  qemuIo(top, "write -P 3 2M 100k", "write -P 4 15M 64k");
  return { top, content: contentOf(top) };
}

describe.runIf(hasQemu)("killed at any moment", () => {
  it.each(["merge", "flatten", "resize"] as const)(
    "%s leaves a good image, and can be done again",
    async (name) => {
      const folder = temporaryFolder();
      const { top, content } = await chain(folder);
      const good = readFileSync(top);
      const begin = Date.now();
      const whole = await killedAfter(await child(tools[name](top)), 20_000);
      expect(whole).toBe(true);
      const duration = Math.max(20, Date.now() - begin);
      let interrupted = 0;
      for (let round = 0; round < ROUNDS; round++) {
        writeFileSync(top, good);
        const done = await killedAfter(await child(tools[name](top)), (duration * round) / ROUNDS);
        if (!done) interrupted++;
        expect(["clean", "leaks"]).toContain(qemuCheck(top));
        expect((await recover(top)).state).not.toBe("damaged");
        expect(qemuCheck(top)).toBe("clean");
        expect(contentOf(top, "qcow2", content.length).equals(content)).toBe(true);
        if (name === "merge" && imageInfo(top).length === 3) await pullInto(top);
        else if (name === "flatten" && imageInfo(top).length === 3) await flatten(top);
        else if (name === "resize") await resizeImage(top, 3000 * MiB);
        expect((await checkQcow2(top)).state).toBe("clean");
        const { virtualSize } = imageInfo(top)[0]!;
        expect(virtualSize).toBe(name === "resize" ? 3000 * MiB : 16 * MiB);
      }
      expect(interrupted).toBeGreaterThan(0);
    },
    120_000,
  );

  it("create and convert leave the whole image or none", async () => {
    const folder = temporaryFolder();
    const raw = join(folder, "raw");
    writeFileSync(raw, pattern(12 * MiB, 7));
    const target = join(folder, "target");
    let interrupted = 0;
    for (let round = 0; round < ROUNDS; round++) {
      rmSync(target, { force: true });
      const action =
        round % 3 === 0
          ? `createQcow2(${JSON.stringify(target)}, { size: ${2 ** 36}, clusterSize: 512 })`
          : `convertImage(${JSON.stringify(raw)}, ${JSON.stringify(target)}, "qcow2", { clusterSize: 4096 })`;
      if (!(await killedAfter(await child(action), (round * 144) / ROUNDS))) interrupted++;
      if (!existsSync(target)) continue;
      expect(qemuCheck(target)).toBe("clean");
      if (round % 3 !== 0) expect(contentOf(target).equals(readFileSync(raw))).toBe(true);
    }
    expect(interrupted).toBeGreaterThan(0);
    for (const name of readdirSync(folder)) expect(name).toMatch(/^raw$|^target(\.content)?$|^target\.\d+-\d+\.tmp$/);
  });
});

/** A file system of so many bytes; skipped where it cannot be mounted. */
function smallDisk(bytes: number): string | undefined {
  const folder = join(temporaryFolder(), "small");
  mkdirSync(folder);
  const mounted = spawnSync("mount", ["-t", "tmpfs", "-o", `size=${bytes}`, "domlab-test", folder]).status === 0;
  if (!mounted) return undefined;
  onTestFinished(() => void execFileSync("umount", ["-l", folder]));
  return folder;
}

describe.runIf(hasQemu)("a full disk", () => {
  it("stops what was begun with a clear message and leaves the old state", async (context) => {
    const small = smallDisk(6 * MiB);
    if (small === undefined) return context.skip("mounting a tmpfs needs root");
    const { top } = await chain(temporaryFolder());
    const image = join(small, "top");
    copyFileSync(top, image);
    await rebase(image, { path: join(top, "..", "middle"), format: "qcow2" });
    const content = contentOf(top);
    await expect(flatten(image)).rejects.toThrow(`${image} cannot be written: no space left; free some and try again`);
    expect(qemuCheck(image)).toBe("clean");
    expect(imageInfo(image)).toHaveLength(3);
    const copy = join(temporaryFolder(), "copy");
    await convertImage(image, copy, "raw");
    expect(readFileSync(copy).equals(content)).toBe(true);
    expect(await refusal(() => convertImage(top, join(small, "new"), "raw"))).toBe("no-space");
    expect(await refusal(() => convertImage(top, join(small, "new"), "qcow2"))).toBe("no-space");
    writeFileSync(join(small, "fill"), Buffer.alloc(statFree(small)));
    expect(await refusal(() => createQcow2(join(small, "new"), { size: 2 ** 40, clusterSize: 512 * 8 }))).toBe(
      "no-space",
    );
    await createRaw(join(small, "sparse"), MiB);
    expect(await refusal(() => resizeImage(image, 2 ** 40))).toBe("no-space");
    expect(imageInfo(image)[0]?.virtualSize).toBe(16 * MiB);
    expect(qemuCheck(image)).toBe("clean");
    expect(readdirSync(small).sort()).toEqual(["fill", "sparse", "top"]);
    expect(statSync(join(small, "sparse")).size).toBe(MiB);
  });
});

/** Bytes that are left, but for a few pages. */
function statFree(folder: string): number {
  const line = execFileSync("df", ["-B1", "--output=avail", folder], { encoding: "utf8" }).trim().split("\n").at(-1)!;
  return Math.max(0, Number(line) - 16_384);
}
