/** Kernel of the TypeScript domain that loads a disk: connects, runs one load, says what it measured, waits to be ended. */
import { Blkfront } from "../../../engine/device/block/blkfront.ts";
import type { BlkfrontConnection } from "../../../engine/device/block/blkfront-queue.ts";
import type { GrantSource } from "../../../engine/device/domain-interface.ts";
import type { Kernel, TypescriptDomain } from "../../../engine/domain/typescript/kernel.ts";
import type { VcpuJob } from "./frontend-vcpu.ts";
import { type FrontendJob, LoadGenerator, type LoadPage, type Measured, RESULT_MARK } from "./load.ts";

const PAGE = 4096;

function takePages(domain: TypescriptDomain, front: Blkfront, count: number): LoadPage[] {
  return Array.from({ length: count }, () => {
    const page = domain.grants.allocatePage();
    const ref = page === undefined ? undefined : front.grantPage(page);
    if (page === undefined || ref === undefined) throw new Error("the frontend's domain is too small for the load");
    return { page, ref };
  });
}

/** A grant source that remembers which page is behind a reference. */
function recordingGrants(grants: GrantSource, granted: Map<number, number>): GrantSource {
  return {
    memory: grants.memory,
    allocatePage: () => grants.allocatePage(),
    freePage: (address) => grants.freePage(address),
    endAccess: (ref) => grants.endAccess(ref),
    grantAccess(domain, address, readOnly) {
      const ref = grants.grantAccess(domain, address, readOnly);
      if (ref !== undefined) granted.set(ref, address);
      return ref;
    },
  };
}

const kernel: Kernel = async (domain) => {
  const job = domain.parameters as FrontendJob;
  const { vdev, load, form } = job;
  const granted = new Map<number, number>();
  let port = 0;
  let generator: LoadGenerator | undefined;
  const front = new Blkfront({
    store: domain.store,
    vdev,
    grants: recordingGrants(domain.grants, granted),
    events: {
      ...domain.events,
      notify(to) {
        if (generator) generator.notifications++;
        domain.events.notify(to);
      },
    },
    listen(ring, handler) {
      port = ring;
      // A ring that the other vCPU serves is none of the event loop's business.
      if (form === "blocking") return () => {};
      domain.onEvent(ring, handler);
      return () => domain.offEvent(ring);
    },
    log: (line) => domain.log(line),
  });
  const { sectors } = await front.connect();
  const pages = takePages(domain, front, (load.bytes / PAGE) * load.depth);
  let measured: Measured;
  if (form === "event-loop") {
    await new Promise<void>((finished) => {
      generator = new LoadGenerator(job, sectors, pages, (command, done) => front.submit(command, done), finished);
      generator.start();
    });
    measured = (generator as LoadGenerator | undefined)?.result() as Measured;
  } else {
    const backendId = Number(await domain.store.read(`device/vbd/${vdev}/backend-id`));
    const ring = granted.get(Number(await domain.store.read(`device/vbd/${vdev}/ring-ref`)));
    if (ring === undefined || front.negotiated === undefined) throw new Error("the disk is not connected");
    const connection: BlkfrontConnection = {
      backendId,
      handle: vdev & 0xffff,
      protocol: "x86_64-abi",
      features: front.negotiated,
      rings: [{ pages: [ring], port }],
    };
    const request: VcpuJob = { job, connection, sectors, pages };
    const vcpu = domain.startVcpu(new URL("./frontend-vcpu.js", import.meta.url).href);
    measured = (await vcpu.call(request)) as Measured;
  }
  domain.log(`${RESULT_MARK}${JSON.stringify(measured)}`);
  // The host reads the backend's counters while the device is there.
  await new Promise((resolve) => domain.stopping.addEventListener("abort", resolve));
};

export default kernel;
