import { defineConfig } from "vitest/config";

/** Layers whose tests leave nothing behind: their files share a process, so that modules are loaded once. */
const LIGHT = ["abi", "builder", "images", "main", "network", "renderer", "xenstore"].map(
  (layer) => `test/${layer}/**/*.test.ts`,
);

/**
 * Projects, one after the other: `unit` and `light` run in parallel; `guest` boots real kernels, each of which keeps a core
 * busy, and `cli` drives the program as a user does: two files at a time of these; `e2e` has a browser besides: one.
 */
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: "unit",
          include: ["test/**/*.test.ts"],
          exclude: [...LIGHT, "test/guest/**", "test/cli/**", "test/crash/**", "test/e2e/**"],
          testTimeout: 30_000,
          sequence: { groupOrder: 0 },
        },
      },
      {
        test: {
          name: "light",
          include: LIGHT,
          isolate: false,
          testTimeout: 30_000,
          sequence: { groupOrder: 0 },
        },
      },
      {
        test: {
          name: "cli",
          include: ["test/cli/**/*.test.ts", "test/crash/**/*.test.ts"],
          testTimeout: 60_000,
          hookTimeout: 60_000,
          maxWorkers: 2,
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          name: "guest",
          include: ["test/guest/**/*.test.ts"],
          testTimeout: 180_000,
          // The first hook may download the guest image.
          hookTimeout: 600_000,
          maxWorkers: 2,
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          name: "e2e",
          include: ["test/e2e/**/*.test.ts"],
          testTimeout: 120_000,
          // The first hook may download the guest image.
          hookTimeout: 600_000,
          // A browser and a guest keep both cores busy.
          maxWorkers: 1,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
});
