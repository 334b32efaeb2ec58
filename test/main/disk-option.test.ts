import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { DiskError } from "../../engine/disk/errors.ts";
import { createQcow2 } from "../../engine/disk/image-tools/create.ts";
import { parseDisk, vbdConfig } from "../../main/disk-option.ts";
import { BadInput, explain } from "../../main/failure.ts";

const disk = (text: string) => parseDisk(text, "/home/user");

describe("xl's disk syntax", () => {
  it("reads the manual's equivalent strings alike", () => {
    const expected = {
      name: "hda",
      vdev: 768,
      readOnly: false,
      cdrom: false,
      store: { kind: "file", path: "/dev/vg/guest-volume", readOnly: false },
    };
    for (const text of [
      "/dev/vg/guest-volume,,hda",
      "/dev/vg/guest-volume,raw,hda,rw",
      "format=raw, vdev=hda, access=rw, target=/dev/vg/guest-volume",
      "raw:/dev/vg/guest-volume,hda,w",
      "phy:/dev/vg/guest-volume,hda,w",
      "tap:aio:/dev/vg/guest-volume,hda,w",
    ]) {
      expect(disk(text), text).toMatchObject(expected);
    }
  });

  it("reads the manual's CD-ROMs alike", () => {
    for (const text of [
      "/root/image.iso,,hdc,cdrom",
      "/root/image.iso,,hdc,,cdrom",
      "/root/image.iso,raw,hdc,devtype=cdrom",
      "format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/root/image.iso",
      "raw:/root/image.iso,hdc:cdrom,ro",
    ]) {
      expect(disk(text), text).toMatchObject({ name: "hdc", vdev: 5632, cdrom: true, readOnly: true });
    }
  });

  it("gives target= the rest of the text, commas and trailing spaces included", () => {
    expect(disk("vdev=xvda,target=a,b=c ").store).toMatchObject({ path: "/home/user/a,b=c " });
    expect(disk(",,xvda,ro,target=x").store).toMatchObject({ path: "/home/user/x", readOnly: true });
  });

  it("takes parameters behind target= when vdev is not known yet, which xl refuses", () => {
    for (const text of ["target=a,b,vdev=xvda,access=ro", "access=ro,target=a,b, vdev=xvda"]) {
      expect(disk(text), text).toMatchObject({ name: "xvda", readOnly: true });
    }
    expect(disk("target=a,b,vdev=xvda").target).toBe("a,b");
    expect(disk("target=a,no-discard,vdev=xvda").store).toMatchObject({ path: "/home/user/a", discard: false });
    expect(disk("vdev=xvda,target=a,access=ro")).toMatchObject({ target: "a,access=ro", readOnly: false });
  });

  it("leaves a backend guest's targets to that guest, relative ones in /dev", () => {
    expect(disk("a,,xvda,backend=storage2")).toMatchObject({ target: "a", store: { path: "/dev/a" } });
  });

  it("becomes what the toolstack attaches", () => {
    expect(vbdConfig(disk("cd.iso,raw,xvdc,cdrom"))).toEqual({
      vdev: 51744,
      store: { kind: "file", path: "/home/user/cd.iso", format: "raw", readOnly: true },
      readOnly: true,
      deviceType: "cdrom",
      target: "cd.iso",
      placement: "driver-domain",
      persistent: false,
    });
    expect(vbdConfig(disk("a,,xvda,backend=other"))).toMatchObject({ deviceType: "disk", backend: "other" });
  });

  it("probes unless the format is said", () => {
    expect(disk("a,,xvda").store).toMatchObject({ format: "probe" });
    expect(disk("a,raw,xvda").store).toMatchObject({ format: "raw" });
  });

  it("reads qcow2 without a look at the file", () => {
    const store = { kind: "qcow2", path: "/home/user/a", readOnly: false, backing: [] };
    for (const text of ["a,qcow2,xvda", "qcow2:a,xvda,w", "format=qcow2,vdev=xvda,target=a"]) {
      expect(disk(text).store, text).toEqual(store);
    }
    expect(disk("a,qcow2,xvda,ro,no-discard").store).toEqual({ ...store, readOnly: true, discard: false });
  });

  it("reads keys of its own", () => {
    expect(
      disk("placement=hypervisor,persistent=on,no-discard,direct-io-safe,offset=1M,length=2GiB,vdev=xvdb,target=d"),
    ).toMatchObject({
      placement: "hypervisor",
      persistent: true,
      directIoSafe: true,
      store: { discard: false, offset: 2 ** 20, length: 2 ** 31 },
    });
    expect(disk("a,,xvda,backend=storage2").backend).toBe("storage2");
  });

  it.each([
    ["nbd://h/disk,,xvda", { address: { host: "h", port: 10809 }, export: "disk" }],
    ["nbd://[::1]:99//d%20e,,xvda", { address: { host: "::1", port: 99 }, export: "/d e" }],
    ["nbd+unix:///e?socket=/run/s,,xvda", { address: { socket: "/run/s" }, export: "e" }],
    [
      "nbds://h?tls-ca=/ca.pem&deadline=5,,xvda",
      { address: { host: "h", port: 10809 }, tls: { ca: "/ca.pem" }, deadlineSeconds: 5, export: "" },
    ],
    ["nbd:h:10:exportname=x,,xvda", { address: { host: "h", port: 10 }, export: "x" }],
    ["nbd:unix:/run/s,,xvda", { address: { socket: "/run/s" }, export: "" }],
  ])("reads %s", (text, expected) => {
    expect(disk(text).store).toEqual({ kind: "nbd", readOnly: false, ...expected });
  });

  it.each([
    ["", "vdev is missing"],
    ["a", "vdev is missing"],
    ["a,xvda", '"xvda" stands where the format belongs'],
    [",,xvda", "target is missing"],
    [",hdc:cdrom,r", "an empty CD-ROM drive"],
    ["a,,floppy", '"floppy" names no disk'],
    ["a,qcow,xvda", "format qcow is not served; convert the image with qemu-img convert -O qcow2"],
    ["a,vhd,xvda", "format vhd is not served; convert the image with qemu-img convert -O qcow2"],
    ["vhd:a,xvda,w", "format vhd is not served"],
    ["a,vmdk,xvda", "format vmdk is not served"],
    ["a,qcow2,xvda,offset=512", "offset and length are for raw images"],
    ["a,qcow2,xvda,length=512", "offset and length are for raw images"],
    ["a,qcow2,xvda,backend=x", "leave backend out, or convert the image with domlab image convert -O raw"],
    ["nbd://h/x,qcow2,xvda", "an NBD export is served as it is"],
    ["a,tar,xvda", "format=tar is not known"],
    ["a,,xvda,maybe", "access=maybe is not known"],
    ["a,,xvda,rw,more", '"more" comes after'],
    ["a,,xvda,vdev=xvdb", "vdev is given twice"],
    ["a,,xvda,discard,no-discard", "discard is given twice"],
    ["a,,hdc,rw,cdrom", "a CD-ROM cannot be written"],
    ["a,,xvda,colour=red", "no parameter is named colour"],
    ["a,,xvda,colo-port=1", "COLO is not offered"],
    ["a,,xvda,script=block-x", "scripts are not run"],
    ["iscsi:x,xvda,w", "wants a script"],
    ["a,,xvda,backendtype=vdpa", "backendtype=vdpa is not known"],
    ["a,,xvda,placement=cloud", "placement=cloud is not known"],
    ["a,,xvda,placement=hypervisor,backend=x", "has no backend domain"],
    ["a,,xvda,persistent=maybe", "persistent=maybe is not known"],
    ["a,,xvda,offset=3", "offset=3 is no multiple of 512"],
    ["a,,xvda,length=9999999999T", "is no multiple of 512"],
    ["nbd://h/x,,xvda,offset=512", "offset and length are for images"],
    ["nbd://h:99999/x,,xvda", "port 99999"],
    ["nbd://,,xvda", "names no host"],
    ["nbd+unix:///x,,xvda", "names no socket"],
    ["nbd://h/x?colour=red,,xvda", "the parameter colour"],
    ["nbd://h/%zz,,xvda", "broken %"],
  ])("refuses %j in one line", (text, expected) => {
    let caught: unknown;
    try {
      disk(text);
    } catch (error) {
      caught = error;
    }
    expect(caught instanceof BadInput || caught instanceof DiskError).toBe(true);
    const { line, status } = explain(caught);
    expect(status).toBe(2);
    expect(line).toContain(expected);
    expect(line).toMatch(/^[^\n]+; [^\n]+$/);
  });
});

describe("images as they are served", () => {
  let folder = "";
  const path = (name: string) => join(folder, name);
  const served = (text: string) => vbdConfig(parseDisk(text, folder)).store;

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "domlab-disk-option-"));
    writeFileSync(path("base.img"), "");
    truncateSync(path("base.img"), 1 << 20);
    await createQcow2(path("middle.qcow2"), { backing: { path: path("base.img"), format: "raw" } });
    await createQcow2(path("top.qcow2"), { backing: { path: path("middle.qcow2"), format: "qcow2" } });
    writeFileSync(path("old.vmdk"), Buffer.concat([Buffer.from("KDMV"), Buffer.alloc(4096)]));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it("have the format that they look like, and all that lies behind them", () => {
    const chain = {
      kind: "qcow2",
      path: path("top.qcow2"),
      readOnly: false,
      backing: [
        { path: path("middle.qcow2"), format: "qcow2" },
        { path: path("base.img"), format: "raw" },
      ],
    };
    for (const text of ["top.qcow2,,xvda", "top.qcow2,qcow2,xvda"]) expect(served(text), text).toEqual(chain);
    expect(served("base.img,,xvda,ro,no-discard")).toEqual({
      kind: "file",
      path: path("base.img"),
      format: "raw",
      readOnly: true,
      discard: false,
    });
  });

  it("are bytes when they are said to be raw, and left alone in another domain", () => {
    expect(served("top.qcow2,raw,xvda")).toMatchObject({ kind: "file", format: "raw" });
    expect(served("/none/at/all,,xvda,backend=other")).toMatchObject({ kind: "file", path: "/none/at/all" });
  });

  it.each([
    ["none.img,,xvda", "missing-image", "does not exist"],
    ["none.img,qcow2,xvda", "missing-image", "does not exist"],
    ["base.img,qcow2,xvda", "unsupported-format", "is no qcow2 image"],
    ["old.vmdk,,xvda", "unsupported-format", "is a vmdk image; convert it with qemu-img convert -O qcow2, or say"],
  ])("%s is refused", (text, code, words) => {
    expect(() => served(text)).toThrow(expect.objectContaining({ code, message: expect.stringContaining(words) }));
  });
});
