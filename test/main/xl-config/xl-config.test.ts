import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { StoreError } from "../../../main/lab/store/errors.ts";
import { machineConfig } from "../../../main/lab/store/schema.ts";
import { parseDiskConfig } from "../../../main/lab/xl-config/devices.ts";
import { exportXlConfig } from "../../../main/lab/xl-config/export.ts";
import { importXlConfig } from "../../../main/lab/xl-config/import.ts";
import { parseXlSyntax, quoteXl } from "../../../main/lab/xl-config/syntax.ts";
import { anyMachine } from "./arbitrary.ts";

const options = { file: "web.cfg", cwd: "/srv" };
const read = (text: string) => importXlConfig(text, options);
/** A whole file with these lines from its third on. */
const file = (...lines: string[]) => ['name = "web"', 'kernel = "/boot/vmlinuz"', ...lines].join("\n");

/** As people write it for a Xen host. */
const TYPICAL = `# A web server
name    = 'web'
type    = "pvh"   # since 4.10
kernel  = "boot/vmlinuz"; ramdisk = "/boot/initrd.img"
root    = "/dev/xvda1 ro"
extra   = "console=hvc0"
memory  = 1024
maxmem  = 0x800
vcpus   = 2

disk = [
  'phy:/dev/vg/web,xvda,w',        # xend's way
  '/srv/data.qcow2, qcow2, xvdb, rw',
  'format=raw, vdev=xvdc, access=ro, target=/srv/odd,name.img',

]
vif = [ 'mac=00:16:3e:00:00:01,bridge=xenbr0,rate=10Mb/s', '' ]
on_crash = 'coredump-restart'
vnc = 1
sdl = 0
cpus = "0-3"
`;

describe("import of an xl.cfg", () => {
  it("makes a machine of what people write", () => {
    const { config, notes } = read(TYPICAL);
    expect(config).toMatchObject({
      name: "web",
      image: null,
      kernel: "/srv/boot/vmlinuz",
      initrd: "/boot/initrd.img",
      extraArguments: "root=/dev/xvda1 ro console=hvc0",
      memoryMiB: 1024,
      vcpus: 1,
      disks: [
        { vdev: "xvda", source: "/dev/vg/web", format: "probe", access: "rw" },
        { vdev: "xvdb", source: "/srv/data.qcow2", format: "qcow2", access: "rw" },
        { vdev: "xvdc", source: "/srv/odd,name.img", format: "raw", access: "ro" },
      ],
      vifs: [
        { mac: "00:16:3e:00:00:01", bridge: "xenbr0", rate: { bytes: 62500, intervalUs: 50000 } },
        { bridge: "lab0" },
      ],
      onPoweroff: "destroy",
      onReboot: "restart",
      onCrash: "restart",
    });
    expect(config).not.toHaveProperty("commandLine");
    expect(notes).toEqual([
      "line 8: maxmem is passed over: memory is not ballooned",
      "line 9: vcpus is passed over: a machine has one virtual CPU",
      expect.stringMatching(/^line 18: on_crash is restart instead of coredump-restart: registers/),
      "line 19: vnc is passed over: there is no graphics card",
      "line 21: cpus is passed over: the host's scheduler decides",
    ]);
  });

  it.each([
    [file('memroy = "5"'), "line 3: there is no key memroy; did you mean memory?"],
    [file("onreboot = 'destroy'"), "line 3: there is no key onreboot; did you mean on_reboot?"],
    [file("xyzzy = 1"), "line 3: there is no key xyzzy; see xl.cfg(5), or remove it"],
    [file("memory = 'lots'"), "line 3: memory = lots is no number; write for example memory = 1"],
    [file("memory = 08"), "line 3: memory = 08 is no number"],
    [file("memory = 0"), "line 3: memoryMiB: Too small"],
    [file("memory = [ 1 ]"), "line 3: memory is a list"],
    [file("disk = 'a,raw,xvda,w'"), 'line 3: disk is no list; write disk = [ "…" ]'],
    [file("disk = [ ['a'] ]"), "line 3: a list stands where one of disk belongs"],
    [file("disk = [", "'a,raw,xvda,w',", "'b,raw,xvdq99999,w' ]"), 'line 5: disk "b,raw,xvdq99999,w": vdev'],
    [
      file("disk = [", "'a,qcow2,xvda,w',", "'b,vhd,xvdb,w' ]"),
      'line 5: disk "b,vhd,xvdb,w": format vhd is not served',
    ],
    [
      file("disk = [ 'a,qcow2,xvda,w',", "'b,raw,xvda,w' ]"),
      "line 4: disks.1.vdev: two disks are called xvda; give one another vdev",
    ],
    [file("disk = [ 'nbd://,raw,xvda,w' ]"), "line 3: nbd:// names no host"],
    [
      file("disk = [ 'nbd://h/x,qcow2,xvda,w' ]"),
      'line 3: disk "nbd://h/x,qcow2,xvda,w": an NBD export is served as it is; leave the format out',
    ],
    [file("disk = [ '/a,qcow2,xvda,w,offset=1M' ]"), "offset and length are for raw images; leave them out"],
    [file(`vif = [ 'backend=${"b".repeat(300)}' ]`), "backend: Too big"],
    [file("vif = [ 'brigde=x' ]"), 'line 3: vif "brigde=x": no parameter is named brigde; use mac, bridge'],
    [file("vif = [ 'mac=zz' ]"), 'line 3: vif "mac=zz": "zz" is no MAC address'],
    [file("on_crash = 'explode'"), "line 3: on_crash = explode is not known; use destroy, restart"],
    [file("on_crash = 'destory'"), "did you mean destroy?"],
    [file("type = 'vmware'"), "line 3: there is no type vmware"],
    [file("cmdline = 'a\\nb'"), "line 3: commandLine: holds a line break"],
    ["kernel = '/k'", "line 1: the machine has no name"],
    ["name = 'web'\nmemory = 5", "line 1: the machine has no kernel; copy kernel and initrd"],
    ["name = 'web'\nbootloader = 'pygrub'", "line 2: the boot loader pygrub is not run"],
    [file("memory 5"), 'line 3: "5" stands where = belongs; write memory = value'],
    [file("memory = five"), 'line 3: "f" is no value'],
    [file("memory = 5 vcpus = 1"), 'line 3: "v" stands behind a value; begin a new line'],
    [file("extra = 'a"), "line 3: a text has no end on its line; close it with '"],
    [file("extra = 'a\\qb'"), 'line 3: \\ before "q" means nothing'],
    [file("disk = [ 'a'", "'b' ]"), 'line 4: "\'" stands where , or ] belongs; close the list that begins in line 3'],
    [file("disk = [ 'a,raw,xvda,w',"), "the end of the file is no value"],
    [file("= 5"), 'line 3: "=" stands where a key belongs'],
    [file(`disk = ${"[".repeat(5000)}`), "the lists are nested too deep"],
    ["#".repeat(2 ** 20 + 1), "is longer than any configuration"],
  ])("refuses %#", (text, message) => {
    expect(() => read(text)).toThrow(message);
    expect(() => read(text)).toThrow(StoreError);
    expect(() => read(text)).toThrow(/^web\.cfg[^\n]*; [^\n]+$/);
  });

  it.each([
    ["name = 'my web server'", /line 1: the machine is called my-web-server: "my web server" is no name here/],
    [file("type = 'pv'"), /line 3: the machine is of type pvh instead of pv/],
    [file("builder = 'hvm'"), /line 3: the machine is of type pvh instead of hvm/],
    [file("memory = 65", "memory = 66"), /line 4: memory is set again: what line 3 says does not count/],
    [file("bootloader = 'pygrub'"), /line 3: bootloader is passed over/],
    [file("cmdline = 'a'", "extra = 'b'"), /line 3: root and extra do not count beside cmdline/],
    [file("cap = 400"), /line 3: cap is passed over/],
    [file("on_reboot = 'rename-restart'"), /line 3: on_reboot is restart instead of rename-restart/],
    [file("pci = [ '01:00.0' ]"), /pci is passed over: devices of the host/],
    [file('# domlab: {"version": 7}'), /line 3: the comment of domlab cannot be read/],
  ])("notes what differs: %#", (text, pattern) => {
    const { notes } = read(text.includes("kernel") ? text : `${text}\nkernel = '/k'`);
    expect(notes.join("\n")).toMatch(pattern);
  });

  it("says nothing about what is switched off", () => {
    expect(read(file("memory = 64", "vnc = 0", "pci = []", "usbdevice = ''", "vcpus = 1")).notes).toEqual([]);
  });

  it("adds to lists and texts", () => {
    const { config } = read(
      file("disk = [ 'a,raw,xvda,w' ]", "extra = 'a'", "disk += [ 'b,raw,xvdb,w' ]", "extra += ' b'"),
    );
    expect(config.disks.map(({ vdev }) => vdev)).toEqual(["xvda", "xvdb"]);
    expect(config.extraArguments).toBe("a b");
  });
});

describe("disks in a machine's file", () => {
  it.each([
    ["target=/a.qcow2,format=qcow2,vdev=xvda", "/a.qcow2", "qcow2"],
    ["qcow2:/qcow2/a,xvda,w", "/qcow2/a", "qcow2"],
    ["/qcow2,qcow2,xvda,w", "/qcow2", "qcow2"],
    ["vdev=xvda,format=qcow2,target=/a,format=qcow2", "/a,format=qcow2", "qcow2"],
    ["vdev=xvda,target=/a,format=qcow2", "/a,format=qcow2", "probe"],
    ["/qcow2,,xvda,w", "/qcow2", "probe"],
  ])("reads %s", (text, source, format) => {
    expect(parseDiskConfig(text, "/")).toMatchObject({ vdev: "xvda", source, format });
  });
});

describe("export for xl", () => {
  it("writes what a Xen host takes", () => {
    const config = machineConfig.parse({
      name: "web",
      image: "debian",
      memoryMiB: 1024,
      extraArguments: "quiet",
      disks: [
        { vdev: "xvda", source: '/images/a "b".qcow2', format: "qcow2", persistent: true },
        { vdev: "xvdb", source: "nbd://host/x" },
      ],
      vifs: [{ mac: "00:16:3e:00:00:01", bridge: "lab0", rate: { bytes: 62500, intervalUs: 50000 }, queues: 2 }],
      autostart: true,
      cpuCap: 50,
    });
    const files = { kernel: "/boot/vmlinuz", ramdisk: "/boot/initrd", commandLine: "root=/dev/xvda" };
    const lines = exportXlConfig(config, files).split("\n");
    expect(lines.pop()).toBe("");
    expect(JSON.parse(lines.pop()!.replace("# domlab: ", ""))).toMatchObject({
      keys: { autostart: true },
      disks: { xvda: { persistent: true } },
      moreDisks: [{ at: 1, disk: { vdev: "xvdb" } }],
    });
    expect(lines).toEqual([
      "# xl has no words for the disk xvdb (nbd://host/x)",
      'name = "web"',
      'type = "pvh"',
      'kernel = "/boot/vmlinuz"',
      'ramdisk = "/boot/initrd"',
      'cmdline = "root=/dev/xvda quiet"',
      "memory = 1024",
      "vcpus = 1",
      "cap = 50",
      "disk = [",
      '  "format=qcow2,vdev=xvda,access=rw,target=/images/a \\"b\\".qcow2",',
      "]",
      "vif = [",
      '  "mac=00:16:3e:00:00:01,bridge=lab0,rate=1250000B/s@50000us",',
      "]",
      'on_poweroff = "destroy"',
      'on_reboot = "restart"',
      'on_crash = "destroy"',
    ]);
  });

  it("says when xl will find no kernel", () => {
    expect(exportXlConfig(machineConfig.parse({ name: "web" }))).toMatch(
      /^# xl needs a kernel; .* image debian-shell\n/,
    );
  });

  it("lets those who edit the file have their way", () => {
    const config = machineConfig.parse({
      name: "web",
      autostart: true,
      disks: [{ vdev: "xvda", source: "/a", placement: "hypervisor" }],
      vifs: [{ bridge: "lab0", queues: 4, mac: "00:16:3e:00:00:01" }],
    });
    const text = exportXlConfig(config, { kernel: "/k", commandLine: "a" });
    const edited = text
      .replace("memory = 512", "memory = 64")
      .replace('kernel = "/k"', 'kernel = "/other"')
      .replace("target=/a", "target=/b")
      .replace("00:01", "00:02");
    expect(read(edited).config).toMatchObject({
      image: null,
      kernel: "/other",
      commandLine: "a",
      memoryMiB: 64,
      autostart: true,
      disks: [{ source: "/b", placement: "hypervisor" }],
      vifs: [{ mac: "00:16:3e:00:00:02" }],
    });
    expect(read(edited).config.vifs[0]).not.toHaveProperty("queues");
    expect(read(text).config).toEqual(config);
  });

  it("comes back as the same machine", () => {
    const files = fc.option(
      fc.record({ kernel: fc.constant("/k"), ramdisk: fc.constant("/r"), commandLine: fc.constantFrom("", "a=b") }),
      { nil: undefined },
    );
    fc.assert(
      fc.property(anyMachine, files, (config, boot) => {
        const text = exportXlConfig(config, boot);
        expect(read(text)).toEqual({ config, notes: [] });
      }),
      { numRuns: 400 },
    );
  });
});

describe("hostile files", () => {
  it("quotes any text so that it is read back", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (text) => {
        const { settings } = parseXlSyntax(`a = ${quoteXl(text)}`, "x");
        expect(settings).toMatchObject([{ key: "a", value: { kind: "text", text } }]);
      }),
    );
  });

  it("are read or refused in one line, whatever they hold", () => {
    const lines = TYPICAL.split("\n");
    const ours = exportXlConfig(read(TYPICAL).config).split("\n");
    const piece = fc.oneof(
      fc.constantFrom(...lines, ...ours),
      fc.constantFrom(
        "[",
        "]",
        "'",
        '"',
        "\\",
        "=",
        "+=",
        ";",
        ",",
        "#",
        "# domlab: {}",
        "\0",
        "disk",
        "vif",
        "name",
        "0x",
        "\r",
      ),
      fc.string({ unit: "binary", maxLength: 10 }),
    );
    const text = fc
      .array(piece, { maxLength: 30 })
      .chain((words) => fc.constantFrom("", " ", "\n").map((gap) => words.join(gap)));
    fc.assert(
      fc.property(text, (content) => {
        try {
          const { config } = read(content);
          expect(machineConfig.parse(config)).toEqual(config);
        } catch (error) {
          expect(error).toBeInstanceOf(StoreError);
          expect(String(error)).not.toContain("\n");
        }
      }),
      { numRuns: 2000 },
    );
  });

  it("have no say through our comment but over what the schema allows", () => {
    const values = fc.oneof(
      fc.jsonValue(),
      fc.dictionary(fc.constantFrom("__proto__", "name", "disks", "source"), fc.jsonValue()),
    );
    const rest = fc.record(
      { version: fc.constant(1), keys: values, disks: values, boot: values },
      { requiredKeys: ["version"] },
    );
    fc.assert(
      fc.property(rest, (comment) => {
        const text = file("disk = [ 'a,raw,xvda,w' ]", `# domlab: ${JSON.stringify(comment)}`);
        try {
          const { config } = read(text);
          expect(config.name).toBe("web");
          expect(config.disks).toHaveLength(1);
        } catch (error) {
          expect(error).toBeInstanceOf(StoreError);
        }
      }),
      { numRuns: 500 },
    );
  });
});
