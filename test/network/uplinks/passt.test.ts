import { createConnection, createServer } from "node:net";
import { afterEach, describe, expect, test } from "vitest";
import { Frame } from "../../../engine/device/net/frame.ts";
import { formatIpv4, parseCidr, parseIpv4, parseMac } from "../../../engine/network/address.ts";
import { Headers } from "../../../engine/network/headers.ts";
import { findPasst, type PasstSettings, PasstUplink } from "../../../engine/network/uplink/passt.ts";
import { passtArguments } from "../../../engine/network/uplink/passt-process.ts";
import { hostAddresses } from "../../../engine/network/uplink/user/reachability.ts";
import { arp, ethernet, ipv4, lent, MAC_A, MAC_B, tcp, udp } from "../capture/frames.ts";
import { eventually, testContext } from "./context.ts";

const GATEWAY_MAC = "52:55:0a:00:02:02";
const guest = parseCidr("10.0.2.15/24");
if (guest.version !== 4) throw new Error("IPv4");

const settings: PasstSettings = {
  guest,
  gateway: parseIpv4("10.0.2.2"),
  dns: parseIpv4("10.0.2.3"),
  gatewayMac: parseMac(GATEWAY_MAC),
  mtu: 1500,
  forwards: [],
};

function dhcpDiscover(): Uint8Array {
  const bytes = new Uint8Array(300);
  bytes.set([1, 1, 6, 0, 1, 2, 3, 4]);
  bytes.set([0x00, 0x16, 0x3e, 0, 0, 0x0a], 28);
  bytes.set([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255], 236);
  return ethernet(0x0800, ipv4("0.0.0.0", "255.255.255.255", 17, udp(68, 67, bytes)), {
    destination: "ff:ff:ff:ff:ff:ff",
  });
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return typeof address === "object" && address !== null ? address.port : 0;
}

describe("passt's command line", () => {
  test("names addresses and forwards, and leaves the host's loopback out", () => {
    const forward = { protocol: "tcp", hostAddress: parseIpv4("127.0.0.1"), hostPort: 8080, guestPort: 80 } as const;
    const words = passtArguments({ ...settings, forwards: [forward, { ...forward, protocol: "udp" }] }).join(" ");
    expect(words).toContain("--no-map-gw");
    expect(words).toContain("--address 10.0.2.15 --netmask 255.255.255.0 --gateway 10.0.2.2");
    expect(words).toContain("--tcp-ports 127.0.0.1/8080:80 --udp-ports 127.0.0.1/8080:80");
  });

  test("a program that is not there is one line", async () => {
    expect(findPasst("/nowhere:")).toBeUndefined();
    await expect(new PasstUplink(testContext(), settings, "/nowhere/passt").start()).rejects.toThrow(/does not run; /);
    const { start } = PasstUplink.prototype;
    await expect(start.call({ program: undefined })).rejects.toThrow(/^passt is not installed; install /);
  });
});

// What needs the program; skipped where it is not installed.
describe.skipIf(findPasst() === undefined)("passt (needs the program)", () => {
  let uplink: PasstUplink | undefined;
  afterEach(async () => {
    await uplink?.close();
    uplink = undefined;
  });

  test("gives the guest its address", async () => {
    const context = testContext();
    uplink = new PasstUplink(context, settings);
    await uplink.start();
    expect(uplink.describe()).toMatchObject({ kind: "passt", state: "running", guest: "10.0.2.15/24" });
    expect(uplink.deliver(lent(dhcpDiscover()))).toBeUndefined();
    uplink.flush();
    const headers = new Headers();
    await eventually(() =>
      context.frames.some((frame) => headers.parse(frame) === undefined && headers.destinationPort === 68),
    ).toBe(true);
    const offer = context.frames.find((frame) => headers.parse(frame) === undefined && headers.destinationPort === 68);
    const bytes = new Uint8Array(4);
    offer!.copyTo(bytes, 0, 14 + 20 + 8 + 16, 4);
    expect([...bytes]).toEqual([10, 0, 2, 15]);
  });

  test("does not let the guest reach the host's loopback or its own addresses", async () => {
    const connections: string[] = [];
    const server = createServer((socket) => {
      connections.push(socket.localAddress ?? "");
      socket.destroy();
    });
    await new Promise<void>((resolve) => server.listen(0, "0.0.0.0", resolve));
    const address = server.address();
    const port = typeof address === "object" && address !== null ? address.port : 0;
    const context = testContext();
    uplink = new PasstUplink(context, settings);
    await uplink.start();
    const own = [...hostAddresses()].map(formatIpv4);
    const targets = ["127.0.0.1", "127.8.8.8", "0.0.0.0", "169.254.169.254", ...own];
    for (const target of targets) {
      const syn = lent(
        ethernet(0x0800, ipv4("10.0.2.15", target, 6, tcp(5000, port, 2)), { destination: GATEWAY_MAC }),
      );
      syn.checksum = "blank";
      expect(uplink.deliver(syn)).toBeUndefined();
    }
    uplink.flush();
    // passt answers in order: when this comes back, it has dealt with what was before.
    uplink.deliver(lent(ethernet(0x0806, arp(1, "10.0.2.15", "10.0.2.99"))));
    uplink.flush();
    await eventually(() => context.frames.length).toBeGreaterThan(0);
    expect(uplink.counters.refused).toBe(targets.length);
    expect(connections).toEqual([]);
    await new Promise((resolve) => server.close(resolve));
  });

  test("a forwarded port reaches the guest", async () => {
    const port = await freePort();
    const forward = { protocol: "tcp", hostAddress: parseIpv4("127.0.0.1"), hostPort: port, guestPort: 80 } as const;
    const context = testContext();
    uplink = new PasstUplink(context, { ...settings, forwards: [forward] });
    await uplink.start();
    // passt learns the guest's MAC address.
    uplink.deliver(lent(ethernet(0x0806, arp(1, "10.0.2.15", "10.0.2.2"))));
    uplink.flush();
    const client = createConnection(port, "127.0.0.1").on("error", () => {});
    const headers = new Headers();
    const isSyn = (frame: Frame) => headers.parse(frame) === undefined && headers.tcpFlags === 2;
    await eventually(() => context.frames.some(isSyn)).toBe(true);
    const syn = context.frames.find(isSyn);
    headers.parse(syn!);
    expect(headers.destinationPort).toBe(80);
    expect(formatIpv4(headers.destination4)).toBe("10.0.2.15");
    client.destroy();
  });

  test("serves one guest; another one's frames are counted", async () => {
    uplink = new PasstUplink(testContext(), settings);
    await uplink.start();
    uplink.deliver(lent(ethernet(0x0806, arp(1, "10.0.2.15", "10.0.2.2"), { source: MAC_A })));
    uplink.deliver(lent(ethernet(0x0806, arp(1, "10.0.2.16", "10.0.2.2"), { source: MAC_B })));
    expect(uplink.counters.otherGuest).toBe(1);
    expect(uplink.deliver(Frame.of(new Uint8Array(10)))).toBeUndefined();
    expect(uplink.counters.malformed).toBe(1);
  });

  test("is gone after close(), and frames then find it down", async () => {
    uplink = new PasstUplink(testContext(), settings);
    await uplink.start();
    await uplink.close();
    await uplink.close();
    expect(uplink.deliver(lent(dhcpDiscover()))).toBe("down");
    expect(uplink.describe()).toMatchObject({ state: "closed" });
  });

  test("settings that passt refuses are one line", async () => {
    const forward = { protocol: "tcp", hostAddress: parseIpv4("203.0.113.9"), hostPort: 1, guestPort: 80 } as const;
    uplink = new PasstUplink(testContext(), { ...settings, mtu: 1, forwards: [forward] });
    await expect(uplink.start()).rejects.toThrow(
      /^passt does not start: [^\n]+; correct that, or use the uplink user$/,
    );
  });
});
