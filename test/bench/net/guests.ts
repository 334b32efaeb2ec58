/** Pairs of guests that talk to each other and to the host: two of ours on one switch, two of QEMU's on a socket. */
import { writeFileSync } from "node:fs";
import path from "node:path";
import { writeCpio } from "../../../engine/builder/cpio.ts";
import type { DomainHandle } from "../../../engine/domain/guest.ts";
import { Host } from "../../../engine/domain/host.ts";
import type { VifWish } from "../../../engine/domain/network-config.ts";
import type { GuestImage } from "../../../main/images/catalogue.ts";
import { processCpu } from "../block/load.ts";
import type { Module } from "../block/virtio-modules.ts";
import { type QemuGuest, qemuMachine, startQemuShell } from "../qemu.ts";
import { Shell } from "../shell.ts";
import { LAN, TAP_LANS, TAPS } from "./lans.ts";
import { programsFor, type Servers } from "./programs.ts";

/** No DHCP while it boots: addresses are set here. */
const PARAMETERS = " ip=off";

export interface Guest {
  readonly shell: Shell;
  /** Of our guests' CPU. */
  readonly statistics?: () => ReturnType<DomainHandle["statistics"]>;
}

/** The first guest has eth0 on the others' network, eth1 behind a `user` network, eth2 on a tap if there are taps. */
export interface Pair {
  readonly name: "domlab" | "qemu";
  readonly guests: readonly [Guest, Guest];
  /** CPU seconds so far of what moves the frames, where that is a process of its own. */
  readonly networkCpu?: () => number;
  end(): Promise<void>;
}

export interface PairOptions {
  readonly image: GuestImage;
  readonly memoryMiB: number;
  /** Guests may reach those on the loopback interface. */
  readonly servers: Servers;
}

function archive(files: readonly Module[]): Uint8Array {
  return writeCpio([
    { kind: "directory", path: "bench" },
    ...files.map(({ file, data }) => ({ kind: "file" as const, path: `bench/${file}`, data, mode: 0o755 })),
  ]);
}

/** Our guests, started one by one on a host. */
export class DomlabLab {
  readonly host = new Host({ log: (line) => process.stderr.write(`${line}\n`) });
  private readonly options: PairOptions;

  constructor(options: PairOptions) {
    this.options = options;
  }

  async prepare(): Promise<void> {
    const { network } = this.host;
    const { user, tap } = this.options.servers;
    await network.createSwitch({ name: "lab0" });
    await network.createSwitch({
      name: "user0",
      uplink: { kind: "user", hostPorts: [user.sinkPort, user.sourcePort] },
    });
    if (tap) await network.createSwitch({ name: "tap0", uplink: { kind: "tap", name: TAPS.domlab } });
  }

  /** A guest with LAN.n as eth0. @param files go to /bench */
  async start(n: number, bridges: readonly string[], files: readonly Module[] = []): Promise<Guest> {
    const { image, memoryMiB } = this.options;
    const initrd = [{ bytes: new Uint8Array(image.initramfs) }, { bytes: new Uint8Array(archive(files)) }];
    const guest = await this.host.startGuest({
      name: `bench${n}`,
      memoryMiB,
      image: { kernel: { path: image.kernel }, initrd, commandLine: `${image.commandLine}${PARAMETERS}` },
      vifs: bridges.map((bridge): VifWish => ({ bridge })),
    });
    const shell = new Shell(guest.console);
    await shell.ready();
    await shell.run(`ip addr add ${LAN}.${n}/24 dev eth0 && ip link set eth0 up`);
    return { shell, statistics: () => guest.statistics() };
  }
}

/** @returns the pair and the host that it runs on */
export async function startDomlabPair(options: PairOptions): Promise<Pair & { readonly lab: DomlabLab }> {
  const lab = new DomlabLab(options);
  try {
    await lab.prepare();
    const taps = options.servers.tap !== undefined;
    const programs = programsFor("domlab", options.servers);
    const first = await lab.start(1, ["lab0", "user0", ...(taps ? ["tap0"] : [])], programs);
    const second = await lab.start(2, ["lab0"], programs);
    await connectHost(first.shell, taps ? TAP_LANS.domlab : undefined);
    const network = await lab.host.networkDomain();
    const networkCpu = () => processCpu(network.pid);
    return { name: "domlab", guests: [first, second], networkCpu, end: () => lab.host.close(), lab };
  } catch (error) {
    await lab.host.close();
    throw error;
  }
}

/** QEMU's arguments for a guest of the pair; the first listens. */
export function qemuNetArguments(n: number, socket: string, taps: boolean): string[] {
  const device = (id: string, last: number) => [
    "-device",
    `virtio-net-pci,netdev=${id},mac=52:54:00:00:0${n}:0${last}`,
  ];
  const server = n === 1 ? "on" : "off";
  const lan = ["-netdev", `stream,id=lan,server=${server},addr.type=unix,addr.path=${socket}`, ...device("lan", 1)];
  if (n !== 1) return lan;
  const user = ["-netdev", "user,id=user", ...device("user", 2)];
  const tap = ["-netdev", `tap,id=tap,ifname=${TAPS.qemu},script=no,downscript=no`, ...device("tap", 3)];
  return [...lan, ...user, ...(taps ? tap : [])];
}

export async function startQemuPair(
  { image, memoryMiB, servers }: PairOptions,
  modules: readonly Module[],
  folder: string,
): Promise<Pair> {
  const initrd = path.join(folder, "initrd");
  writeFileSync(initrd, Buffer.concat([image.initramfs, archive([...modules, ...programsFor("qemu", servers)])]));
  const socket = path.join(folder, "lan");
  const taps = servers.tap !== undefined;
  const started: QemuGuest[] = [];
  const end = async () => {
    for (const guest of started) await guest.end();
  };
  const start = async (n: number): Promise<Guest> => {
    const machine = qemuMachine(image, initrd, memoryMiB, PARAMETERS);
    const args = [...machine, ...qemuNetArguments(n, socket, taps)];
    const guest = await startQemuShell(args, modules, "test -e /sys/class/net/eth0");
    started.push(guest);
    await guest.shell.run(`ip addr add ${LAN}.${n}/24 dev eth0 && ip link set eth0 up`);
    return guest;
  };
  try {
    const guests = [await start(1), await start(2)] as const;
    await connectHost(guests[0].shell, taps ? TAP_LANS.qemu : undefined);
    return { name: "qemu", guests, end };
  } catch (error) {
    await end();
    throw error;
  }
}

/** eth1 gets its address by DHCP, eth2 one of the tap's network. */
async function connectHost(shell: Shell, tapLan: string | undefined): Promise<void> {
  await shell.run("ip link set eth1 up && udhcpc -i eth1 -n -q -t 10 -T 1 >/dev/null 2>&1");
  if (tapLan !== undefined) await shell.run(`ip addr add ${tapLan}.2/24 dev eth2 && ip link set eth2 up`);
}
