import { readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";

const MIB = 1024 * 1024;

/** Memory of a domain process in MiB. */
export interface ProcessMemory {
  /** Pages of the guest's shared file that exist: guest RAM touched, counted once however often it is mapped. */
  readonly guestTouched: number;
  /** Everything else that the process has in memory: private pages and program text. */
  readonly overhead: number;
  /** What the kernel calls the resident set; counts shared pages once for each mapping. */
  readonly resident: number;
}

function statusField(status: string, name: string): number {
  return Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(status)?.[1] ?? Number.NaN) / 1024;
}

/** Bytes of all shared memory files that the process holds open; each inode once. */
function sharedFileBytes(pid: number): number {
  const sizes = new Map<number, number>();
  for (const name of readdirSync(`/proc/${pid}/fd`)) {
    const descriptor = `/proc/${pid}/fd/${name}`;
    try {
      if (!/^(\/memfd:|\/dev\/shm\/)/.test(readlinkSync(descriptor))) continue;
      const { ino, blocks } = statSync(descriptor);
      sizes.set(ino, blocks * 512);
    } catch {
      // The descriptor was closed while we looked.
    }
  }
  return [...sizes.values()].reduce((sum, size) => sum + size, 0);
}

/** Reads a process's memory from /proc (Linux). */
export function processMemory(pid: number): ProcessMemory {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return {
    guestTouched: Math.round(sharedFileBytes(pid) / MIB),
    overhead: Math.round(statusField(status, "RssAnon") + statusField(status, "RssFile")),
    resident: Math.round(statusField(status, "VmRSS")),
  };
}
