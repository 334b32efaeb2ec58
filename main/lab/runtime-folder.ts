/**
 * Where running labs can be reached: a folder with two Unix sockets per lab, `<name>.control` and `<name>.xenstore`. Whoever
 * can open one has full power over the lab, so the folder is the user's alone.
 */
import { createHash } from "node:crypto";
import { lstatSync, mkdirSync, readdirSync, statSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { errnoOf } from "../../engine/builder/errors.ts";
import { BadInput } from "../failure.ts";

const CONTROL = ".control";
const XENSTORE = ".xenstore";
/** Most bytes of a socket's path: sun_path holds 108 on Linux and 104 on macOS, one of them a zero byte. */
const LONGEST_PATH = 103;
/** Hexadecimal digits that stand for a name which is too long for a path. */
const HASH_DIGITS = 16;

/** The two sockets of a lab. */
export interface LabSockets {
  readonly control: string;
  readonly xenstore: string;
}

function ownedFolder(folder: string): boolean {
  try {
    const status = statSync(folder);
    return status.isDirectory() && status.uid === (process.getuid?.() ?? status.uid);
  } catch {
    return false;
  }
}

/**
 * Path of the folder, which need not exist: below $XDG_RUNTIME_DIR as the XDG Base Directory Specification has it (absolute, an
 * existing folder of the user's own: su and sudo leave another user's there), else in the folder for temporary files.
 */
export function runtimeRoot(environment: NodeJS.ProcessEnv = process.env): string {
  const xdg = environment.XDG_RUNTIME_DIR;
  if (xdg !== undefined && path.isAbsolute(xdg) && ownedFolder(xdg)) return path.join(xdg, "domlab");
  return path.join(os.tmpdir(), `domlab-${process.getuid?.() ?? os.userInfo().username}`);
}

/**
 * Makes the folder unless it is there, and checks that it is nobody else's: in a folder that all may write to, another
 * user could have made it first.
 * @throws BadInput
 */
export function openRuntimeFolder(root: string): void {
  const remedy = "set XDG_RUNTIME_DIR to a folder of your own with mode 0700";
  try {
    mkdirSync(root, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw new BadInput("bad-folder", `${root} cannot be made (${errnoOf(error) ?? "unknown error"})`, remedy, error);
  }
  const status = lstatSync(root);
  if (!status.isDirectory()) throw new BadInput("bad-folder", `${root} is not a folder`, `remove it, or ${remedy}`);
  if (process.getuid !== undefined && status.uid !== process.getuid()) {
    throw new BadInput("bad-folder", `${root} belongs to another user`, remedy);
  }
  if (process.platform !== "win32" && (status.mode & 0o077) !== 0) {
    throw new BadInput("bad-folder", `${root} can be entered by other users`, `chmod 700 it, or ${remedy}`);
  }
}

/**
 * Paths of a lab's sockets. A name that is too long for a path is replaced by its hash, always the same one.
 * @throws BadInput when the folder alone is too long
 */
export function labSockets(root: string, name: string): LabSockets {
  const sockets = (stem: string): LabSockets => ({
    control: path.join(root, stem + CONTROL),
    xenstore: path.join(root, stem + XENSTORE),
  });
  const fits = (candidate: LabSockets) => Buffer.byteLength(candidate.xenstore) <= LONGEST_PATH;
  const plain = sockets(name);
  if (fits(plain)) return plain;
  const hashed = sockets(createHash("sha256").update(name).digest("hex").slice(0, HASH_DIGITS));
  if (fits(hashed)) return hashed;
  throw new BadInput(
    "bad-folder",
    `the path of ${root} is too long for sockets in it`,
    "set XDG_RUNTIME_DIR to a shorter one",
  );
}

/** Sockets of all labs, running or dead, in the order of their files' names. */
export function allLabSockets(root: string): LabSockets[] {
  let names: string[];
  try {
    names = readdirSync(root);
  } catch {
    return [];
  }
  return names
    .filter((name) => name.endsWith(CONTROL))
    .sort()
    .map((name) => name.slice(0, -CONTROL.length))
    .map((stem) => ({ control: path.join(root, stem + CONTROL), xenstore: path.join(root, stem + XENSTORE) }));
}
