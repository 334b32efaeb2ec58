/**
 * A domain process's line to the program that started it: Node's IPC channel, or in Electron's utility process its
 * `process.parentPort` (docs/api/parent-port.md).
 */

/** How often a process without a "disconnect" event looks whether its parent is still there. */
const PARENT_LOOK_MS = 1000;

export interface ParentChannel {
  /** Dropped when the parent is gone. */
  send(message: unknown): void;
  /** Messages wait for the first listener. */
  onMessage(listener: (message: unknown) => void): void;
  /** Calls `listener` when the parent is gone, at once if it has been gone before anybody listened. */
  onEnd(listener: () => void): void;
}

/** What is used of Electron's ParentPort. */
interface ParentPort {
  on(event: "message", listener: (message: { readonly data: unknown }) => void): unknown;
  postMessage(message: unknown): void;
}

/** What is used of the process object; a test has a smaller one. */
export type ChannelProcess = Pick<NodeJS.Process, "on" | "connected" | "send" | "ppid"> & {
  readonly parentPort?: ParentPort;
};

function overParentPort(own: ChannelProcess, port: ParentPort): ParentChannel {
  const parent = own.ppid;
  return {
    send: (message) => port.postMessage(message),
    onMessage: (listener) => void port.on("message", ({ data }) => listener(data)),
    // The port has no event for it. Chromium ends its children itself, but not while a thread of theirs holds up the exit.
    onEnd: (listener) => {
      const timer = setInterval(() => {
        if (own.ppid === parent) return;
        clearInterval(timer);
        listener();
      }, PARENT_LOOK_MS).unref();
    },
  };
}

function overIpc(own: ChannelProcess): ParentChannel {
  return {
    send: (message) => {
      if (own.connected) own.send?.(message);
    },
    onMessage: (listener) => void own.on("message", listener),
    onEnd: (listener) => {
      own.on("disconnect", listener);
      // A parent that was killed while this program was loading has gone without an event that anybody heard.
      if (!own.connected) listener();
    },
  };
}

/** The channel of this process. One without a parent that talks to it is told of the parent's end at once. */
export function parentChannel(own: ChannelProcess = process): ParentChannel {
  return own.parentPort ? overParentPort(own, own.parentPort) : overIpc(own);
}
