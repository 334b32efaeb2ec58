import { execFileSync, spawnSync } from "node:child_process";
import { closeSync, openSync, readFileSync, readSync, writeSync } from "node:fs";
import { expect } from "vitest";
import { DiskError, type DiskErrorCode } from "../../engine/disk/errors.ts";

export const hasQemu = ["qemu-img", "qemu-io"].every((name) => spawnSync(name, ["--version"]).status === 0);

export function qemuImg(...args: string[]): string {
  return execFileSync("qemu-img", args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

/** Commands of qemu-io on a qcow2 image; what they write goes through QEMU's own driver. */
export function qemuIo(path: string, ...commands: string[]): void {
  const result = spawnSync("qemu-io", ["-f", "qcow2", ...commands.flatMap((command) => ["-c", command]), path]);
  const output = `${result.stdout}${result.stderr}`;
  if (result.status !== 0 || /error|failed/i.test(output)) throw new Error(output);
}

/** Offset, length, byte. */
type Stretch = readonly [number, number, number];

/** Writes stretches of single bytes into a qcow2 image. */
export function write(path: string, stretches: readonly Stretch[]): void {
  qemuIo(path, ...stretches.map(([offset, length, byte]) => `write -P ${byte} ${offset} ${length}`));
}

export type Verdict = "clean" | "leaks" | "errors" | "unusable";

/** What qemu-img check says of an image. */
export function qemuCheck(path: string): Verdict {
  const result = spawnSync("qemu-img", ["check", "-f", "qcow2", path], { encoding: "utf8" });
  return ({ 0: "clean", 2: "errors", 3: "leaks" } as const)[result.status as 0] ?? "unusable";
}

/** What a disk holds, read by QEMU; all of it, or so many bytes. */
export function contentOf(path: string, format = "qcow2", length?: number): Buffer {
  const raw = `${path}.content`;
  qemuImg("convert", "-f", format, "-O", "raw", path, raw);
  return length === undefined ? readFileSync(raw) : peek(raw, 0, length);
}

/** Bytes that are different everywhere, so that a cluster in the wrong place is seen. */
export function pattern(length: number, seed: number): Buffer {
  const words = new Uint32Array(length / 4);
  let state = (seed * 2654435761) >>> 0 || 1;
  for (let n = 0; n < words.length; n++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[n] = state >>> 0;
  }
  return Buffer.from(words.buffer);
}

/** Writes into a file at an offset. */
export function patch(path: string, offset: number, bytes: Uint8Array): void {
  const descriptor = openSync(path, "r+");
  writeSync(descriptor, bytes, 0, bytes.length, offset);
  closeSync(descriptor);
}

export function peek(path: string, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  const descriptor = openSync(path, "r");
  readSync(descriptor, bytes, 0, length, offset);
  closeSync(descriptor);
  return bytes;
}

/** The code of the DiskError that an action fails with; its message is one line with a remedy. */
export async function refusal(action: () => unknown): Promise<DiskErrorCode | undefined> {
  try {
    await action();
    return undefined;
  } catch (error) {
    if (!(error instanceof DiskError)) throw error;
    expect(error.message).toMatch(/^[^\n]+; [^\n]+$/);
    return error.code;
  }
}
