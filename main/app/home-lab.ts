/** The lab in a folder as a process of its own, for the served form of the app. */
import { setTimeout as delay } from "node:timers/promises";
import { connectHome, ensureLab } from "../lab/server/ensure-lab.ts";
import { readServerFile } from "../lab/server/server-file.ts";
import type { LabAccess } from "./lab-link.ts";

/** How long a lab may take from closing its connections to its end, and between two looks. */
const END_WAIT_MS = 10_000;
const LOOK_MS = 50;

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** @param home folder of the lab, spelled in one way only */
export function homeLab(home: string, version: string): LabAccess {
  // One start at a time: those who come meanwhile find the lab running.
  let last: Promise<unknown> = Promise.resolve();
  return {
    async open() {
      const running = await connectHome(home);
      if (running !== undefined) return running;
      const opened = last.then(() => ensureLab({ home, version }));
      last = opened.catch(() => {});
      return await opened;
    },
    async wasEnded() {
      // A lab that ends as it should removes the file about itself; one that was killed leaves it.
      for (const end = Date.now() + END_WAIT_MS; Date.now() < end; await delay(LOOK_MS)) {
        const file = await readServerFile(home);
        if (file === undefined) return true;
        if (!isAlive(file.pid)) return false;
      }
      return false;
    },
  };
}
