import { createSocket, type Socket } from "node:dgram";
import koffi from "koffi";

/** Linux, x86-64 and arm64 alike. */
const AF_INET = 2;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const IPPROTO_ICMP = 1;

/**
 * A socket for echo requests that needs no privilege (Linux icmp(7), "ICMP echo sockets"). Node sees a datagram socket
 * whose datagrams begin with the ICMP header; ports mean nothing.
 * @returns undefined where the system has none or does not let us
 */
export function openPingSocket(): Socket | undefined {
  if (process.platform !== "linux") return undefined;
  try {
    const open = koffi.load(null).func("int socket(int domain, int type, int protocol)");
    const descriptor: unknown = open(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_ICMP);
    if (typeof descriptor !== "number" || descriptor < 0) return undefined;
    const socket = createSocket("udp4");
    socket.bind({ fd: descriptor });
    return socket;
  } catch {
    return undefined;
  }
}
