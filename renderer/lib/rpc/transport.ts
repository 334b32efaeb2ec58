/** How messages reach the app process: a WebSocket in a browser, the preload bridge's port in Electron. Text both ways. */

import type { Bridge } from "./bridge.ts";

export interface TransportEvents {
  open(): void;
  message(text: string): void;
  /** The connection is over. `refused`: there is no session, so that trying again is useless. */
  closed(refused: boolean): void;
}

export interface Transport {
  send(text: string): void;
  close(): void;
}

declare global {
  interface Window {
    readonly domlab?: Bridge;
  }
}

export const bridge: Bridge | undefined = window.domlab;

function connectBridge(from: Bridge, events: TransportEvents): Transport {
  const port = from.connect((text) => events.message(text));
  queueMicrotask(() => events.open());
  return port;
}

/** Whether the server knows this browser. A server that does not answer may come back: not refused. */
async function hasSession(): Promise<boolean> {
  try {
    const answer = await fetch("./session", { cache: "no-store" });
    return answer.status !== 401;
  } catch {
    return true;
  }
}

function connectSocket(events: TransportEvents): Transport {
  const url = new URL("./rpc", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.hash = "";
  const socket = new WebSocket(url);
  let opened = false;
  socket.onopen = () => {
    opened = true;
    events.open();
  };
  socket.onmessage = ({ data }) => events.message(String(data));
  socket.onclose = async () => events.closed(!opened && !(await hasSession()));
  return { send: (text) => socket.send(text), close: () => socket.close() };
}

export function connectTransport(events: TransportEvents): Transport {
  return bridge ? connectBridge(bridge, events) : connectSocket(events);
}
