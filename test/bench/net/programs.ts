/** What guests run: TCP streams to each target, of several sizes, since a program's parameters are part of it. */
import type { Module } from "../block/virtio-modules.ts";
import { TCP_BLOCK, tcpStreamProgram } from "../guest-programs/tcp-stream.ts";
import type { HostServer } from "./host-server.ts";
import { LAN, TAP_LANS } from "./lans.ts";

const MIB = 1 << 20;
const PORT = 5000;
/** A size for each order of speed, MiB. */
export const SIZES = [8, 32, 128, 512, 2048] as const;

/** Servers on the host: on its loopback interface, and on the taps' addresses. */
export interface Servers {
  readonly user: HostServer;
  readonly tap?: Readonly<Record<keyof typeof TAP_LANS, HostServer>>;
}

const octets = (address: string): number[] => address.split(".").map(Number);

/** Names of the programs in /bench. */
export const programNames = {
  send: (target: string, mib: number) => `/bench/send-${target}-${mib}`,
  take: (target: string) => `/bench/take-${target}`,
  listen: "/bench/listen",
};

function program(path: string, data: Uint8Array): Module {
  return { file: path.replace("/bench/", ""), data };
}

/** All programs of a pair's guests. */
export function programsFor(pair: keyof typeof TAP_LANS, { user, tap }: Servers): Module[] {
  const targets = [{ name: "lan", address: `${LAN}.2`, port: PORT, source: 0 }];
  targets.push({ name: "user", address: "10.0.2.2", port: user.sinkPort, source: user.sourcePort });
  const server = tap?.[pair];
  if (server !== undefined) {
    targets.push({ name: "tap", address: `${TAP_LANS[pair]}.1`, port: server.sinkPort, source: server.sourcePort });
  }
  const programs = [
    program(programNames.listen, tcpStreamProgram({ role: "listen", address: [0, 0, 0, 0], port: PORT, blocks: 0 })),
  ];
  for (const { name, address, port, source } of targets) {
    const peer = { role: "connect" as const, address: octets(address) };
    for (const mib of SIZES) {
      const blocks = (mib * MIB) / TCP_BLOCK;
      programs.push(program(programNames.send(name, mib), tcpStreamProgram({ ...peer, port, blocks })));
    }
    if (source === 0) continue;
    programs.push(program(programNames.take(name), tcpStreamProgram({ ...peer, port: source, blocks: 0 })));
  }
  return programs;
}
