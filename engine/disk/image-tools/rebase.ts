/** Another backing image in a header: nothing else is read or changed. */
import { resolve } from "node:path";
import { backingName, followChain, type ImageFormat } from "../chain.ts";
import { DiskError } from "../errors.ts";
import { longName } from "./create.ts";
import type { Task } from "./files.ts";
import { changing, editorOf, openFile } from "./open.ts";

/** The image that is to lie behind another. */
export interface NewBacking {
  readonly path: string;
  readonly format: ImageFormat;
}

/**
 * Puts an image in front of another one, or of none. The caller answers for the content: what the image lacks is from then on
 * what `backing` holds. One write of the header, so that a crash leaves the old or the new name.
 * @throws DiskError "missing-image" and "broken-chain" of the new chain; "image-in-use"
 */
export async function rebase(path: string, backing: NewBacking | undefined, task: Task = {}): Promise<void> {
  const target = resolve(path);
  if (backing !== undefined) checkNewChain(target, backing);
  const { file, close } = openFile(target, true);
  try {
    await changing(file, async () => {
      const editor = await editorOf(file, task);
      const changes = {
        backingFile: backing && backingName(target, backing.path),
        backingFormat: backing?.format,
      };
      if (!(await editor.setHeader(changes))) throw longName(target);
    });
  } finally {
    close();
  }
}

function checkNewChain(target: string, backing: NewBacking): void {
  const layers = followChain(backing.path, backing.format);
  if (!layers.some((layer) => layer.path === target)) return;
  throw new DiskError("broken-chain", `${target} lies behind ${backing.path} already`, "choose another backing image");
}
