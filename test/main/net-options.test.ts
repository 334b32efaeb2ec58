import { describe, expect, it } from "vitest";
import { BadInput, explain } from "../../main/failure.ts";
import { commandLine } from "../../main/network-commands.ts";
import { formatForward, formatUplink, parseForward, parseNetwork, parseUplink } from "../../main/network-option.ts";
import { parseRunOptions } from "../../main/run-options.ts";
import { parseVif } from "../../main/vif-option.ts";

/** The line that a refusal shows. */
function refusal(parse: () => unknown): string {
  try {
    parse();
  } catch (error) {
    expect(error).toBeInstanceOf(BadInput);
    const { line, status } = explain(error);
    expect(status).toBe(2);
    expect(line).toMatch(/^[^\n]+; [^\n]+$/);
    return line;
  }
  throw new Error("it was accepted");
}

describe("--vif", () => {
  it.each([
    ["", { bridge: "lab0", ips: [], spoofing: false }],
    ["bridge=lab1", { bridge: "lab1" }],
    ["mac=00:16:3E:12:34:56,", { mac: "00:16:3e:12:34:56" }],
    ["ip=10.0.0.5 10.0.0.6/32 fd00::5", { ips: ["10.0.0.5", "10.0.0.6", "fd00::5"] }],
    ["ip=10.0.0.0/24", { ips: ["10.0.0.0/24"] }],
    ["rate=10Mb/s@50ms", { rate: { bytes: 62_500, intervalUs: 50_000 } }],
    ["rate=1MB/s", { rate: { bytes: 50_000, intervalUs: 50_000 } }],
    ["devid=3, mtu=9000, queues=2", { handle: 3, mtu: 9000, queues: 2 }],
    ["type=vif,script=vif-bridge", { bridge: "lab0" }],
    ["script=/etc/xen/scripts/vif-bridge", { bridge: "lab0" }],
    ["spoofing=on,vlan=10,notify=8/50", { spoofing: true, vlan: 10, notify: { frames: 8, us: 50 } }],
    ["vlan=10 20 30", { vlan: [10, 20, 30] }],
    ["notify=4", { notify: { frames: 4, us: 100 } }],
    ["backend=router", { backend: "router" }],
  ])("%s", (text, expected) => {
    expect(parseVif(text)).toMatchObject(expected);
  });

  it.each([
    ["mac=00:16:3e:12:34", /"00:16:3e:12:34" is no MAC address; /],
    ["mac=01:00:5e:00:00:01", /multicast/],
    ["mac=00:00:00:00:00:00", /nobody's address/],
    ["ip=10.0.0.256", /10\.0\.0\.256/],
    ["ip=10.0.0.5 fd00::z", /fd00::z/],
    ["rate=fast", /"fast" is no rate/],
    ["rate=10Mb/s@50", /interval without a unit/],
    ["mtu=67", /mtu=67 is no number from 68 to 65521/],
    ["queues=0", /queues=0/],
    ["devid=-1", /devid=-1/],
    ["bridge=a b", /no name for a switch/],
    ["bridge=br.0", /no name for a switch/],
    ["type=ioemu", /no network card is emulated/],
    ["model=e1000", /no network card is emulated/],
    ["script=vif-route", /scripts are not run/],
    ["vifname=web", /not renamed/],
    ["gatewaydev=eth0", /gatewaydev is not offered/],
    ["mac", /"mac" is no parameter/],
    ["speed=high", /no parameter is named speed/],
    ["ip=10.0.0.1,ip=10.0.0.2", /ip is given twice/],
    ["vlan=0", /vlan=0/],
    ["vlan=5000", /vlan=5000/],
    ["spoofing=maybe", /spoofing=maybe/],
    ["notify=8/fast", /notify=8\/fast/],
  ])("%s is refused", (text, line) => {
    expect(refusal(() => parseVif(text))).toMatch(line);
  });
});

describe("uplinks", () => {
  it.each([
    ["none", { kind: "none" }],
    ["user", { kind: "user" }],
    ["user,subnet=10.0.5.0/24,host=8080,host=9000", { kind: "user", subnet: "10.0.5.0/24", hostPorts: [8080, 9000] }],
    ["tap,name=tap0,bridge=br0", { kind: "tap", name: "tap0", bridge: "br0" }],
    ["socket,listen=/run/x", { kind: "socket", path: "/run/x", listen: true }],
    ["socket,connect=/run/x", { kind: "socket", path: "/run/x", listen: false }],
    ["pcap,write=/tmp/out.pcapng,play=/tmp/in.pcap", { kind: "pcap", write: "/tmp/out.pcapng", play: "/tmp/in.pcap" }],
    ["passt", { kind: "passt" }],
  ])("%s, and back", (text, expected) => {
    const uplink = parseUplink(text, "/elsewhere");
    expect(uplink).toEqual(expected);
    expect(parseUplink(formatUplink(uplink), "/elsewhere")).toEqual(uplink);
  });

  it("have relative paths of a folder", () => {
    expect(parseUplink("pcap,write=out.pcapng", "/here")).toMatchObject({ write: "/here/out.pcapng" });
  });

  it("belong to a switch", () => {
    expect(parseNetwork("user,host=80", "/")).toEqual({ name: "lab0", uplink: { kind: "user", hostPorts: [80] } });
    expect(parseNetwork("lab1=tap,name=t0", "/")).toEqual({ name: "lab1", uplink: { kind: "tap", name: "t0" } });
  });

  it.each([
    ["slirp", /"slirp" is no kind of uplink/],
    ["", /"" is no kind of uplink/],
    ["user,subnet=10.0.5.0", /no IPv4 network/],
    ["user,subnet=fd00::/64", /no IPv4 network/],
    ["user,host=0", /host=0 is no port/],
    ["user,name=x", /"name" is no setting of this uplink/],
    ["none,x=1", /"x" is no setting/],
    ["tap,name=a-name-that-is-too-long", /no name of an interface/],
    ["tap,name=a,name=b", /name is given twice/],
    ["tap,name=", /name= has no value/],
    ["socket", /it needs one path/],
    ["socket,listen=/a,connect=/b", /it needs one path/],
    ["pcap", /it has no file/],
    ["9lab=user", /no name for a switch/],
  ])("%s is refused", (text, line) => {
    expect(refusal(() => parseNetwork(text, "/"))).toMatch(line);
  });
});

describe("forwards", () => {
  const forward = { protocol: "tcp", hostAddress: "127.0.0.1", hostPort: 8080, guestAddress: "", guestPort: 80 };
  it.each([
    ["tcp:8080:80", forward],
    ["tcp:127.0.0.1:8080:80", forward],
    ["tcp:8080:10.0.2.15:80", { ...forward, guestAddress: "10.0.2.15" }],
    [
      "udp:0.0.0.0:53:10.0.2.15:53",
      {
        protocol: "udp",
        hostAddress: "0.0.0.0",
        hostPort: 53,
        guestAddress: "10.0.2.15",
        guestPort: 53,
      },
    ],
    ["tcp:[::1]:8080:80", { ...forward, hostAddress: "::1" }],
  ])("%s, and back", (text, expected) => {
    const parsed = parseForward(text);
    expect(parsed).toEqual(expected);
    expect(parseForward(formatForward(parsed))).toEqual(parsed);
  });

  it.each([
    ["8080:80", /no protocol/],
    ["sctp:1:2", /no protocol/],
    ["tcp:8080", /"" is no port of the guest/],
    ["tcp:0:80", /no port of the host|no IP address/],
    ["tcp:8080:65536", /"65536" is no port of the guest/],
    ["tcp:localhost:8080:80", /"localhost" is no IP address/],
    ["tcp:127.0.0.1:8080:10.0.2.15:80:1", /too many parts/],
    ["tcp:10.0.0.0/8:8080:80", /no IP address/],
  ])("%s is refused", (text, line) => {
    expect(refusal(() => parseForward(text))).toMatch(line);
  });
});

describe("run", () => {
  it("has no network unless asked for", () => {
    expect(parseRunOptions({})).toMatchObject({ vifs: [], networks: [], forwards: [] });
  });

  it("makes an interface for a network", () => {
    const { vifs, networks } = parseRunOptions({ network: ["user"] });
    expect(networks).toEqual([{ name: "lab0", uplink: { kind: "user" } }]);
    expect(vifs).toMatchObject([{ bridge: "lab0" }]);
  });

  it("forwards to the guest's interface, whose address is known", () => {
    const { vifs, networks, forwards } = parseRunOptions({ forward: ["tcp:8080:80"] });
    expect(networks).toEqual([{ name: "lab0", uplink: { kind: "user" } }]);
    expect(vifs[0]?.mac).toMatch(/^00:16:3e:/);
    expect(forwards[0]?.guestAddress).toBe("");
    const own = parseRunOptions({ forward: ["tcp:8080:80"], vif: ["ip=10.0.2.50"] });
    expect(own.forwards[0]?.guestAddress).toBe("10.0.2.50");
  });

  it.each([
    [{ vif: ["mac=00:16:3e:00:00:01", "mac=00:16:3E:00:00:01"] }, /two interfaces have the MAC address/],
    [{ vif: ["devid=1", "devid=1"] }, /two interfaces have devid=1/],
    [{ vif: ["bridge=lab1"] }, /there is no switch lab1/],
    [{ network: ["user", "lab0=none"] }, /two networks are called lab0/],
    [{ network: ["none"], forward: ["tcp:8080:80"] }, /needs the uplink user/],
    [{ forward: ["tcp:8080:80", "tcp:127.0.0.1:8080:81"] }, /tcp:127\.0\.0\.1:8080 is forwarded twice/],
  ])("refuses %j", (raw, line) => {
    expect(refusal(() => parseRunOptions(raw))).toMatch(line);
  });
});

describe("words of a shell", () => {
  it("are a line again", () => {
    expect(commandLine(["-A FORWARD -j DROP"])).toBe("-A FORWARD -j DROP");
    expect(commandLine(["-A", "FORWARD", "--log-prefix", 'a "b"'])).toBe('-A FORWARD --log-prefix "a \\"b\\""');
    expect(commandLine([])).toBe("");
  });
});
