/** Room on the lab's disk, looked at before work that needs much of it. */
import { statfs } from "node:fs/promises";
import { MachineError } from "./errors.ts";

/** What must be left over: records, logs and other machines' writes go on meanwhile. */
const RESERVE = 64 << 20;

const MIB = 1 << 20;

/** Bytes that this user may still write in a folder. */
export async function freeBytes(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder);
  return bavail * bsize;
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
