/** The daemon on a Unix socket, for tools. Whoever can open it is privileged: the caller keeps its folder at 0700. */
import { lstat, unlink } from "node:fs/promises";
import { connect, createServer, type Server, type Socket } from "node:net";
import type { Xenstored } from "./daemon.ts";

export interface XenstoreSocket {
  /** Stops listening, ends all connections and removes the socket file. */
  close(): Promise<void>;
}

/**
 * Serves the daemon on a socket path; the file that a dead server has left there is replaced.
 * @throws the system's error (EADDRINUSE while another server lives there, EACCES, ENOENT for a missing folder)
 */
export async function serveXenstoreSocket(daemon: Xenstored, path: string): Promise<XenstoreSocket> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    attach(daemon, socket);
  });
  try {
    await listen(server, path);
  } catch (error) {
    const taken = error instanceof Error && "code" in error && error.code === "EADDRINUSE";
    // Only a socket that nobody answers is stale; any other file is somebody's.
    if (!taken || !(await lstat(path)).isSocket() || (await answers(path))) throw error;
    await unlink(path);
    await listen(server, path);
  }
  return {
    close: () =>
      new Promise((resolve) => {
        for (const socket of sockets) socket.destroy();
        server.close(() => resolve());
      }),
  };
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, () => {
      server.off("error", reject);
      resolve();
    });
  });
}

/** Whether a server lives behind the socket file. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(path);
    probe.once("connect", () => {
      probe.destroy();
      resolve(true);
    });
    probe.once("error", () => resolve(false));
  });
}

/** Bytes that a tool may leave unread before the daemon keeps what is for it, and merges events. */
const WINDOW = 1 << 18;

function attach(daemon: Xenstored, socket: Socket): void {
  const connection = daemon.connect(
    0,
    {
      send: (bytes) => socket.write(bytes, (error) => error ?? connection.taken(bytes.length)),
      closed: () => socket.end(),
    },
    { window: WINDOW },
  );
  socket.on("data", (bytes) => connection.receive(bytes));
  socket.on("error", () => socket.destroy());
  socket.on("close", () => connection.close());
}
