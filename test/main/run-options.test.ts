import { describe, expect, it } from "vitest";
import { BadInput, explain } from "../../main/failure.ts";
import { DEFAULT_IMAGE, DEFAULT_MEMORY_MIB, parseRunOptions } from "../../main/run-options.ts";

describe("options of run", () => {
  it("fills in defaults", () => {
    expect(parseRunOptions({})).toMatchObject({
      image: DEFAULT_IMAGE,
      memoryMiB: DEFAULT_MEMORY_MIB,
      timeoutSeconds: undefined,
      json: false,
    });
  });

  it("takes a memory size with or without its unit", () => {
    expect(parseRunOptions({ memory: "256" }).memoryMiB).toBe(256);
    expect(parseRunOptions({ memory: "256MiB" }).memoryMiB).toBe(256);
  });

  it("reads disks", () => {
    const { disks } = parseRunOptions({ disk: ["a.img,,xvda", "vdev=xvdb,access=ro,target=/b"] }, "/images");
    expect(disks).toMatchObject([
      { name: "xvda", target: "a.img", store: { path: "/images/a.img" }, readOnly: false },
      { name: "xvdb", target: "/b", store: { path: "/b" }, readOnly: true },
    ]);
    expect(parseRunOptions({}).disks).toEqual([]);
  });

  it.each([
    { disk: ["a.img,,xvda", "b.img,,51712"] },
    { disk: ["a.img"] },
    { disk: ["a.img,vmdk,xvda"] },
    { memory: "lots" },
    { memory: "-1" },
    { memory: "0" },
    { memory: "1.5" },
    { memory: "99999999999999999999" },
    { timeout: "soon" },
    { timeout: "0" },
    { timeout: "1e9" },
    { timeout: "99999999" },
    { kernel: "" },
    { initrd: "" },
    { exec: "a\0b" },
    { exec: "true", initrd: "i", cmdline: "console=hvc0 rdinit=/bin/sh" },
    { image: "debian-shell", kernel: "k", initrd: "i" },
  ])("refuses %j in one line", (raw) => {
    let caught: unknown;
    try {
      parseRunOptions(raw);
    } catch (error) {
      caught = error;
    }
    expect(caught).toBeInstanceOf(BadInput);
    expect(explain(caught)).toMatchObject({ status: 2, line: expect.stringMatching(/^[^\n]+$/) });
  });
});

describe("explain", () => {
  it("puts a system error into words", () => {
    const error = Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC", path: "/state/x" });
    expect(explain(error)).toMatchObject({ status: 2, line: expect.stringContaining("/state/x cannot be written") });
  });

  it("calls everything else an internal error", () => {
    expect(explain(new TypeError("a\nb"))).toMatchObject({ status: 1, line: "internal error: a b" });
  });
});
