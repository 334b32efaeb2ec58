/** Programs of the host that tests use when they are there: ext4's, and NBD servers. */
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { type AddressInfo, connect, createServer } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import type { CpioEntry } from "../../engine/builder/cpio.ts";

/** Where administrators' programs are, on or off the user's PATH. */
const env = { ...process.env, PATH: `${process.env.PATH ?? ""}:/usr/sbin:/sbin` };

export function hasProgram(name: string): boolean {
  return spawnSync(name, ["--version"], { env, stdio: "ignore" }).error === undefined;
}

/** Runs a program of the host to its end. */
export function hostProgram(name: string, args: readonly string[]): { status: number | null; output: string } {
  const { status, stdout, stderr } = spawnSync(name, args, { env, encoding: "utf8", maxBuffer: 1 << 28 });
  return { status, output: stdout + stderr };
}

/** Bytes that a program of the host writes. */
export function hostOutput(name: string, args: readonly string[]): Buffer {
  return execFileSync(name, args, { env, maxBuffer: 1 << 28, stdio: ["ignore", "pipe", "ignore"] });
}

/**
 * The host's own mke2fs with the libraries it needs, for a guest's initramfs; undefined where a Linux guest could not run it.
 * Debian's busybox can make ext2 only.
 */
export function mke2fsFiles(): CpioEntry[] | undefined {
  const program = ["/usr/sbin/mke2fs", "/sbin/mke2fs"].find((path) => existsSync(path));
  if (program === undefined || process.platform !== "linux" || process.arch !== "x64") return undefined;
  const { output } = hostProgram("ldd", [program]);
  const libraries = [...output.matchAll(/(\/\S+\.so\S*)/g)].map((match) => match[1] as string);
  const paths = [...new Set([...libraries, "/etc/mke2fs.conf"])].filter((path) => existsSync(path));
  const folders = new Set<string>(["opt"]);
  for (const path of paths) {
    const parts = path.slice(1).split("/");
    for (let i = 1; i < parts.length; i++) folders.add(parts.slice(0, i).join("/"));
  }
  return [
    ...[...folders].sort().map((path): CpioEntry => ({ kind: "directory", path, mode: 0o755 })),
    ...paths.map((path): CpioEntry => ({ kind: "file", path: path.slice(1), data: readFileSync(path), mode: 0o755 })),
    { kind: "file", path: "opt/mkfs.ext4", data: readFileSync(program), mode: 0o755 },
  ];
}

/** A port of the loopback interface that nobody listens on. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

/** Starts an NBD server and waits until it greets; the caller ends it. */
export async function startNbdServer(
  args: readonly string[],
  where: { readonly path: string } | { readonly host: string; readonly port: number },
): Promise<ChildProcess> {
  const child = spawn("nbdkit", args, { stdio: "ignore" });
  for (let i = 0; i < 400 && child.exitCode === null; i++) {
    const probe = "path" in where ? connect(where.path) : connect(where.port, where.host);
    const greeted = await Promise.race([
      once(probe, "data").then(
        () => true,
        () => false,
      ),
      once(probe, "close").then(
        () => false,
        () => false,
      ),
    ]);
    probe.destroy();
    if (greeted) return child;
    await delay(25);
  }
  child.kill("SIGKILL");
  throw new Error(`nbdkit ${args.join(" ")} does not listen`);
}
