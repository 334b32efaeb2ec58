/**
 * Firewall, connection tracking, accounting and packet log of one switch, as the hooks that the switch calls.
 *
 * A frame meets, where it comes in: classes, then chain OUTPUT of the interface that sent it. Then, for each interface
 * that it is about to go to: classes with -o, chain FORWARD of the switch, chain INPUT of that interface. Where none of
 * them has anything in it there are no hooks, and frames cost nothing here.
 */
import type { Frame } from "../../device/net/frame.ts";
import type { Headers } from "../headers.ts";
import type { Clock, ForwardHook, FrameHook, PortFacts, Verdict } from "../types.ts";
import { type Chain, type RuleActions, walk } from "./chain.ts";
import { Accounting } from "./classify.ts";
import { Conntrack, type ConntrackOptions } from "./conntrack.ts";
import { InterfaceNumbers, Packet } from "./packet.ts";
import { PacketLog, type PacketLogOptions } from "./packet-log.ts";
import { buildReject } from "./reject.ts";
import { type RejectKind, STATE_UNTRACKED } from "./rule.ts";
import { RuleSet } from "./rule-set.ts";

/** What a switch is to call (SwitchHooks of switch.ts); nothing where there is nothing to do. */
export interface PolicyHooks {
  readonly ingress?: FrameHook;
  readonly forward?: ForwardHook;
}

export interface SwitchPolicyOptions {
  readonly clock: Clock;
  /** Delivers an answer to the port that a refused frame came from (VirtualSwitch.deliver). */
  answer(to: PortFacts, frame: Frame): void;
  /** One line of the packet log. */
  log(line: string): void;
  /** The hooks are others now (VirtualSwitch.setHooks). */
  changed?(hooks: PolicyHooks): void;
  readonly conntrack?: ConntrackOptions;
  readonly packetLog?: PacketLogOptions;
}

interface InterfacePolicy {
  readonly rules: RuleSet;
  input: Chain | undefined;
  output: Chain | undefined;
}

const NO_TAGS = new Uint8Array(0);

export class SwitchPolicy {
  readonly conntrack: Conntrack;
  readonly packetLog: PacketLog;
  readonly accounting: Accounting;
  /** Rules of the switch: chain FORWARD. */
  readonly rules: RuleSet;
  /** Answers sent for REJECT, and refused packets that could not be answered. */
  answered = 0;
  unanswered = 0;
  readonly #options: SwitchPolicyOptions;
  readonly #interfaces = new Map<string, InterfacePolicy>();
  readonly #numbers = new InterfaceNumbers();
  readonly #packet = new Packet();
  readonly #actions: RuleActions;
  #hooks: PolicyHooks = {};
  #forward: Chain | undefined;
  #isStateful = false;
  /** The frame that #packet's state belongs to, and its tags as the sender's port has them. */
  #tracked: Frame | undefined;
  readonly #tags = new Uint8Array(8);
  #tagsLength = 0;
  /** A frame that is flooded is answered once. */
  #isAnswered = false;

  constructor(options: SwitchPolicyOptions) {
    this.#options = options;
    this.conntrack = new Conntrack(options.conntrack);
    this.packetLog = new PacketLog(options.clock, (line) => options.log(line), options.packetLog);
    const log = (packet: Packet, prefix: string) => this.packetLog.packet(packet, prefix);
    const changed = () => this.#refresh();
    this.#actions = { log, reject: (packet, how) => this.#reject(packet, how) };
    this.accounting = new Accounting(this.#numbers, log, changed);
    this.rules = new RuleSet([{ name: "FORWARD", knowsOut: true }], this.#numbers, changed);
  }

  /** What the switch is to call now. */
  get hooks(): PolicyHooks {
    return this.#hooks;
  }

  /** The rules of an interface: chains INPUT (frames to the guest) and OUTPUT (frames from the guest). */
  interfaceRules(name: string): RuleSet {
    const known = this.#interfaces.get(name);
    if (known !== undefined) return known.rules;
    const builtIn = [
      { name: "INPUT", knowsOut: true },
      { name: "OUTPUT", knowsOut: false },
    ];
    const rules = new RuleSet(builtIn, this.#numbers, () => this.#refresh());
    this.#interfaces.set(name, { rules, input: undefined, output: undefined });
    return rules;
  }

  /** Names of interfaces that have rules. */
  interfacesWithRules(): string[] {
    return [...this.#interfaces].filter(([, { rules }]) => !rules.isEmpty).map(([name]) => name);
  }

  /** An interface is gone for good: its rules, and the connections that it opened. */
  removeInterface(port: PortFacts): void {
    this.conntrack.removeOwner(port.id);
    if (this.#interfaces.delete(port.name)) this.#refresh();
  }

  #refresh(): void {
    this.#forward = this.rules.chainInForce("FORWARD");
    let stateful = this.rules.isStateful || this.accounting.isStateful;
    let isEmpty = this.#forward === undefined && this.accounting.isEmpty;
    for (const one of this.#interfaces.values()) {
      one.input = one.rules.chainInForce("INPUT");
      one.output = one.rules.chainInForce("OUTPUT");
      stateful ||= one.rules.isStateful;
      isEmpty &&= one.input === undefined && one.output === undefined;
    }
    this.#isStateful = stateful;
    this.#tracked = undefined;
    const hasHooks = this.#hooks.ingress !== undefined;
    if (hasHooks !== isEmpty) return;
    this.#hooks = isEmpty
      ? {}
      : {
          ingress: (frame, headers, port) => this.#ingress(frame, headers, port),
          forward: (frame, headers, from, to) => this.#leaving(frame, headers, from, to),
        };
    this.#options.changed?.(this.#hooks);
  }

  #ingress(frame: Frame, headers: Headers, port: PortFacts): Verdict {
    const packet = this.#packet;
    this.#enter(frame, headers, port);
    this.accounting.incoming(packet);
    const output = this.#interfaces.get(port.name)?.output;
    return output === undefined || walk(output, packet, this.#actions) ? "accept" : "drop";
  }

  #leaving(frame: Frame, headers: Headers, from: PortFacts, to: PortFacts): Verdict {
    const packet = this.#packet;
    // Frames that were held back, or got another tag on the way, are looked up anew; that finds the same.
    if (frame !== this.#tracked || packet.in !== from) this.#enter(frame, headers, from);
    packet.out = to;
    packet.outNumber = this.#numbers.find(to.name);
    this.accounting.outgoing(packet);
    if (this.#forward !== undefined && !walk(this.#forward, packet, this.#actions)) return "drop";
    const input = this.#interfaces.get(to.name)?.input;
    if (input !== undefined && !walk(input, packet, this.#actions)) return "drop";
    if (this.#isStateful) this.conntrack.confirm(packet.now);
    return "accept";
  }

  #enter(frame: Frame, headers: Headers, port: PortFacts): void {
    const packet = this.#packet;
    packet.load(frame, headers);
    packet.now = this.#options.clock.now();
    packet.in = port;
    packet.inNumber = this.#numbers.find(port.name);
    packet.out = undefined;
    packet.outNumber = 0;
    packet.state = this.#isStateful ? this.conntrack.track(packet, port.id) : STATE_UNTRACKED;
    this.#tracked = frame;
    this.#isAnswered = false;
    this.#tagsLength = Math.min(this.#tags.length, headers.l3Offset - 14);
    for (let n = 0; n < this.#tagsLength; n++) this.#tags[n] = frame.head[12 + n]!;
  }

  #reject(packet: Packet, how: RejectKind): void {
    const { frame, headers, in: from } = packet;
    if (frame === undefined || headers === undefined || from === undefined) return;
    const tags = this.#tagsLength === 0 ? NO_TAGS : this.#tags.subarray(0, this.#tagsLength);
    const answer = this.#isAnswered ? undefined : buildReject(frame, headers, how, tags);
    if (answer === undefined) {
      this.unanswered++;
      return;
    }
    this.#isAnswered = true;
    this.answered++;
    this.#options.answer(from, answer);
  }
}
