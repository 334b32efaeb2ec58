/** Tap interfaces of the host, by iproute2. Only root may have them. */
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";

const env = { ...process.env, PATH: `${process.env.PATH ?? ""}:/usr/sbin:/sbin` };

const ip = (...args: string[]) => execFileSync("ip", args, { env, stdio: ["ignore", "ignore", "pipe"] });

/** Tries it: a container's root may lack the right, and a machine the program. */
export function canMakeTaps(): boolean {
  if (process.getuid?.() !== 0 || !existsSync("/dev/net/tun")) return false;
  try {
    makeTap("dlbench9");
    removeTap("dlbench9");
    return true;
  } catch {
    return false;
  }
}

/**
 * One that outlives its user, so that addresses can be there before; in the place of one that a killed run has left.
 * @throws Error when the host refuses
 */
export function makeTap(name: string): void {
  removeTap(name);
  ip("tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr");
}

/** Nothing happens when there is none. */
export function removeTap(name: string): void {
  try {
    ip("link", "del", name);
  } catch {
    // It was never made.
  }
}

/** Gives the host an address on the interface. @param address with the length of its prefix */
export function addressTap(name: string, address: string): void {
  ip("addr", "add", address, "dev", name);
  ip("link", "set", name, "up");
}
