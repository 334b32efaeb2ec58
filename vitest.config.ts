import { availableParallelism } from "node:os";
import { defineConfig } from "vitest/config";
import { SuiteOrder } from "./test/order.ts";

/** Layers whose tests leave nothing behind: their files share a process, so that modules are loaded once. */
const LIGHT = [
  "abi",
  "builder",
  "device",
  "hypervisor",
  "images",
  "main",
  "memory",
  "network",
  "renderer",
  "snapshot",
  "xenstore",
].map((layer) => `test/${layer}/**/*.test.ts`);

/**
 * Projects, all in one queue: `unit` and `light` compute, `guest` boots real kernels, `cli` drives the program as a user does,
 * and `e2e` the desktop app. Files that start processes spend a third of their time waiting for them, so there is one file more
 * than there are cores. Time limits are for what hangs: hosts of which others use half are three times as slow.
 */
export default defineConfig({
  test: {
    maxWorkers: availableParallelism() + 1,
    sequence: { sequencer: SuiteOrder },
    projects: [
      {
        test: {
          name: "unit",
          include: ["test/**/*.test.ts"],
          exclude: [...LIGHT, "test/guest/**", "test/cli/**", "test/crash/**", "test/e2e/**"],
          testTimeout: 300_000,
          hookTimeout: 180_000,
        },
      },
      {
        test: {
          name: "light",
          include: LIGHT,
          isolate: false,
          testTimeout: 300_000,
          hookTimeout: 180_000,
        },
      },
      {
        test: {
          name: "cli",
          include: ["test/cli/**/*.test.ts", "test/crash/**/*.test.ts"],
          testTimeout: 300_000,
          hookTimeout: 180_000,
        },
      },
      {
        test: {
          name: "guest",
          include: ["test/guest/**/*.test.ts"],
          testTimeout: 300_000,
          // The first hook may download the guest image.
          hookTimeout: 600_000,
        },
      },
      {
        test: {
          name: "e2e",
          include: ["test/e2e/**/*.test.ts"],
          // A page that shares its processors with guests that boot takes its time.
          expect: { poll: { timeout: 60_000 } },
          testTimeout: 300_000,
          hookTimeout: 600_000,
        },
      },
    ],
  },
});
