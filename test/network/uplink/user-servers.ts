/** Servers of the host on 127.0.0.1, and networks that reach them; all end with the test that made them. */
import { createSocket, type Socket as UdpSocket } from "node:dgram";
import { createServer, type Server, type Socket } from "node:net";
import { onTestFinished } from "vitest";
import { GuestNetwork } from "./user-guest.ts";

export async function network(...given: ConstructorParameters<typeof GuestNetwork>): Promise<GuestNetwork> {
  const made = new GuestNetwork(...given);
  onTestFinished(() => made.close());
  await made.uplink.start();
  return made;
}

/** A UDP server. @returns its port, and how to end it before the test does */
export async function udpServer(
  answer: (data: Buffer, reply: (data: Uint8Array) => void) => void,
): Promise<{ port: number; socket: UdpSocket; close(): Promise<void> }> {
  const socket = createSocket("udp4");
  socket.on("message", (data, from) => answer(data, (reply) => socket.send(reply, from.port, from.address)));
  await new Promise<void>((resolve) => socket.bind(0, "127.0.0.1", resolve));
  const { port } = socket.address();
  let closed: Promise<void> | undefined;
  const close = () => {
    closed ??= new Promise<void>((resolve) => socket.close(() => resolve()));
    return closed;
  };
  onTestFinished(close);
  return { port, socket, close };
}

/** A TCP server, half-open connections allowed. @returns its port, and what connects */
export async function tcpServer(
  handler: (socket: Socket) => void,
): Promise<{ port: number; sockets: Socket[]; server: Server }> {
  const sockets: Socket[] = [];
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.push(socket);
    socket.on("error", () => undefined);
    handler(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no port");
  return { port: address.port, sockets, server };
}
