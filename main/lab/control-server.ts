/** The lab's end of the control socket. */
import { createServer, type Socket } from "node:net";
import type { ZodError } from "zod";
import { EXIT_BAD_INPUT, explain } from "../failure.ts";
import {
  type ControlAnswer,
  type ControlFunctions,
  type ControlMethod,
  type ControlSession,
  type ControlWire,
  controlApi,
  type EventWire,
  isControlMethod,
} from "./control-api.ts";
import { lineChannel } from "./line-channel.ts";
import { pathText } from "./store/errors.ts";

/** Most bytes that wait for one client, and most calls of it that are under way: far more than a tool of ours needs. */
const MOST_UNREAD = 8 << 20;
const MOST_CALLS = 256;

const refusal = (line: string): ControlAnswer => ({ ok: false, line, status: EXIT_BAD_INPUT });

/** What a value of the right kind has against it; undefined for parameters of a kind that the lab does not know. */
function wrongValue({ issues: [issue] }: ZodError): string | undefined {
  if (issue === undefined || !["too_small", "too_big", "invalid_format", "custom"].includes(issue.code))
    return undefined;
  const where = pathText(issue.path);
  const text = issue.code === "too_small" || issue.code === "too_big" ? issue.origin === "string" : false;
  if (text && issue.code === "too_small") return `the lab cannot take that: ${where} is empty; give it a value`;
  if (text && issue.code === "too_big") {
    return `the lab cannot take that: ${where} is longer than ${issue.maximum} characters; shorten it`;
  }
  return `the lab cannot take that: ${where}: ${issue.message}; correct it`;
}

async function perform<Method extends ControlMethod>(
  functions: ControlFunctions,
  method: Method,
  parameters: unknown,
  session: ControlSession,
): Promise<ControlAnswer> {
  const { parameters: shape, result: resultShape } = controlApi[method];
  const checked = shape.safeParse(parameters);
  if (!checked.success) {
    const wrong = wrongValue(checked.error);
    return refusal(wrong ?? `the lab does not understand this ${method}; use the same version of domlab`);
  }
  if (functions[method] === undefined) {
    return refusal("this lab is a domlab run, which has no persistent machines; leave --lab out");
  }
  // The schema and the function are those of one row; the compiler does not see that rows match across two tables.
  const action = functions[method] as (given: unknown, session: ControlSession) => unknown;
  return { ok: true, result: resultShape.parse(await action(checked.data, session)) };
}

/** Where the events of a call go that comes over no connection. */
const UNCONNECTED: ControlSession = { send: () => {}, onEnd: () => {} };

/** Answers one call: every failure becomes a line for the user. */
export async function answerCall(
  functions: ControlFunctions,
  method: string,
  given: unknown,
  session = UNCONNECTED,
): Promise<ControlAnswer> {
  if (!isControlMethod(method)) return refusal(`the lab knows no ${method}; use the same version of domlab`);
  try {
    return await perform(functions, method, given, session);
  } catch (error) {
    const { line, status } = explain(error);
    return { ok: false, line, status };
  }
}

/** Serves one connection. */
function serveClient(functions: ControlFunctions, socket: Socket): void {
  const endings: (() => void)[] = [];
  let calls = 0;
  const session: ControlSession = {
    send: (event) => void rpc.event.asEvent(event)?.catch(() => {}),
    onEnd: (listener) => {
      if (socket.destroyed) listener();
      else endings.push(listener);
    },
  };
  socket.on("close", () => {
    for (const listener of endings.splice(0)) listener();
  });
  const wire: ControlWire = {
    async call(method, parameters) {
      if (calls >= MOST_CALLS) return refusal(`more than ${MOST_CALLS} calls at once; wait for answers`);
      calls++;
      try {
        return await answerCall(functions, method, parameters, session);
      } finally {
        calls--;
      }
    },
  };
  const rpc = lineChannel<EventWire, ControlWire>(socket, wire, { mostUnread: MOST_UNREAD });
}

export interface ControlServer {
  /** Connections that are open now. */
  readonly clients: number;
  /** Stops listening, ends all connections, removes the socket file. */
  close(): Promise<void>;
}

/**
 * Serves a lab's functions on a socket path that must not exist.
 * @param onClients called when the number of connections has changed
 * @throws the system's error (EADDRINUSE, EACCES, ENOENT)
 */
export async function serveControl(
  functions: ControlFunctions,
  path: string,
  onClients: (clients: number) => void = () => {},
): Promise<ControlServer> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    onClients(sockets.size);
    socket.on("close", () => {
      sockets.delete(socket);
      onClients(sockets.size);
    });
    serveClient(functions, socket);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, () => {
      server.off("error", reject);
      resolve();
    });
  });
  return {
    get clients() {
      return sockets.size;
    },
    close: () =>
      new Promise((resolve) => {
        // Who sees a connection end must not get another one to the same lab.
        server.close(() => resolve());
        for (const socket of sockets) socket.destroy();
      }),
  };
}
