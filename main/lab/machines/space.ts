/** Room on the lab's disk, looked at before work that needs much of it. */
import { lstat, readdir, statfs } from "node:fs/promises";
import { join } from "node:path";
import { MachineError } from "./errors.ts";

/** What must be left over: records, logs and other machines' writes go on meanwhile. */
const RESERVE = 64 << 20;

const MIB = 1 << 20;
/** Unit of st_blocks, bytes (stat(2)). */
const BLOCK = 512;

/** Bytes that this user may still write in a folder. */
export async function freeBytes(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder);
  return bavail * bsize;
}

/** Bytes that a file, or a folder with all in it, takes up on its disk; 0 for what is not there. */
export async function usedBytes(path: string): Promise<number> {
  const facts = await lstat(path).catch(() => undefined);
  if (facts === undefined) return 0;
  const names = facts.isDirectory() ? await readdir(path).catch(() => []) : [];
  const inner = await Promise.all(names.map((name) => usedBytes(join(path, name))));
  return inner.reduce((sum, bytes) => sum + bytes, facts.blocks * BLOCK);
}

/** @throws MachineError "no-space" when `bytes` will not fit into the folder */
export async function wantSpace(folder: string, bytes: number, what: string): Promise<void> {
  const free = await freeBytes(folder);
  if (free >= bytes + RESERVE) return;
  const needed = Math.ceil((bytes + RESERVE) / MIB);
  throw new MachineError(
    "no-space",
    `${what} may take ${needed} MiB, and ${folder} has ${Math.floor(free / MIB)} MiB left`,
    "free some space; nothing was changed",
  );
}
