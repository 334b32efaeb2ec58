/** In which order the files of the whole suite begin, so that the cores are busy from its beginning to its end. */
import path from "node:path";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/** Seconds that slow files take on two cores, roughly: a wrong figure costs time, nothing else. Others count as one second. */
const SECONDS: Readonly<Record<string, number>> = {
  "cli/bad-input": 28,
  "cli/disks": 45,
  "cli/lab-server": 20,
  "cli/machines": 75,
  "cli/networks": 26,
  "cli/serve": 11,
  "cpu/compiled-vectors": 50,
  "cpu/jit/differential": 8,
  "cpu/vectors": 24,
  "crash/crash": 18,
  "device/block-backend-hold": 14,
  "device/block-backend-restart": 24,
  "disk/image-tools": 13,
  "disk/image-tools-crash": 18,
  "disk/image-tools-journal": 9,
  "disk/image-tools-repair": 7,
  "disk/qcow2-crash": 15,
  "disk/qcow2-store": 20,
  "domain/hostile-frontend": 25,
  "domain/net-domains": 30,
  "domain/storage-hold": 22,
  "domain/typescript-disk": 12,
  "domain/typescript-domain": 15,
  "domain/typescript-restart": 12,
  "e2e/consoles": 60,
  "e2e/first-run": 50,
  "e2e/machines": 85,
  "e2e/manage": 58,
  "e2e/views": 52,
  "guest/archive": 25,
  "guest/block-attach": 32,
  "guest/block-code": 18,
  "guest/block-disk": 75,
  "guest/block-nbd": 21,
  "guest/block-restart": 44,
  "guest/crash": 20,
  // Not at once, as e2e/first-run: the image that they boot is being made in the background.
  "guest/debian": 46,
  "guest/exec": 65,
  "guest/guest-backend": 30,
  "guest/lab": 42,
  "guest/net-switch": 60,
  "guest/net-user": 12,
  "guest/snapshot": 65,
  "guest/snapshot-load": 60,
  "guest/terminal": 22,
  "guest/tiny-end": 22,
  "guest/tiny-hypercall": 9,
  "main/lab/machines/archive": 6,
  "main/lab/machines/snapshots": 9,
  "network/uplink/user-tcp": 6,
  "snapshot/file": 6,
  "xenstore/hostile": 7,
};

/** The projects whose files share processes: they stay together, or each file would get a process of its own. */
const SHARED = "light";
/** The projects whose files start many processes, and wait for them. */
const HEAVY: ReadonlySet<string> = new Set(["cli", "e2e", "guest"]);

function secondsOf({ moduleId }: TestSpecification): number {
  const name = path.relative(import.meta.dirname, moduleId).replaceAll(path.sep, "/");
  return SECONDS[name.replace(/\.test\.ts$/, "")] ?? 1;
}

/** Files by the share of their class's time that lies before them, the longest first: two such lists can be merged. */
function withShares(files: readonly TestSpecification[]): { file: TestSpecification; before: number }[] {
  const sorted = files.toSorted((a, b) => secondsOf(b) - secondsOf(a) || (a.moduleId < b.moduleId ? -1 : 1));
  const total = sorted.reduce((sum, file) => sum + secondsOf(file), 0);
  let sum = 0;
  return sorted.map((file) => {
    const before = sum / total;
    sum += secondsOf(file);
    return { file, before };
  });
}

/**
 * Begins with the longest files, so that none is left over at the end, and mixes those that keep a core busy with those that
 * start processes and wait for them. Those that share processes come last, the longest of them first.
 */
export class SuiteOrder extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const of = (wanted: (project: string) => boolean) => files.filter(({ project }) => wanted(project.name));
    const heavy = withShares(of((name) => HEAVY.has(name)));
    const quick = withShares(of((name) => !HEAVY.has(name) && name !== SHARED));
    const mixed = [...heavy, ...quick].sort((a, b) => a.before - b.before);
    const shared = withShares(of((name) => name === SHARED));
    return [...mixed, ...shared].map(({ file }) => file);
  }
}
