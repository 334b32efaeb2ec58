/** What the forms about machines, disks and interfaces mean to the lab. */
import { describe, expect, it } from "vitest";
import { enteredConfig } from "../../main/lab/store/machine-config.ts";
import { parseAddedDisk } from "../../main/lab/xl-config/devices.ts";
import { parseVif } from "../../main/vif-option.ts";
import { type Form, problemsByField, readForm } from "../../renderer/views/machines/create-form.ts";
import {
  diskConfigOf,
  attachText as diskText,
  freeVdev,
  newDiskOf,
  newWish,
} from "../../renderer/views/machines/devices/disk-wish.ts";
import { Rates } from "../../renderer/views/machines/devices/figures.ts";
import { reattachText, shownDisks } from "../../renderer/views/machines/devices/shown-disks.ts";
import {
  attachText,
  newVif,
  parseRate,
  rateText,
  vifConfigOf,
  vifWishOf,
} from "../../renderer/views/machines/devices/vif-wish.ts";
import { changesOf, editedConfig, settingFields } from "../../renderer/views/machines/settings.ts";

const GIB = 1024 ** 3;

describe("a disk's fields", () => {
  it("become a new disk, or say what is missing", () => {
    expect(newDiskOf({ ...newWish("new", "xvdb"), size: "2G", format: "raw", served: "hypervisor" })).toEqual({
      vdev: "xvdb",
      size: 2 * GIB,
      format: "raw",
      placement: "hypervisor",
    });
    expect(newDiskOf({ ...newWish("library", "xvdc"), image: "base", copy: true })).toEqual({
      vdev: "xvdc",
      from: "base",
      copy: true,
    });
    expect(newDiskOf({ ...newWish("new", "xvdb"), size: "" })).toMatch(/xvdb needs a size/);
    expect(newDiskOf({ ...newWish("new", "xvdb"), size: "0" })).toMatch(/not a size/);
    expect(newDiskOf({ ...newWish("new", "xvdb"), size: "many" })).toMatch(/not a size/);
    expect(newDiskOf(newWish("library", "xvdc"))).toMatch(/needs an image/);
  });

  it("of a file say the same to a running machine as to its configuration", () => {
    const wish = { ...newWish("file", "xvdd"), path: "/srv/a,b.img", access: "ro" as const, served: "hypervisor" };
    expect(parseAddedDisk(diskText(wish), "/", "driver-domain")).toMatchObject(diskConfigOf(wish));
    const served = { ...newWish("file", "xvde"), path: "/dev/xvdb", served: "machine:storage" };
    expect(diskConfigOf(served)).toMatchObject({ backend: "storage" });
    expect(parseAddedDisk(diskText(served), "/", "hypervisor")).toMatchObject(diskConfigOf(served));
    const disc = { ...newWish("file", "xvdf"), path: "/srv/debian.iso", cdrom: true };
    expect(parseAddedDisk(diskText(disc), "/", "hypervisor")).toMatchObject(diskConfigOf(disc));
  });

  it("begin with the first free place", () => {
    expect(freeVdev([])).toBe("xvda");
    expect(freeVdev(["xvda", "xvdc"])).toBe("xvdb");
  });
});

describe("disks that are shown", () => {
  const row = { vdev: "xvda", source: "/a", format: "qcow2", access: "rw" as const, available: true };
  const config = {
    vdev: "xvda",
    deviceType: "disk",
    placement: "hypervisor",
    persistent: false,
    discard: true,
  } as const;
  const live = {
    vdev: 51712,
    name: "xvda",
    frontendId: 3,
    backendId: 0,
    backend: "Domain-0",
    state: 4,
    stateName: "Connected",
    mode: "w" as const,
    target: "/a",
  };

  it("tell what the next start will change", () => {
    const pending = (changed: object, now: typeof live | undefined) =>
      shownDisks([{ ...row, ...changed }], [{ ...config, ...changed }], now === undefined ? [] : [now])[0]?.pending;
    expect(pending({}, live)).toBeUndefined();
    expect(pending({}, undefined)).toMatch(/attached at the next start/);
    expect(pending({ access: "ro" }, live)).toMatch(/read-only from/);
    expect(pending({ placement: "driver-domain" }, live)).toMatch(/served elsewhere/);
    expect(shownDisks([row], [config], undefined)[0]).toMatchObject({ pending: undefined, servedNow: undefined });
  });

  it("are put back as they were, in their own format", () => {
    const changed = { ...config, persistent: true, discard: false };
    const [shown] = shownDisks([{ ...row, format: "raw", access: "ro" }], [changed], undefined);
    const back = parseAddedDisk(reattachText(shown!, "/lab/detached/a,b.img"), "/", "driver-domain");
    expect(back).toMatchObject({ ...changed, source: "/lab/detached/a,b.img", format: "raw", access: "ro" });
  });
});

describe("an interface's fields", () => {
  const wish = {
    ...newVif("lan"),
    mac: "00:16:3e:00:00:01",
    rate: "10Mb/s",
    ips: "10.0.0.2, 10.0.0.3",
    vlan: "10 20",
    mtu: "9000",
    queues: "2",
    spoofing: true,
    backend: "router",
  };

  it("say the same to a running machine as to its configuration", () => {
    const config = vifConfigOf(wish);
    if (typeof config === "string") throw new Error(config);
    const checked = enteredConfig.parse({ name: "web", vifs: [config] }).vifs[0];
    const { ips, ...rest } = parseVif(attachText(config));
    expect({ ...rest, ips: ips.map((each) => each.replace(/\/32$/, "")) }).toEqual(checked);
  });

  it("are those of the interface that they were read from", () => {
    const config = vifConfigOf(wish);
    if (typeof config === "string") throw new Error(config);
    expect(vifConfigOf(vifWishOf(config), config)).toEqual(config);
    const paced = { ...config, rate: { bytes: 25_000, intervalUs: 20_000 }, notify: { frames: 8, us: 50 } };
    expect(vifConfigOf(vifWishOf(paced), paced)).toEqual(paced);
    const { rate: _, ...unlimited } = paced;
    expect(vifConfigOf({ ...vifWishOf(paced), rate: "" }, paced)).toEqual(unlimited);
  });

  it("say what is wrong", () => {
    expect(vifConfigOf({ ...newVif(), rate: "fast" })).toMatch(/fast is not a rate; write/);
    expect(vifConfigOf({ ...newVif(), vlan: "x" })).toMatch(/x is no VLAN; write/);
  });

  it("read and write rates as xl does", () => {
    expect(parseRate("10Mb/s")).toEqual({ bytes: 62_500, intervalUs: 50_000 });
    expect(parseRate("250KB")).toEqual({ bytes: 12_500, intervalUs: 50_000 });
    for (const text of ["", "10", "10M", "-1Mb/s", "0Mb/s"]) expect(parseRate(text)).toBeUndefined();
    for (const text of ["10Mb/s", "1Gb/s", "56Kb/s"]) expect(rateText(parseRate(text)!)).toBe(text);
  });
});

describe("the create form", () => {
  const form: Form = {
    name: "web",
    image: "debian",
    memory: 512,
    rootSize: "20G",
    rootServed: "hypervisor",
    disks: [newWish("new", "xvdb"), { ...newWish("file", "xvdc"), path: "/srv/data.img" }],
    vifs: [newVif()],
    group: "",
    kernel: "",
    initrd: "",
    commandLine: "",
    extraArguments: "",
    notes: "",
    autostart: false,
    start: true,
  };

  it("means a configuration that the lab takes", () => {
    const { config, newDisks, rest, problems } = readForm(form, true);
    expect(problems).toEqual({});
    expect(enteredConfig.safeParse(config).success).toBe(true);
    expect(newDisks).toMatchObject([{ vdev: "xvdb", size: 10 * GIB }]);
    expect(rest).toEqual({ rootSize: 20 * GIB, rootPlacement: "hypervisor" });
    expect(readForm(form, false).rest).toEqual({});
    const own = readForm({ ...form, image: "", kernel: " /boot/vmlinuz " }, false).config;
    expect(enteredConfig.parse(own)).toMatchObject({ image: null, kernel: "/boot/vmlinuz" });
  });

  it("says what is wrong beside its field", () => {
    const wrong = { ...form, rootSize: "big", disks: [form.disks[1]!, { ...form.disks[0]!, size: "" }] };
    const { problems, diskPlaces } = readForm({ ...wrong, vifs: [{ ...newVif(), rate: "x" }] }, true);
    expect(Object.keys(problems).sort()).toEqual(["rootSize", "vifs.0.rate", "wish.1"]);
    expect(diskPlaces).toEqual([0]);
    const lines = [
      { path: "disks.0.source", line: "missing" },
      { path: "name", line: "taken" },
    ];
    expect(problemsByField(lines, [1])).toEqual({ "wish.1": "missing", name: "taken" });
  });
});

describe("the settings form", () => {
  const stored = JSON.parse(JSON.stringify(enteredConfig.parse({ name: "web", kernel: "/k", suspendOnQuit: true })));

  it("has a field for every setting that is no list", () => {
    const others = ["name", "disks", "vifs", "forwards"];
    const keys = Object.keys(enteredConfig.parse({ name: "web" })).filter((key) => !others.includes(key));
    const shown = settingFields.map(({ key }) => key as string);
    for (const key of [...keys, "kernel", "initrd", "commandLine", "cpuCap", "suspendOnQuit"])
      expect(shown).toContain(key);
  });

  it("sends what was changed, and takes away what was emptied", () => {
    const edited = { memoryMiB: "1024", kernel: "", image: "", suspendOnQuit: "", autostart: true, notes: "" };
    expect(changesOf(stored, edited).map(({ setting }) => setting)).toEqual(
      ["image=none", "kernel=", "memoryMiB=1024", "autostart=true", "suspendOnQuit="].sort(
        (a, b) => order(a) - order(b),
      ),
    );
    const config = editedConfig(stored, edited);
    expect(config).toMatchObject({ memoryMiB: 1024, image: null, autostart: true });
    expect(config).not.toHaveProperty("kernel");
    expect(config).not.toHaveProperty("suspendOnQuit");
    expect(changesOf(stored, { memoryMiB: "512" })).toEqual([]);
  });
  const order = (setting: string) => settingFields.findIndex(({ key }) => setting.startsWith(`${key}=`));
});

describe("rates", () => {
  it("come from counters, and begin anew with their device", () => {
    const rates = new Rates();
    expect(rates.look([{ key: "a", counters: { n: 100 } }], 1000).size).toBe(0);
    expect(rates.look([{ key: "a", counters: { n: 300 } }], 3000).get("a")).toEqual({ n: 100 });
    expect(rates.look([{ key: "a", counters: { n: 10 } }], 4000).get("a")).toEqual({ n: 0 });
    expect(rates.look([{ key: "b", counters: { n: 10 } }], 5000).size).toBe(0);
  });
});
