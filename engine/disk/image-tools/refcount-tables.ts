/** Refcount tables made anew, for images that are created and for those whose old ones are beyond repair. */
import type { Qcow2Header } from "../qcow2/header.ts";
import { largestRefcount, refcountsPerBlock, setRefcount } from "../qcow2/tables.ts";
import type { ImageFile } from "./files.ts";

/** Where the new table lies, in the fields of the header. */
export type RefcountTable = Pick<Qcow2Header, "refcountTableOffset" | "refcountTableClusters">;

/**
 * Writes refcount blocks and their table behind the first `clusters` clusters of a file; the header is not touched.
 * @param references of those clusters, by number
 */
export function writeRefcountTables(
  file: ImageFile,
  header: Pick<Qcow2Header, "clusterSize" | "clusterBits" | "refcountOrder">,
  clusters: number,
  references: (cluster: number) => number,
): RefcountTable {
  const { clusterSize, clusterBits, refcountOrder } = header;
  const perBlock = refcountsPerBlock(clusterBits, refcountOrder);
  let total = clusters;
  let blocks = 0;
  let tableClusters = 0;
  // The new structures need refcounts of their own.
  for (;;) {
    blocks = Math.ceil(total / perBlock);
    tableClusters = Math.ceil((blocks * 8) / clusterSize);
    if (clusters + blocks + tableClusters === total) break;
    total = clusters + blocks + tableClusters;
  }
  const most = largestRefcount(refcountOrder);
  const table = new DataView(new ArrayBuffer(tableClusters * clusterSize));
  for (let index = 0; index < blocks; index++) {
    const block = new DataView(new ArrayBuffer(clusterSize));
    for (let n = 0; n < perBlock && index * perBlock + n < total; n++) {
      const cluster = index * perBlock + n;
      setRefcount(block, n, refcountOrder, cluster < clusters ? Math.min(references(cluster), most) : 1);
    }
    const offset = (clusters + index) * clusterSize;
    table.setBigUint64(index * 8, BigInt(offset));
    file.writeSync(new Uint8Array(block.buffer), offset);
  }
  const refcountTableOffset = (clusters + blocks) * clusterSize;
  file.writeSync(new Uint8Array(table.buffer), refcountTableOffset);
  return { refcountTableOffset, refcountTableClusters: tableClusters };
}
