/** The way into engine/disk: a store from its description. */
import type { BlockStore } from "../device/block/store.ts";
import { openFileStore } from "./file-store.ts";
import { openNbdStore } from "./nbd/nbd-store.ts";
import { openQcow2Store } from "./qcow2/store.ts";
import type { StoreSpec } from "./spec.ts";

/**
 * Opens what a block backend is to serve. Takes no lock: that is the machine's (lockImage).
 * @param log takes one-line messages for the user (an odd tail, a server that is gone and back)
 * @throws DiskError one line with cause and remedy
 */
export async function openStore(spec: StoreSpec, log: (line: string) => void = () => {}): Promise<BlockStore> {
  switch (spec.kind) {
    case "file":
      return openFileStore(spec, log);
    case "qcow2":
      return openQcow2Store(spec, log);
    case "nbd":
      return openNbdStore(spec, log);
  }
}
