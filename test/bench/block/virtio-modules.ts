/** The modules of a guest's kernel that virtio devices on PCI need, from Debian's package; kept in the cache of images. */
import path from "node:path";
import { decompressAt, detectCompression } from "../../../engine/builder/decompress.ts";
import { downloadPackages, readPackage } from "../../../main/images/apt.ts";
import { cacheDirectory, cachedImage, type ImageContent } from "../../../main/images/cache.ts";
import { dependenciesOf, loadOrder, moduleName } from "../../../main/images/kernel-modules.ts";

const MODULE_PATH = /^(usr\/)?lib\/modules\/[^/]+\/kernel\/.*\.ko(\.\w+)?$/;
const FILE_LIMIT = 16 << 20;
const ROOM = 64 << 20;

export interface Module {
  readonly file: string;
  readonly data: Uint8Array;
}

async function fetchModules(release: string, drivers: readonly string[], work: string): Promise<ImageContent> {
  const [kernel] = await downloadPackages([`linux-image-${release}`], work, ROOM, {});
  if (kernel === undefined) throw new Error(`no package for the kernel ${release}`);
  const files = new Map<string, Uint8Array>();
  const needs = new Map<string, readonly string[]>();
  for (let missing = new Set(drivers); missing.size > 0; ) {
    const wanted = (file: string) => MODULE_PATH.test(file) && missing.has(moduleName(file));
    for (const file of await readPackage(path.join(work, kernel.file), wanted, FILE_LIMIT, {})) {
      const packed = detectCompression(file.data) !== undefined;
      const data = packed ? (await decompressAt(file.data, 0, FILE_LIMIT, "kernel module")).data : file.data;
      const name = moduleName(file.path);
      files.set(`${name}.ko`, data);
      needs.set(name, dependenciesOf(data) ?? []);
    }
    // What is in none of the packages' files is built in.
    for (const name of missing) if (!needs.has(name)) needs.set(name, []);
    missing = new Set([...needs.values()].flat().filter((name) => !needs.has(name)));
  }
  const order = loadOrder(drivers, needs).map((name) => `${name}.ko`);
  const modules = order.filter((file) => files.has(file));
  return { packages: [kernel.file], kernelRelease: release, files, modules };
}

/**
 * The modules of a driver and all that they need, in the order of loading.
 * @throws ImageError when the package cannot be had
 */
export async function virtioModules(release: string, driver: "blk" | "net" = "blk"): Promise<Module[]> {
  const name = `bench-virtio-${driver === "blk" ? "" : `${driver}-`}${release}`;
  const drivers = ["virtio_pci", `virtio_${driver}`];
  const image = await cachedImage(cacheDirectory(), name, (work) => fetchModules(release, drivers, work));
  return image.manifest.modules.map((file) => ({ file, data: image.files.get(file) as Uint8Array }));
}
