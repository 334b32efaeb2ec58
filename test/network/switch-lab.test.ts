import { describe, expect, test } from "vitest";
import type { MacAddress } from "../../engine/network/address.ts";
import { LabNetwork } from "../../engine/network/lab-network.ts";
import type { PortOptions } from "../../engine/network/port.ts";
import { NetworkError } from "../../engine/network/types.ts";
import { MAC_A, MAC_B } from "./headers-frames.ts";
import { Sink } from "./switch-bench.ts";

describe("the lab's switches", () => {
  const options = (name: string, mac: MacAddress): PortOptions => ({ name, port: new Sink(), rules: { mac } });

  function refusal(call: () => unknown): string {
    try {
      call();
    } catch (error) {
      if (error instanceof NetworkError) {
        expect(error.message).toMatch(/^[\x20-\x7e]+; [\x20-\x7e]+$/);
        return error.code;
      }
    }
    return "none";
  }

  test("names and addresses are there once, and refusals are one line", () => {
    const lab = new LabNetwork();
    lab.create({ name: "lab0" });
    lab.create({ name: "lab1", mtu: 9000 });
    const { port, network } = lab.attach("lab0", options("vif1.0", MAC_A));
    expect(lab.place("vif1.0")).toEqual({ port, network });
    expect(refusal(() => lab.create({ name: "lab0" }))).toBe("duplicate-name");
    expect(refusal(() => lab.create({ name: "../x" }))).toBe("bad-name");
    expect(refusal(() => lab.create({ name: "big", mtu: 70_000 }))).toBe("bad-mtu");
    expect(refusal(() => lab.attach("lab1", options("vif1.0", MAC_B)))).toBe("duplicate-name");
    expect(refusal(() => lab.attach("lab0", options("vif2.0", MAC_A)))).toBe("duplicate-mac");
    expect(refusal(() => lab.attach("lab9", options("vif2.0", MAC_B)))).toBe("unknown-switch");
    expect(refusal(() => lab.delete("lab0"))).toBe("switch-in-use");
    expect(refusal(() => lab.detach("vif7.0"))).toBe("unknown-port");
    lab.attach("lab1", options("vif2.0", MAC_A));
    lab.detach("vif1.0");
    lab.delete("lab0");
    expect(lab.list().map((each) => each.name)).toEqual(["lab1"]);
    expect(lab.find("vif1.0")).toBeUndefined();
  });
});
