/**
 * A qcow2 image, with the images behind it, as a block store. Data goes straight between the files and the guest's pages; every
 * operation is done when its function returns. How the image stays in order is told in session.ts.
 */
import { constants } from "node:os";
import type { BlockStore, Done, Scatter, StoreFailure } from "../../device/block/store.ts";
import { type HostIo, hostIo } from "../host-io.ts";
import type { Qcow2Spec } from "../spec.ts";
import { totalLength } from "./host-buffer.ts";
import { type Layer, readChain } from "./layers.ts";
import { type OpenImage, openImage } from "./open-image.ts";
import type { WriteSession } from "./session.ts";
import { errnoOfStatus, statusName } from "./status.ts";
import { ImageWriter } from "./writer.ts";

const { EOPNOTSUPP, EROFS } = constants.errno;
const SECTOR = 512;
const PAGE = 4096;

export interface Qcow2Store extends BlockStore {
  readonly synchronous: true;
  /** Makes the disk larger, to `bytes` (a multiple of 512); what is added reads as zero. Listeners are called. */
  resize(bytes: number): StoreFailure | undefined;
}

class ImageStore implements Qcow2Store {
  readonly synchronous = true;
  readonly sectorSize = SECTOR;
  readonly physicalSectorSize = PAGE;
  readonly readOnly: boolean;
  readonly discard: BlockStore["discard"];
  readonly #path: string;
  readonly #layers: readonly Layer[];
  readonly #session: WriteSession | undefined;
  readonly #writer: ImageWriter | undefined;
  readonly #log: (line: string) => void;
  readonly #listeners: (() => void)[] = [];
  #open = true;

  constructor({ layers, session }: OpenImage, spec: Qcow2Spec, log: (line: string) => void) {
    this.#path = spec.path;
    this.#layers = layers;
    this.#session = session;
    this.#writer = session && new ImageWriter(session, layers);
    this.#log = log;
    this.readOnly = spec.readOnly;
    this.discard =
      session && spec.discard !== false
        ? { granularity: session.header.clusterSize, alignment: 0, secure: false }
        : undefined;
    const tail = layers[0]!.size % SECTOR;
    if (tail > 0) log(`disk image ${spec.path}: its last ${tail} bytes are no whole sector and are not served`);
  }

  get size(): number {
    const { size } = this.#layers[0]!;
    return size - (size % SECTOR);
  }

  read(offset: number, into: Scatter, done: Done): void {
    const status = readChain(this.#layers, 0, offset, into, 0, totalLength(into));
    done(status < 0 ? this.#failure("read", status) : undefined);
  }

  write(offset: number, from: Scatter, done: Done): void {
    const status = this.#writer ? this.#writer.write(offset, from, 0, totalLength(from)) : -EROFS;
    done(status < 0 ? this.#failure("write", status) : undefined);
  }

  flush(done: Done): void {
    const status = this.#session ? this.#session.flush() : 0;
    done(status < 0 ? this.#failure("flush", status) : undefined);
  }

  discardRange(offset: number, length: number, secure: boolean, done: Done): void {
    const status = this.discard && !secure ? this.#writer!.discard(offset, length) : -EOPNOTSUPP;
    done(status < 0 ? this.#failure("discard", status) : undefined);
  }

  onResize(listener: () => void): void {
    this.#listeners.push(listener);
  }

  resize(bytes: number): StoreFailure | undefined {
    const status = this.#writer ? this.#writer.grow(bytes) : -EROFS;
    if (status < 0) return this.#failure("resize", status);
    for (const listener of this.#listeners) listener();
    return undefined;
  }

  close(): Promise<void> {
    if (!this.#open) return Promise.resolve();
    this.#open = false;
    const status = this.#session?.finish() ?? 0;
    if (status < 0) {
      // Nothing is lost: it is still marked as in use, and the next to open it puts it in order.
      this.#log(`disk image ${this.#path} could not be closed cleanly (${statusName(status)})`);
    }
    for (const layer of this.#layers) layer.file.close();
    return Promise.resolve();
  }

  #failure(what: string, status: number): StoreFailure {
    return { errno: errnoOfStatus(status), message: `${this.#path}: ${what} failed with ${statusName(status)}` };
  }
}

/**
 * Opens an image and the images behind it as a store. An image whose last writer was killed is put in order first.
 * @param log takes lines for the user about the image
 * @throws DiskError one line with cause and remedy
 */
export function openQcow2Store(spec: Qcow2Spec, log: (line: string) => void, io: HostIo = hostIo()): Qcow2Store {
  return new ImageStore(openImage(spec, io, log), spec, log);
}
