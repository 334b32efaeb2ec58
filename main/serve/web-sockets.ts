/** WebSockets of renderers: limits, pings, and the transport over one. */
import type { IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import { type WebSocket, WebSocketServer } from "ws";
import type { Transport } from "../app/transport.ts";

/** Longest message of a renderer: a piece of typed text is far shorter. */
const LONGEST_MESSAGE = 8 * 2 ** 20;
/** Bytes that may wait for one renderer. Consoles and shells have windows, so one that leaves more unread is stuck. */
const MOST_WAITING = 32 * 2 ** 20;
/** A renderer that does not answer a ping until the next one is gone, ms. */
const PING_MS = 20_000;
const MOST_SOCKETS = 64;

/** Codes of RFC 6455, section 7.4.1. */
const GOING_AWAY = 1001;
const UNSUPPORTED_DATA = 1003;
const POLICY_VIOLATION = 1008;
const TRY_AGAIN_LATER = 1013;

function socketTransport(socket: WebSocket): Transport {
  return {
    send: (text) => {
      if (socket.readyState !== socket.OPEN) return;
      // close() would wait for all that is unread.
      if (socket.bufferedAmount > MOST_WAITING) socket.terminate();
      else socket.send(text);
    },
    onMessage: (listener) => {
      socket.on("message", (data, isBinary) => {
        if (isBinary) socket.close(UNSUPPORTED_DATA, "text only");
        else listener(data.toString());
      });
    },
    onClose: (listener) => {
      socket.once("close", () => listener());
    },
    close: (reason) => {
      if (reason === undefined) socket.close(GOING_AWAY);
      else socket.close(POLICY_VIOLATION, reason);
    },
  };
}

/** Ends renderers that do not answer. @returns how to stop that */
function pingAll(sockets: ReadonlySet<WebSocket>, milliseconds: number): () => void {
  const silent = new WeakSet<WebSocket>();
  const timer = setInterval(() => {
    for (const socket of sockets) {
      if (silent.has(socket)) {
        socket.terminate();
        continue;
      }
      silent.add(socket);
      socket.once("pong", () => silent.delete(socket));
      socket.ping();
    }
  }, milliseconds);
  return () => clearInterval(timer);
}

export interface WebSockets {
  /** Takes over a connection whose request was found good. */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void;
  /** Ends all of them; those that do not answer are cut off. */
  close(): void;
}

/**
 * @param serve takes the transport of a new renderer
 * @param pingMs between two pings, for tests
 */
export function webSockets(serve: (transport: Transport) => void, pingMs = PING_MS): WebSockets {
  const server = new WebSocketServer({
    noServer: true,
    maxPayload: LONGEST_MESSAGE,
    perMessageDeflate: false,
  });
  const stopPings = pingAll(server.clients, pingMs);
  return {
    upgrade(request, duplex, head) {
      server.handleUpgrade(request, duplex, head, (socket) => {
        // What is wrong with a message or a connection ends it; "close" follows.
        socket.on("error", () => {});
        if (server.clients.size > MOST_SOCKETS) socket.close(TRY_AGAIN_LATER, "too many windows");
        else serve(socketTransport(socket));
      });
    },
    close() {
      stopPings();
      for (const socket of server.clients) {
        socket.close(GOING_AWAY);
        // Whatever was sent before is still written; nothing is waited for.
        setTimeout(() => socket.terminate(), 500).unref();
      }
    },
  };
}
