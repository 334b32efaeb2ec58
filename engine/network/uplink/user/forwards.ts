/** Ports of the host that lead to guests: added and removed while the uplink runs. */
import { createSocket } from "node:dgram";
import { createServer, isIP } from "node:net";
import { contains4, formatIpv4, parseIpv4 } from "../../address.ts";
import { UplinkError } from "../types.ts";
import type { GuestLink } from "./guest-link.ts";
import type { Neighbours } from "./neighbours.ts";
import { checkPort, type Transport } from "./settings.ts";
import type { TcpService } from "./tcp-service.ts";
import { UdpForward } from "./udp-forward.ts";

/** A port of the host and where it leads. */
export interface HostForward {
  readonly protocol: Transport;
  /** 127.0.0.1 where none is given; 0.0.0.0 opens the port to the host's network. */
  readonly hostAddress?: string;
  readonly hostPort: number;
  readonly guestAddress: string;
  readonly guestPort: number;
}

interface OpenForward {
  readonly forward: Required<HostForward>;
  close(): Promise<void>;
}

/** What listening can fail by, said so that a user can act. */
const remedies: Readonly<Record<string, string>> = {
  EADDRINUSE: "is in use by another program; choose another port, or stop that program",
  EACCES: "may not be opened without privileges; choose one above 1023",
  EADDRNOTAVAIL: "is no address of this host; use 127.0.0.1 or 0.0.0.0",
};

function nameOf({
  protocol,
  hostAddress = "127.0.0.1",
  hostPort,
}: Omit<HostForward, "guestAddress" | "guestPort">): string {
  return `${protocol}:${hostAddress}:${hostPort}`;
}

function explain(forward: HostForward, error: unknown): UplinkError {
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  const [what = "", remedy = ""] = (remedies[code] ?? `cannot be opened (${code}); choose another port`).split("; ");
  return new UplinkError(`host port ${nameOf(forward)} ${what}`, remedy, error);
}

export class Forwards {
  private readonly link: GuestLink;
  private readonly neighbours: Neighbours;
  private readonly tcp: TcpService;
  private readonly busy: () => void;
  private readonly now: () => number;
  private readonly open = new Map<string, OpenForward>();
  /** UDP forwards by our port, which a guest answers to. */
  private readonly udpPorts = new Map<number, UdpForward>();

  /** `busy` is called when there is something that timers have to look after; `now` gives milliseconds. */
  constructor(link: GuestLink, neighbours: Neighbours, tcp: TcpService, now: () => number, busy: () => void) {
    this.link = link;
    this.neighbours = neighbours;
    this.tcp = tcp;
    this.now = now;
    this.busy = busy;
  }

  /** The UDP forward whose guest may answer to this port of the gateway. */
  udpAt(port: number): UdpForward | undefined {
    return this.udpPorts.get(port);
  }

  get udpPeers(): number {
    return this.udpPorts.size;
  }

  list(): Required<HostForward>[] {
    return [...this.open.values()].map(({ forward }) => forward);
  }

  /** Opens a port. @throws UplinkError when the port is taken, or addresses or ports are none */
  async add(given: HostForward): Promise<void> {
    const forward = this.check(given);
    const name = nameOf(forward);
    const old = this.open.get(name);
    if (old !== undefined) {
      const { guestAddress, guestPort } = old.forward;
      throw new UplinkError(
        `host port ${name} already is forwarded to ${guestAddress}:${guestPort}`,
        "remove that forward first, or choose another port",
      );
    }
    // The name is taken before the port is open, so that two who ask at once do not both get it.
    this.open.set(name, { forward, close: () => Promise.resolve() });
    try {
      const opened = forward.protocol === "tcp" ? await this.listen(forward) : await this.bind(forward);
      if (this.open.has(name)) this.open.set(name, opened);
      else await opened.close();
    } catch (error) {
      this.open.delete(name);
      throw explain(forward, error);
    }
  }

  /** Closes a port; connections that came through it stay. @returns whether it was open */
  async remove(forward: Omit<HostForward, "guestAddress" | "guestPort">): Promise<boolean> {
    const name = nameOf(forward);
    const old = this.open.get(name);
    this.open.delete(name);
    await old?.close();
    return old !== undefined;
  }

  tick(): void {
    for (const forward of new Set(this.udpPorts.values())) forward.tick();
  }

  async close(): Promise<void> {
    const all = [...this.open.values()];
    this.open.clear();
    await Promise.all(all.map((one) => one.close()));
  }

  private check(forward: HostForward): Required<HostForward> {
    const { hostAddress = "127.0.0.1", hostPort, guestAddress, guestPort } = forward;
    checkPort(hostPort, "host port");
    checkPort(guestPort, "guest port");
    if (isIP(hostAddress) === 0) {
      throw new UplinkError(`"${hostAddress}" is no address to listen on`, "use 127.0.0.1 or an address of the host");
    }
    const address = parseIpv4(guestAddress);
    const { subnet, gateway, dns } = this.link.settings;
    if (!contains4(subnet, address) || address === gateway || address === dns) {
      const network = `${formatIpv4(subnet.address)}/${subnet.bits}`;
      throw new UplinkError(`${guestAddress} is no guest's address`, `use one of the guest's network, ${network}`);
    }
    return { ...forward, hostAddress };
  }

  private async listen(forward: Required<HostForward>): Promise<OpenForward> {
    const address = parseIpv4(forward.guestAddress);
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
      // Until a connection takes it over, whatever happens to it ends here.
      socket.on("error", () => undefined);
      void this.neighbours.resolve(address).then((mac) => {
        if (socket.destroyed) return;
        if (mac === undefined) {
          this.link.counters["forward-no-guest"] = (this.link.counters["forward-no-guest"] ?? 0) + 1;
          socket.resetAndDestroy();
          return;
        }
        if (this.tcp.open({ mac, address }, forward.guestPort, socket)) this.busy();
      });
    });
    server.maxConnections = this.link.settings.connectionsPerGuest;
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen({ host: forward.hostAddress, port: forward.hostPort }, resolve);
    });
    // A listener that fails later (too many open files) misses a connection; the next one may do better.
    server.on("error", () => undefined);
    // Closing waits for connections, which may live on for hours: the port is free at once nevertheless.
    return { forward, close: async () => void server.close() };
  }

  private async bind(forward: Required<HostForward>): Promise<OpenForward> {
    const socket = createSocket(isIP(forward.hostAddress) === 6 ? "udp6" : "udp4");
    await new Promise<void>((resolve, reject) => {
      socket.once("error", reject);
      socket.bind({ address: forward.hostAddress, port: forward.hostPort, exclusive: true }, resolve);
    });
    const guest = { address: parseIpv4(forward.guestAddress), port: forward.guestPort };
    const udp = new UdpForward(socket, guest, this.link, this.neighbours, this.udpPorts, this.now, this.busy);
    return { forward, close: async () => udp.close() };
  }
}
