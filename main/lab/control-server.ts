/** The lab's end of the control socket. */
import { createServer, type Socket } from "node:net";
import { EXIT_BAD_INPUT, explain } from "../failure.ts";
import {
  type ControlAnswer,
  type ControlFunctions,
  type ControlMethod,
  type ControlWire,
  controlApi,
  isControlMethod,
} from "./control-api.ts";
import { lineChannel } from "./line-channel.ts";

const refusal = (line: string): ControlAnswer => ({ ok: false, line, status: EXIT_BAD_INPUT });

async function perform<Method extends ControlMethod>(
  functions: ControlFunctions,
  method: Method,
  parameters: unknown,
): Promise<ControlAnswer> {
  const { parameters: shape, result: resultShape } = controlApi[method];
  const checked = shape.safeParse(parameters);
  if (!checked.success) return refusal(`the lab does not understand this ${method}; use the same version of domlab`);
  // The schema and the function are those of one row; the compiler does not see that rows match across two tables.
  const action = functions[method] as (given: unknown) => unknown;
  return { ok: true, result: resultShape.parse(await action(checked.data)) };
}

/** Answers one call: every failure becomes a line for the user. */
export async function answerCall(functions: ControlFunctions, method: string, given: unknown): Promise<ControlAnswer> {
  if (!isControlMethod(method)) return refusal(`the lab knows no ${method}; use the same version of domlab`);
  try {
    return await perform(functions, method, given);
  } catch (error) {
    const { line, status } = explain(error);
    return { ok: false, line, status };
  }
}

export interface ControlServer {
  /** Stops listening, ends all connections, removes the socket file. */
  close(): Promise<void>;
}

/**
 * Serves a lab's functions on a socket path that must not exist.
 * @throws the system's error (EADDRINUSE, EACCES, ENOENT)
 */
export async function serveControl(functions: ControlFunctions, path: string): Promise<ControlServer> {
  const sockets = new Set<Socket>();
  const wire: ControlWire = { call: (method, parameters) => answerCall(functions, method, parameters) };
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    lineChannel<object, ControlWire>(socket, wire);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, () => {
      server.off("error", reject);
      resolve();
    });
  });
  return {
    close: () =>
      new Promise((resolve) => {
        for (const socket of sockets) socket.destroy();
        server.close(() => resolve());
      }),
  };
}
