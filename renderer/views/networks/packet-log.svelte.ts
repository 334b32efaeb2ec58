/** The last lines of the firewall's log, looked for while somebody sees them. */
import { call, type Result } from "../../lib/rpc/client.ts";
import { poll } from "../../lib/state/poll.ts";
import { type PacketLine, readPacketLine } from "./packet-lines.ts";

type Logged = Result<"networkLog">[number];

export interface ShownLine {
  /** Never twice, also when the network was made anew and counts from 1. */
  readonly key: string;
  readonly time: number;
  /** Name of the switch. */
  readonly on: string;
  readonly text: string;
  readonly packet: PacketLine | undefined;
}

const LOOK_MS = 1500;
/** Lines that are kept in the window. */
export const MOST_LINES = 1000;

class PacketLog {
  /** The oldest first. */
  lines = $state.raw<readonly ShownLine[]>([]);
  /** Whether the lab has been asked. */
  loaded = $state(false);
  private after = 0;
  /** Lives of the network domain that were seen. */
  private life = 1;

  /** Looks now and again. @returns how to stop */
  start(): () => void {
    return poll(LOOK_MS, () => this.look());
  }

  private async look(): Promise<void> {
    for (;;) {
      const asked = this.after;
      const found = await call("networkLog", { after: asked });
      this.loaded = true;
      const last = found.at(-1);
      if (last === undefined) return;
      if ((found[0]?.number ?? 0) <= asked) this.life++;
      this.after = last.number;
      this.lines = [...this.lines, ...found.map((line) => this.shown(line))].slice(-MOST_LINES);
    }
  }

  private shown({ number, time, on, text }: Logged): ShownLine {
    return { key: `${this.life}/${number}`, time, on, text, packet: readPacketLine(text) };
  }

  /** Takes away what is shown; what comes is shown again. */
  clear(): void {
    this.lines = [];
  }
}

export const packetLog = new PacketLog();
