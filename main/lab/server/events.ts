/** Who is told what: the subscriptions of connections, and changes of machines gathered into one event each. */
import { explain } from "../../failure.ts";
import type { ControlSession } from "../control-api.ts";
import type { LabEvent, LabTopic, MachineSummary } from "../machine-api.ts";

const topicOf: Partial<Record<LabEvent["kind"], LabTopic>> = {
  machine: "machines",
  operation: "operations",
  log: "log",
  metrics: "metrics",
};

export class EventHub {
  private readonly topics = new Map<ControlSession, ReadonlySet<LabTopic>>();
  private readonly changed = new Set<string>();
  /** The row of a machine; undefined when it is gone. */
  private readonly summary: (id: string) => MachineSummary | undefined;
  private readonly log: (line: string) => void;
  private readonly listeners = new Set<() => void>();
  private onTopics: () => void = () => {};

  constructor(summary: (id: string) => MachineSummary | undefined, log: (line: string) => void) {
    this.summary = summary;
    this.log = log;
  }

  /** Replaces what a connection is told. */
  subscribe(session: ControlSession, topics: readonly LabTopic[]): void {
    const known = this.topics.has(session);
    this.topics.set(session, new Set(topics));
    if (!known) {
      session.onEnd(() => {
        this.topics.delete(session);
        this.onTopics();
      });
    }
    this.onTopics();
  }

  /** Whether somebody is told of a topic. */
  wants(topic: LabTopic): boolean {
    return [...this.topics.values()].some((topics) => topics.has(topic));
  }

  /** Calls `listener` when connections began or ceased to be told of something. */
  onSubscriptions(listener: () => void): void {
    this.onTopics = listener;
  }

  emit(event: LabEvent): void {
    const topic = topicOf[event.kind];
    for (const [session, topics] of [...this.topics]) if (topic !== undefined && topics.has(topic)) session.send(event);
  }

  /** Calls `listener` after changes of machines. @returns how to stop that */
  onMachines(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Tells of a machine's change, once for all that happen to it at a time. */
  machineChanged(id: string): void {
    if (this.changed.size === 0) setImmediate(() => this.flush());
    this.changed.add(id);
  }

  private flush(): void {
    const ids = [...this.changed];
    this.changed.clear();
    for (const id of ids) {
      try {
        const machine = this.summary(id);
        this.emit({ kind: "machine", id, ...(machine && { machine }) });
      } catch (error) {
        this.log(explain(error).line);
      }
    }
    for (const listener of [...this.listeners]) listener();
  }
}
