/** Devices for a domain that ends while its backend is waited for. */
import { afterEach, describe, expect, it, vi } from "vitest";
import { vifSchema } from "../../engine/domain/network-config.ts";
import { imageDisk } from "../disk-config.ts";
import { KernelLab, RUNS, type Unikernel } from "./kernel-lab.ts";

const MIB = 1 << 20;

describe.runIf(RUNS)("a device that comes too late", () => {
  let lab: KernelLab;
  afterEach(async () => {
    vi.restoreAllMocks();
    await lab.end();
  });

  /** Ends the domain when the host asks for that driver domain. */
  function endsMeanwhile(kernel: Unikernel, driver: "storageDomain" | "networkDomain"): void {
    const start = lab.host[driver].bind(lab.host);
    vi.spyOn(lab.host, driver).mockImplementationOnce(async () => {
      await kernel.handle.kill();
      await kernel.handle.exited;
      return await start();
    });
  }

  it("leaves a disk's image to others", async () => {
    lab = new KernelLab();
    const image = lab.image("disk.img", MIB);
    const kernel = await lab.start("disk");
    endsMeanwhile(kernel, "storageDomain");
    await expect(lab.host.attachDisk(kernel.id, imageDisk(image))).rejects.toThrow("ended meanwhile; start it again");
    expect(lab.host.vbds.list()).toEqual([]);
    const other = await lab.start("disk", { disks: [imageDisk(image)] });
    expect(lab.host.vbds.list(other.id)).toHaveLength(1);
  });

  it("leaves nothing of an interface behind", async () => {
    lab = new KernelLab();
    await lab.host.network.createSwitch({ name: "lab0" });
    const vif = vifSchema.parse({ mac: "00:16:3e:00:00:07", bridge: "lab0" });
    const kernel = await lab.start("net");
    endsMeanwhile(kernel, "networkDomain");
    await expect(lab.host.attachVif(kernel.id, vif)).rejects.toThrow("ended meanwhile; start it again");
    expect(lab.host.vifs.list()).toEqual([]);
    const other = await lab.start("net", { vifs: [vif] });
    expect(lab.host.vifs.list(other.id)).toHaveLength(1);
  });
});
