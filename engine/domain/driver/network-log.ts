/** The firewall's log: the last lines, for whoever asks, and all of them for the host's log. */
import { type LogLine, PACKET_LOG } from "../network-calls.ts";

/** Lines that are kept. */
const KEPT = 2000;
/** Most lines of one answer. */
const ANSWER = 500;

export class LogLines {
  private readonly lines: LogLine[] = [];
  private readonly log: (line: string) => void;
  private next = 1;

  constructor(log: (line: string) => void) {
    this.log = log;
  }

  /** @param on name of the switch whose rule or class it is */
  add(on: string, text: string): void {
    this.lines.push({ number: this.next++, time: Date.now(), on, text });
    if (this.lines.length > 2 * KEPT) this.lines.splice(0, KEPT);
    this.log(`${PACKET_LOG}${text}`);
  }

  /** The lines after that number, the oldest that are still there first. */
  after(number: number): LogLine[] {
    // A number from an earlier process, which had counted further: everything is new.
    const from = number >= this.next ? 0 : number;
    return this.lines
      .filter((line) => line.number > from)
      .slice(-KEPT)
      .slice(0, ANSWER);
  }
}
