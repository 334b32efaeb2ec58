/** A tool's end of the control socket. */
import { connect, type Socket } from "node:net";
import { BadInput, PassedOn } from "../failure.ts";
import {
  type ControlAnswer,
  type ControlMethod,
  type ControlParameters,
  type ControlResult,
  type ControlWire,
  controlAnswer,
  controlApi,
  type EventWire,
} from "./control-api.ts";
import { lineChannel } from "./line-channel.ts";
import { type LabEvent, labEvent } from "./machine-api.ts";

const otherVersion = () =>
  new BadInput("bad-option", "the lab runs another version of domlab", "use the one that started it");

export class ControlClient {
  private readonly socket: Socket;
  private readonly wire: { call(method: string, parameters: unknown): Promise<unknown> };
  private readonly listeners = new Set<(event: LabEvent) => void>();
  /** Fulfilled when the connection has ended, by whichever side. */
  readonly ended: Promise<void>;

  private constructor(socket: Socket) {
    this.socket = socket;
    this.wire = lineChannel<ControlWire, EventWire>(socket, { event: (event) => this.hear(event) });
    this.ended = new Promise((resolve) => socket.once("close", () => resolve()));
  }

  private hear(given: unknown): void {
    const event = labEvent.safeParse(given);
    // An event of a later version is nothing that we could act on.
    if (event.success) for (const listener of [...this.listeners]) listener(event.data);
  }

  /** Calls `listener` with each event that the lab sends over this connection. @returns how to stop that */
  onEvent(listener: (event: LabEvent) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** @throws the system's error: ECONNREFUSED and ENOENT where no lab lives */
  static connect(path: string): Promise<ControlClient> {
    const socket = connect(path);
    return new Promise((resolve, reject) => {
      socket.once("error", reject);
      socket.once("connect", () => {
        socket.off("error", reject);
        resolve(new ControlClient(socket));
      });
    });
  }

  /**
   * Calls a function of the lab.
   * @throws PassedOn with the lab's own line; BadInput when the lab ends meanwhile or answers nonsense
   */
  async call<Method extends ControlMethod>(
    method: Method,
    parameters: ControlParameters<Method>,
  ): Promise<ControlResult<Method>> {
    const answer = await this.pass(method, parameters);
    if (!answer.ok) throw new PassedOn(answer.line, answer.status);
    const result = controlApi[method].result.safeParse(answer.result);
    if (!result.success) throw otherVersion();
    return result.data as ControlResult<Method>;
  }

  /**
   * Passes on a call that somebody else made: the lab checks the parameters, who asked takes the answer.
   * @throws BadInput when the lab ends meanwhile or answers nonsense
   */
  async pass(method: ControlMethod, parameters: unknown): Promise<ControlAnswer> {
    let given: unknown;
    try {
      given = await this.wire.call(method, parameters);
    } catch (error) {
      throw new BadInput("bad-option", "the lab ended meanwhile", "start it again", error);
    }
    const answer = controlAnswer.safeParse(given);
    if (!answer.success) throw otherVersion();
    return answer.data;
  }

  close(): void {
    this.socket.destroy();
  }
}
