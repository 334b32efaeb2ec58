/** What does not work on this host, found out before it fails, with cause and remedy. */
import { accessSync, constants, readFileSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { freemem } from "node:os";
import { dirname } from "node:path";
import { messageOf } from "../engine/errors/message.ts";
import { planFrames } from "../engine/memory/frame-plan.ts";
import { createGuestMemory, defaultMemoryKind } from "../engine/memory/guest-memory.ts";
import { findPasst, isUsablePasst } from "../engine/network/uplink/passt-process.ts";
import { openPingSocket } from "../engine/network/uplink/user/ping-socket.ts";
import { cacheDirectory } from "./images/cache.ts";
import { checkTools } from "./images/debian-build.ts";
import { imageState } from "./images/descriptions.ts";
import { run } from "./images/run.ts";
import type { HostCheck } from "./lab/view-api.ts";

const MIB = 1 << 20;
/** What the Debian image needs in the cache while it is made, and a machine over it to begin with. */
const DEBIAN_ROOM = 2200 * MIB;
/** Below that a guest of the usual size does not fit. */
const LEAST_MEMORY = 700 * MIB;
const LEAST_ROOM = 200 * MIB;
const CAP_NET_ADMIN = 12n;

type Finding = Pick<HostCheck, "cause" | "remedy"> | undefined;

interface Check {
  readonly id: string;
  readonly title: string;
  readonly severity: HostCheck["severity"];
  /** What is wrong; undefined when nothing is. */
  readonly look: () => Finding | Promise<Finding>;
}

export interface HostCheckOptions {
  /** The lab's folder; it need not be there. */
  readonly home: string;
  readonly env?: NodeJS.ProcessEnv;
  /** Bytes of memory that programs may still have; the host's unless a test says otherwise. */
  readonly freeMemory?: () => number;
}

const mib = (bytes: number): string => `${Math.floor(bytes / MIB)} MiB`;

/** "cause; remedy", taken apart. */
function told(error: unknown): Finding {
  const message = messageOf(error);
  const [cause = message, ...rest] = message.split("; ");
  return { cause, remedy: rest.join("; ") || "correct it" };
}

/** Room of the file system that a folder is or would be on. */
async function roomIn(folder: string): Promise<number> {
  for (let at = folder; ; at = dirname(at)) {
    try {
      const { bavail, bsize } = await statfs(at);
      return bavail * bsize;
    } catch (error) {
      if (dirname(at) === at) throw error;
    }
  }
}

function sharedMemory(): Finding {
  if (defaultMemoryKind() !== "mapped") {
    return { cause: "this system shares no memory between processes", remedy: "use Linux or macOS" };
  }
  try {
    createGuestMemory(planFrames(16 * MIB), 0).close();
    return undefined;
  } catch (error) {
    const reason = messageOf(error);
    return {
      cause: `guest memory cannot be shared: ${reason}`,
      remedy: "allow memfd_create, or raise ulimit -v and -n",
    };
  }
}

async function apt(env: NodeJS.ProcessEnv): Promise<Finding> {
  try {
    await run("apt-get", ["--version"], { env });
    return undefined;
  } catch (error) {
    return told(error);
  }
}

async function debianTools(env: NodeJS.ProcessEnv): Promise<Finding> {
  try {
    await checkTools({ env });
    return undefined;
  } catch (error) {
    return told(error);
  }
}

async function room(home: string): Promise<Finding> {
  const free = await roomIn(home);
  if (free >= LEAST_ROOM) return undefined;
  return { cause: `${home} has ${mib(free)} left`, remedy: `free at least ${mib(LEAST_ROOM)}, or set DOMLAB_HOME` };
}

async function debianRoom(env: NodeJS.ProcessEnv): Promise<Finding> {
  const folder = cacheDirectory(env);
  const free = await roomIn(folder);
  if (free >= DEBIAN_ROOM || (await imageState("debian", env)).state === "ready") return undefined;
  const cause = `making the Debian image takes ${mib(DEBIAN_ROOM)}, and ${folder} has ${mib(free)} left`;
  return { cause, remedy: "free some space, or set DOMLAB_CACHE to a folder elsewhere" };
}

/** Whether this process may set up network devices. */
function mayConfigureNetwork(): boolean {
  const mask = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? "0";
  return ((BigInt(`0x${mask}`) >> CAP_NET_ADMIN) & 1n) === 1n;
}

function tap(): Finding {
  const remedy = "use the uplink user, which needs no privilege";
  if (process.platform !== "linux") return { cause: "tap devices are for Linux hosts", remedy };
  try {
    accessSync("/dev/net/tun", constants.R_OK | constants.W_OK);
  } catch {
    return { cause: "/dev/net/tun cannot be opened", remedy };
  }
  if (mayConfigureNetwork()) return undefined;
  return { cause: "tap devices need CAP_NET_ADMIN", remedy: `${remedy}, or a tap device made for you by root` };
}

async function passt(env: NodeJS.ProcessEnv): Promise<Finding> {
  const remedy = "use the uplink user, or install passt";
  const program = findPasst(env.PATH);
  if (program === undefined) return { cause: "passt is not installed", remedy };
  return (await isUsablePasst(program)) ? undefined : { cause: `${program} is too old`, remedy };
}

function ping(): Finding {
  const socket = openPingSocket();
  socket?.close();
  if (socket !== undefined) return undefined;
  const cause = "guests cannot ping other hosts: this host lets users open no ICMP sockets";
  return { cause, remedy: 'as root: sysctl net.ipv4.ping_group_range="0 2147483647"' };
}

function checks({ home, env = process.env, freeMemory = freemem }: HostCheckOptions): readonly Check[] {
  const memory = (): Finding =>
    freeMemory() >= LEAST_MEMORY
      ? undefined
      : { cause: `${mib(freeMemory())} of memory are free`, remedy: "close something, or give machines less memory" };
  return [
    { id: "shared-memory", title: "Memory shared with guests", severity: "blocks", look: sharedMemory },
    { id: "disk-space", title: "Room for the lab", severity: "blocks", look: () => room(home) },
    { id: "memory", title: "Free memory", severity: "limits", look: memory },
    { id: "apt", title: "Fetching guest images (apt)", severity: "limits", look: () => apt(env) },
    { id: "debian-tools", title: "Making the Debian image", severity: "limits", look: () => debianTools(env) },
    { id: "debian-space", title: "Room for the Debian image", severity: "limits", look: () => debianRoom(env) },
    { id: "tap", title: "Uplink tap", severity: "limits", look: tap },
    { id: "passt", title: "Uplink passt", severity: "limits", look: () => passt(env) },
    { id: "ping", title: "Ping from guests", severity: "limits", look: ping },
  ];
}

/** Looks at everything; never rejects. */
export async function hostChecks(options: HostCheckOptions): Promise<HostCheck[]> {
  return await Promise.all(
    checks(options).map(async ({ look, ...check }): Promise<HostCheck> => {
      try {
        const finding = await look();
        return { ...check, ok: finding === undefined, ...finding };
      } catch (error) {
        return { ...check, ok: false, ...told(error) };
      }
    }),
  );
}
