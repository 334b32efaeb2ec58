import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { describe, expect, it, onTestFinished } from "vitest";
import { explain } from "../../main/failure.ts";
import { addImageCommands, parseSize, showSize } from "../../main/image-commands.ts";

function folder(): (name: string) => string {
  const path = mkdtempSync(join(tmpdir(), "domlab-imgc-"));
  onTestFinished(() => rmSync(path, { recursive: true }));
  return (name) => join(path, name);
}

async function run(...args: string[]): Promise<{ output: string; status: number | undefined }> {
  let output = "";
  let status: number | undefined;
  const program = new Command().exitOverride();
  addImageCommands(program, {
    setStatus: (value) => {
      status = value;
    },
    print: (text) => {
      output += text;
    },
  });
  await program.parseAsync(["image", ...args], { from: "user" });
  return { output, status };
}

const json = async (...args: string[]) => JSON.parse((await run(...args, "--json")).output);

describe("sizes", () => {
  it.each([
    ["10G", 10 * 2 ** 30],
    ["512M", 512 * 2 ** 20],
    ["1.5G", 1.5 * 2 ** 30],
    ["4096", 4096],
    ["64k", 65_536],
    ["2 TiB", 2 ** 41],
    ["100B", 100],
  ])("%s is %d bytes", (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });

  it.each(["", "0", "G", "-1G", "1e9", "10X", "99999P", "0.1"])("%j is none", (text) => {
    expect(() => parseSize(text)).toThrow(/^"[^"]*" is no size; give one such as /);
  });

  it("shown in the unit that fits", () => {
    expect([0, 512, 1536, 2 ** 30, 1.5 * 2 ** 40].map(showSize)).toEqual([
      "0 B",
      "512 B",
      "1.50 KiB",
      "1 GiB",
      "1.50 TiB",
    ]);
  });
});

describe("domlab image", () => {
  it("create, info and list-chain", async () => {
    const at = folder();
    await run("create", at("base"), "1.5G");
    await run("create", at("top"), "--backing", at("base"), "--cluster-size", "4K");
    await run("create", at("raw"), "10M", "--format", "raw");
    expect(statSync(at("raw")).size).toBe(10 * 2 ** 20);
    const images = await json("info", at("top"));
    expect(images).toMatchObject([
      { path: at("top"), format: "qcow2", virtualSize: 1.5 * 2 ** 30, clusterSize: 4096, backingFile: "base" },
      { path: at("base"), format: "qcow2" },
    ]);
    const { output } = await run("info", at("top"));
    expect(output).toMatch(/^Format: +qcow2 version 3$/m);
    expect(output).toMatch(/^Size: +1.50 GiB \(1610612736 bytes\)$/m);
    expect(output).toMatch(/^Backing: +\S+base$/m);
    const rows = (await run("list-chain", at("top"))).output.trim().split("\n");
    expect(rows.map((row) => row.split(/ +/).filter((cell) => cell !== "")[1])).toEqual([
      "Image",
      at("top"),
      at("base"),
    ]);
  });

  it("check, repair and their exit statuses", async () => {
    const at = folder();
    await run("create", at("a"), "1M");
    expect(await run("check", at("a"))).toEqual({
      output: `${at("a")}: no errors; 0 of 16 clusters in use (0.0 %)\n`,
      status: 0,
    });
    writeFileSync(at("a"), Buffer.alloc(65_536), { flag: "a" });
    const { patch, peek } = await import("../disk/image-helpers.ts");
    const table = Number(peek(at("a"), 48, 8).readBigUInt64BE());
    const block = Number(peek(at("a"), table, 8).readBigUInt64BE());
    patch(at("a"), block + 4 * 2, Buffer.from([0, 1]));
    expect((await run("check", at("a"))).status).toBe(3);
    const repaired = await run("repair", "--leaks", at("a"));
    expect(repaired.status).toBe(0);
    expect(repaired.output).toMatch(/^mended 1 leaks and 0 errors\n/);
    patch(at("a"), block, Buffer.from([0, 0]));
    expect(await run("check", at("a"))).toMatchObject({ status: 1, output: expect.stringContaining("refcount: ") });
    expect((await json("repair", at("a"))).after.state).toBe("clean");
  });

  it.runIf(spawnSync("qemu-img", ["--version"]).status === 0)("read what other programs made", async () => {
    const at = folder();
    writeFileSync(at("raw"), Buffer.alloc(2 * 2 ** 20, "other"));
    for (const [kind, name, ...said] of [
      ["dynamic", "moving"],
      ["fixed", "named.vhd"],
      ["fixed", "said", "--source-format", "vpc"],
    ] as const) {
      const options = `subformat=${kind},force_size=on`;
      spawnSync("qemu-img", ["convert", "-f", "raw", "-O", "vpc", "-o", options, at("raw"), at(name)]);
      await run("convert", at(name), at(`${name}.raw`), "-O", "raw", ...said);
      expect(readFileSync(at(`${name}.raw`)).equals(readFileSync(at("raw"))), name).toBe(true);
    }
    await expect(run("convert", at("raw"), at("new"), "--source-format", "vmdk")).rejects.toThrow(
      /vmdk is no format that is known here; use raw, qcow2 or vhd/,
    );
  });

  it("resize, convert, rebase, merge, flatten", async () => {
    const at = folder();
    await run("create", at("base"), "10M");
    expect(await json("resize", at("base"), "+5M")).toEqual({ before: 10 * 2 ** 20, after: 15 * 2 ** 20 });
    expect((await run("resize", at("base"), "14M", "--shrink")).output).toBe(
      `${at("base")}: 15 MiB before, 14 MiB now\n`,
    );
    await run("convert", at("base"), at("raw"), "-O", "raw");
    expect(statSync(at("raw")).size).toBe(14 * 2 ** 20);
    await run("create", at("mid"), "--backing", at("base"));
    await run("create", at("top"), "--backing", at("mid"));
    await run("merge", at("top"));
    expect((await json("info", at("top"))).map(({ path }: { path: string }) => path)).toEqual([at("top"), at("base")]);
    await run("rebase", at("top"), at("mid"));
    expect(await json("info", at("top"))).toHaveLength(3);
    expect((await run("flatten", at("top"))).output).toContain("nothing lies behind it now");
    await run("rebase", at("mid"), "--none");
    expect(await json("list-chain", at("mid"))).toHaveLength(1);
  });

  it.each([
    [["create", "A", "10X"], /^"10X" is no size; /],
    [["create", "A"], /^an image without a backing image needs a size; /],
    [["create", "A", "1G", "--format", "vmdk"], /^--format vmdk is no format that is known here; /],
    [["create", "A", "1G", "--format", "raw", "--backing", "B"], /^raw images have neither/],
    [["create", "A", "1G", "--cluster-size", "5000"], /^clusters of 5000 bytes are not possible; /],
    [["create", "A", "--backing", "none"], /does not exist; /],
    [["create", "taken", "1G"], /exists already; /],
    [["info", "none"], /none does not exist; /],
    [["check", "none"], /none does not exist; /],
    [["check", "taken"], /taken is no qcow2 image; /],
    [["repair", "taken", "--leaks", "--all"], /^--leaks and --all contradict each other; /],
    [["resize", "taken", "512"], /more than the new size; /],
    [["rebase", "taken"], /name a file or say --none$/],
    [["flatten", "taken"], /taken is no qcow2 image; /],
    [["convert", "taken", "taken"], /exists already; /],
  ])("%j fails in one line with exit status 2", async (args, message) => {
    const at = folder();
    writeFileSync(at("taken"), Buffer.alloc(4096));
    const [command = "", ...rest] = args;
    const named = rest.map((word) => (/^([AB]|none|taken)$/.test(word) ? at(word) : word));
    const error: unknown = await run(command, ...named).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    const { line, status } = explain(error);
    expect(line).toMatch(message);
    expect(line).not.toContain("\n");
    expect(status).toBe(2);
    expect(readdirSync(at("."))).toEqual(["taken"]);
  });
});
