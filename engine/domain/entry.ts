/** Where the compiled entry points of a domain process are. */
import { existsSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

/** Root of the repository: the nearest folder above with a package.json. */
function repositoryRoot(from: string): string {
  for (let folder = from; folder !== dirname(folder); folder = dirname(folder)) {
    if (existsSync(join(folder, "package.json"))) return folder;
  }
  throw new Error(`no package.json above ${from}`);
}

/**
 * A path inside a packed app's archive, as that of the same file beside it: workers and utility processes cannot be started
 * from an archive (electron/electron#22446), so electron-builder.yml leaves what they load unpacked.
 */
function outsideArchive(path: string): string {
  return path.replace(/([\\/]app\.asar)([\\/])/, "$1.unpacked$2");
}

/**
 * Path of a compiled file, named relative to the module that asks. A module that runs from its TypeScript source (a test) gets
 * the file that the build put into dist/, as Node itself starts processes and workers only from JavaScript.
 */
export function compiledPath(moduleUrl: string, name: string): string {
  const module = fileURLToPath(moduleUrl);
  const folder = dirname(module);
  if (!module.endsWith(".ts")) return outsideArchive(join(folder, name));
  const root = repositoryRoot(folder);
  return join(root, "dist", relative(root, folder), name);
}
