/** TypeScript domains on switches of a network driver domain: frames, page exchange, policies, restart. */
import { existsSync } from "node:fs";
import path from "node:path";
import { afterAll, afterEach, describe, expect, it } from "vitest";
import type { NetfrontWishes } from "../../engine/device/net/netfront.ts";
import type { AttachedVif } from "../../engine/domain/vif-toolstack.ts";
import { RamPool } from "../../engine/hypervisor/ram-pool.ts";
import { readCapture } from "../../engine/network/capture/reader.ts";
import { eventually, KernelLab, RUNS, type Unikernel } from "./kernel-lab.ts";

interface Tally {
  readonly frames: number;
  readonly bytes: number;
  readonly missing: number;
  readonly backwards: number;
  readonly damaged: number;
}

const BURST = 200;
/** A driver domain is back within a second, where the host has time for it. */
const BACK_MS = 15_000;

describe.runIf(RUNS)("TypeScript domains on a switch", () => {
  /** One for all tests: a network domain takes longer to start than most of them need. */
  let lab = new KernelLab();
  const domains: Unikernel[] = [];
  const start: KernelLab["start"] = async (...how) => {
    const kernel = await lab.start(...how);
    domains.push(kernel);
    return kernel;
  };
  afterEach(async ({ task }) => {
    const left = domains.splice(0);
    if (task.result?.state === "fail") {
      // The next one is to have nothing to do with what is left.
      await lab.end();
      lab = new KernelLab();
      return;
    }
    for (const kernel of left) await kernel.handle.kill();
    await eventually("no interface", () => lab.host.vifs.list().length === 0);
    for (const { name } of await lab.host.network.show()) await lab.host.network.deleteSwitch(name);
    expect(lab.holdings((await lab.host.networkDomain()).id)).toEqual({ rings: [], maps: [] });
  });
  afterAll(() => lab.end());

  /** A domain with an interface on lab0. */
  async function member(
    mac: string,
    more: { readonly wishes?: Partial<NetfrontWishes>; readonly flip?: boolean; readonly ips?: readonly string[] } = {},
  ): Promise<{ kernel: Unikernel; vif: AttachedVif }> {
    const { ips, ...wishes } = more;
    const kernel = await start("net", { vifs: [{ bridge: "lab0", mac, ...(ips && { ips: [...ips] }) }] });
    await kernel.call("connect", { handle: 0, ...wishes });
    const [vif] = lab.host.vifs.list(kernel.id);
    if (vif === undefined) throw new Error("no interface");
    return { kernel, vif };
  }

  const portOf = async (vif: AttachedVif) => {
    const ports = (await lab.host.network.show()).flatMap((each) => each.ports);
    return ports.find((port) => port.name === vif.name);
  };

  async function pair(
    flip = false,
  ): Promise<{ a: Unikernel; b: Unikernel; vifs: readonly [AttachedVif, AttachedVif] }> {
    await lab.host.network.createSwitch({ name: "lab0" });
    const [a, b] = [await member("00:16:3e:00:00:0a"), await member("00:16:3e:00:00:0b", { flip })];
    return { a: a.kernel, b: b.kernel, vifs: [a.vif, b.vif] };
  }

  const B = "00163e00000b";

  /** Bursts of frames that fit into the receiver's buffers and the backlog, each waited for. */
  async function exchange(a: Unikernel, b: Unikernel, bursts: number, size: number): Promise<void> {
    for (let n = 0; n < bursts; n++) {
      const tally = b.call<Tally>("tally", { handle: 0, count: BURST, ms: 5000 });
      await a.call("blast", { handle: 0, to: B, count: BURST, size });
      expect(await tally).toEqual({ frames: BURST, bytes: BURST * size, missing: 0, backwards: 0, damaged: 0 });
    }
  }

  it.each([
    ["one queue", {}],
    ["one event channel", { split: false }],
    ["three queues", { queues: 3 }],
    ["no scatter-gather", { sg: false, gso: false, checksums: false }],
  ])("send each other frames of all sizes with %s", async (_name, wishes: Partial<NetfrontWishes>) => {
    await lab.host.network.createSwitch({ name: "lab0" });
    const { kernel: a } = await member("00:16:3e:00:00:0a", { wishes });
    const { kernel: b } = await member("00:16:3e:00:00:0b", { wishes });
    for (const size of [64, 257, 1514]) await exchange(a, b, 7, size);
    const { counters } = (await portOf(lab.host.vifs.list(a.id)[0] as AttachedVif)) ?? { counters: {} };
    expect(counters).toMatchObject({ framesIn: 21 * BURST, bytesIn: 7 * BURST * (64 + 257 + 1514), droppedIn: 0 });
  });

  it("are offered as many queues as their interface has", async () => {
    await lab.host.network.createSwitch({ name: "lab0" });
    const kernel = await start("net", { vifs: [{ bridge: "lab0", queues: 2 }] });
    expect(await kernel.call("connect", { handle: 0, wishes: { queues: 4 } })).toMatchObject({ queues: 2 });
    expect(lab.holdings((await lab.host.networkDomain()).id, kernel.id).rings.length).toBe(2);
  });

  it("receive by exchange of pages, and have as many as before", async () => {
    await lab.host.network.createSwitch({ name: "lab0" });
    const { kernel: a } = await member("00:16:3e:00:00:0a");
    const b = await start("net", { vifs: [{ bridge: "lab0", mac: "00:16:3e:00:00:0b" }] });
    const pages = (id: number) => {
      const mapping = lab.host.table.attach(id);
      if (mapping === undefined) throw new Error("no memory");
      const { used } = new RamPool(mapping, mapping.plan.ramBytes / 4096);
      mapping.release();
      return used;
    };
    const [before, backend] = [pages(b.id), pages((await lab.host.networkDomain()).id)];
    await b.call("connect", { handle: 0, flip: true });
    // Each buffer on offer is a page that the domain has given back.
    expect(pages(b.id)).toBe(before - 256);
    await exchange(a, b, 20, 1000);
    await eventually("all offers made again", () => pages(b.id) === before - 256);
    expect(pages((await lab.host.networkDomain()).id)).toBe(backend);
    await b.call("close", { handle: 0 });
    await eventually("all pages back", () => pages(b.id) === before);
  });

  it("cannot send as somebody else, which is counted", async () => {
    await lab.host.network.createSwitch({ name: "lab0" });
    const { kernel: a, vif } = await member("00:16:3e:00:00:0a", { ips: ["10.0.0.1"] });
    const { kernel: b } = await member("00:16:3e:00:00:0b");
    const arp = (senderMac: string, sender: string) =>
      `${B}00163e00000a0806000108000604${"0001"}${senderMac}${sender}${"000000000000"}0a000002`;
    const spoofed = [
      `${B}00163e0000cc0806${"00".repeat(46)}`,
      arp("00163e0000cc", "0a000001"),
      arp("00163e00000a", "0a000009"),
    ];
    expect(await a.call("send", { handle: 0, frames: [...spoofed, arp("00163e00000a", "0a000001")] })).toBe(4);
    expect(await b.call("frames", { handle: 0, count: 1 })).toEqual([arp("00163e00000a", "0a000001")]);
    expect((await portOf(vif))?.counters).toMatchObject({
      framesIn: 4,
      droppedIn: 3,
      "drop:arp-mac-spoofed": 1,
      "drop:arp-address-spoofed": 1,
    });
  });

  it("meet the firewall, classes, the log and impairments of the switch", async () => {
    const { a, b, vifs } = await pair();
    const { network } = lab.host;
    // ICMP echo request from 10.0.0.1 to 10.0.0.2 without data; TCP SYN to port 80.
    const ip = (protocol: string, rest: string) => `${B}00163e00000a0800${header(protocol, rest.length / 2)}${rest}`;
    const header = (protocol: string, length: number) => {
      const bytes = Buffer.from(`450000000001000040${protocol}00000a0000010a000002`, "hex");
      bytes.writeUInt16BE(20 + length, 2);
      let sum = 0;
      for (let at = 0; at < 20; at += 2) sum += bytes.readUInt16BE(at);
      sum = (sum & 0xffff) + (sum >>> 16);
      bytes.writeUInt16BE(~sum & 0xffff, 10);
      return bytes.toString("hex");
    };
    const echo = ip("01", "0800f7fe00010000");
    const syn = ip("06", "03e80050000000010000000050022000" + "00000000");
    await network.firewall("lab0", "-A FORWARD -p tcp --syn -j LOG --log-prefix 'syn: '");
    await network.firewall(vifs[1].name, "-A INPUT -p icmp -j DROP");
    await network.classes("lab0", { add: "class web: -p tcp --dport 80" });
    await a.call("send", { handle: 0, frames: [echo, syn] });
    expect(await b.call("frames", { handle: 0, count: 1 })).toEqual([syn]);
    expect((await portOf(vifs[1]))?.counters).toMatchObject({ framesOut: 1, "drop:policy": 1 });
    expect((await network.log(0)).map(({ on, text }) => [on, text])).toEqual([
      ["lab0", expect.stringMatching(/^syn: IN=vif\d+\.0 OUT=vif\d+\.0 .* SRC=10\.0\.0\.1 .* DPT=80 .* SYN /)],
    ]);
    expect((await network.classes("lab0", { reset: true })).counts).toMatchObject([{ name: "web", packets: 1 }]);
    expect((await network.classes("lab0")).counts).toMatchObject([{ name: "web", packets: 0 }]);
    await expect(network.firewall("lab0", "-A FORWARD --dprot 80")).rejects.toThrow(/--dprot.*did you mean --dport/);
    await network.firewall(vifs[1].name, "-F INPUT");
    await network.impair(vifs[1].name, "loss=100%");
    await a.call("send", { handle: 0, frames: [echo] });
    expect(await b.call("frames", { handle: 0, count: 1, ms: 300 })).toEqual([]);
    await network.impair(vifs[1].name, "");
    await a.call("send", { handle: 0, frames: [echo] });
    expect(await b.call("frames", { handle: 0, count: 1 })).toEqual([echo]);
  });

  it("lose their link and get it back; frames can be captured", async () => {
    const { a, b, vifs } = await pair();
    const { network } = lab.host;
    const file = path.join(lab.folder, "lab.pcapng");
    const { id } = await network.ask("captureStart", { on: "lab0", file, filter: "", snapLength: 0 });
    await network.link(vifs[1].name, false);
    await a.call("blast", { handle: 0, to: B, count: 10, size: 100 });
    expect(await b.call("tally", { handle: 0, count: 1, ms: 300 })).toMatchObject({ frames: 0 });
    await network.link(vifs[1].name, true);
    const tally = b.call("tally", { handle: 0, count: 20 });
    await a.call("blast", { handle: 0, to: B, count: 20, size: 100 });
    expect(await tally).toMatchObject({ frames: 20 });
    expect(await network.ask("captureStop", { id })).toEqual({ frames: 30, dropped: 0 });
    expect(existsSync(file)).toBe(true);
    let packets = 0;
    for await (const record of readCapture(file)) if ("packet" in record || record.kind === "packet") packets++;
    expect(packets).toBe(30);
    await expect(network.ask("captureCount", { id })).rejects.toThrow(/has ended/);
    await expect(
      network.ask("captureStart", { on: "lab0", file, filter: "tcp prot 80", snapLength: 0 }),
    ).rejects.toThrow(/prot/);
  });

  it("go on when the driver domain is killed, with all that was set", async () => {
    const { a, b, vifs } = await pair();
    const { network } = lab.host;
    await network.firewall("lab0", "-A FORWARD -p udp -j DROP");
    await network.impair(vifs[1].name, "delay=1ms");
    await network.classes("lab0", { add: "class all:" });
    const domain = await lab.host.networkDomain();
    for (let n = 0; n < 3; n++) {
      const { pid } = domain;
      const blast = async (meanwhile = () => {}) => {
        const tally = b.call<Tally>("tally", { handle: 0, count: 5000, ms: 3000 });
        const sent = a.call("blast", { handle: 0, to: B, count: 5000, size: 500 });
        meanwhile();
        await sent;
        const { frames, damaged } = await tally;
        // A wire loses frames, all of them while nobody serves it; what it brings is right, and it is never dead for long.
        expect(damaged).toBe(0);
        return frames;
      };
      let frames = await blast(() => process.kill(pid, "SIGKILL"));
      for (const end = Date.now() + BACK_MS; frames === 0 && Date.now() < end; ) frames = await blast();
      expect(frames).toBeGreaterThan(0);
      await eventually("a new process", () => domain.pid !== pid);
      // What the first process had taken may come a second time, and late.
      await b.call("tally", { handle: 0, count: 5000, ms: 200 });
      await exchange(a, b, 1, 500);
    }
    expect((await network.firewall("lab0")).rules).toContain("-A FORWARD -p udp -j DROP");
    expect((await network.show())[0]?.ports.map((port) => port.impair).sort()).toEqual(["", "delay=1ms"]);
    expect((await network.classes("lab0")).counts).toMatchObject([{ name: "all" }]);
  });

  it("leave nothing behind when they end or are detached", async () => {
    const { a, b, vifs } = await pair(true);
    const { network, vifs: toolstack, xenstore } = lab.host;
    await network.firewall(vifs[0].name, "-A OUTPUT -p udp -j DROP");
    const { id } = await lab.host.networkDomain();
    expect(lab.holdings(id).rings.length).toBe(2);
    const detached = lab.host.detachVif(vifs[1].name);
    await b.call("close", { handle: 0 });
    await detached;
    expect(lab.holdings(id, b.id)).toEqual({ rings: [], maps: [] });
    await a.handle.kill();
    await eventually("no interface", () => toolstack.list().length === 0);
    await eventually("no rings", () => lab.holdings(id).rings.length === 0);
    expect(lab.holdings(id)).toEqual({ rings: [], maps: [] });
    expect(xenstore.toolstack.directory(`/local/domain/${id}/network/interface`) ?? []).toEqual([]);
    expect((await network.show())[0]?.ports).toEqual([]);
    await network.deleteSwitch("lab0");
    expect(await network.show()).toEqual([]);
  });

  it("cannot be attached badly", async () => {
    const { a, vifs } = await pair();
    const attach = (vif: Parameters<typeof lab.host.attachVif>[1]) => lab.host.attachVif(a.id, vif);
    await expect(attach({ bridge: "lab0", mac: "00:16:3E:00:00:0B" })).rejects.toThrow(
      `the MAC address 00:16:3E:00:00:0B is that of ${vifs[1].name}; choose another, or leave mac out`,
    );
    await expect(attach({ bridge: "lab9" })).rejects.toThrow(/^there is no switch lab9; use lab0, or make it with /);
    await expect(attach({ bridge: "lab0", handle: 0 })).rejects.toThrow(/has an interface 0 already; /);
    await expect(attach({ bridge: "lab0", vlan: 5 })).rejects.toThrow(/knows no VLANs; /);
    await expect(attach({ bridge: "lab0", mtu: 9000 })).rejects.toThrow(/takes an mtu of 1500 at most; /);
    await expect(lab.host.attachVif(4711, { bridge: "lab0" })).rejects.toThrow(/there is no guest 4711; /);
    await expect(lab.host.detachVif("vif9.9")).rejects.toThrow(/there is no interface vif9\.9; /);
    await expect(lab.host.network.deleteSwitch("lab0")).rejects.toThrow(/has the interface vif\d+\.0; /);
    await expect(lab.host.network.createSwitch({ name: "lab0" })).rejects.toThrow(/is a switch lab0 already; /);
    await expect(
      lab.host.network.addForward("lab0", {
        protocol: "tcp",
        hostAddress: "127.0.0.1",
        hostPort: 1,
        guestAddress: "",
        guestPort: 1,
      }),
    ).rejects.toThrow(/forwards no ports; /);
    expect(lab.host.vifs.list().length).toBe(2);
  });

  it("gives a held domain nothing, and takes nothing of it", async () => {
    const { a, b } = await pair();
    await exchange(a, b, 1, 200);
    const { vifs } = lab.host;
    await vifs.hold(b.id);
    const heard = a.call<Tally>("tally", { handle: 0, count: 1, ms: 300 });
    await a.call("blast", { handle: 0, to: B, count: 20, size: 200 });
    await b.call("blast", { handle: 0, to: "00163e00000a", count: 20, size: 200 });
    // Longer than anything waits in a backlog.
    expect(await b.call<Tally>("tally", { handle: 0, count: 1, ms: 300 })).toMatchObject({ frames: 0 });
    expect(await heard).toMatchObject({ frames: 0 });
    const late = a.call<Tally>("tally", { handle: 0, count: 20, ms: 5000 });
    await vifs.release(b.id);
    expect(await late).toMatchObject({ frames: 20, missing: 0, backwards: 0, damaged: 0 });
    await exchange(a, b, 1, 200);
  });

  it("says when the network domain was started anew under a hold", async () => {
    const { a, b } = await pair();
    const network = await lab.host.networkDomain();
    const { pid } = network;
    await lab.host.vifs.hold(b.id);
    process.kill(pid, "SIGKILL");
    await expect(lab.host.vifs.release(b.id)).rejects.toThrow("the network domain was started anew");
    await eventually("another process", () => network.pid !== pid);
    await exchange(a, b, 1, 200);
    await lab.host.vifs.hold(b.id);
    await b.handle.kill();
    await eventually("a held domain's interface goes with it", () => lab.host.vifs.list(b.id).length === 0, 8000);
  });
});
