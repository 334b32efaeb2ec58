/**
 * A thread of a backend that maps and unmaps one reference as fast as it can. It runs the compiled program, because Node
 * starts workers only from JavaScript. `flag`: stop, mappings made, violations seen, mappings held now by all threads.
 */
import { parentPort, workerData } from "node:worker_threads";
import { GrantMaps } from "../../dist/engine/hypervisor/grant-map.js";
import { entryWord } from "../../dist/engine/hypervisor/grant-pins.js";
import { DomainDirectory } from "../../dist/engine/memory/domain-directory.js";
import { openGuestMemory } from "../../dist/engine/memory/guest-memory.js";
import { Peers } from "../../dist/engine/memory/peers.js";

const GTF_READING = 8;
const { token, directory, self, front, ref, flag } = workerData;
const mapping = openGuestMemory(token).attach();
const peers = new Peers(DomainDirectory.open(directory), self, mapping);
const maps = new GrantMaps(mapping, self, peers);
const peer = peers.get(front);
const entry = entryWord(peer.mapping, ref);

parentPort.postMessage("ready");
while (Atomics.load(flag, 0) === 0) {
  const handle = maps.map(front, ref, false);
  if (handle < 0) continue;
  Atomics.add(flag, 3, 1);
  if ((Atomics.load(peer.mapping.words, entry) & GTF_READING) === 0) Atomics.add(flag, 2, 1);
  Atomics.add(flag, 1, 1);
  Atomics.sub(flag, 3, 1);
  if (maps.unmap(handle) !== 0) Atomics.add(flag, 2, 1);
}
