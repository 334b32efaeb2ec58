/** Gets the parts of `debian-shell` out of Debian's packages. */

import { join } from "node:path";
import { decompressAt, detectCompression } from "../../engine/builder/decompress.ts";
import {
  downloadPackages,
  type FetchOptions,
  type PackageFile,
  readPackage,
  resolveDependency,
  updateLists,
} from "./apt.ts";
import type { ImageContent } from "./cache.ts";
import { SHELL_MODULES } from "./debian-shell.ts";
import { ImageError } from "./errors.ts";
import { dependenciesOf, loadOrder, moduleName } from "./kernel-modules.ts";
import type { TarFile } from "./tar.ts";

const KERNEL_META_PACKAGE = "linux-image-cloud-amd64";
const KERNEL_PACKAGE = /^linux-image-\d/;
const BUSYBOX_PACKAGE = "busybox-static";
/** Names of the files in the cache. */
export const KERNEL_FILE = "vmlinuz";
export const BUSYBOX_FILE = "busybox";

const MIB = 1024 * 1024;
const FILE_LIMIT = 128 * MIB;
/** Room for the parts taken out of the packages. */
const PARTS_ROOM = 64 * MIB;

const KERNEL_PATH = /^boot\/vmlinuz-(.+)$/;
const BUSYBOX_PATH = /^(usr\/)?bin\/busybox$/;
const MODULE_PATH = /^(usr\/)?lib\/modules\/[^/]+\/kernel\/.*\.ko(\.\w+)?$/;

function unexpected(what: string): ImageError {
  return new ImageError(
    "damaged-package",
    `Debian's package has no ${what}`,
    "report it, and boot with --kernel so far",
  );
}

async function uncompressed(file: TarFile): Promise<Uint8Array> {
  if (detectCompression(file.data) === undefined) return file.data;
  return (await decompressAt(file.data, 0, FILE_LIMIT, "kernel module")).data;
}

/** Reads the wanted modules and, in further passes over the package, those that they depend on. */
async function readModules(
  packagePath: string,
  wantedModules: readonly string[],
  first: readonly TarFile[],
  options: FetchOptions,
): Promise<{ order: string[]; data: Map<string, Uint8Array> }> {
  const data = new Map<string, Uint8Array>();
  const dependencies = new Map<string, readonly string[]>();
  let files = first;
  for (;;) {
    const missing = new Set<string>();
    for (const file of files) {
      const module = await uncompressed(file);
      const needs = dependenciesOf(module);
      if (needs === undefined) throw unexpected(`usable module ${file.path}`);
      data.set(moduleName(file.path), module);
      dependencies.set(moduleName(file.path), needs);
    }
    for (const needs of dependencies.values()) {
      for (const need of needs) if (!dependencies.has(need)) missing.add(need);
    }
    if (missing.size === 0) return { order: loadOrder(wantedModules, dependencies), data };
    const wanted = (path: string): boolean => MODULE_PATH.test(path) && missing.has(moduleName(path));
    files = await readPackage(packagePath, wanted, FILE_LIMIT, options);
    const found = new Set(files.map((file) => moduleName(file.path)));
    for (const name of missing) if (!found.has(name)) throw unexpected(`module ${name}`);
  }
}

async function readKernelPackage(path: string, wantedModules: readonly string[], options: FetchOptions) {
  const names = new Set<string>(wantedModules);
  const wanted = (file: string): boolean =>
    KERNEL_PATH.test(file) || (MODULE_PATH.test(file) && names.has(moduleName(file)));
  const files = await readPackage(path, wanted, FILE_LIMIT, options);
  const kernel = files.find((file) => KERNEL_PATH.test(file.path));
  const release = kernel === undefined ? undefined : KERNEL_PATH.exec(kernel.path)?.[1];
  if (kernel === undefined || release === undefined) throw unexpected("kernel");
  // A driver that is built into the kernel has no module; a later boot shows whether it is there.
  const modules = await readModules(
    path,
    wantedModules,
    files.filter((file) => file !== kernel),
    options,
  );
  return { kernel: kernel.data, release, ...modules };
}

async function download(work: string, options: FetchOptions): Promise<{ names: string[]; files: PackageFile[] }> {
  const kernelPackage = await resolveDependency(KERNEL_META_PACKAGE, KERNEL_PACKAGE, options);
  const names = [kernelPackage, BUSYBOX_PACKAGE];
  return { names, files: await downloadPackages(names, work, PARTS_ROOM, options) };
}

/** The package lists may be empty or old: then they are updated once, where this process may do that. */
async function downloadWithFreshLists(work: string, options: FetchOptions): ReturnType<typeof download> {
  try {
    return await download(work, options);
  } catch (error) {
    if (!(error instanceof ImageError) || error.code !== "no-package" || !(await updateLists(options))) throw error;
    return download(work, options);
  }
}

/**
 * Downloads the kernel's and busybox' packages into `work`, where they stay until the caller removes it, and takes
 * kernel, busybox and the wanted modules with those that they need out of them.
 *
 * @returns the content, whose `packages` are the files in `work`: first the kernel's
 * @throws ImageError
 */
export async function fetchParts(
  work: string,
  wantedModules: readonly string[],
  options: FetchOptions,
): Promise<ImageContent> {
  const { files } = await downloadWithFreshLists(work, options);
  const [kernelDeb, busyboxDeb] = files as [PackageFile, PackageFile];
  options.progress?.("unpacking the guest image");
  const kernel = await readKernelPackage(join(work, kernelDeb.file), wantedModules, options);
  const isBusybox = (path: string): boolean => BUSYBOX_PATH.test(path);
  const [busybox] = await readPackage(join(work, busyboxDeb.file), isBusybox, FILE_LIMIT, options);
  if (busybox === undefined) throw unexpected("busybox");
  const content = new Map([
    [KERNEL_FILE, kernel.kernel],
    [BUSYBOX_FILE, busybox.data],
  ]);
  const modules = kernel.order.map((name) => `${name}.ko`);
  for (const name of kernel.order) content.set(`${name}.ko`, kernel.data.get(name) as Uint8Array);
  return {
    packages: files.map(({ file }) => file),
    kernelRelease: kernel.release,
    files: content,
    modules,
  };
}

/**
 * Gets the parts of `debian-shell`.
 *
 * @throws ImageError
 */
export async function fetchShellParts(work: string, options: FetchOptions): Promise<ImageContent> {
  return fetchParts(work, SHELL_MODULES, options);
}
