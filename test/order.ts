/** In which order the files of the whole suite begin, so that the cores are busy from its beginning to its end. */
import path from "node:path";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/** Seconds that slow files take on two cores, roughly: a wrong figure costs time, nothing else. Others count as one second. */
const SECONDS: Readonly<Record<string, number>> = {
  "cli/bad-input": 25,
  "cli/disks": 40,
  "cli/lab-server": 20,
  "cli/machines": 90,
  "cli/networks": 28,
  "cli/serve": 6,
  "cpu/compiled-vectors": 20,
  "cpu/jit/differential": 7,
  "cpu/vectors": 13,
  "crash/crash": 23,
  "device/block-backend-hold": 5,
  "device/block-backend-restart": 11,
  "disk/image-tools": 6,
  "disk/image-tools-crash": 13,
  "disk/qcow2-crash": 13,
  "disk/qcow2-store": 7,
  "domain/hostile-frontend": 9,
  "domain/net-domains": 19,
  "domain/typescript-domain": 9,
  "domain/typescript-restart": 35,
  "e2e/first-run": 50,
  "e2e/machines": 120,
  "e2e/views": 45,
  "guest/archive": 25,
  "guest/block-attach": 36,
  "guest/block-code": 9,
  "guest/block-disk": 68,
  "guest/block-nbd": 16,
  "guest/block-restart": 45,
  "guest/crash": 17,
  // Not at once, as e2e/first-run: the image that they boot is being made in the background.
  "guest/debian": 46,
  "guest/exec": 50,
  "guest/guest-backend": 36,
  "guest/lab": 40,
  "guest/net-switch": 45,
  "guest/net-user": 12,
  "guest/snapshot": 65,
  "guest/terminal": 25,
  "guest/tiny-end": 20,
  "guest/tiny-hypercall": 7,
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
 * start processes and wait for them. The short ones that share processes come last.
 */
export class SuiteOrder extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const of = (wanted: (project: string) => boolean) => files.filter(({ project }) => wanted(project.name));
    const heavy = withShares(of((name) => HEAVY.has(name)));
    const quick = withShares(of((name) => !HEAVY.has(name) && name !== SHARED));
    const mixed = [...heavy, ...quick].sort((a, b) => a.before - b.before);
    return [...mixed.map(({ file }) => file), ...of((name) => name === SHARED)];
  }
}
