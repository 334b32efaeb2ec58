/** A process of a domain: sleeps on its doorbell and answers every event on a channel, so often as told. */
import { takePending } from "../../engine/hypervisor/event-scan.ts";
import { planFrames } from "../../engine/memory/frame-plan.ts";
import { openMappedPath } from "../../engine/memory/mapped.ts";
import { viewDomain } from "./mapped-domains.ts";

const [id = "", path = "", directory = "", remote = "", remotePort = "", times = ""] = process.argv.slice(2);
const { token } = openMappedPath(path, planFrames(1 << 20));
const { mapping, delivery, events } = viewDomain({ id: Number(id), memory: token, directory });
const port = events.bindInterdomain(Number(remote), Number(remotePort));
takePending(mapping, delivery, 0, () => {}); // that of the binding itself
process.stdout.write(`${port}\n`);
for (let left = Number(times); left > 0; ) {
  delivery.sleep(0, 60e9, () => delivery.upcallPending(0));
  takePending(mapping, delivery, 0, () => {
    events.send(port);
    left--;
  });
}
