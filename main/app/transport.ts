/** How text messages get from the app process to a renderer and back: a WebSocket, or a message port of Electron. */
import { type BirpcReturn, createBirpc } from "birpc";
import { parseMessage } from "../lab/line-channel.ts";

export interface Transport {
  /** After the end it does nothing. */
  send(text: string): void;
  /** Takes whatever the renderer sends; anything but text ends the connection. */
  onMessage(listener: (message: unknown) => void): void;
  /** Calls `listener` once, when the connection has ended by whichever side. */
  onClose(listener: () => void): void;
  /** Ends the connection. @param reason for the renderer, where it can be told: some words */
  close(reason?: string): void;
}

/** What MessagePort of the web and of Electron's main process have in common. */
export interface PortLike {
  postMessage(message: unknown): void;
  on(event: "message", listener: (event: { readonly data: unknown }) => void): unknown;
  on(event: "close", listener: () => void): unknown;
  start(): void;
  close(): void;
}

/** A transport over Electron's MessagePortMain. */
export function portTransport(port: PortLike): Transport {
  let open = true;
  const listeners: (() => void)[] = [];
  const end = () => {
    if (!open) return;
    open = false;
    for (const listener of listeners.splice(0)) listener();
  };
  port.on("close", end);
  return {
    send: (text) => {
      if (open) port.postMessage(text);
    },
    onMessage: (listener) => {
      port.on("message", ({ data }) => {
        if (open) listener(data);
      });
      port.start();
    },
    onClose: (listener) => {
      if (open) listeners.push(listener);
      else listener();
    },
    close: () => {
      port.close();
      end();
    },
  };
}

/**
 * birpc over a transport: `Theirs` are the renderer's functions, `own` those that it may call. A renderer that sends anything
 * but messages is disconnected.
 */
export function transportChannel<Theirs extends object, Own extends object>(
  transport: Transport,
  own: Own,
): BirpcReturn<Theirs, Own> {
  const rpc = createBirpc<Theirs, Own>(own, {
    post: (text: string) => transport.send(text),
    on: (listener) => {
      transport.onMessage((text) => {
        const message = typeof text === "string" ? parseMessage(text) : undefined;
        if (message === undefined) transport.close("this is no message");
        else listener(message);
      });
    },
    serialize: (value) => JSON.stringify(value),
    // A function that the other end does not have must not be looked up in Object.prototype.
    resolver: (name, resolved) => (Object.hasOwn(own, name) ? resolved : undefined),
    timeout: -1,
  });
  transport.onClose(() => rpc.$close());
  return rpc;
}
