/**
 * What the npm scripts call: `node main/bootstrap.mjs <script> [arguments]`, where a script is start, build, check, format,
 * test, bench, screenshots or package. Works in a clone without node_modules; plain Node without dependencies.
 */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { PrepareError, prepare, root } from "./prepare.mjs";

const bin = (...parts) => path.join(root, "node_modules", ...parts);

/** Runs a Node program of node_modules on the terminal; returns its exit status. */
function node(args, environment = {}) {
  const done = spawnSync(process.execPath, args, {
    cwd: root,
    stdio: "inherit",
    env: { ...process.env, ...environment },
  });
  return done.status ?? 1;
}

/** Runs a Node program of node_modules to its end. Resolves with its exit status and all that it has printed. */
function nodeOutput(args) {
  const environment = process.stdout.isTTY ? { FORCE_COLOR: "1", ...process.env } : process.env;
  const child = spawn(process.execPath, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"], env: environment });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text) => {
      output += text;
    });
  }
  return new Promise((resolve) => {
    child.once("error", (error) => resolve({ status: 1, output: `${error.message}\n` }));
    child.once("close", (status) => resolve({ status: status ?? 1, output }));
  });
}

/** The steps of `npm run check`: name and the command's arguments. */
const checks = [
  ["format and lint", [bin("@biomejs", "biome", "bin", "biome"), "check", "--error-on-warnings", "."]],
  ["types", [bin("typescript", "bin", "tsc"), "-p", "tsconfig.json"]],
  [
    "types of the interface",
    [
      bin("svelte-check", "bin", "svelte-check"),
      "--tsconfig",
      path.join("renderer", "tsconfig.json"),
      "--output",
      "human",
    ],
  ],
  [
    "layer walls",
    [bin("dependency-cruiser", "bin", "dependency-cruise.mjs"), "--config", ".dependency-cruiser.cjs"].concat(
      ["engine", "main", "preload", "renderer", "test"].filter((folder) => existsSync(path.join(root, folder))),
    ),
  ],
];

/** Runs every check, so that one run shows all that is wrong; resolves with the names of those that failed. */
async function check() {
  const failed = [];
  // At the same time, as each keeps one core busy; told in order.
  const running = checks.map(([name, args]) => ({ name, done: nodeOutput(args) }));
  for (const { name, done } of running) {
    const { status, output } = await done;
    process.stdout.write(`\n--- ${name}\n${output}`);
    if (status !== 0) failed.push(name);
  }
  return failed;
}

/**
 * Commands that tests call, with the Debian package of each; one of several will do. Without them their tests are skipped
 * and say so.
 */
const testTools = [
  ["tmux", "tmux"],
  ["nbdkit", "nbdkit"],
  ["qemu-nbd", "qemu-utils"],
  ["mke2fs", "e2fsprogs"],
  ["mmdebstrap", "mmdebstrap"],
  ["tcpdump", "tcpdump"],
  ["tshark", "tshark"],
  ["passt", "passt"],
  // As test/e2e/support/browser.ts looks for it.
  ["chromium|chromium-browser|google-chrome-stable|google-chrome", "chromium"],
];

function onPath(command) {
  return (process.env.PATH ?? "").split(path.delimiter).some((folder) => existsSync(path.join(folder, command)));
}

/** Installs the Debian packages that tests want, where that is possible: as root, with apt. Never fails. */
function installTestTools() {
  const missing = testTools
    .filter(([commands]) => !commands.split("|").some(onPath))
    .map(([, debian]) => debian)
    .filter((debian) => debian !== "chromium" || !process.env.CHROMIUM);
  if (missing.length === 0) return;
  if (process.getuid?.() !== 0 || !onPath("apt-get")) {
    process.stderr.write(`domlab: tests that need ${missing.join(", ")} will be skipped (no root or no apt)\n`);
    return;
  }
  const lists = "/var/lib/apt/lists";
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  const apt = (...args) => spawnSync("apt-get", ["-qq", ...args], { stdio: ["ignore", 2, 2], env }).status === 0;
  const install = (...names) => apt("install", "-y", "--no-install-recommends", ...names);
  if (!existsSync(lists) || readdirSync(lists).filter((name) => name.includes("Packages")).length === 0) apt("update");
  if (install(...missing)) return;
  // One package that the archive does not have must not cost the others.
  const failed = missing.filter((name) => !install(name));
  if (failed.length > 0) {
    process.stderr.write(`domlab: apt-get could not install ${failed.join(", ")}; their tests will be skipped\n`);
  }
}

/**
 * Starts putting the guest images into the cache, unless only tests that boot none are asked for. Returns the function that
 * ends it.
 */
function startImages(args) {
  if (args.length > 0 && !args.some((arg) => /guest|cli|e2e/.test(arg))) return () => {};
  const child = spawn(process.execPath, [path.join(root, "dist", "test", "guest-images.js")], {
    stdio: ["ignore", "ignore", "inherit"],
  });
  // Whoever needs an image makes it, should this not have worked.
  child.on("error", () => {});
  return () => child.kill("SIGTERM");
}

/** Totals of vitest's JSON report. A file that could not even be loaded has no tests and counts as one failure. */
function totals(report) {
  const broken = report.testResults.filter((file) => file.status === "failed" && file.assertionResults.length === 0);
  return { passed: report.numPassedTests, failed: report.numFailedTests + broken.length };
}

/**
 * Checks, then all tests; the last line is the sum. Arguments go to vitest (a file name selects tests). A failed check
 * counts as a failed test.
 */
async function test(args) {
  installTestTools();
  const endImages = startImages(args);
  const failedChecks = await check();
  const folder = mkdtempSync(path.join(os.tmpdir(), "domlab-test-"));
  const file = path.join(folder, "report.json");
  try {
    process.stdout.write("\n--- tests\n");
    const status = node([
      bin("vitest", "vitest.mjs"),
      "run",
      "--reporter=default",
      "--reporter=json",
      `--outputFile.json=${file}`,
      ...args,
    ]);
    let { passed, failed } = existsSync(file)
      ? totals(JSON.parse(readFileSync(file, "utf8")))
      : { passed: 0, failed: 1 };
    failed += failedChecks.length;
    if (status !== 0 && failed === 0) failed = 1;
    if (failedChecks.length) process.stdout.write(`Failed checks, counted below: ${failedChecks.join(", ")}\n`);
    process.stdout.write(`${passed} passed, ${failed} failed\n`);
    return failed === 0 && passed > 0 ? 0 : 1;
  } finally {
    endImages();
    rmSync(folder, { recursive: true, force: true });
  }
}

async function run(command, args) {
  await prepare();
  switch (command) {
    case "build":
      return 0;
    case "start":
      process.argv.splice(2, process.argv.length, "npm-start", ...args);
      await import("../dist/main/cli.js");
      return undefined;
    case "check":
      return (await check()).length === 0 ? 0 : 1;
    case "format":
      return node([bin("@biomejs", "biome", "bin", "biome"), "check", "--write", "."]);
    case "test":
      return test(args);
    case "package":
      // Arguments go to electron-builder: --dir for the app's folder alone, --linux, --mac, --win, --x64, --arm64.
      return node([
        bin("electron-builder", "cli.js"),
        "--config",
        "electron-builder.yml",
        "--publish",
        "never",
        ...args,
      ]);
    case "bench":
      return node([path.join(root, "dist", "test", "bench", "bench.js"), ...args]);
    case "screenshots":
      return node([path.join(root, "dist", "test", "e2e", "screenshots.js"), ...args]);
    default:
      throw new PrepareError(
        `unknown command ${command}; one of start, build, check, format, test, bench, screenshots, package`,
      );
  }
}

try {
  const status = await run(process.argv[2], process.argv.slice(3));
  if (status !== undefined) process.exitCode = status;
} catch (error) {
  if (!(error instanceof PrepareError)) throw error;
  process.stderr.write(`domlab: ${error.message}\n`);
  process.exitCode = 2;
}
