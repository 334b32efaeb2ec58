/** A server on the host that takes all it is sent, or sends so many bytes. */
import { once } from "node:events";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";

const CHUNK = Buffer.alloc(1 << 18);

async function listening(serve: (socket: Socket) => void, host: string): Promise<Server> {
  const server = createServer((socket) => {
    socket.on("error", () => socket.destroy());
    serve(socket);
  });
  server.listen(0, host);
  await once(server, "listening");
  return server;
}

/** One port that swallows, and one that sends `bytes` bytes to each connection. */
export class HostServer {
  /** Bytes that came since it was set to 0. */
  received = 0;
  bytes = 0;
  readonly sinkPort: number;
  readonly sourcePort: number;
  private readonly servers: readonly [Server, Server];
  private readonly sockets: Set<Socket>;

  private constructor(servers: readonly [Server, Server], sockets: Set<Socket>) {
    this.servers = servers;
    this.sockets = sockets;
    [this.sinkPort, this.sourcePort] = servers.map((server) => (server.address() as AddressInfo).port) as [
      number,
      number,
    ];
  }

  static async start(host: string): Promise<HostServer> {
    const sockets = new Set<Socket>();
    const keep = (socket: Socket) => {
      sockets.add(socket);
      socket.once("close", () => sockets.delete(socket));
    };
    const sink = await listening((socket) => {
      keep(socket);
      socket.on("data", (bytes) => {
        made.received += bytes.length;
      });
    }, host);
    const source = await listening((socket) => {
      keep(socket);
      socket.resume();
      let left = made.bytes;
      const more = () => {
        while (left > 0) {
          const size = Math.min(left, CHUNK.length);
          left -= size;
          if (!socket.write(CHUNK.subarray(0, size))) return;
        }
        socket.end();
      };
      socket.on("drain", more);
      more();
    }, host);
    const made = new HostServer([sink, source], sockets);
    return made;
  }

  close(): void {
    for (const socket of this.sockets) socket.destroy();
    for (const server of this.servers) server.close();
  }
}
