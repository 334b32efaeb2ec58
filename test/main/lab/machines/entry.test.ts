/** What a machine's configuration must be before it enters the records, whoever sends it; and how it leaves for other hosts. */
import { describe, expect, it, onTestFinished } from "vitest";
import { vifSchema } from "../../../../engine/domain/network-config.ts";
import { VifToolstack } from "../../../../engine/domain/vif-toolstack.ts";
import { Xenstored } from "../../../../engine/xenstore/daemon.ts";
import { CatalogueImages } from "../../../../main/lab/machines/boot-image.ts";
import { labImages } from "../../../../main/lab/machines/lab-images.ts";
import { LabFixture } from "./lab-fixture.ts";

const RULE = "1 to 64 letters, digits, dots, hyphens and underscores, a letter or digit first";

async function openLab(...options: Parameters<LabFixture["open"]>): Promise<LabFixture> {
  const lab = await new LabFixture().open(...options);
  onTestFinished(() => lab.dispose());
  return lab;
}

describe("a name", () => {
  it("that is none is refused with the rule, everywhere", async () => {
    const lab = await openLab();
    await lab.create("web");
    for (const call of [
      lab.call("machineCreate", { config: { name: "my web" } }),
      lab.call("machineRename", { machine: "web", name: "my web" }),
      lab.call("machineSet", { machine: "web", config: { name: "my web" } }),
      lab.call("machineClone", { machine: "web", name: "my web", linked: true }),
    ]) {
      await expect(call).rejects.toThrow(RULE);
    }
    expect(await lab.call("machineList", {})).toMatchObject([{ name: "web" }]);
  });
});

describe("memory", () => {
  const little = "63 MiB are too little for a machine; give at least 64 MiB";

  it("is enough to boot, whoever sets it", async () => {
    const lab = await openLab();
    await lab.create("web", { memoryMiB: 64 });
    const xl = `name = "old"\nkernel = "/k"\nmemory = 63\n`;
    for (const call of [
      lab.call("machineCreate", { config: { name: "db", memoryMiB: 63 } }),
      lab.call("machineCreate", { config: { text: `{"name": "db", "memoryMiB": 63}`, file: "db.json" } }),
      lab.call("machineSet", { machine: "web", settings: ["memoryMiB=63"] }),
      lab.call("machineSet", { machine: "web", config: { name: "web", memoryMiB: 63 } }),
      lab.call("configImport", { text: xl, cwd: "/" }),
    ]) {
      await expect(call).rejects.toThrow(little);
    }
    expect(await lab.call("machineList", {})).toMatchObject([{ name: "web", memoryMiB: 64 }]);
  });

  it("of a machine from before that rule is no damage", async () => {
    const lab = await openLab();
    const id = await lab.create("web");
    await lab.server.context.store.update((draft) => {
      for (const { config } of draft.machines) config.memoryMiB = 16;
    });
    await lab.quit();
    await lab.open();
    expect(await lab.call("machineList", {})).toMatchObject([{ id, memoryMiB: 16 }]);
    await lab.call("machineSet", { machine: "web", settings: ["memoryMiB=64", "notes=mended"] });
    expect(await lab.call("machineList", {})).toMatchObject([{ id, memoryMiB: 64 }]);
  });
});

describe("an image", () => {
  it("that nobody knows is refused at once, with the nearest", async () => {
    const lab = await openLab();
    await lab.create("web");
    const said = "there is no guest image debain; did you mean debian? there are: debian-shell, debian";
    for (const call of [
      lab.call("machineCreate", { config: { name: "db", image: "debain" } }),
      lab.call("machineSet", { machine: "web", settings: ["image=debain"] }),
      lab.call("machineSet", { machine: "web", config: { name: "web", image: "debain" } }),
    ]) {
      await expect(call).rejects.toThrow(said);
    }
    await lab.call("machineSet", { machine: "web", settings: ["image=debian"] });
    expect(await lab.call("machineList", {})).toMatchObject([{ name: "web", image: "debian" }]);
  });

  it("that went away keeps nobody from other changes", async () => {
    const lab = await openLab();
    await lab.create("web");
    await lab.server.context.store.update((draft) => {
      for (const { config } of draft.machines) config.image = "gone";
    });
    await lab.call("machineSet", { machine: "web", settings: ["notes=still here"] });
    expect((await lab.call("machineShow", { machine: "web" })).config).toMatchObject({ notes: "still here" });
  });

  it("of the user's own is one of them", () => {
    const images = new CatalogueImages(() => [{ name: "mine", kernel: "/k", commandLine: "", note: "" }], "/none");
    expect(() => images.checkImage({ image: "mine" })).not.toThrow();
    expect(() => images.checkImage({ image: null })).not.toThrow();
    expect(() => images.checkImage({ image: "mien" })).toThrow(/did you mean mine\? there are: mine, debian-shell/);
    expect(() => images.checkImage({ image: "qwertyuiop" })).toThrow(/qwertyuiop; there are: mine, /);
  });
});

describe("an exported machine", () => {
  it("names its image's kernel, and comes back with the image", async () => {
    const lab = await openLab();
    await lab.create("web", { extraArguments: "quiet" });
    const { text, notes } = await lab.call("configExport", { machine: "web" });
    expect(text).toContain('kernel = "/vmlinuz"');
    expect(text).toContain('cmdline = "console=hvc0 quiet"');
    expect(notes).toEqual([
      "kernel= is that of the image debian-shell on this host: take the file along",
      "the image debian-shell has its initial RAM disk made at each start: a Xen host needs ramdisk= of its own",
    ]);
    await lab.call("configImport", { text, name: "again", cwd: "/" });
    const { config } = await lab.call("machineShow", { machine: "again" });
    expect(config).toMatchObject({ image: "debian-shell", extraArguments: "quiet" });
    expect(config).not.toHaveProperty("kernel");
  });

  it("says so when the image has never been fetched", async () => {
    const boot = {
      boot: async () => ({ image: { kernel: { path: "/k" }, initrd: [], commandLine: "" }, prompt: undefined }),
      checkImage: () => {},
      promptOf: () => undefined,
      bootFiles: async () => undefined,
      rootImage: async () => undefined,
    };
    const lab = await openLab({ boot });
    await lab.create("web");
    const { text, notes } = await lab.call("configExport", { machine: "web" });
    expect(notes).toEqual([expect.stringMatching(/debian-shell has not been fetched here: .* kernel= and ramdisk=/)]);
    expect(text).not.toMatch(/^kernel/m);
    await lab.call("configImport", { text, name: "again", cwd: "/" });
    expect((await lab.call("machineShow", { machine: "again" })).config).toMatchObject({ image: "debian-shell" });
  });

  it("of an image of the user's own needs nothing else", async () => {
    const own = { name: "mine", kernel: "/k", initrd: "/i", commandLine: "a=b", note: "" };
    const images = new CatalogueImages(() => [own], "/none");
    expect(await images.bootFiles({ image: "mine" }, [])).toEqual({ kernel: "/k", ramdisk: "/i", commandLine: "a=b" });
    expect(await images.bootFiles({ image: null }, [])).toBeUndefined();
  });
});

describe("an address of an interface", () => {
  it("is taken once on a switch, and again on another", () => {
    const vifs = new VifToolstack(new Xenstored().toolstack);
    const attach = (guest: number, bridge: string) =>
      vifs.attach(guest, 1, vifSchema.parse({ bridge, mac: "00:16:3e:00:00:01" }));
    attach(5, "lab0");
    expect(() => attach(6, "lab0")).toThrow(/the MAC address 00:16:3e:00:00:01 is that of vif5\.0; choose another/);
    expect(attach(6, "lab1")).toMatchObject({ name: "vif6.0", mac: "00:16:3e:00:00:01" });
    expect(() => attach(7, "lab1")).toThrow(/is that of vif6\.0/);
  });
});

describe("disks in xl's syntax", () => {
  it("are read alike when a machine is made and later", async () => {
    const lab = await openLab();
    await lab.create("web");
    await labImages.create(`${lab.home}/one.img`, "raw", 1 << 20);
    await lab.call("labSettings", { change: { defaultPlacement: "hypervisor" } });
    await lab.call("diskAttach", { machine: "web", disk: "one.img,,xvdb,ro", cwd: lab.home });
    const placed = "placement=driver-domain,vdev=xvdc,access=ro,target=one.img";
    await lab.call("diskAttach", { machine: "web", disk: placed, cwd: lab.home });
    await lab.call("diskAttach", { machine: "web", disk: "nbd://127.0.0.1/x,,xvdd,ro", cwd: lab.home });
    const { config } = await lab.call("machineShow", { machine: "web" });
    expect((config.disks as { placement: string }[]).slice(1).map(({ placement }) => placement)).toEqual([
      "hypervisor",
      "driver-domain",
      "driver-domain",
    ]);
  });
});
