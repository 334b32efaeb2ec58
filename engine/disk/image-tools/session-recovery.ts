/** What the block store does when it opens an image whose last writer was killed, for tools that only look at images. */
import { unreadable } from "../errors.ts";
import { hostIo } from "../host-io.ts";
import { INCOMPATIBLE, type Qcow2Header } from "../qcow2/header.ts";
import { ImageFile as Qcow2ImageFile } from "../qcow2/image-file.ts";
import { JOURNAL_EXTENSION, type JournalRecord, readJournal } from "../qcow2/journal.ts";
import { openImage } from "../qcow2/open-image.ts";
import type { Qcow2Spec } from "../spec.ts";
import type { ImageFile } from "./files.ts";

/** Whether the tables in the file are not all there is: a journal holds entries that are not in them. */
export function hasJournal(header: Qcow2Header): boolean {
  const dirty = (header.incompatible.low & INCOMPATIBLE.dirty) !== 0;
  return dirty && header.extensions.some(({ type }) => type === JOURNAL_EXTENSION);
}

/**
 * Enters what the journal of a dirty image holds, counts its refcounts again, and takes the mark away.
 * @param file locked by the caller, open for writing
 * @throws DiskError when the image is damaged otherwise, or cannot be written
 */
export function recoverSession(file: ImageFile): void {
  const spec: Qcow2Spec = { kind: "qcow2", path: file.path, readOnly: false, backing: [] };
  if (process.platform === "linux") spec.openPath = `/proc/self/fd/${file.descriptor}`;
  const { layers } = openImage(spec, hostIo(), () => {});
  for (const layer of layers) layer.file.close();
}

/** What the journal of an image holds that its tables do not, for who may only read it. @throws DiskError */
export function journalOf(file: ImageFile, header: Qcow2Header): JournalRecord[] {
  const image = new Qcow2ImageFile(file.path, file.descriptor, file.size, hostIo());
  const records = readJournal(image, header);
  if (typeof records === "number") throw unreadable(file.path, -records);
  return records;
}
