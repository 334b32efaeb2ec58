/**
 * Makes a clone runnable: libraries, JavaScript, WebAssembly; each step only when its inputs changed. Plain Node without
 * dependencies, because it runs before there are any. Everything it prints goes to stderr: stdout belongs to the program
 * that is started afterwards.
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

export const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const inRoot = (...parts) => path.join(root, ...parts);

/** A failure that is told in one line. */
export class PrepareError extends Error {}

function say(text) {
  process.stderr.write(`domlab: ${text}\n`);
}

/** Runs a program with its output on stderr; throws PrepareError with `cause` when it fails. */
async function must(cause, command, args) {
  const child = spawn(command, args, { cwd: root, stdio: ["ignore", 2, 2] });
  const [status, signal] = await once(child, "exit").catch((error) => {
    throw new PrepareError(`${cause}: ${error.message}`);
  });
  if (status !== 0) throw new PrepareError(`${cause} (exit status ${status ?? signal}); see above`);
}

/** The oldest Node that has what the program uses: package.json's engines field. */
function checkNode() {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  if (major < 20 || (major === 20 && minor < 19)) {
    throw new PrepareError(`Node ${process.versions.node} is too old; install Node 20.19 or later`);
  }
}

/**
 * Whether node_modules holds what package-lock.json asks for. npm leaves its own record there as the last step of an
 * installation, so a broken one has none.
 */
function modulesAreCurrent() {
  const record = inRoot("node_modules", ".package-lock.json");
  if (!existsSync(record)) return false;
  const wanted = JSON.parse(readFileSync(inRoot("package-lock.json"), "utf8")).packages;
  const present = JSON.parse(readFileSync(record, "utf8")).packages;
  return Object.entries(wanted).every(([name, entry]) => {
    if (name === "" || entry.optional || entry.peer) return true;
    return present[name]?.version === entry.version;
  });
}

async function installModules() {
  if (modulesAreCurrent()) return;
  say("installing libraries (npm ci)");
  await must("npm could not install the libraries", "npm", ["ci", "--no-audit", "--no-fund", "--loglevel=error"]);
}

/**
 * Lets `npx domlab` find this clone's program without asking the registry. A symbolic link as npm makes for any
 * dependency; where links cannot be made `npm start --` remains.
 */
function linkCommand() {
  const link = inRoot("node_modules", ".bin", "domlab");
  const target = path.join("..", "..", "main", "domlab.mjs");
  try {
    if (lstatSync(link, { throwIfNoEntry: false })?.isSymbolicLink() && readlinkSync(link) === target) return;
    rmSync(link, { force: true });
    symlinkSync(target, link);
  } catch (error) {
    say(`npx domlab is not available (${error.message}); use npm start -- instead`);
  }
}

function* filesUnder(folder, accept) {
  for (const entry of readdirSync(folder, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const full = path.join(folder, entry.name);
    if (entry.isDirectory()) yield* filesUnder(full, accept);
    else if (entry.isFile() && accept(full)) yield full;
  }
}

/** SHA-256 over names and contents of the given files and folders. */
function hashOf(names, accept) {
  const hash = createHash("sha256");
  for (const name of names) {
    const full = inRoot(name);
    if (!existsSync(full)) continue;
    for (const file of statSync(full).isDirectory() ? filesUnder(full, accept) : [full]) {
      hash
        .update(`${path.relative(root, file)}\0`)
        .update(readFileSync(file))
        .update("\0");
    }
  }
  return hash.digest("hex");
}

/**
 * Runs `step` unless its `product` (in dist/) stands and the stamp beside it says that it came from the same inputs. The
 * stamp is written only after success.
 */
async function unlessCurrent(product, hash, step) {
  const stamp = inRoot("dist", `${product}.stamp`);
  if (existsSync(inRoot("dist", product)) && existsSync(stamp) && readFileSync(stamp, "utf8") === hash) return;
  await step();
  mkdirSync(path.dirname(stamp), { recursive: true });
  writeFileSync(stamp, hash);
}

/** Whether the build of the CPU core made this file. */
const isGenerated = (file) => file.includes(`${path.sep}generated${path.sep}`);

async function buildScripts() {
  const inputs = ["engine", "main", "preload", "test", "tsconfig.json", "tsconfig.build.json", "package-lock.json"];
  const isSource = (file) => /\.c?ts$/.test(file) && !file.endsWith(".test.ts") && !isGenerated(file);
  await unlessCurrent("main/cli.js", hashOf(inputs, isSource), () => {
    say("compiling TypeScript");
    const tsc = inRoot("node_modules", "typescript", "bin", "tsc");
    return must("TypeScript does not compile", process.execPath, [tsc, "-p", "tsconfig.build.json"]);
  });
}

async function buildCore() {
  const recipe = inRoot("engine", "cpu", "build.mjs");
  if (!existsSync(recipe)) throw new PrepareError("engine/cpu/build.mjs is missing; the clone is incomplete");
  const inputs = [
    "engine/cpu/assembly",
    "engine/cpu/table",
    "engine/cpu/generate",
    "engine/cpu/build.mjs",
    "package-lock.json",
  ];
  const isInput = (file) => !isGenerated(file);
  await unlessCurrent("engine/cpu/core.wasm", hashOf(inputs, isInput), () => {
    say("compiling the CPU core to WebAssembly");
    return must("the CPU core does not compile", process.execPath, [recipe]);
  });
}

/** The interface of the desktop app. */
async function buildRenderer() {
  const config = inRoot("renderer", "vite.config.ts");
  if (!existsSync(config)) throw new PrepareError("renderer/vite.config.ts is missing; the clone is incomplete");
  const hash = hashOf(["renderer", "package-lock.json"], () => true);
  await unlessCurrent("renderer/index.html", hash, () => {
    say("building the interface");
    const vite = inRoot("node_modules", "vite", "bin", "vite.js");
    return must("the interface does not build", process.execPath, [vite, "build", "-c", config, "--logLevel=warn"]);
  });
}

/** Installs libraries and builds what is out of date. Rejects with PrepareError. */
export async function prepare() {
  checkNode();
  await installModules();
  linkCommand();
  // All to their end, so that a failure of one does not leave the other running behind the message.
  const built = await Promise.allSettled([buildScripts(), buildCore(), buildRenderer()]);
  const failed = built.find(({ status }) => status === "rejected");
  if (failed !== undefined) throw failed.reason;
}
