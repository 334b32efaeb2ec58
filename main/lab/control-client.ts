/** A tool's end of the control socket. */
import { connect, type Socket } from "node:net";
import { BadInput, PassedOn } from "../failure.ts";
import {
  type ControlMethod,
  type ControlParameters,
  type ControlResult,
  type ControlWire,
  controlAnswer,
  controlApi,
} from "./control-api.ts";
import { lineChannel } from "./line-channel.ts";

export class ControlClient {
  private readonly socket: Socket;
  private readonly wire: { call(method: string, parameters: unknown): Promise<unknown> };

  private constructor(socket: Socket) {
    this.socket = socket;
    this.wire = lineChannel<ControlWire, object>(socket, {});
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
    let given: unknown;
    try {
      given = await this.wire.call(method, parameters);
    } catch (error) {
      throw new BadInput("bad-option", "the lab ended meanwhile", "start it again", error);
    }
    const answer = controlAnswer.safeParse(given);
    const result =
      answer.success && answer.data.ok ? controlApi[method].result.safeParse(answer.data.result) : undefined;
    if (answer.success && !answer.data.ok) throw new PassedOn(answer.data.line, answer.data.status);
    if (!result?.success) {
      throw new BadInput("bad-option", "the lab runs another version of domlab", "use the one that started it");
    }
    return result.data as ControlResult<Method>;
  }

  close(): void {
    this.socket.destroy();
  }
}
