/** A daemon and connections that speak in type names and text, for the tables of these tests. */
import { XsType } from "../../engine/abi/xs-wire.ts";
import type { Connection } from "../../engine/xenstore/connection.ts";
import { Xenstored } from "../../engine/xenstore/daemon.ts";
import { domainNodes } from "../../engine/xenstore/domain-nodes.ts";
import { decodeText, encodeMessage, encodeText, MessageParser } from "../../engine/xenstore/protocol.ts";

export type TypeName = keyof typeof XsType;

export interface Peer {
  readonly connection: Connection;
  /** Sends a request and returns all that came, as "TYPE payload" with | for NUL. */
  ask(type: TypeName | number, payload?: string, transaction?: number): string[];
  /** What came since the last look. */
  drain(): string[];
  /** Messages that have come in all. */
  readonly count: () => number;
  readonly closed: () => number | undefined;
}

export function peer(daemon: Xenstored, domain: number, window?: number): Peer {
  const parser = new MessageParser();
  let count = 0;
  let closed: number | undefined;
  const came: string[] = [];
  const connection = daemon.connect(
    domain,
    {
      send: (bytes) => {
        parser.push(bytes);
        for (let message = parser.next(); typeof message === "object"; message = parser.next()) {
          const { type, payload } = message;
          const name = Object.entries(XsType).find(([, number]) => number === type)?.[0] ?? String(type);
          came.push(`${name} ${decodeText(payload).replaceAll("\0", "|")}`);
          count++;
        }
      },
      closed: (error) => {
        closed = error;
      },
    },
    window === undefined ? {} : { window },
  );
  const drain = () => came.splice(0);
  return {
    connection,
    drain,
    count: () => count,
    closed: () => closed,
    ask(type, payload = "", transactionId = 0) {
      const number = typeof type === "number" ? type : XsType[type];
      const bytes = encodeText(payload.replaceAll("|", "\0"));
      connection.receive(encodeMessage({ type: number, requestId: 1, transactionId, payload: bytes }));
      return drain();
    },
  };
}

/** A daemon with domains 7 and 8, as the toolstack leaves them. */
export function lab(): Xenstored {
  const daemon = new Xenstored();
  for (const id of [7, 8]) introduce(daemon, id);
  return daemon;
}

export function introduce(daemon: Xenstored, id: number): void {
  const guest = { consolePort: 2, consoleGfn: 5, storePort: 1, storeGfn: 4 };
  daemon.toolstack.writeNodes(domainNodes({ id, name: `guest${id}`, ramKib: 65536, vcpus: 1, ...guest }));
  daemon.introduceDomain(id);
}
