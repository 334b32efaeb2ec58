/** Stock Linux guests: TCP and round trips, beside QEMU (TCG) with virtio-net. */
import { mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { openImage } from "../../../main/images/catalogue.ts";
import { virtioModules } from "../block/virtio-modules.ts";
import {
  type DomlabLab,
  type Pair,
  type PairOptions,
  qemuNetArguments,
  startDomlabPair,
  startQemuPair,
} from "./guests.ts";
import { HostServer } from "./host-server.ts";
import { TAP_LANS, TAPS } from "./lans.ts";
import { benchLatency } from "./latency.ts";
import type { Servers } from "./programs.ts";
import { addressTap, canMakeTaps, makeTap, removeTap } from "./taps.ts";
import { benchTcp } from "./tcp.ts";

interface Started {
  readonly pairs: Pair[];
  readonly failures: Record<string, string>;
  lab?: DomlabLab;
}

/** A pair that does not come up takes no part; the other goes on. */
async function startPairs(options: PairOptions, folder: string): Promise<Started> {
  const started: Started = { pairs: [], failures: {} };
  const attempt = async (name: Pair["name"], start: () => Promise<Pair>) => {
    try {
      started.pairs.push(await start());
    } catch (error) {
      started.failures[name] = error instanceof Error ? error.message : String(error);
      process.stderr.write(`${name}: ${started.failures[name]}\n`);
    }
  };
  await attempt("domlab", async () => {
    const pair = await startDomlabPair(options);
    started.lab = pair.lab;
    return pair;
  });
  await attempt("qemu", async () =>
    startQemuPair(options, await virtioModules(options.image.kernelRelease, "net"), folder),
  );
  return started;
}

/** Makes the taps with an address of the host's on each, and servers there. */
async function tapServers(): Promise<Required<Servers>["tap"]> {
  for (const name of ["domlab", "qemu"] as const) makeTap(TAPS[name]);
  for (const name of ["domlab", "qemu"] as const) addressTap(TAPS[name], `${TAP_LANS[name]}.1/24`);
  const [domlab, qemu] = [await HostServer.start(`${TAP_LANS.domlab}.1`), await HostServer.start(`${TAP_LANS.qemu}.1`)];
  return { domlab, qemu };
}

/**
 * `rounds` samples of each row. All guests run at the same time, but only one pair has something to do at any; latency is
 * measured when QEMU's have ended.
 */
export async function benchLinux(rounds: number, memoryMiB: number): Promise<object> {
  const image = await openImage("debian-shell", { progress: (text) => process.stderr.write(`${text}\n`) });
  const folder = mkdtempSync(path.join(os.tmpdir(), "domlab-bench-"));
  const user = await HostServer.start("127.0.0.1");
  const servers: HostServer[] = [user];
  const taps = canMakeTaps();
  const pairs: Pair[] = [];
  try {
    const tap = taps ? await tapServers() : undefined;
    if (tap !== undefined) servers.push(tap.domlab, tap.qemu);
    const reached: Servers = { user, ...(tap && { tap }) };
    const { lab, failures, ...started } = await startPairs({ image, memoryMiB, servers: reached }, folder);
    pairs.push(...started.pairs);
    const tcp = await benchTcp(pairs, rounds, reached);
    await pairs.find(({ name }) => name === "qemu")?.end();
    const [first] = pairs.find(({ name }) => name === "domlab")?.guests ?? [];
    const latency = lab !== undefined && first !== undefined ? await benchLatency(lab, first, rounds) : undefined;
    return {
      kernel: image.kernelRelease,
      memoryMiB,
      qemuArguments: [1, 2].map((n) => qemuNetArguments(n, "lan", taps)),
      ...(Object.keys(failures).length > 0 && { failures }),
      tcp,
      latency,
    };
  } finally {
    for (const server of servers) server.close();
    for (const pair of pairs) await pair.end();
    if (taps) for (const name of Object.values(TAPS)) removeTap(name);
    rmSync(folder, { recursive: true, force: true });
  }
}
