/** Which port the served form gets. */
import { errnoOf } from "../../engine/builder/errors.ts";
import { BadInput } from "../failure.ts";

export const DEFAULT_PORT = 7411;
/** Ports that are tried after the default one. */
const MORE_PORTS = 20;

function portRefused(port: number, error: unknown): BadInput {
  const code = errnoOf(error);
  if (code === "EADDRINUSE") {
    return new BadInput(
      "bad-option",
      `port ${port} is taken by another program`,
      "choose another --port, or leave it out",
      error,
    );
  }
  if (code === "EACCES") {
    return new BadInput("bad-option", `port ${port} is not for users`, "choose a --port from 1024 on", error);
  }
  return new BadInput(
    "bad-option",
    `port ${port} cannot be used (${code ?? "unknown error"})`,
    "check --host and --port",
    error,
  );
}

export interface PortWish {
  /** The user's own, which alone is tried; 0 for any that is free. */
  readonly port?: number;
  /** That of the last time. */
  readonly remembered?: number;
}

/**
 * Listens on the first port that can be had.
 * @param say takes a line when it is not the usual one
 * @throws BadInput when there is none
 */
export async function listenSomewhere<Server>(
  { port, remembered }: PortWish,
  listen: (port: number) => Promise<Server>,
  say: (line: string) => void,
): Promise<Server> {
  const usual = Array.from({ length: MORE_PORTS + 1 }, (_, index) => DEFAULT_PORT + index);
  const candidates = port === undefined ? [...new Set([remembered ?? DEFAULT_PORT, ...usual])] : [port];
  const [first] = candidates;
  let refused: unknown;
  for (const candidate of candidates) {
    try {
      const server = await listen(candidate);
      if (candidate !== first) say(`port ${first} is taken by another program: ${candidate} is used instead`);
      return server;
    } catch (error) {
      if (errnoOf(error) !== "EADDRINUSE" || port !== undefined) throw portRefused(candidate, error);
      refused = error;
    }
  }
  const last = DEFAULT_PORT + MORE_PORTS;
  throw new BadInput("bad-option", `ports ${DEFAULT_PORT} to ${last} are all taken`, "choose one with --port", refused);
}
