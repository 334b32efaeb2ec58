/** The firewall's log and the classes of an accounting, as the lab writes them and as people read them. */
import { describe, expect, it } from "vitest";
import { Accounting } from "../../engine/network/policy/classify.ts";
import { InterfaceNumbers } from "../../engine/network/policy/packet.ts";
import { classLine, classRows, suggestions } from "../../renderer/views/networks/classes.ts";
import { concerns, readPacketLine } from "../../renderer/views/networks/packet-lines.ts";

const MACS = "MAC=00:16:3e:00:00:02:00:16:3e:00:00:01";

describe("a line of the packet log", () => {
  it("has both ends with their ports, its flags and its length", () => {
    const text =
      `new: IN=vif1.0 OUT=uplink ${MACS}:08:00 SRC=10.0.2.15 DST=1.1.1.1 LEN=60 TOS=0x00 PREC=0x00 TTL=64 ID=7 DF ` +
      "PROTO=TCP SPT=40000 DPT=80 WINDOW=64240 RES=0x00 SYN URGP=0";
    expect(readPacketLine(text)).toEqual({
      in: "vif1.0",
      out: "uplink",
      prefix: "new:",
      source: "10.0.2.15:40000",
      destination: "1.1.1.1:80",
      protocol: "TCP",
      more: "SYN 60 bytes",
    });
  });

  it("has the packet's length, and not that of UDP within", () => {
    const text = `IN= OUT=vif2.0 ${MACS}:08:00 SRC=1.1.1.1 DST=10.0.2.15 LEN=76 TTL=64 ID=1 PROTO=UDP SPT=53 DPT=9 LEN=56`;
    expect(readPacketLine(text)).toMatchObject({ in: "", out: "vif2.0", prefix: "", more: "76 bytes" });
  });

  it("is read for ICMP, ARP and what is no IP at all", () => {
    const ping = `IN=vif1.0 OUT= ${MACS}:08:00 SRC=10.0.0.1 DST=10.0.0.2 LEN=84 TTL=64 ID=1 PROTO=ICMP TYPE=8 CODE=0 ID=9 SEQ=1`;
    expect(readPacketLine(ping)).toMatchObject({ protocol: "ICMP", source: "10.0.0.1", more: "type 8 84 bytes" });
    const arp = `IN=vif1.0 OUT= ${MACS}:08:06 ARP HTYPE=1 PTYPE=0x0800 OPCODE=1 MACSRC=00:16:3e:00:00:01 IPSRC=10.0.0.1 MACDST=00:00:00:00:00:00 IPDST=10.0.0.2`;
    expect(readPacketLine(arp)).toMatchObject({
      protocol: "ARP",
      source: "10.0.0.1",
      destination: "10.0.0.2",
      more: "who has",
    });
    expect(readPacketLine(arp.replace("OPCODE=1", "OPCODE=2"))?.more).toBe("reply");
    expect(readPacketLine(`IN=vif1.0 OUT= ${MACS}:88:cc`)).toMatchObject({ protocol: "", source: "", more: "" });
    expect(readPacketLine("packet log: 17 lines left out")).toBeUndefined();
  });

  it("shortens addresses of IPv6 once, where most zeros are", () => {
    const line = (from: string, to: string) =>
      `IN=vif1.0 OUT= ${MACS}:86:dd SRC=${from} DST=${to} LEN=60 TC=0 HOPLIMIT=64 FLOWLBL=0 PROTO=TCP SPT=1 DPT=2 ACK`;
    const read = (from: string, to: string) => {
      const { source, destination } = readPacketLine(line(from, to)) ?? {};
      return [source, destination];
    };
    expect(read("fe80:0000:0000:0000:0216:3eff:fe00:0001", "2001:0db8:0000:0000:0001:0000:0000:0001")).toEqual([
      "[fe80::216:3eff:fe00:1]:1",
      "[2001:db8::1:0:0:1]:2",
    ]);
    expect(read("0000:0000:0000:0000:0000:0000:0000:0001", "0000:0000:0000:0000:0000:0000:0000:0000")).toEqual([
      "[::1]:1",
      "[::]:2",
    ]);
    expect(read("ff02:0001:0002:0003:0004:0005:0000:0000", "0001:0002:0003:0004:0005:0006:0007:0008")).toEqual([
      "[ff02:1:2:3:4:5::]:1",
      "[1:2:3:4:5:6:7:8]:2",
    ]);
  });

  it("belongs to its switch, whatever interfaces it names, and to those", () => {
    const line = (into: string, out: string, on = "lab0") => ({
      on,
      packet: readPacketLine(`IN=${into} OUT=${out} ${MACS}:88:cc`),
    });
    const switches = (...of: Parameters<typeof line>) => ["lab0", "lan"].filter((on) => concerns(line(...of), on, on));
    expect(switches("vif1.0", "uplink")).toEqual(["lab0"]);
    // In by an uplink, to whoever it concerns.
    expect(switches("uplink", "")).toEqual(["lab0"]);
    expect(switches("uplink", "", "lan")).toEqual(["lan"]);
    expect(concerns(line("vif1.0", "vif3.0"), "lab0", "vif3.0")).toBe(true);
    expect(concerns(line("uplink", ""), "lab0", "vif3.0")).toBe(false);
    const leftOut = { on: "lab0", packet: readPacketLine("packet log: 17 lines left out") };
    expect(concerns(leftOut, "lab0", "vif3.0")).toBe(true);
    expect(concerns(leftOut, "lan", "lan")).toBe(false);
  });
});

describe("classes of packets", () => {
  const accounting = () => new Accounting(new InterfaceNumbers(), () => {});

  it("are taken by the lab as they are suggested", () => {
    const offered = suggestions([
      { name: "vif1.0", mac: "00:16:3e:00:00:01", machine: { name: "wéb server" } },
      { name: "vif2.0", machine: { name: `-${"x".repeat(60)}` } },
      { name: "vif3.0" },
      { name: "vif4.0", machine: { name: "日本" } },
    ]);
    expect(offered).toHaveLength(8);
    for (const { name, conditions } of offered) {
      const counted = accounting();
      expect(counted.add(classLine(name, conditions)), name).toMatchObject({ ok: true });
      expect(counted.facts(), name).toMatchObject([{ name }]);
    }
    expect(offered[0]).toEqual({
      label: "from wéb server (vif1.0)",
      name: "from-w-b-server",
      conditions: "-m mac --mac-source 00:16:3e:00:00:01",
    });
    expect(accounting().add(classLine(" all ", " "))).toMatchObject({ ok: true });
  });

  it("can be put back as they were listed", () => {
    const counted = accounting();
    counted.add(classLine("syn", '-p tcp --syn -j LOG --log-prefix "syn: "'));
    const [before] = counted.facts();
    counted.remove("syn");
    expect(counted.add(classLine("syn", before!.rule))).toMatchObject({ ok: true });
    expect(counted.facts()).toEqual([before]);
  });

  it("have rates between two looks, and none when they were counted anew", () => {
    const row = (name: string, packets: number, bytes: number, rule = "-p tcp") => ({ name, rule, packets, bytes });
    const before = [row("a", 10, 1000), row("b", 10, 1000), row("c", 10, 1000)];
    const after = [row("a", 14, 5000), row("b", 2, 200), row("c", 20, 2000, "-p udp"), row("d", 1, 1)];
    expect(classRows(before, after, 2).map(({ packetRate, byteRate }) => [packetRate, byteRate])).toEqual([
      [2, 2000],
      [undefined, undefined],
      [undefined, undefined],
      [undefined, undefined],
    ]);
    expect(classRows(before, after, 0)[0]).toMatchObject({ name: "a", packets: 14, byteRate: undefined });
  });
});
