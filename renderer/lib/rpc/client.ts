/** Calls to the lab and to the app process, typed by their tables, over a connection that comes back by itself. */
import { createBirpc } from "birpc";
import type { AppEvent } from "../../../main/app/app-api.ts";
import type { ControlAnswer } from "../../../main/lab/control-api.ts";
import type { LabEvent } from "../../../main/lab/machine-api.ts";
import { errorLine } from "../error-line.ts";
import type { Method, Parameters, Result } from "./api.ts";
import { connectTransport, type Transport } from "./transport.ts";

export type { Method, Parameters, Result };
export type ServerEvent = LabEvent | AppEvent;

/** A refusal: one line with cause and remedy, as the command line prints it. */
export class LabError extends Error {
  readonly status: number;

  constructor(line: string, status = 1) {
    super(line);
    this.status = status;
  }
}

/** `refused`: this browser has no session; only a new link helps. */
export type Connection = "connecting" | "open" | "reconnecting" | "refused";

interface Wire {
  call(method: string, parameters: unknown): Promise<ControlAnswer>;
}

const FIRST_RETRY_MS = 200;
const LAST_RETRY_MS = 2000;

export class LabClient {
  private readonly eventListeners = new Set<(event: ServerEvent) => void>();
  private readonly connectionListeners = new Set<(connection: Connection) => void>();
  private transport: Transport | undefined;
  private wire: ReturnType<typeof createBirpc<Wire>> | undefined;
  private receive: (text: string) => void = () => {};
  private retryMs = FIRST_RETRY_MS;
  connection: Connection = "connecting";

  /** Connects, and again whenever the connection is lost. */
  start(): void {
    this.connect();
  }

  private connect(): void {
    this.transport = connectTransport({
      open: () => {
        this.retryMs = FIRST_RETRY_MS;
        this.openWire();
        this.become("open");
      },
      message: (text) => this.receive(text),
      closed: (refused) => {
        this.dropWire();
        this.become(refused ? "refused" : "reconnecting");
        if (refused) return;
        window.setTimeout(() => this.connect(), this.retryMs);
        this.retryMs = Math.min(this.retryMs * 2, LAST_RETRY_MS);
      },
    });
  }

  private openWire(): void {
    const { transport } = this;
    this.wire = createBirpc<Wire, { event(event: ServerEvent): void }>(
      {
        event: (event) => {
          for (const listener of [...this.eventListeners]) listener(event);
        },
      },
      {
        post: (text: string) => transport?.send(text),
        on: (receive) => {
          this.receive = receive;
        },
        serialize: JSON.stringify,
        deserialize: JSON.parse,
        // Snapshots and downloads take their time; the end of the connection ends every call.
        timeout: -1,
      },
    );
  }

  private dropWire(): void {
    this.wire?.$close(new LabError("The connection to the lab was lost; it is being made again."));
    this.wire = undefined;
    this.receive = () => {};
  }

  private become(connection: Connection): void {
    this.connection = connection;
    for (const listener of [...this.connectionListeners]) listener(connection);
  }

  onEvent(listener: (event: ServerEvent) => void): () => void {
    this.eventListeners.add(listener);
    return () => this.eventListeners.delete(listener);
  }

  onConnection(listener: (connection: Connection) => void): () => void {
    this.connectionListeners.add(listener);
    return () => this.connectionListeners.delete(listener);
  }

  /** @throws LabError with the lab's line, or when there is no connection */
  async call<M extends Method>(method: M, parameters: Parameters<M>): Promise<Result<M>> {
    if (this.wire === undefined) throw new LabError("The lab cannot be reached just now; it is being looked for.");
    let answer: ControlAnswer;
    try {
      answer = await this.wire.call(method, parameters);
    } catch (error) {
      throw error instanceof LabError ? error : new LabError(errorLine(error));
    }
    if (!answer.ok) throw new LabError(answer.line, answer.status);
    return answer.result as Result<M>;
  }
}

export const client = new LabClient();

/** `client.call`, as everybody uses it. */
export const call: LabClient["call"] = (method, parameters) => client.call(method, parameters);
