/** birpc over a socket: one JSON message a line. */
import type { Socket } from "node:net";
import { StringDecoder } from "node:string_decoder";
import { type BirpcReturn, createBirpc } from "birpc";
import { z } from "zod";

/** Longest line in UTF-16 units. Who sends a longer one is no client of ours. */
const LONGEST_LINE = 4 << 20;

/** birpc's messages: a request or a response. */
const message = z.union([
  z.looseObject({ t: z.literal("q"), m: z.string(), a: z.array(z.unknown()), i: z.string().optional() }),
  z.looseObject({ t: z.literal("s"), i: z.string() }),
]);

/** Cuts a stream of bytes into lines. */
export class LineSplitter {
  private readonly decoder = new StringDecoder("utf8");
  private rest = "";

  /** @returns the lines that are complete now; undefined when one is too long */
  feed(bytes: Buffer): string[] | undefined {
    const lines = (this.rest + this.decoder.write(bytes)).split("\n");
    this.rest = lines.pop() ?? "";
    return this.rest.length > LONGEST_LINE || lines.some((line) => line.length > LONGEST_LINE) ? undefined : lines;
  }
}

/** A message of birpc; undefined for any other text. */
export function parseMessage(line: string): z.infer<typeof message> | undefined {
  try {
    return message.parse(JSON.parse(line));
  } catch {
    return undefined;
  }
}

export interface LineChannelOptions {
  /** Most bytes that may wait for a reader; who leaves more unread is disconnected. */
  readonly mostUnread?: number;
}

/**
 * Puts calls on a socket: `Theirs` are the other end's functions, `own` those that it may call. Whoever sends anything but
 * messages is disconnected. When the socket closes, calls that wait reject.
 */
export function lineChannel<Theirs extends object, Own extends object>(
  socket: Socket,
  own: Own,
  { mostUnread = Number.POSITIVE_INFINITY }: LineChannelOptions = {},
): BirpcReturn<Theirs, Own> {
  const splitter = new LineSplitter();
  const rpc = createBirpc<Theirs, Own>(own, {
    post: (text: string) => {
      if (!socket.writable) return;
      if (socket.writableLength > mostUnread) socket.destroy();
      else socket.write(`${text}\n`);
    },
    on: (listener) => {
      socket.on("data", (bytes: Buffer) => {
        const messages = splitter.feed(bytes)?.map(parseMessage);
        if (messages === undefined || messages.includes(undefined)) socket.destroy();
        else for (const each of messages) listener(each);
      });
    },
    serialize: (value) => JSON.stringify(value),
    // A function that the other end does not have must not be looked up in Object.prototype.
    resolver: (name, resolved) => (Object.hasOwn(own, name) ? resolved : undefined),
    timeout: -1,
  });
  socket.on("error", () => socket.destroy());
  socket.on("close", () => rpc.$close());
  return rpc;
}
