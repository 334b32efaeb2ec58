/** A network namespace of the thread's own: what tests do to interfaces is gone afterwards, and seen by nobody. */
import { execFileSync } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import koffi from "koffi";

const CLONE_NEWNET = 0x4000_0000;

export interface NetworkNamespace {
  /** Runs ip(8) in it. */
  ip(...words: string[]): string;
  /** Goes back to the one of before. */
  leave(): void;
}

/** Undefined where that is not allowed. Sockets and programs that this thread starts from then on are in it. */
export function enterNetworkNamespace(): NetworkNamespace | undefined {
  if (process.platform !== "linux" || process.getuid?.() !== 0) return undefined;
  const libc = koffi.load(null);
  const before = openSync("/proc/thread-self/ns/net", "r");
  if (libc.func("unshare", "int", ["int"])(CLONE_NEWNET) !== 0) {
    closeSync(before);
    return undefined;
  }
  return {
    ip: (...words) => execFileSync("ip", words).toString(),
    leave() {
      const back = libc.func("setns", "int", ["int", "int"])(before, CLONE_NEWNET);
      closeSync(before);
      if (back !== 0) throw new Error(`setns: errno ${koffi.errno()}`);
    },
  };
}
