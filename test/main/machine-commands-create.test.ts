/** `domlab create` against a lab that remembers what it was asked. */
import { writeFileSync } from "node:fs";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { BadInput } from "../../main/failure.ts";
import { FakeLab } from "./machine-commands-lab.ts";

let lab: FakeLab;
beforeEach(() => {
  lab = new FakeLab();
});
afterEach(() => lab.close());

const made = { id: "1", name: "web", notes: ["a note"] };

describe("create", () => {
  const serve = (more = {}) =>
    lab.serve({
      labSettings: () => ({ defaultPlacement: "driver-domain" }),
      machineCreate: () => made,
      switchShow: () => [],
      switchCreate: () => ({}),
      switchDelete: () => ({}),
      machineStart: () => ({ domid: 3, resumed: false }),
      ...more,
    });
  const config = () => {
    const call = lab.calls.find(({ method }) => method === "machineCreate");
    return (call?.parameters as { config: Record<string, unknown> } | undefined)?.config;
  };

  it("makes a machine with a network, and says how to start it", async () => {
    await serve();
    const { printed, told } = await lab.command("create", "web");
    expect(printed).toBe("web is made; start it: domlab start web\n");
    expect(told).toEqual(["a note"]);
    expect(config()).toEqual({
      name: "web",
      vifs: [{ bridge: "lab0", ips: [], spoofing: false }],
      forwards: [],
      disks: [],
    });
  });

  it("takes everything that a machine can have", async () => {
    await serve();
    const words = "--kernel vmlinuz --initrd initrd.img --cmdline console=hvc0 --append quiet --memory 2G --autostart";
    const more =
      "--disk data.qcow2,qcow2,xvdb,ro --new-disk vdev=xvdc,size=10G --new-disk size=1M,vdev=xvdd,format=raw";
    await lab.command(
      ...["create", "web", ...words.split(" "), ...more.split(" "), "--vif", "bridge=lab0,mac=00:16:3e:00:00:01"],
      ...["--forward", "tcp:8080:80", "--group", "g", "--note", "a b", "--json"],
    );
    expect(config()).toMatchObject({
      image: null,
      kernel: path.join(lab.folder, "vmlinuz"),
      initrd: path.join(lab.folder, "initrd.img"),
      commandLine: "console=hvc0",
      extraArguments: "quiet",
      memoryMiB: 2048,
      autostart: true,
      group: "g",
      notes: "a b",
      vifs: [{ bridge: "lab0", mac: "00:16:3e:00:00:01" }],
      forwards: [{ protocol: "tcp", hostAddress: "127.0.0.1", hostPort: 8080, guestPort: 80 }],
      disks: [{ vdev: "xvdb", source: path.join(lab.folder, "data.qcow2"), format: "qcow2", access: "ro" }],
    });
    expect(lab.calls.find(({ method }) => method === "machineCreate")?.parameters).toMatchObject({
      newDisks: [
        { vdev: "xvdc", size: 10 * 2 ** 30, format: "qcow2" },
        { vdev: "xvdd", size: 2 ** 20, format: "raw" },
      ],
    });
  });

  it("makes the switch that is named, and takes it away again when the machine cannot be made", async () => {
    await serve({
      machineCreate: () => {
        throw new BadInput("bad-option", "there is a machine called web already", "choose another name");
      },
    });
    expect(await lab.refused("create", "web", "--network", "lan=none")).toEqual({
      line: "there is a machine called web already; choose another name",
      status: 2,
    });
    expect(lab.calls.map(({ method }) => method)).toEqual([
      "labSettings",
      "switchShow",
      "switchCreate",
      "machineCreate",
      "switchDelete",
    ]);
    expect(config()).toMatchObject({ vifs: [{ bridge: "lan" }] });
  });

  it("leaves the network out, and starts the machine", async () => {
    await serve();
    await lab.command("create", "web", "--no-network", "--start");
    expect(config()).toMatchObject({ vifs: [] });
    expect(lab.calls.at(-1)).toEqual({ method: "machineStart", parameters: { machine: "web" } });
  });

  it("reads a JSON file and a file of xl's, over which options go", async () => {
    await serve();
    writeFileSync(path.join(lab.folder, "m.json"), '{"name": "web",\n "memoryMiB": 64, "notes": "from the file"}');
    await lab.command("create", "db", "-f", "m.json", "--memory", "128");
    expect(config()).toMatchObject({ name: "db", memoryMiB: 128, notes: "from the file", vifs: [] });
    lab.calls.length = 0;
    writeFileSync(path.join(lab.folder, "m.cfg"), 'name = "old"\nkernel = "/k"\nmemory = 64\nvnc = 1\n');
    const { told } = await lab.command("create", "-f", "m.cfg");
    expect(config()).toMatchObject({ name: "old", kernel: "/k", image: null, memoryMiB: 64 });
    expect(told.join()).toMatch(/line 4: vnc/);
  });

  it("warns of a switch that is not there", async () => {
    await serve();
    const { told } = await lab.command("create", "web", "--vif", "bridge=lan");
    expect(told.join("\n")).toMatch(/no switch lan yet: domlab network create lan/);
  });

  it.each([
    ["no name", ["create"], /has no name; .*-f/],
    ["a name that is none", ["create", "my web"], /"my web" is no name for a machine; use 1 to 64 letters/],
    ["memory that is none", ["create", "web", "--memory", "lots"], /"lots" is no memory size/],
    ["no memory", ["create", "web", "--memory", "0"], /--memory 0 is no whole number/],
    ["too little memory", ["create", "web", "--memory", "32M"], /too little .*; give at least 64 MiB/],
    ["a part of a MiB", ["create", "web", "--memory", "1000K"], /no whole number of MiB/],
    ["a new disk without a size", ["create", "web", "--new-disk", "vdev=xvdb"], /size is missing/],
    ["an unknown word of a new disk", ["create", "web", "--new-disk", "speed=9"], /"speed=9"/],
    ["two disks of one name", ["create", "w", "--disk", "a,,xvda", "--disk", "b,,xvda"], /two disks are called xvda/],
    ["an unknown uplink", ["create", "web", "--network", "wifi"], /"wifi" is no kind of uplink/],
    ["contradictions", ["create", "web", "--vif", "", "--no-network"], /contradict/],
    ["a forward to nothing", ["create", "web", "--forward", "tcp:1:1", "--no-network"], /--forward contradict/],
    ["a folder for a file", ["create", "-f", "."], /is a folder; name a file/],
    ["nothing to start", ["create", "web", "--image", "none"], /kernel: is missing/],
    ["a console of nothing", ["create", "web", "--console"], /add --start/],
    ["a file that is not there", ["create", "-f", "none.json"], /none\.json does not exist/],
  ])("refuses %s before any lab is started", async (_what, args, cause) => {
    const { line, status } = await lab.refused(...args);
    expect(line).toMatch(cause);
    expect(line).toContain("; ");
    expect(status).toBe(2);
    expect(lab.started).toBe(false);
  });

  it("tells the line of an unknown key and what was meant", async () => {
    writeFileSync(path.join(lab.folder, "m.json"), '{"name": "web",\n "memroy": 64}');
    const { line } = await lab.refused("create", "-f", "m.json");
    expect(line).toBe("m.json, line 2: there is no key memroy; did you mean memoryMiB?");
    writeFileSync(path.join(lab.folder, "m.cfg"), 'name = "web"\nkernal = "/k"\n');
    expect((await lab.refused("create", "-f", "m.cfg")).line).toMatch(/m\.cfg, line 2: .*kernal.*kernel/);
  });
});
