import { contains4, type MacAddress } from "../../address.ts";
import type { Clock } from "../../types.ts";
import type { GuestLink } from "./guest-link.ts";

const MOST_KNOWN = 4096;
/** How often and how many times a guest's MAC address is asked for. */
const ASK_EVERY_NS = 500_000_000;
const ASK_TIMES = 10;
/** Questions that wait for an answer at once. */
const MOST_QUESTIONS = 256;
const NOBODY: MacAddress = { high: 0, low: 0 };

interface Question {
  readonly waiting: ((mac: MacAddress | undefined) => void)[];
  asked: number;
  timer: { cancel(): void } | undefined;
}

/** Which MAC address has which IPv4 address: learnt from what guests send, asked for by ARP where a forward needs it. */
export class Neighbours {
  private readonly link: GuestLink;
  private readonly clock: Clock;
  private readonly known = new Map<number, MacAddress>();
  private readonly questions = new Map<number, Question>();

  constructor(link: GuestLink, clock: Clock) {
    this.link = link;
    this.clock = clock;
  }

  /** A guest has sent something from this address. */
  learn(address: number, high: number, low: number): void {
    const old = this.known.get(address);
    if (old !== undefined && old.high === high && old.low === low) return;
    const { subnet, gateway, dns, broadcast } = this.link.settings;
    if (!contains4(subnet, address) || address === gateway || address === dns || address === broadcast) return;
    if (old === undefined && this.known.size >= MOST_KNOWN) {
      const oldest = this.known.keys().next().value;
      if (oldest !== undefined) this.known.delete(oldest);
    }
    const mac = { high, low };
    this.known.set(address, mac);
    this.settle(address, mac);
  }

  /** The MAC address of a guest; undefined when none answers within five seconds. */
  async resolve(address: number): Promise<MacAddress | undefined> {
    const known = this.known.get(address);
    if (known !== undefined) return known;
    let question = this.questions.get(address);
    if (question === undefined) {
      if (this.questions.size >= MOST_QUESTIONS) return undefined;
      question = { waiting: [], asked: 0, timer: undefined };
      this.questions.set(address, question);
      this.ask(address, question);
    }
    const { waiting } = question;
    return await new Promise((resolve) => waiting.push(resolve));
  }

  close(): void {
    for (const address of [...this.questions.keys()]) this.settle(address, undefined);
  }

  private ask(address: number, question: Question): void {
    if (question.asked === ASK_TIMES) {
      this.settle(address, undefined);
      return;
    }
    question.asked++;
    const to = { mac: NOBODY, address };
    this.link.post(() => this.link.sendArp("request", this.link.settings.gateway, to));
    question.timer = this.clock.after(ASK_EVERY_NS, () => this.ask(address, question));
  }

  private settle(address: number, mac: MacAddress | undefined): void {
    const question = this.questions.get(address);
    if (question === undefined) return;
    this.questions.delete(address);
    question.timer?.cancel();
    for (const resolve of question.waiting) resolve(mac);
  }
}
