import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { vifNodes } from "../../../engine/device/net/vif-nodes.ts";
import { settle } from "../xenbus-harness.ts";
import { makeFrame, PAGE } from "./net-harness.ts";
import { BACKEND, FlipWorld, FRONTEND, MAC, VifLab, WireService } from "./vif-lab.ts";

let lab: VifLab;
let service: WireService;

beforeEach(() => {
  lab = new VifLab();
  service = new WireService(lab);
});
afterEach(() => lab.close());

describe("vifNodes", () => {
  it("is what a Xen user knows, and keeps our own settings from the guest", () => {
    const nodes = vifNodes({
      frontendId: 2,
      backendId: 1,
      handle: 3,
      mac: MAC,
      bridge: "lab0",
      ips: ["10.0.0.5", "fd00::5"],
      mtu: 9000,
      rate: "62500,50000",
      settings: { queues: 2 },
    });
    const front = "/local/domain/2/device/vif/3";
    const back = "/local/domain/1/backend/vif/2/3";
    const value = (path: string) => nodes.find((node) => node.path === path)?.value;
    expect(value(`${front}/backend`)).toBe(back);
    expect(value(`${front}/mac`)).toBe(MAC);
    expect(value(`${front}/handle`)).toBe("3");
    expect(value(`${back}/frontend`)).toBe(front);
    expect(value(`${back}/ip`)).toBe("10.0.0.5 fd00::5");
    expect(value(`${back}/rate`)).toBe("62500,50000");
    expect(value(`${back}/bridge`)).toBe("lab0");
    expect(nodes.at(-1)).toMatchObject({ path: `${back}/state`, value: "1" });
    const settings = nodes.find((node) => node.path === `${back}/domlab-vif`);
    expect(settings?.permissions).toEqual(["n1"]);
  });
});

describe("netback", () => {
  it("offers, connects and tells its owner what the toolstack wrote", async () => {
    const { backend, frontend } = lab.addVif({ ips: ["10.0.0.5", "10.0.0.6"], mtu: 1400, rate: "1,2" });
    await lab.netback(service).start();
    expect(lab.read(`${backend}/state`)).toBe("2");
    const offered = ["sg", "gso-tcpv4", "gso-tcpv6", "ipv6-csum-offload", "rx-copy", "multicast-control"];
    for (const key of [...offered, "dynamic-multicast-control", "split-event-channels"]) {
      expect(lab.read(`${backend}/feature-${key}`)).toBe("1");
    }
    expect(lab.read(`${backend}/feature-rx-flip`)).toBe("0");
    expect(lab.read(`${backend}/feature-ctrl-ring`)).toBeUndefined();
    expect(lab.read(`${backend}/multi-queue-max-queues`)).toBe("4");
    expect(lab.read(`${backend}/hotplug-status`)).toBe("connected");
    expect(service.opened.get("vif/2/0")).toEqual({
      key: "vif/2/0",
      frontendId: FRONTEND,
      handle: 0,
      mac: MAC,
      bridge: "lab0",
      ips: ["10.0.0.5", "10.0.0.6"],
      mtu: 1400,
      rate: "1,2",
      settings: { firewall: [] },
    });
    const front = lab.netfront();
    await front.connect();
    await lab.until(`${backend}/state`, "4");
    expect(lab.read(`${frontend}/state`)).toBe("4");
    expect(service.channels[0]).toMatchObject({
      accepts: { sg: true, gso4: true, gso6: true, csum4: true, csum6: true },
      tells: true,
      receive: "copy",
      multicastControl: false,
      resume: false,
    });
    expect(service.channels[0]?.queues[0]?.transmitPort).not.toBe(service.channels[0]?.queues[0]?.receivePort);
    await front.close();
    await lab.until(`${backend}/state`, "6");
    expect(service.attached.size).toBe(0);
    expect(service.grants.live).toBe(0);
    expect(lab.events.open).toBe(0);
  });

  // Linux's netfront goes from Initialising to Connected, with one queue and everything it can.
  const linux: Record<string, string> = {
    "tx-ring-ref": "8",
    "rx-ring-ref": "9",
    "event-channel-tx": "10",
    "event-channel-rx": "11",
    "multi-queue-num-queues": "1",
    "request-rx-copy": "1",
    "feature-rx-notify": "1",
    "feature-sg": "1",
    "feature-gso-tcpv4": "1",
    "feature-gso-tcpv6": "1",
    "feature-ipv6-csum-offload": "1",
  };
  async function published(nodes: Record<string, string | undefined>): Promise<string> {
    service.hollow = true;
    const { backend, frontend } = lab.addVif();
    await lab.netback(service).start();
    for (const [key, value] of Object.entries(nodes)) {
      if (value !== undefined) lab.daemon.toolstack.write(`${frontend}/${key}`, value);
    }
    lab.daemon.toolstack.write(`${frontend}/state`, "4");
    await settle(60);
    return lab.read(`/local/domain/${BACKEND}/error/backend/vif/2/0/error`) ?? lab.read(`${backend}/state`) ?? "";
  }

  it("connects with a frontend that skips Initialised", async () => {
    expect(await published(linux)).toBe("4");
    expect(service.channels[0]?.queues).toEqual([{ transmitRef: 8, receiveRef: 9, transmitPort: 10, receivePort: 11 }]);
  });

  it.each<[Record<string, string | undefined>, RegExp]>([
    [{ "tx-ring-ref": undefined }, /tx-ring-ref is missing/],
    [{ "rx-ring-ref": "-1" }, /rx-ring-ref is "-1", not a number/],
    [{ "rx-ring-ref": "8" }, /the same ring page is granted twice/],
    [{ "event-channel-tx": "0" }, /event-channel-tx is 0, outside/],
    [{ "event-channel-rx": undefined }, /event-channel-rx is missing/],
    [{ "event-channel-tx": undefined }, /event-channel is missing/],
    [{ "multi-queue-num-queues": "5" }, /multi-queue-num-queues is 5, outside 1…4/],
    [{ "multi-queue-num-queues": "0" }, /multi-queue-num-queues is 0/],
    [{ "multi-queue-num-queues": "2" }, /queue-0: tx-ring-ref is missing/],
    [{ "request-rx-copy": "0" }, /pages cannot be exchanged/],
  ])("says what is wrong with %o", async (change, message) => {
    expect(await published({ ...linux, ...change })).toMatch(message);
    expect(service.channels).toEqual([]);
  });

  it("takes less than everything", async () => {
    const few = { "tx-ring-ref": "8", "rx-ring-ref": "9", "event-channel": "10", "request-rx-copy": "1" };
    expect(await published({ ...few, "feature-gso-tcpv4": "1", "feature-no-csum-offload": "1" })).toBe("4");
    expect(service.channels[0]).toMatchObject({
      accepts: { sg: false, gso4: false, gso6: false, csum4: false, csum6: false },
      tells: false,
      queues: [{ transmitPort: 10, receivePort: 10 }],
    });
  });

  it.each([
    ["mac", "01:16:3e:00:00:01"],
    ["mac", "nonsense"],
    ["domlab-vif", "{"],
  ])("does not open with %s %j", async (key, value) => {
    const { backend } = lab.addVif();
    lab.daemon.toolstack.write(`${backend}/${key}`, value);
    await lab.netback(service).start();
    expect(lab.read(`${backend}/state`)).toBe("5");
    expect(service.opened.size).toBe(0);
  });

  it("reports what its owner says", async () => {
    const { backend } = lab.addVif();
    service.openFailure = { ok: false, errno: 2, message: "there is no switch lab0" };
    await lab.netback(service).start();
    expect(lab.read(`${backend}/state`)).toBe("5");
    expect(lab.log.join()).toContain("there is no switch lab0");
  });

  it("attaches again after its own restart, and says so", async () => {
    const { backend } = lab.addVif();
    const first = lab.netback(service);
    await first.start();
    await lab.netfront().connect();
    await lab.until(`${backend}/state`, "4");
    await first.close();
    const later = new WireService(lab);
    later.hollow = true;
    expect(await lab.netback(later).start()).toHaveLength(1);
    expect(later.channels).toMatchObject([{ key: "vif/2/0", resume: true }]);
    expect(lab.read(`${backend}/state`)).toBe("4");
  });

  it("serves another kernel that boots in the guest without closing", async () => {
    const { backend, frontend } = lab.addVif();
    await lab.netback(service).start();
    const old = lab.netfront({ listen: () => () => undefined });
    await old.connect();
    await lab.until(`${backend}/state`, "4");
    service.hollow = true;
    lab.daemon.toolstack.write(`${frontend}/state`, "1");
    await lab.until(`${backend}/state`, "2");
    expect(service.attached.size).toBe(0);
  });

  it("lets go when the toolstack takes the interface away, whatever the guest does", async () => {
    const { backend, frontend } = lab.addVif();
    const netback = lab.netback(service);
    await netback.start();
    await lab.netfront().connect();
    await lab.until(`${backend}/state`, "4");
    lab.detachVif();
    await lab.until(`${backend}/state`, "6");
    await settle();
    expect(lab.read(`${frontend}/state`)).toBe("6");
    expect(service.opened.size).toBe(0);
    expect(service.grants.live).toBe(0);
    expect(lab.frontend.allocated.size).toBe(0);
  });

  it("does not grow under a frontend that toggles its state", async () => {
    service.hollow = true;
    const { frontend, backend } = lab.addVif();
    await lab.netback(service).start();
    const nodes = { "tx-ring-ref": "8", "rx-ring-ref": "9", "event-channel": "10", "request-rx-copy": "1" };
    for (const [key, value] of Object.entries(nodes)) lab.daemon.toolstack.write(`${frontend}/${key}`, value);
    for (let n = 0; n < 1000; n++) {
      for (const state of ["4", "5", "6", "1"]) lab.daemon.toolstack.write(`${frontend}/state`, state);
      if (n % 50 === 0) await settle(5);
      expect(service.attached.size).toBeLessThanOrEqual(1);
    }
    lab.daemon.toolstack.write(`${frontend}/state`, "6");
    await lab.until(`${backend}/state`, "6");
    expect(service.attached.size).toBe(0);
  });

  it("follows a guest that changes its mind about multicast", async () => {
    const { backend, frontend } = lab.addVif();
    await lab.netback(service).start();
    await lab.netfront().connect();
    await lab.until(`${backend}/state`, "4");
    await settle();
    expect(service.multicast).toEqual([]);
    lab.daemon.toolstack.write(`${frontend}/request-multicast-control`, "1");
    await settle(60);
    expect(service.multicast).toEqual([true]);
  });
});

describe("netfront", () => {
  async function pair(options: Parameters<VifLab["netfront"]>[0] = {}) {
    lab.addVif();
    lab.addVif({ handle: 1, mac: "00:16:3e:12:34:57" });
    await lab.netback(service).start();
    const few = { buffers: 64, sendPages: 64, ...options };
    const fronts = [lab.netfront({ ...few, handle: 0 }), lab.netfront({ ...few, handle: 1 })] as const;
    await Promise.all(fronts.map((front) => front.connect()));
    await settle(60);
    return fronts;
  }

  it("sends and receives frames of every kind", async () => {
    const [left, right] = await pair();
    expect(left.negotiated).toMatchObject({ mac: MAC, queues: 1, split: true, sg: true, gso4: true });
    const frames = [60, 256, 257, 1514, 5000, 65_000].map((length) => makeFrame(length, length));
    for (const bytes of frames) expect(left.send(bytes)).toBe(true);
    left.send(makeFrame(9000), { checksum: "blank", segmentation: "tcpv4", segmentSize: 1448 });
    left.flush();
    await settle(60);
    const there = lab.received.filter(({ handle }) => handle === 1);
    expect(there.map(({ bytes }) => bytes)).toEqual([...frames, makeFrame(9000)]);
    expect(there.at(-1)?.frame).toMatchObject({ checksum: "blank", segmentation: "tcpv4", segmentSize: 1448 });
    right.send(makeFrame(60));
    right.flush();
    await settle(60);
    expect(lab.received.filter(({ handle }) => handle === 0)).toHaveLength(1);
    expect(left.pending).toBe(0);
  });

  it.each([
    { queues: 3, split: true },
    { queues: 2, split: false },
    { queues: 1, split: false },
  ])("with %o keeps sending for as long as there is traffic", async (wishes) => {
    const [left] = await pair({ wishes });
    const total = 2000;
    for (let sent = 0; sent < total; ) {
      const bytes = makeFrame(60 + (sent % 3000), sent);
      bytes.set([sent & 0xff, sent >> 8], 50);
      if (left.send(bytes)) sent++;
      else {
        left.flush();
        await settle(1);
      }
    }
    left.flush();
    await settle(100);
    expect(lab.received).toHaveLength(total);
    expect(left.statistics).toMatchObject({ sent: total, refused: 0 });
    expect(service.counters.read().rx_dropped).toBe(0);
  });

  it("sends from pages of the caller, who is told when they are free", async () => {
    const [left] = await pair();
    const page = lab.frontend.allocatePage()!;
    lab.frontend.memory.bytes.set(makeFrame(3000), page + 100);
    const ref = left.grantPage(page)!;
    const done: number[] = [];
    left.sendSegments(
      [
        { ref, offset: 100, size: 1000 },
        { ref, offset: 1100, size: 2000 },
      ],
      { done: (status) => done.push(status) },
    );
    expect(done).toEqual([]);
    left.flush();
    await settle(60);
    left.poll();
    expect(done).toEqual([0]);
    expect(lab.frontend.endAccess(ref)).toBe(true);
    expect(lab.received[0]?.bytes).toEqual(makeFrame(3000));
  });

  it("gets the multicast frames that it has asked for", async () => {
    const [left, right] = await pair({ wishes: { multicastControl: true } });
    const group = Uint8Array.of(0x33, 0x33, 0xff, 0x80, 0x90, 0xa0);
    const other = Uint8Array.of(0x33, 0x33, 0xff, 0x80, 0x90, 0xa1);
    expect(right.multicast(group, true)).toBe(true);
    right.flush();
    await settle(60);
    for (const address of [group, other]) {
      const bytes = makeFrame(60);
      bytes.set(address);
      left.send(bytes);
    }
    left.flush();
    await settle(60);
    expect(lab.received.map(({ bytes }) => bytes.slice(0, 6))).toEqual([group]);
    expect(service.frames).toHaveLength(2);
  });

  it("receives by exchange of pages, and has as many afterwards as before", async () => {
    const world = new FlipWorld(lab.frontend);
    service.flip = world;
    service.echo = true;
    const { backend } = lab.addVif();
    await lab.netback(service).start();
    const front = lab.netfront({ acceptor: world, buffers: 32 });
    await front.connect();
    await lab.until(`${backend}/state`, "4");
    expect(lab.read(`${backend}/feature-rx-flip`)).toBe("1");
    expect(service.channels[0]?.receive).toBe("flip");
    const frames = Array.from({ length: 200 }, (_, n) => makeFrame(60 + 37 * n, n));
    for (const bytes of frames) {
      front.send(bytes);
      front.flush();
      await settle(6);
    }
    await settle(60);
    expect(lab.received.map(({ bytes }) => bytes)).toEqual(frames);
    expect(world.transfers).toBeGreaterThanOrEqual(200);
    expect(world.poolPages).toBe(16);
    // 32 places are offered, and each is a page of its own again.
    expect(world.guestPages).toBe(-32);
    await front.close();
    expect(world.guestPages).toBe(0);
    await lab.until(`${backend}/state`, "6");
    await settle();
    // The rings were mapped until the backend closed, too.
    expect(front.reclaim()).toBe(0);
    expect(lab.frontend.allocated.size).toBe(0);
  });

  it("gives everything back, and connects again when the backend was replaced", async () => {
    const [left] = await pair();
    const { backend, frontend } = {
      backend: "/local/domain/1/backend/vif/2/0",
      frontend: "/local/domain/2/device/vif/0",
    };
    lab.daemon.toolstack.write(`${backend}/state`, "5");
    await lab.until(`${frontend}/state`, "6");
    await lab.until(`${backend}/state`, "4");
    await lab.until(`${frontend}/state`, "4");
    await settle(60);
    left.send(makeFrame(60));
    left.flush();
    await settle(60);
    expect(lab.received).toHaveLength(1);
    await left.close();
    expect(left.send(makeFrame(60))).toBe(false);
    expect(left.reclaim()).toBe(0);
  });

  it("does not connect with a backend that cannot do what it needs", async () => {
    lab.addVif();
    await lab.netback(service).start();
    const front = lab.netfront({ acceptor: new FlipWorld(lab.frontend) });
    await expect(front.connect()).rejects.toThrow(/does not offer to receive by exchange/);
    await expect(front.connect()).rejects.toThrow(/exchange/);
    expect(lab.frontend.allocated.size).toBe(0);
  });

  it("gives up on a backend that answers what was not asked", async () => {
    const [left] = await pair();
    left.send(makeFrame(60));
    const ring = service.channels.find(({ handle }) => handle === 0)!.queues[0]!;
    const page = lab.frontend.entries.get(ring.transmitRef)!.address;
    // rsp_prod far ahead.
    lab.frontend.memory.words[page / 4 + 2] = 77;
    left.poll();
    await settle(60);
    expect(lab.log.join()).toContain("an impossible number of transmit responses");
    expect(left.negotiated).toBeUndefined();
    expect(lab.frontend.memory.bytes.length % PAGE).toBe(0);
  });
});
