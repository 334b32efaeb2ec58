/** Numbers and nodes of virtual block devices. */
import { describe, expect, it } from "vitest";
import { vbdNodes } from "../../engine/device/block/vbd-nodes.ts";
import { decodeVdev, parseVdev, vdevName, vdevNumber } from "../../engine/device/block/vdev.ts";
import { XVDA } from "./xenbus-harness.ts";

describe("vdev", () => {
  // docs/man/xen-vbd-interface.7
  it.each([
    ["xvda", 51712],
    ["xvdb", 51728],
    ["xvda1", 51713],
    ["xvdp15", (202 << 8) | (15 << 4) | 15],
    ["xvdq", (1 << 28) | (16 << 8)],
    ["xvda16", (1 << 28) | 16],
    ["xvdtq37", (1 << 28) | (536 << 8) | 37],
    ["sda", 2048],
    ["sdb3", 2048 + 16 + 3],
    ["hda", 768],
    ["hdb", 768 + 64],
    ["hdc2", (22 << 8) | 2],
    ["hdd63", (22 << 8) | 64 | 63],
  ])("%s is %d", (name, number) => {
    expect(parseVdev(name)).toBe(number);
    expect(parseVdev(String(number))).toBe(number);
    expect(parseVdev(`0x${number.toString(16)}`)).toBe(number);
    expect(vdevName(number)).toBe(name);
  });

  it("knows xvd disks by number", () => {
    expect(parseVdev("d0")).toBe(51712);
    expect(parseVdev("d1p2")).toBe(parseVdev("xvdb2"));
    expect(parseVdev("d536p37")).toBe(parseVdev("xvdtq37"));
  });

  it.each([
    "",
    "xvd",
    "xvda0",
    "xvda256",
    "XVDA",
    "xvdaaaaaa",
    "sdq",
    "sda16",
    "hde",
    "hda64",
    "vda",
    "1",
    "536870912",
  ])("refuses %j", (text) => {
    expect(parseVdev(text)).toBeUndefined();
  });

  it("takes every number apart and puts it together again", () => {
    for (let number = 0; number < 65536; number++) {
      const device = decodeVdev(number);
      if (device) expect(vdevNumber(device)).toBe(number);
    }
    expect(decodeVdev(2 << 28)).toBeUndefined();
    expect(decodeVdev(-1)).toBeUndefined();
    expect(decodeVdev(51712.5)).toBeUndefined();
  });
});

describe("vbdNodes", () => {
  it("is what a Xen user knows", () => {
    const nodes = vbdNodes({
      frontendId: 2,
      backendId: 1,
      vdev: XVDA,
      readOnly: true,
      deviceType: "disk",
      type: "file",
      params: "disk.img",
      path: "/images/disk.img",
      discard: false,
      store: { secret: 1 },
    });
    const values = Object.fromEntries(nodes.map(({ path, value }) => [path, value]));
    const permissions = Object.fromEntries(nodes.map((node) => [node.path, node.permissions]));
    expect(values).toMatchObject({
      "/local/domain/2/device/vbd/51712/backend": "/local/domain/1/backend/vbd/2/51712",
      "/local/domain/2/device/vbd/51712/backend-id": "1",
      "/local/domain/2/device/vbd/51712/virtual-device": "51712",
      "/local/domain/2/device/vbd/51712/state": "1",
      "/local/domain/1/backend/vbd/2/51712/frontend": "/local/domain/2/device/vbd/51712",
      "/local/domain/1/backend/vbd/2/51712/online": "1",
      "/local/domain/1/backend/vbd/2/51712/dev": "xvda",
      "/local/domain/1/backend/vbd/2/51712/mode": "r",
      "/local/domain/1/backend/vbd/2/51712/discard-enable": "0",
      "/local/domain/1/backend/vbd/2/51712/physical-device-path": "/images/disk.img",
    });
    expect(permissions["/local/domain/2/device/vbd/51712/state"]).toEqual(["n2", "r1"]);
    expect(permissions["/local/domain/1/backend/vbd/2/51712/state"]).toEqual(["n1", "r2"]);
    // What opens the image may be secret: the guest cannot read it.
    expect(permissions["/local/domain/1/backend/vbd/2/51712/domlab-store"]).toEqual(["n1"]);
  });
});
