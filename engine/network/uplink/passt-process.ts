/** The program passt (https://passt.top): where it is, its command line, and one running process of it. */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import type { Duplex } from "node:stream";
import { oneLine } from "../../errors/input-error.ts";
import { type Cidr4, formatIpv4, formatMac, type MacAddress } from "../address.ts";

const HELP_MS = 5_000;
const KILL_MS = 2_000;
const LINES_KEPT = 4;

/** A port of the host that leads to the guest. */
export interface PasstForward {
  readonly protocol: "tcp" | "udp";
  /** IPv4 address of the host (u32) that listens. */
  readonly hostAddress: number;
  readonly hostPort: number;
  readonly guestPort: number;
}

export interface PasstSettings {
  /** The guest's network; its address is the one that DHCP hands out. */
  readonly guest: Cidr4;
  readonly gateway: number;
  /** The address at which the host's resolver answers the guest. */
  readonly dns: number;
  readonly gatewayMac: MacAddress;
  readonly mtu: number;
  readonly forwards: readonly PasstForward[];
}

/** The path of the program, if it is installed for this user. */
export function findPasst(path = process.env.PATH ?? ""): string | undefined {
  for (const folder of path.split(delimiter)) {
    if (folder === "") continue;
    const program = join(folder, "passt");
    try {
      accessSync(program, constants.X_OK);
      return program;
    } catch {
      // Not here.
    }
  }
  return undefined;
}

/** Whether this version takes an open socket and can leave the host's loopback out. False if it does not run at all. */
export function isUsablePasst(program: string): Promise<boolean> {
  return new Promise((resolve) => {
    execFile(program, ["--help"], { timeout: HELP_MS }, (_, out, error) => {
      const text = out + error;
      resolve(text.includes("--fd ") && text.includes("--no-map-gw") && text.includes("--dns-forward "));
    });
  });
}

/** The options of one run; descriptor 3 is the socket. Every value is made here of numbers. */
export function passtArguments(settings: PasstSettings): string[] {
  const { guest, gateway, dns, gatewayMac, mtu, forwards } = settings;
  const ports = forwards.flatMap(({ protocol, hostAddress, hostPort, guestPort }) => [
    protocol === "tcp" ? "--tcp-ports" : "--udp-ports",
    `${formatIpv4(hostAddress)}/${hostPort}:${guestPort}`,
  ]);
  return [
    ...["--foreground", "--stderr", "--fd", "3", "--ipv4-only"],
    // The gateway would otherwise be the host's loopback to the guest.
    "--no-map-gw",
    ...["--address", formatIpv4(guest.address), "--netmask", formatIpv4(guest.mask), "--gateway", formatIpv4(gateway)],
    ...["--mac-addr", formatMac(gatewayMac), "--mtu", String(mtu)],
    ...["--dns", formatIpv4(dns), "--dns-forward", formatIpv4(dns)],
    ...ports,
  ];
}

/** One run of passt. It ends when the socket does, so also when we die. */
export class PasstProcess {
  readonly socket: Duplex;
  /** Fulfilled when it is gone, with its last words. */
  readonly ended: Promise<string>;
  private readonly child: ChildProcess;
  private readonly lines: string[] = [];

  constructor(program: string, settings: PasstSettings) {
    const child = spawn(program, passtArguments(settings), {
      stdio: ["ignore", "ignore", "pipe", "pipe"],
      cwd: "/",
      env: { PATH: process.env.PATH ?? "" },
    });
    this.child = child;
    // A pipe at a descriptor of its own is a socket pair, so it goes both ways.
    this.socket = child.stdio[3] as Duplex;
    child.stderr?.setEncoding("utf8").on("data", (text: string) => this.hear(text));
    this.ended = new Promise((resolve) => {
      child.once("error", (error) => resolve(error.message));
      child.once("close", (status, signal) => {
        resolve(this.lines.join(", ") || `it ended with ${signal ?? `status ${status}`}`);
      });
    });
  }

  /** Ends it, and waits until it is gone. */
  async close(): Promise<void> {
    this.socket.destroy();
    this.child.kill("SIGTERM");
    const timer = setTimeout(() => this.child.kill("SIGKILL"), KILL_MS);
    await this.ended;
    clearTimeout(timer);
  }

  private hear(text: string): void {
    for (const line of text.split("\n")) {
      // What it says about its log is nothing about the network.
      if (line.trim() === "" || line.includes("syslog")) continue;
      this.lines.push(oneLine(line));
      if (this.lines.length > LINES_KEPT) this.lines.shift();
    }
  }
}
