/**
 * The image layers of a lab's disks: who uses which, and what becomes of those that no record names any more.
 *
 * A layer in disks/ that nothing needs is removed. One that is needed only by a single image on top of it is merged into that
 * image. One with several images on top stays, without a name. Which layers these are follows from the records and the
 * images' headers alone, so that nothing has to be remembered: whatever a crash or a running machine has put off is found
 * again at the next tidying. The user's own images (outside disks/) and the base images are never merged or removed.
 */
import { randomBytes } from "node:crypto";
import { realpath, rm } from "node:fs/promises";
import { basename, dirname, join, sep } from "node:path";
import { messageOf } from "../../../engine/errors/message.ts";
import type { LabStore } from "../store/store.ts";
import type { ImageFile, ImageTools, LongRun } from "./image-tools.ts";

/** Work on layers that nobody has open: it gives way to whoever needs one. */
interface Merge {
  readonly files: ReadonlySet<string>;
  readonly abort: AbortController;
  ended: Promise<void>;
}

/** A layer that could be merged into the one image on top of it. */
interface Candidate {
  readonly layer: string;
  readonly format: ImageFile["format"];
  readonly child: string;
}

/** What there is to do. */
interface Found {
  readonly candidates: readonly Candidate[];
  /** Layers below others whose last writer did not close them. Nobody opens those for writing any more. */
  readonly unclosed: readonly string[];
}

export interface TidyReport {
  /** Layers that were merged and are gone. */
  readonly merged: readonly string[];
  /** Layers that wait until a machine stops. */
  readonly deferred: readonly string[];
  /** What could not be done, in lines. */
  readonly failures: readonly string[];
}

/** One spelling for a file, which may be missing. */
async function canonical(path: string): Promise<string> {
  return await realpath(path).catch(() => path);
}

export class LayerKeeper {
  private readonly store: LabStore;
  private readonly images: ImageTools;
  private readonly log: (line: string) => void;
  /** Files that are open or about to be, by who has them so. */
  private readonly claims = new Map<string, Set<string>>();
  private readonly merges = new Set<Merge>();
  private tidying: Promise<unknown> = Promise.resolve();

  constructor(store: LabStore, images: ImageTools, log: (line: string) => void = () => {}) {
    this.store = store;
    this.images = images;
    this.log = log;
  }

  /** Path for a new layer of a machine's disk; nothing is there yet. */
  newPath(machine: string, vdev: string): string {
    const name = `${machine}-${vdev.replace(/[^A-Za-z0-9]+/g, "-")}-${randomBytes(6).toString("hex")}.qcow2`;
    return join(this.store.paths.disks, name);
  }

  /** Whether a file is a layer of the lab's own: one that may be merged and removed. */
  isOwn(path: string): boolean {
    return path.startsWith(this.store.paths.disks + sep) && dirname(path) === this.store.paths.disks;
  }

  readonly backingOf = async (image: ImageFile): Promise<ImageFile | undefined> =>
    image.format === "raw" ? undefined : (await this.images.facts(image)).backing;

  /** As the store asks, which does not ask about raw images. */
  readonly backingOfPath = (path: string): Promise<ImageFile | undefined> => this.backingOf({ path, format: "probe" });

  /** The files of an image and of all behind it. @throws DiskError */
  async chainOf(image: ImageFile): Promise<string[]> {
    const chain: string[] = [];
    for (let next: ImageFile | undefined = image; next !== undefined; next = await this.backingOf(next)) {
      const file = await canonical(next.path);
      // A loop: the tools that open the chain say so.
      if (chain.includes(file)) break;
      chain.push(file);
    }
    return chain;
  }

  /**
   * Says that these images, with all behind them, are used by `owner` until release(). A merge that changes one of them is
   * broken off: it never keeps a machine from starting, and is taken up again later.
   * @throws DiskError for an image that cannot be read
   */
  async claim(owner: string, images: readonly ImageFile[]): Promise<void> {
    const claimed = this.claims.get(owner) ?? new Set<string>();
    this.claims.set(owner, claimed);
    for (;;) {
      const files = (await Promise.all(images.map((image) => this.chainOf(image)))).flat();
      for (const file of files) claimed.add(file);
      const disturbed = [...this.merges].filter((merge) => files.some((file) => merge.files.has(file)));
      if (disturbed.length === 0) return;
      for (const merge of disturbed) merge.abort.abort();
      // The chain may be another one now: a merge that was at its end has finished.
      await Promise.all(disturbed.map((merge) => merge.ended));
    }
  }

  /** Says that a file, of a guest's memory, must not be removed before `owner` releases it, whether a record names it or not. */
  keep(owner: string, file: string): void {
    this.claims.set(owner, (this.claims.get(owner) ?? new Set()).add(file));
  }

  release(owner: string): void {
    this.claims.delete(owner);
  }

  /** Whether somebody has said that a file is needed. */
  isClaimed(path: string): boolean {
    return [...this.claims.values()].some((files) => files.has(path));
  }

  /** Removes those of these images and memory files, and of what lies behind the images, that no record names any more. */
  async discard(files: { readonly images?: readonly ImageFile[]; readonly memory?: readonly string[] }): Promise<void> {
    const { images = [], memory = [] } = files;
    if (images.length + memory.length === 0) return;
    for (const file of await this.store.unreferenced(
      { images, memory: memory.map((path) => basename(path)) },
      this.backingOfPath,
    )) {
      // What somebody still has open is found by the sweep at the next start.
      if (!this.isClaimed(file)) await rm(file, { force: true });
    }
  }

  /**
   * Layers with one image on top that no record names, and layers that were not closed.
   * @throws DiskError when an image cannot be read: it may hide another
   */
  private async look(): Promise<Found> {
    if (this.store.recovered) return { candidates: [], unclosed: [] };
    const { images } = await this.store.references();
    const named = new Set<string>();
    const below = new Map<string, { readonly format: ImageFile["format"]; readonly children: string[] }>();
    const seen = new Set<string>();
    const dirty = new Set<string>();
    for (const image of images) named.add(await canonical(image.path));
    const waiting = [...images];
    for (let image = waiting.pop(); image !== undefined; image = waiting.pop()) {
      const path = await canonical(image.path);
      // Only images of the lab lie over layers of the lab.
      if (seen.has(path) || !this.isOwn(path)) continue;
      seen.add(path);
      const facts = image.format === "raw" ? undefined : await this.images.facts({ ...image, path });
      if (facts?.dirty) dirty.add(path);
      const backing = facts?.backing;
      if (backing === undefined) continue;
      const file = await canonical(backing.path);
      const { children = [] } = below.get(file) ?? {};
      below.set(file, { format: backing.format, children: [...children, path] });
      waiting.push({ ...backing, path: file });
    }
    const candidates = [...below].flatMap(
      ([
        layer,
        {
          format,
          children: [child, ...others],
        },
      ]) =>
        child !== undefined && others.length === 0 && !named.has(layer) && this.isOwn(layer)
          ? [{ layer, format, child }]
          : [],
    );
    return { candidates, unclosed: [...dirty].filter((layer) => below.has(layer)) };
  }

  /**
   * Merges and removes what can be, and closes layers that a killed storage domain has left. One tidying follows the other.
   * @returns what was done; it never throws for a single image
   */
  tidy(run: LongRun = {}): Promise<TidyReport> {
    const result = this.tidying.then(() => this.tidyNow(run));
    this.tidying = result.catch(() => undefined);
    return result;
  }

  private async tidyNow(run: LongRun): Promise<TidyReport> {
    const merged: string[] = [];
    const deferred = new Set<string>();
    const failures: string[] = [];
    const failed = new Set<string>();
    for (;;) {
      let found: Found;
      try {
        found = await this.look();
      } catch (error) {
        failures.push(messageOf(error));
        break;
      }
      deferred.clear();
      const { candidates, unclosed } = found;
      for (const { layer, child } of candidates) {
        if (this.isClaimed(child) || this.isClaimed(layer)) deferred.add(layer);
      }
      if (run.signal?.aborted) break;
      const next = candidates.find(({ layer }) => !deferred.has(layer) && !failed.has(layer));
      if (next === undefined) {
        for (const layer of unclosed) await this.mend(layer, run);
        break;
      }
      const failure = await this.merge(next, run);
      if (failure === undefined) merged.push(next.layer);
      else {
        failed.add(next.layer);
        failures.push(failure);
      }
    }
    for (const failure of failures) this.log(failure);
    return { merged, deferred: [...deferred], failures };
  }

  /** Works on layers that nobody has open, as the one who gives way. @throws what `action` throws */
  private async givingWay(
    files: readonly string[],
    { signal, progress }: LongRun,
    action: (run: LongRun) => Promise<void>,
  ): Promise<void> {
    const abort = new AbortController();
    const stop = () => abort.abort();
    signal?.addEventListener("abort", stop);
    let end = () => {};
    const merge: Merge = {
      files: new Set(files),
      abort,
      ended: new Promise((resolve) => {
        end = resolve;
      }),
    };
    this.merges.add(merge);
    try {
      await action({ signal: abort.signal, progress });
    } finally {
      signal?.removeEventListener("abort", stop);
      this.merges.delete(merge);
      end();
    }
  }

  /** @returns a line when it failed or was broken off */
  private async merge({ layer, format, child }: Candidate, run: LongRun): Promise<string | undefined> {
    if (this.isClaimed(layer) || this.isClaimed(child)) return `${layer} came into use`;
    try {
      await this.givingWay([layer, child], run, async (own) => {
        await this.images.pull(child, own);
        // With its format: a raw layer holds what a guest wrote, which must not be taken for an image's header.
        await this.discard({ images: [{ path: layer, format }] });
      });
      return undefined;
    } catch (error) {
      return `${layer} was not merged: ${messageOf(error)}`;
    }
  }

  /** Closes a layer for whoever did not. Its content is right as it is: what fails is for the next tidying. */
  private async mend(layer: string, run: LongRun): Promise<void> {
    if (this.isClaimed(layer)) return;
    try {
      await this.givingWay([layer], run, (own) => this.images.recover(layer, own));
      this.log(`${layer} was not closed by its last writer; that is made up for`);
    } catch (error) {
      this.log(`${layer} was not closed by its last writer, and is left so: ${messageOf(error)}`);
    }
  }

  /** Breaks off what runs. */
  async close(): Promise<void> {
    for (const merge of this.merges) merge.abort.abort();
    await this.tidying;
  }
}
