/** ARP and DHCP of the uplink, and which settings it takes. */
import { describe, expect, it } from "vitest";
import { formatIpv4, parseIpv4, writeMac } from "../../../engine/network/address.ts";
import { Protocol } from "../../../engine/network/headers.ts";
import type { UserUplinkOptions } from "../../../engine/network/uplink/user/settings.ts";
import { UserUplink } from "../../../engine/network/uplink/user/user-uplink.ts";
import { arp, DNS, GATEWAY, type Got, GUEST_MAC, GuestNetwork, ipv4, udpBody } from "./user-guest.ts";
import { network } from "./user-servers.ts";

const isUdp = ({ headers }: Got): boolean => headers.protocol === Protocol.udp;

describe("ARP of the user uplink", () => {
  it.each([
    ["gateway", GATEWAY],
    ["name server", DNS],
  ])("answers for the %s", async (_name, address) => {
    const net = await network();
    net.send(arp(1, net.address, address));
    const { headers, bytes } = await net.next((got) => got.headers.arpOperation === 2);
    expect(headers.arpSenderAddress).toBe(address);
    expect(bytes.subarray(22, 28).toString("hex")).toBe("00163efffffe");
    expect(bytes.subarray(0, 6).toString("hex")).toBe("00163e000001");
  });

  it("answers for nobody else", async () => {
    const net = await network();
    net.send(arp(1, net.address, parseIpv4("10.0.2.77")));
    net.send(arp(1, net.address, GATEWAY));
    const { headers } = await net.next((got) => got.headers.arpOperation === 2);
    expect(headers.arpSenderAddress).toBe(GATEWAY);
    expect(net.got).toHaveLength(0);
  });
});

const BROADCAST = { high: 0xffff, low: 0xffff_ffff };

function dhcp(type: number, options: readonly number[] = [], clientAddress = 0, mac = GUEST_MAC, chaddr = mac): Buffer {
  const message = Buffer.alloc(300);
  message.set([1, 1, 6, 0, 0xca, 0xfe, 0xba, 0xbe]);
  message.writeUInt32BE(clientAddress, 12);
  writeMac(chaddr, message, 28);
  message.set([0x63, 0x82, 0x53, 0x63, 53, 1, type, ...options, 255], 236);
  return ipv4(
    Protocol.udp,
    clientAddress,
    0xffff_ffff,
    udpBody(clientAddress, 0xffff_ffff, 68, 67, message),
    mac,
    BROADCAST,
  );
}

function addressOption(option: number, address: number): number[] {
  return [option, 4, address >>> 24, (address >>> 16) & 255, (address >>> 8) & 255, address & 255];
}

function readReply({ payload }: Got): { your: number; options: Map<number, Buffer> } {
  const options = new Map<number, Buffer>();
  for (let at = 240; payload[at] !== 255; at += 2 + payload[at + 1]!) {
    options.set(payload[at]!, payload.subarray(at + 2, at + 2 + payload[at + 1]!));
  }
  expect(payload.readUInt32BE(4)).toBe(0xcafe_babe);
  return { your: payload.readUInt32BE(16), options };
}

/** DISCOVER and REQUEST. @returns the address */
async function lease(net: GuestNetwork, mac = GUEST_MAC): Promise<number> {
  net.send(dhcp(1, [], 0, mac));
  const { your, options } = readReply(await net.next(isUdp));
  expect([...options.get(53)!]).toEqual([2]);
  net.send(dhcp(3, [...addressOption(50, your), ...addressOption(54, GATEWAY)], 0, mac));
  const answer = readReply(await net.next(isUdp));
  expect([...answer.options.get(53)!]).toEqual([5]);
  expect(answer.your).toBe(your);
  return your;
}

describe("DHCP of the user uplink", () => {
  it("offers and gives an address, with all that a guest needs", async () => {
    const net = await network({ domain: "lab.test", mtu: 9000 });
    net.send(dhcp(1));
    const got = await net.next(isUdp);
    const { your, options } = readReply(got);
    expect(formatIpv4(your)).toMatch(/^10\.0\.2\.(1[5-9]|[2-9]\d|1\d\d|2[0-4]\d|25[0-4])$/);
    expect(got.headers.sourcePort).toBe(67);
    expect(got.headers.destination4).toBe(your);
    expect(options.get(1)!.toString("hex")).toBe("ffffff00");
    expect(options.get(3)!.readUInt32BE(0)).toBe(GATEWAY);
    expect(options.get(6)!.readUInt32BE(0)).toBe(DNS);
    expect(options.get(15)!.toString()).toBe("lab.test");
    expect(options.get(26)!.readUInt16BE(0)).toBe(9000);
    expect(options.get(51)!.readUInt32BE(0)).toBe(86_400);
    expect(options.get(54)!.readUInt32BE(0)).toBe(GATEWAY);
  });

  it("gives an interface the same address again, others another, and the same after its own restart", async () => {
    const net = await network();
    const first = await lease(net);
    const other = await lease(net, { high: 0x16, low: 0x3e00_0002 });
    expect(await lease(net)).toBe(first);
    expect(other).not.toBe(first);
    expect(await lease(await network())).toBe(first);
  });

  it("gives an interface with a fixed address that one, and its name", async () => {
    const net = await network({ leases: [{ mac: "00:16:3E:00:00:01", address: "10.0.2.9", hostname: "web" }] });
    expect(formatIpv4(await lease(net))).toBe("10.0.2.9");
    net.send(dhcp(3, addressOption(50, parseIpv4("10.0.2.9"))));
    const { options } = readReply(await net.next(isUdp));
    expect(options.get(12)!.toString()).toBe("web");
  });

  it("says NAK to a wish for what another has, and lets a guest keep what it had before our restart", async () => {
    const net = await network();
    const taken = await lease(net);
    net.send(dhcp(3, addressOption(50, taken), 0, { high: 0x16, low: 0x3e00_0002 }));
    expect([...readReply(await net.next(isUdp)).options.get(53)!]).toEqual([6]);
    const kept = parseIpv4("10.0.2.200");
    net.send(dhcp(3, addressOption(50, kept), 0, { high: 0x16, low: 0x3e00_0003 }));
    const answer = readReply(await net.next(isUdp));
    expect([[...answer.options.get(53)!], answer.your]).toEqual([[5], kept]);
  });

  it("answers INFORM without a lease, and gives a released address to another only when none is left", async () => {
    const net = await network({ dhcpFirst: "10.0.2.15", dhcpLast: "10.0.2.15" });
    const address = await lease(net);
    net.send(dhcp(8, [], address));
    const informed = readReply(await net.next(isUdp));
    expect([informed.your, informed.options.has(51), informed.options.has(3)]).toEqual([0, false, true]);
    const other = { high: 0x16, low: 0x3e00_0002 };
    net.send(dhcp(1, [], 0, other));
    expect(net.uplink.counters["dhcp-exhausted"]).toBe(1);
    net.send(dhcp(7, addressOption(54, GATEWAY), address));
    expect(await lease(net, other)).toBe(address);
  });

  it("ignores who asks in another's name", async () => {
    const net = await network();
    net.send(dhcp(1, [], 0, GUEST_MAC, { high: 0x16, low: 0x3e00_0099 }));
    expect(net.uplink.counters["dhcp-malformed"]).toBe(1);
  });
});

/** A query for "a.test", type A. */
describe("settings of the user uplink", () => {
  it.each<[UserUplinkOptions, string]>([
    [
      { subnet: "10.0.2.0" },
      'subnet "10.0.2.0" does not fit; write an IPv4 network between /8 and /29, like 10.0.2.0/24',
    ],
    [
      { subnet: "fd00::/64" },
      'subnet "fd00::/64" does not fit; write an IPv4 network between /8 and /29, like 10.0.2.0/24',
    ],
    [{ gateway: "10.0.3.1" }, "gateway 10.0.3.1 is no address of 10.0.2.0/24; choose one inside the subnet"],
    [{ gateway: "10.0.2.3" }, "gateway and name server have one address; give them two"],
    [{ dhcpFirst: "10.0.2.20", dhcpLast: "10.0.2.19" }, "the DHCP range is empty; let it end after it begins"],
    [{ mtu: 100 }, "MTU 100 does not fit; use a number from 576 to 65535"],
    [{ hostLoopback: [70_000] }, "host port 70000 is no port; use a number from 1 to 65535"],
    [{ resolvers: ["x"] }, '"x" is no IPv4 address; write four numbers up to 255, like 10.0.0.5'],
    [{ connections: 0 }, "a limit of 0 does not fit; use a number from 1 to 65536"],
  ])("refuses %j in one line", (options, line) => {
    const context = {
      send: () => undefined,
      log: () => undefined,
      clock: { now: () => 0, after: () => ({ cancel: () => undefined }) },
    };
    expect(() => new UserUplink(context, options)).toThrow(line);
  });

  it("describes itself in plain values", async () => {
    const net = await network({ subnet: "192.168.77.0/24", resolvers: ["192.0.2.1"] });
    const described = JSON.parse(JSON.stringify(net.uplink.describe()));
    expect(described).toMatchObject({
      kind: "user",
      subnet: "192.168.77.0/24",
      gateway: "192.168.77.2",
      gatewayMac: "00:16:3e:ff:ff:fe",
      dns: "192.168.77.3",
      resolvers: ["192.0.2.1:53"],
      forwards: [],
    });
  });

  it("takes nothing before start() and after close()", async () => {
    const net = new GuestNetwork();
    net.send(arp(1, net.address, GATEWAY));
    await net.uplink.start();
    net.send(arp(1, net.address, GATEWAY));
    await net.next((got) => got.headers.arpOperation === 2);
    await net.uplink.close();
    await net.uplink.close();
    net.send(arp(1, net.address, GATEWAY));
    expect(net.uplink.counters).toMatchObject({ framesIn: 1, framesOut: 1 });
  });
});
