import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { applySettings, formatMachineConfig, parseMachineConfig } from "../../../main/lab/store/config-file.ts";
import { StoreError } from "../../../main/lab/store/errors.ts";
import { parseLinedJson } from "../../../main/lab/store/json-lines.ts";
import { editDistance, nearest } from "../../../main/lab/store/nearest.ts";
import { machineConfig, withFixedMacs } from "../../../main/lab/store/schema.ts";

const FULL = `{
  "name": "web",
  "memoryMiB": 1024,
  "disks": [
    { "vdev": "xvda", "source": "/images/web.qcow2", "format": "qcow2" },
    { "vdev": "xvdb", "source": "nbd://host/data", "access": "ro" }
  ],
  "vifs": [{ "bridge": "lab0" }],
  "forwards": [{ "protocol": "tcp", "hostPort": 8080, "guestPort": 80 }],
  "onCrash": "restart",
  "notes": "two\\nlines"
}
`;

describe("a machine's configuration file", () => {
  it("needs no more than a name", () => {
    expect(parseMachineConfig('{"name": "web"}', "web.json")).toEqual({
      name: "web",
      image: "debian-shell",
      extraArguments: "",
      memoryMiB: 512,
      vcpus: 1,
      disks: [],
      vifs: [],
      forwards: [],
      onPoweroff: "destroy",
      onReboot: "restart",
      onCrash: "destroy",
      autostart: false,
      startPriority: 0,
      startDelaySeconds: 0,
      shutdownTimeoutSeconds: 60,
      group: "",
      notes: "",
      protected: false,
    });
  });

  it("is written without what goes without saying, and read back the same", () => {
    const config = parseMachineConfig(FULL, "web.json");
    const text = formatMachineConfig(config);
    expect(text).not.toContain("autostart");
    expect(parseMachineConfig(text, "again")).toEqual(config);
  });

  it.each([
    ['{\n "name": "web",\n\n "memroy": 5\n}', "line 4: there is no key memroy; did you mean memoryMiB?"],
    ['{"name": "web",\n"RAM": 5}', "line 2: there is no key RAM; did you mean memoryMiB?"],
    ['{"name": "web",\n"on_crash": "restart"}', "line 2: there is no key on_crash; did you mean onCrash?"],
    ['{"name": "web", "zzzzzz": 1}', "line 1: there is no key zzzzzz; use name, image, kernel"],
    [FULL.replace('"access"', '"acess"'), "line 6: there is no key acess in disks.1; did you mean access?"],
    [FULL.replace("1024", "0"), "line 3: memoryMiB: Too small"],
    [FULL.replace("1024", "99999"), "line 3: memoryMiB: Too big: expected number to be <=3584"],
    [FULL.replace("1024", '1024, "vcpus": 2'), "a machine has one virtual CPU; say 1 or leave vcpus out"],
    [FULL.replace("xvdb", "xvda"), "line 6: disks.1.vdev: two disks are called xvda"],
    [FULL.replace("/images", "images"), "line 5: disks.0.source: neither an absolute path nor the address of an NBD"],
    [FULL.replace("nbd://host/data", "nbd://"), "line 6: disks.1.source: neither"],
    [FULL.replace('"format": "qcow2"', '"deviceType": "cdrom"'), "disks.0.access: a CD-ROM cannot be written; say ro"],
    ['{"name": "-"}', "line 1: name: not a name"],
    ['{"memoryMiB": 5}', "line 1: name: Invalid input: expected string, received undefined"],
    ['{"name": "a", "image": null}', "kernel: is missing; name a kernel or an image"],
    ['{"name": "a",\n "name": "b"}', 'line 2: the key "name" is given twice'],
    ['{"name": "a",\n}', 'line 2: "}" stands where a key in quotes belongs; correct the JSON there'],
    ['{"name": "a"\n "x": 1}', 'line 2: "\\"" stands where "," or "}" belongs'],
    ['{"name": "a}', "line 1: a text has no end"],
    ["", "line 1: the end of the file is no value"],
    ["[]", "line 1: Invalid input: expected object, received array"],
    ["[".repeat(5000), "more than 64 brackets"],
    ['{"name": "a"} // done', 'line 1: "/" stands behind the end'],
    ['{"name": "a", "__proto__": {}}', "there is no key __proto__"],
    ["x".repeat(2 ** 20 + 1), "is longer than any configuration"],
  ])("refuses %#", (text, message) => {
    expect(() => parseMachineConfig(text, "web.json")).toThrow(StoreError);
    expect(() => parseMachineConfig(text, "web.json")).toThrow(message);
    expect(() => parseMachineConfig(text, "web.json")).toThrow(/^web\.json[^\n]*; [^\n]+$/);
  });

  it("reads JSON as JSON.parse does", () => {
    fc.assert(
      fc.property(fc.json({ maxDepth: 6 }), fc.constantFrom(undefined, 1, "\t"), (text, indent) => {
        const pretty = JSON.stringify(JSON.parse(text), undefined, indent);
        expect(parseLinedJson(pretty).value).toEqual(JSON.parse(pretty));
      }),
    );
  });

  it("takes no text that JSON.parse does not, and fails in one way", () => {
    const pieces = fc.array(
      fc.constantFrom('"', "\\", "{", "}", "[", "]", ",", ":", "1", "-", "e", "null", "\n", '"a"', "\0"),
    );
    fc.assert(
      fc.property(pieces, (words) => {
        const text = words.join("");
        let value: unknown;
        try {
          value = parseLinedJson(text).value;
        } catch (error) {
          expect(error).toMatchObject({ name: "JsonSyntaxError" });
          return;
        }
        expect(JSON.parse(text)).toEqual(value);
      }),
      { numRuns: 2000 },
    );
  });
});

describe("settings", () => {
  const config = parseMachineConfig(FULL, "web.json");

  it("change single values", () => {
    const changed = applySettings(config, [
      "memoryMiB=256",
      "disks.xvdb.placement=hypervisor",
      "disks.0.discard=off",
      "vifs.0.bridge=lab1",
      "autostart=yes",
      "notes=a=b, c",
      "cpuCap=50",
      'forwards=[{"protocol":"udp","hostPort":53,"guestPort":53}]',
    ]);
    expect(changed).toMatchObject({
      memoryMiB: 256,
      disks: [{ discard: false }, { placement: "hypervisor" }],
      vifs: [{ bridge: "lab1" }],
      autostart: true,
      notes: "a=b, c",
      cpuCap: 50,
      forwards: [{ protocol: "udp", hostAddress: "127.0.0.1" }],
    });
    expect(config.memoryMiB).toBe(1024);
  });

  it("are as usual again when they are empty", () => {
    const changed = applySettings({ ...config, cpuCap: 5 }, ["cpuCap=", "memoryMiB=", "disks.xvda="]);
    expect(changed).toMatchObject({ memoryMiB: 512, disks: [{ vdev: "xvdb" }] });
    expect(changed).not.toHaveProperty("cpuCap");
    expect(applySettings(config, ["image=none", "kernel=/boot/vmlinuz"]).image).toBeNull();
  });

  it.each([
    ["memory=1", "there is no key memory; did you mean memoryMiB?"],
    ["memoryMiB=lots", "memoryMiB=lots is no number; say for example memoryMiB=1"],
    ["memoryMiB=0", "memoryMiB: Too small"],
    ["autostart=maybe", "autostart=maybe is neither yes nor no"],
    ["onCrash=explode", "onCrash: Invalid option"],
    ["disks.xvdz.access=ro", "disks has no xvdz; they are counted from 0 to 1"],
    ["disks.0.acess=ro", "there is no key acess in disks.0; did you mean access?"],
    ["disks.0.source.x=1", "there is nothing in disks.0.source to set; it is a single value"],
    ["disks=x", "disks is a list or an object and x is no JSON"],
    ["name=x", "use domlab rename"],
    ["memoryMiB", '"memoryMiB" sets nothing; write key=value'],
    ["__proto__.x=1", "there is no key __proto__"],
    ["constructor=1", "there is no key constructor"],
  ])("refuse %s", (setting, message) => {
    expect(() => applySettings(config, [setting])).toThrow(message);
    expect(() => applySettings(config, [setting])).toThrow(StoreError);
  });

  it("never do anything but change the configuration or refuse", () => {
    const word = fc.constantFrom(
      "disks",
      "vifs",
      "0",
      "1",
      "xvda",
      "access",
      "notes",
      "image",
      "kernel",
      "__proto__",
      "",
      "9",
    );
    const key = fc.array(word, { minLength: 1, maxLength: 4 }).map((words) => words.join("."));
    const text = fc.oneof(fc.constantFrom("", "none", "[]", "{}", "null", "-1", "ro", "/x"), fc.string());
    fc.assert(
      fc.property(fc.array(fc.tuple(key, text), { maxLength: 3 }), (pairs) => {
        try {
          const changed = applySettings(
            config,
            pairs.map(([left, right]) => `${left}=${right}`),
          );
          expect(machineConfig.parse(changed)).toEqual(changed);
        } catch (error) {
          expect(error).toBeInstanceOf(StoreError);
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe("what was meant", () => {
  it("counts edits", () => {
    const pairs: [string, string, number][] = [
      ["", "abc", 3],
      ["abc", "abc", 0],
      ["abc", "acb", 1],
      ["kitten", "sitting", 3],
    ];
    for (const [from, to, count] of pairs) expect(editDistance(from, to)).toBe(count);
  });

  it("finds near words only", () => {
    expect(nearest("disk", ["disks", "vifs"])).toBe("disks");
    expect(nearest("start-priority", ["startPriority"])).toBe("startPriority");
    expect(nearest("xyz", ["disks", "vifs"])).toBeUndefined();
    expect(nearest("", ["disks"])).toBeUndefined();
  });
});

it("gives every interface an address for good", () => {
  const config = machineConfig.parse({
    name: "web",
    vifs: [{ bridge: "lab0" }, { bridge: "lab0", mac: "00:16:3e:00:00:01" }],
  });
  const fixed = withFixedMacs(config);
  expect(fixed.vifs[0]?.mac).toMatch(/^00:16:3e(:[0-9a-f]{2}){3}$/);
  expect(fixed.vifs[1]?.mac).toBe("00:16:3e:00:00:01");
  expect(withFixedMacs(fixed)).toEqual(fixed);
});
