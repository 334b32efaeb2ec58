/** Files on their way into the library. They go on when the view is left; closing the page asks first. */
import { errorLine } from "../../lib/error-line.ts";
import { bytes } from "../../lib/format.ts";
import { call } from "../../lib/rpc/client.ts";
import { bridge } from "../../lib/rpc/transport.ts";
import { lab, newOperation } from "../../lib/state/lab.svelte.ts";
import { notices } from "../../lib/state/notices.svelte.ts";
import { router } from "../../lib/state/router.svelte.ts";
import { fileName } from "./files.ts";
import { images } from "./images.svelte.ts";
import { upload } from "./upload.ts";
import { refusalOf } from "./upload-answer.ts";

/** Uploads at the same time; the others wait for their turn. */
const MOST_AT_ONCE = 2;

export interface Transfer {
  readonly id: string;
  readonly name: string;
  readonly phase: "waiting" | "sending" | "importing" | "failed";
  /** Bytes; of those that are sent. */
  readonly sent: number;
  readonly total: number;
  /** Why it failed. */
  readonly line?: string;
}

interface Source {
  readonly name: string;
  readonly size: number;
  /** The file's path on the host. @throws Error with one line */
  readonly path: (signal: AbortSignal, progress: (sent: number) => void) => Promise<string>;
  /** Whether the lab may take the file itself: one that was uploaded. */
  readonly move: boolean;
  /** Whether the path is none of the user's. */
  readonly uploaded?: boolean;
  readonly wantedName?: string | undefined;
}

function sourceOf(file: File): Source {
  const { name, size } = file;
  if (bridge) {
    const from = bridge;
    return { name, size, move: false, path: async () => from.pathOf(file) };
  }
  return {
    name,
    size,
    move: true,
    uploaded: true,
    path: async (signal, progress) => {
      const most = lab.app?.mostUploadBytes ?? Number.POSITIVE_INFINITY;
      if (size > most) {
        throw new Error(`${name} is larger than ${bytes(most)}; copy it to the host and import it by its path`);
      }
      return await upload(file, { signal, progress });
    },
  };
}

class Transfers {
  list = $state.raw<readonly Transfer[]>([]);
  readonly underWay = $derived(this.list.filter(({ phase }) => phase !== "failed").length);
  private readonly waiting: { readonly id: string; readonly source: Source }[] = [];
  private readonly aborts = new Map<string, AbortController>();
  /** Whose end is no failure. */
  private readonly cancelled = new Set<string>();
  private running = 0;

  /** Takes files that were dropped or chosen into the library. */
  addFiles(files: Iterable<File>): void {
    for (const file of files) this.add(sourceOf(file));
  }

  /** Takes a file of the host into the library; with `move` it is gone from its place. */
  addPath(path: string, move: boolean, wantedName?: string): void {
    this.add({ name: fileName(path), size: 0, move, wantedName, path: async () => path });
  }

  /** Stops one that is under way, or forgets one that failed. */
  cancel(id: string): void {
    const place = this.waiting.findIndex((each) => each.id === id);
    if (place >= 0) this.waiting.splice(place, 1);
    if (this.list.some((each) => each.id === id && each.phase === "importing")) {
      // It may be past the point: then it ends well.
      this.cancelled.add(id);
      void call("operationCancel", { operation: id }).catch((error) => notices.error(error));
      return;
    }
    this.aborts.get(id)?.abort();
    this.remove(id);
  }

  private add(source: Source): void {
    const id = newOperation();
    this.list = [...this.list, { id, name: source.name, phase: "waiting", sent: 0, total: source.size }];
    this.waiting.push({ id, source });
    if (this.underWay === 1) window.addEventListener("beforeunload", this.askFirst);
    this.pump();
  }

  private readonly askFirst = (event: BeforeUnloadEvent): void => event.preventDefault();

  private pump(): void {
    while (this.running < MOST_AT_ONCE) {
      const next = this.waiting.shift();
      if (next === undefined) break;
      this.running++;
      void this.transfer(next.id, next.source).finally(() => {
        this.running--;
        this.aborts.delete(next.id);
        this.cancelled.delete(next.id);
        if (this.underWay === 0) window.removeEventListener("beforeunload", this.askFirst);
        this.pump();
      });
    }
  }

  private async transfer(id: string, source: Source): Promise<void> {
    const abort = new AbortController();
    this.aborts.set(id, abort);
    try {
      this.change(id, { phase: "sending" });
      const path = await source.path(abort.signal, (sent) => this.change(id, { sent }));
      this.change(id, { phase: "importing" });
      const name = source.wantedName === undefined ? {} : { name: source.wantedName };
      const wish = { path, move: source.move, operation: id, ...name };
      const image = await call("imageImport", wish).catch((error: unknown) => {
        throw source.uploaded ? refusalOf(error, path, source.name) : error;
      });
      this.remove(id);
      notices.success(`${image.name} is in the library.`, {
        label: "Show",
        run: () => router.go("images", "library"),
      });
      await images.reload();
    } catch (error) {
      if (this.cancelled.has(id)) this.remove(id);
      this.change(id, { phase: "failed", line: errorLine(error) });
    }
  }

  /** Changes a row; one that was taken away stays away. */
  private change(id: string, part: Partial<Transfer>): void {
    this.list = this.list.map((each) => (each.id === id ? { ...each, ...part } : each));
  }

  private remove(id: string): void {
    this.list = this.list.filter((each) => each.id !== id);
  }
}

export const transfers = new Transfers();
