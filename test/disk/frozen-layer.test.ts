/** What a running guest leaves behind when its disk moves to a new layer: an image that nobody writes, in order at once. */
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { chainSpec } from "../../engine/disk/chain.ts";
import { checkQcow2 } from "../../engine/disk/image-tools/check.ts";
import { convertImage } from "../../engine/disk/image-tools/convert.ts";
import { createQcow2 } from "../../engine/disk/image-tools/create.ts";
import { imageInfo } from "../../engine/disk/image-tools/info.ts";
import { imageDisk, xvd } from "../disk-config.ts";
import { eventually, KernelLab, RUNS, type Unikernel } from "../domain/kernel-lab.ts";
import { type ChurnArgument, JOURNAL_ANSWERED } from "../domain/kernels/churn.ts";

const MIB = 1 << 20;

describe.runIf(RUNS)("a layer that a running guest has left", () => {
  const lab = new KernelLab();
  const file = (name: string) => path.join(lab.folder, name);
  let kernel: Unikernel;
  let journal: Int32Array;
  let active = ["a0.qcow2", "b0.qcow2"].map(file);

  beforeAll(async () => {
    for (const image of active) await createQcow2(image, { size: MIB });
    const disks = active.map((image, i) =>
      imageDisk(image, { vdev: xvd(i), store: chainSpec(image, { readOnly: false }) }),
    );
    kernel = await lab.start("churn", { memoryMiB: 16, disks });
    const place = await kernel.call<number>("start", { chains: xvd(0), regions: xvd(1) } satisfies ChurnArgument);
    const mapping = lab.host.table.attach(kernel.id);
    if (mapping === undefined) throw new Error("no memory");
    const start = (mapping.base + place) / 4;
    journal = mapping.words.subarray(start, start + 1024);
  });
  afterAll(() => lab.end());

  async function goesOn(): Promise<void> {
    const before = Atomics.load(journal, JOURNAL_ANSWERED);
    await eventually("requests are served", () => Atomics.load(journal, JOURNAL_ANSWERED) > before + 40);
  }

  it.each([1, 2, 3])("can be copied while the guest goes on (move %i)", async (round) => {
    await goesOn();
    const left = active;
    active = ["a", "b"].map((name) => file(`${name}${round}.qcow2`));
    for (const [i, image] of active.entries()) {
      await createQcow2(image, { backing: { path: left[i] ?? "", format: "qcow2" } });
    }
    const { vbds } = lab.host;
    const replace = active.map((image, i) => ({ vdev: xvd(i), store: chainSpec(image, { readOnly: false }) }));
    await vbds.hold(kernel.id);
    await vbds.prepare(kernel.id, replace);
    await vbds.release(kernel.id, replace);
    await goesOn();
    for (const [i, image] of left.entries()) {
      expect(imageInfo(image, "qcow2")[0]).toMatchObject({ dirty: false });
      await convertImage(image, file(`copy-${i}-${round}.raw`), "raw");
      expect(await checkQcow2(image)).toMatchObject({ errors: 0, leaks: 0 });
    }
  });
});
