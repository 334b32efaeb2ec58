/** Writing, discarding and growing an image. Results are 0 (or a count) and negated errnos. */
import { constants } from "node:os";
import type { Scatter } from "../../device/block/store.ts";
import { STORED } from "./cluster-map.ts";
import { bytesPerL2, LIMITS, l1EntriesFor } from "./header.ts";
import { hostBuffer, Span } from "./host-buffer.ts";
import { isBlank, type Layer, readChain } from "./layers.ts";
import type { WriteSession } from "./session.ts";
import { DAMAGED } from "./status.ts";
import {
  compressedLength,
  compressedOffset,
  entryHigh,
  entryLow,
  entryOffset,
  isCompressed,
  isCopied,
  isZero,
  ZERO_LOW,
} from "./tables.ts";

const { EFBIG, EINVAL, EOPNOTSUPP } = constants.errno;
/** Bytes copied at once into the unwritten part of a new cluster. */
const COPY = 1 << 20;

export class ImageWriter {
  readonly #session: WriteSession;
  readonly #layers: readonly Layer[];
  readonly #clusterSize: number;
  readonly #tableBytes: number;
  readonly #copy: ReturnType<typeof hostBuffer>;
  readonly #span: Span;

  /** @param layers the image that the session writes, then those behind it */
  constructor(session: WriteSession, layers: readonly Layer[]) {
    this.#session = session;
    this.#layers = layers;
    const { clusterSize, clusterBits } = session.header;
    this.#clusterSize = clusterSize;
    this.#tableBytes = bytesPerL2(clusterBits);
    this.#copy = hostBuffer(Math.min(COPY, clusterSize));
    this.#span = new Span(this.#copy);
  }

  /** Writes bytes [skip, skip + length) of the pieces at `offset` of the disk. */
  write(offset: number, from: Scatter, skip: number, length: number): number {
    const { map, file } = this.#session;
    if (this.#session.corrupt) return DAMAGED;
    for (let done = 0; done < length; ) {
      const status = map.locate(offset + done, length - done);
      if (status < 0) return status === DAMAGED ? this.#session.corrupted("an L2 entry") : status;
      if (map.kind === STORED.data && map.copied) {
        const { run, host } = map;
        if (!this.#mayWrite(host, run)) return this.#session.corrupted("a table where data should be");
        const moved = file.write(host, from, skip + done, run);
        if (moved < 0) return moved;
        done += run;
        continue;
      }
      const count = this.#writeAnew(offset + done, from, skip + done, length - done);
      if (count < 0) return count;
      done += count;
    }
    return this.#session.settle();
  }

  /** Data lies within the file and in no table's cluster. */
  #mayWrite(host: number, length: number): boolean {
    const first = Math.floor(host / this.#clusterSize);
    const last = Math.floor((host + length - 1) / this.#clusterSize);
    if (last * this.#clusterSize >= this.#session.file.end) return false;
    return !this.#session.metadata.hasAny(first, last - first + 1);
  }

  /** Writes into new clusters: as many neighbours as need one and are to be had. @returns bytes done */
  #writeAnew(offset: number, from: Scatter, skip: number, length: number): number {
    const session = this.#session;
    const begun = session.begin();
    if (begun < 0) return begun;
    const index = Math.floor(offset / this.#tableBytes);
    const table = session.table(index);
    if (typeof table === "number") return table;
    const within = offset - index * this.#tableBytes;
    const cluster = Math.floor(within / this.#clusterSize);
    const head = within - cluster * this.#clusterSize;
    const wanted = this.#needing(table.memory.view, cluster, Math.ceil((head + length) / this.#clusterSize));
    const first = session.refcounts.allocate(wanted);
    if (first < 0) return first === DAMAGED ? session.corrupted("refcounts") : first;
    const count = session.refcounts.granted;
    const room = count * this.#clusterSize;
    const bytes = Math.min(length, room - head);
    let status = this.#fillClusters(offset - head, first, room, head, bytes);
    if (status >= 0) status = session.file.write(first * this.#clusterSize + head, from, skip, bytes);
    if (status >= 0) {
      const host = first * this.#clusterSize;
      status = this.#replace(index, cluster, count, entryHigh(host, true), entryLow(host), this.#clusterSize);
    }
    if (status < 0) {
      session.refcounts.giveBack(first, count);
      return status;
    }
    return bytes;
  }

  /** How many entries from number `cluster` on, up to `most`, name nothing that may be written in place. */
  #needing(view: DataView, cluster: number, most: number): number {
    const stop = Math.min(cluster + most, this.#clusterSize / 8);
    let entry = cluster + 1;
    for (; entry < stop; entry++) {
      const high = view.getUint32(entry * 8);
      const low = view.getUint32(entry * 8 + 4);
      if (!isCompressed(high) && isCopied(high) && !isZero(low) && entryOffset(high, low) !== 0) break;
    }
    return entry - cluster;
  }

  /** Fills what a write leaves of new clusters: the first `head` bytes, and what is behind head + bytes. */
  #fillClusters(offset: number, first: number, room: number, head: number, bytes: number): number {
    const host = first * this.#clusterSize;
    const tail = room - head - bytes;
    if (head === 0 && tail === 0) return 0;
    const blankHead = head === 0 || isBlank(this.#layers, 0, offset, head);
    const blankTail = tail === 0 || isBlank(this.#layers, 0, offset + head + bytes, tail);
    if (typeof blankHead === "number") return blankHead;
    if (typeof blankTail === "number") return blankTail;
    // Zeros are there already behind the end of the file, and where a hole can be made.
    const zeroed = (blankHead || blankTail) && this.#session.file.punch(host, room);
    if (!(blankHead && zeroed)) {
      const status = this.#copyOld(offset, host, head);
      if (status < 0) return status;
    }
    return blankTail && zeroed ? 0 : this.#copyOld(offset + head + bytes, host + head + bytes, tail);
  }

  #copyOld(offset: number, host: number, length: number): number {
    for (let done = 0; done < length; ) {
      const part = Math.min(length - done, this.#copy.bytes.length);
      let status = readChain(this.#layers, 0, offset + done, this.#span.set(this.#copy, 0, part), 0, part);
      if (status >= 0) status = this.#session.file.writeBytes(host + done, this.#copy, 0, part);
      if (status < 0) return status;
      done += part;
    }
    return 0;
  }

  /** Changes entries from number `cluster` on of the table of L1 entry `index`, and gives up what they named. */
  #replace(index: number, cluster: number, count: number, high: number, low: number, step: number): number {
    const session = this.#session;
    // Filling new clusters may have flushed, never dropped the table that was used last.
    const table = session.table(index);
    if (typeof table === "number") return table;
    const { view } = table.memory;
    const old = new Uint32Array(count * 2);
    for (let i = 0; i < count * 2; i++) old[i] = view.getUint32(cluster * 8 + i * 4);
    for (let i = 0; i < count; i++) {
      if (!this.#mayFree(old[i * 2]!, old[i * 2 + 1]!)) return session.corrupted("an entry that names a table");
    }
    const status = session.setEntries(table, cluster * 8, count, high, low, step);
    if (status < 0) return status;
    for (let i = 0; i < count; i++) this.#free(old[i * 2]!, old[i * 2 + 1]!);
    return 0;
  }

  /** The clusters that an entry refers to, as first and count. */
  #named(high: number, low: number): readonly [number, number] {
    const { clusterBits } = this.#session.header;
    if (!isCompressed(high)) {
      const offset = entryOffset(high, low);
      return [Math.floor(offset / this.#clusterSize), offset === 0 ? 0 : 1];
    }
    const offset = compressedOffset(high, low, clusterBits);
    const first = Math.floor(offset / this.#clusterSize);
    const last = Math.floor((offset + compressedLength(high, low, clusterBits) - 1) / this.#clusterSize);
    return [first, last - first + 1];
  }

  #mayFree(high: number, low: number): boolean {
    const [first, count] = this.#named(high, low);
    return !this.#session.metadata.hasAny(first, count);
  }

  #free(high: number, low: number): void {
    const [first, count] = this.#named(high, low);
    if (count === 0) return;
    if (isCompressed(high)) this.#session.forgetCompressed();
    this.#session.free(first, count);
  }

  /** Gives up whole clusters within the range. They read as zero then, or (version 2 with images behind) as before. */
  discard(offset: number, length: number): number {
    const { header } = this.#session;
    const hasBacking = this.#layers.length > 1;
    if (hasBacking && header.version === 2) return 0;
    return this.#clear(offset, length, hasBacking);
  }

  /** Entries of whole clusters within the range become zero clusters, or nothing. */
  #clear(offset: number, length: number, flagged: boolean): number {
    const { map } = this.#session;
    const start = Math.ceil(offset / this.#clusterSize) * this.#clusterSize;
    const end = offset + length;
    // The rest of the disk's last cluster does not exist.
    const stop = end >= map.size ? Math.ceil(map.size / this.#clusterSize) * this.#clusterSize : this.#down(end);
    for (let at = start; at < stop; ) {
      const index = Math.floor(at / this.#tableBytes);
      const next = Math.min(stop, (index + 1) * this.#tableBytes);
      const status = this.#clearWithin(index, at, next, flagged);
      if (status < 0) return status;
      at = next;
    }
    return this.#session.settle();
  }

  #down(bytes: number): number {
    return Math.floor(bytes / this.#clusterSize) * this.#clusterSize;
  }

  /** #clear() of clusters that one L2 table maps. */
  #clearWithin(index: number, start: number, stop: number, flagged: boolean): number {
    const session = this.#session;
    // What no layer has anything for is zero without an entry.
    if (session.map.tableOffset(index) === 0) {
      const blank = !flagged || isBlank(this.#layers, 0, start, stop - start);
      if (typeof blank === "number") return blank;
      if (blank) return 0;
    }
    const begun = session.begin();
    if (begun < 0) return begun;
    const table = session.table(index);
    if (typeof table === "number") return table;
    const low = flagged ? ZERO_LOW : 0;
    const last = (stop - index * this.#tableBytes) / this.#clusterSize;
    let entry = (start - index * this.#tableBytes) / this.#clusterSize;
    const isClear = (number: number): boolean =>
      table.memory.view.getUint32(number * 8) === 0 && table.memory.view.getUint32(number * 8 + 4) === low;
    while (entry < last) {
      let end = entry;
      while (end < last && !isClear(end)) end++;
      if (end > entry) {
        const status = this.#replace(index, entry, end - entry, 0, low, 0);
        if (status < 0) return status;
      }
      entry = end + 1;
    }
    return 0;
  }

  /** Makes the disk larger; what is added reads as zero. `size` is a multiple of 512. */
  grow(size: number): number {
    const session = this.#session;
    const { map } = session;
    const entries = l1EntriesFor(size, session.header.clusterBits);
    if (size < map.size || size % 512 !== 0) return -EINVAL;
    if (entries * 8 > LIMITS.l1Table) return -EFBIG;
    let status = session.begin();
    if (status >= 0) status = session.flush();
    if (status >= 0 && entries > map.l1Size) status = this.#growL1(entries);
    if (status >= 0) status = this.#blankNew(map.size, size);
    if (status < 0) return status;
    status = session.changeHeader({ size });
    if (status >= 0) map.size = size;
    return status;
  }

  /**
   * Hides what lies in the clusters from the old end of the disk to the new one: the rest of its last cluster, leftovers
   * of a disk that was larger, and contents of larger images behind this one.
   */
  #blankNew(from: number, to: number): number {
    const behind = this.#layers.slice(1).reduce((most, layer) => Math.max(most, layer.size), 0);
    const whole = Math.ceil(from / this.#clusterSize) * this.#clusterSize;
    const { map } = this.#session;
    const old = map.size;
    // For a moment the disk reaches to its new end, so that its clusters can be written.
    map.size = Math.max(to, whole);
    const flagged = behind > whole;
    let status = 0;
    if (flagged && this.#session.header.version === 2) status = -EOPNOTSUPP;
    if (status >= 0 && from < whole) status = this.#writeZeros(from, Math.min(whole, map.size) - from);
    if (status >= 0 && whole < to) status = this.#clear(whole, to - whole, flagged);
    if (status >= 0) status = this.#session.flush();
    map.size = old;
    return status;
  }

  #writeZeros(offset: number, length: number): number {
    const zeros = hostBuffer(length);
    const blank = isBlank(this.#layers, 0, offset, length);
    if (blank === true) return 0;
    return typeof blank === "number" ? blank : this.write(offset, new Span(zeros).set(zeros, 0, length), 0, length);
  }

  /** A larger L1 table at another place. */
  #growL1(entries: number): number {
    const session = this.#session;
    const { map, file, refcounts, metadata, header } = session;
    const perCluster = this.#clusterSize / 8;
    const clusters = Math.ceil(entries / perCluster);
    const held = Math.ceil((map.l1Size * 8) / this.#clusterSize);
    const l1 = hostBuffer(clusters * this.#clusterSize);
    l1.bytes.set(map.l1.bytes.subarray(0, map.l1Size * 8));
    const first = refcounts.allocateExactly(clusters);
    if (first < 0) return first;
    const l1Offset = first * this.#clusterSize;
    let status = file.writeBytes(l1Offset, l1, 0, l1.bytes.length);
    if (status >= 0) status = session.changeHeader({ l1Offset, l1Size: entries });
    if (status < 0) {
      refcounts.giveBack(first, clusters);
      return status;
    }
    map.l1 = l1;
    map.l1Size = entries;
    metadata.add(first, clusters);
    const old = header.l1Offset / this.#clusterSize;
    session.free(old, held);
    return session.flush();
  }
}
