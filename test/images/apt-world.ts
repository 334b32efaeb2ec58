/** A host whose apt is a few shell scripts, for tests of what is got from it. */
import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "vitest";
import { ImageError } from "../../main/images/errors.ts";

/** A relocatable ELF with only a .modinfo section and the section names. */
export function makeModule(depends: string): Buffer {
  const info = Buffer.from(`license=GPL\0depends=${depends}\0name=x\0`);
  const names = Buffer.from("\0.modinfo\0.shstrtab\0");
  const header = Buffer.alloc(64);
  header.write("\x7fELF", 0, "latin1");
  header.writeBigUInt64LE(BigInt(64 + info.length + names.length), 40);
  header.writeUInt16LE(3, 60);
  header.writeUInt16LE(2, 62);
  const sections = Buffer.alloc(3 * 64);
  const section = (index: number, name: number, offset: number, size: number): void => {
    sections.writeUInt32LE(name, index * 64);
    sections.writeBigUInt64LE(BigInt(offset), index * 64 + 24);
    sections.writeBigUInt64LE(BigInt(size), index * 64 + 32);
  };
  section(1, 1, 64, info.length);
  section(2, 10, 64 + info.length, names.length);
  return Buffer.concat([header, info, names, sections]);
}

const MODULES = "lib/modules/9.9/kernel";
const KERNEL_FILES: Readonly<Record<string, Uint8Array | string>> = {
  "boot/vmlinuz-9.9": "a kernel",
  [`${MODULES}/block/xen-blkfront.ko`]: makeModule(""),
  [`${MODULES}/net/xen-netfront.ko`]: makeModule("page-helper"),
  [`${MODULES}/lib/page-helper.ko`]: makeModule(""),
  [`${MODULES}/net/other.ko`]: makeModule(""),
};

/**
 * A world with an apt of its own: the tools are shell scripts that count their calls, and a "package" is a tar archive.
 */
export function makeWorld() {
  const root = mkdtempSync(join(tmpdir(), "domlab-images-"));
  const archive = join(root, "archive");
  const tools = join(root, "bin");
  mkdirSync(archive);
  mkdirSync(tools);
  const pack = (name: string, files: Readonly<Record<string, Uint8Array | string>>): void => {
    const tree = join(root, "tree");
    for (const [path, data] of Object.entries(files)) {
      mkdirSync(join(tree, path, ".."), { recursive: true });
      writeFileSync(join(tree, path), data);
    }
    execFileSync("tar", ["--format=gnu", "-C", tree, "-cf", join(archive, name), "."]);
    rmSync(tree, { recursive: true });
  };
  const tool = (name: string, script: string): void => {
    writeFileSync(join(tools, name), `#!/bin/sh\necho "${name} $*" >>${root}/calls\n${script}\n`);
    chmodSync(join(tools, name), 0o755);
  };
  pack("linux-image-9.9_1_amd64.deb", KERNEL_FILES);
  pack("busybox-static_1_amd64.deb", { "usr/bin/busybox": "a busybox" });
  tool("apt-cache", 'echo "$2"; echo "  Depends: linux-image-9.9"');
  tool(
    "apt-get",
    `case "$*" in
*print-uris*) cd ${archive}; for f in *; do echo "'http://x/$f' $f $(wc -c <$f) SHA256:0"; done ;;
*" download "*) cp ${archive}/* . ;;
*) exit 0 ;;
esac`,
  );
  tool("dpkg-deb", 'cat "$2"');
  const env = { PATH: `${tools}:/usr/bin:/bin`, DOMLAB_CACHE: join(root, "cache") };
  const calls = (): number => {
    try {
      return readFileSync(join(root, "calls"), "utf8").split("\n").length - 1;
    } catch {
      return 0;
    }
  };
  return { root, env, tool, tools, calls, images: join(root, "cache", "images"), archive };
}

/** The one-line ImageError that the action fails with. */
export async function failure(action: Promise<unknown>): Promise<ImageError> {
  const error = await action.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof ImageError)) throw error ?? new Error("it did not fail");
  expect(error.message).not.toContain("\n");
  return error;
}
