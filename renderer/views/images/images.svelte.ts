/** The images of the lab as this window knows them; kept when the view is left, so that it is there at once again. */
import { SvelteMap } from "svelte/reactivity";
import type { CatalogueRow } from "../../../main/lab/image-api.ts";
import { call } from "../../lib/rpc/client.ts";
import { newOperation } from "../../lib/state/lab.svelte.ts";
import { attempt, notices } from "../../lib/state/notices.svelte.ts";
import { type DeletedRow, type ImageRow, titleOf } from "./files.ts";

class Images {
  /** Undefined until it was loaded once; so are the others. */
  catalogue = $state.raw<readonly CatalogueRow[] | undefined>();
  files = $state.raw<readonly ImageRow[] | undefined>();
  deleted = $state.raw<readonly DeletedRow[] | undefined>();
  /** Operations that get images of the catalogue, by the image's name. */
  readonly fetching = new SvelteMap<string, string>();
  readonly library = $derived((this.files ?? []).filter(({ managed }) => managed));
  private readonly cancelled = new Set<string>();
  private asked = 0;

  /** @throws LabError */
  async load(): Promise<void> {
    const mine = ++this.asked;
    const [catalogue, files, deleted] = await Promise.all([
      call("imageCatalogue", {}),
      call("imageList", {}),
      call("imageDeleted", {}),
    ]);
    // Whoever asked later gets the newer answer.
    if (mine !== this.asked) return;
    this.catalogue = catalogue;
    this.files = files;
    this.deleted = deleted;
  }

  /** After a change of ours. A lab that went away meanwhile is told of by the banner. */
  async reload(): Promise<void> {
    await this.load().catch(() => {});
  }

  /** Gets an image of the catalogue ahead of the first machine. */
  async fetch({ name, title }: CatalogueRow): Promise<void> {
    const operation = newOperation();
    this.fetching.set(name, operation);
    try {
      await call("imageFetch", { name, operation });
      notices.success(`${title} is here.`);
    } catch (error) {
      // What the user has stopped is no failure.
      if (!this.cancelled.delete(operation)) notices.error(error);
    }
    this.fetching.delete(name);
    await this.reload();
  }

  /** Stops getting an image. */
  async cancelFetch(operation: string): Promise<void> {
    this.cancelled.add(operation);
    await attempt(() => call("operationCancel", { operation }));
  }

  /** Deletes, and offers to take it back: the lab keeps deleted images for a while. */
  async delete(row: ImageRow): Promise<void> {
    const gone = await attempt(() => call("imageDelete", { path: row.path }));
    if (gone === undefined) return;
    notices.success(`${titleOf(row)} was deleted.`, { label: "Undo", run: () => void this.undelete(gone.deleted) });
    await this.reload();
  }

  async undelete(deleted: string): Promise<void> {
    const back = await attempt(() => call("imageUndelete", { deleted }));
    if (back === undefined) return;
    notices.success(`${back.name} is back in the library.`);
    await this.reload();
  }

  /** Removes a deleted image for good. */
  async purge(deleted: string): Promise<void> {
    await attempt(() => call("imagePurge", { deleted }));
    await this.reload();
  }

  /** Takes a detached disk into the library: the file itself, so that this needs no room. */
  async adopt(row: ImageRow): Promise<void> {
    const image = await attempt(() => call("imageImport", { path: row.path, move: true, operation: newOperation() }));
    if (image === undefined) return;
    notices.success(`${image.name} is in the library.`);
    await this.reload();
  }
}

export const images = new Images();
