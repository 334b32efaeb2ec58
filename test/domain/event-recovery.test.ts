/** Processes that are killed while they send or take an event, at each of their stores: every later event still arrives. */
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { DomainTable } from "../../engine/domain/domain-table.ts";
import { EventChannels } from "../../engine/hypervisor/event-channel.ts";
import { EventDelivery } from "../../engine/hypervisor/event-delivery.ts";
import { takePending } from "../../engine/hypervisor/event-scan.ts";
import { DomainDirectory } from "../../engine/memory/domain-directory.ts";
import type { Mapping } from "../../engine/memory/guest-memory.ts";
import { Peers } from "../../engine/memory/peers.ts";
import { domId } from "../../engine/memory/types.ts";

const VCPUS = 4;
/** Steps after which every operation here is through. */
const MANY = 1000;

class Killed extends Error {}

const ATOMIC = ["add", "and", "compareExchange", "exchange", "load", "notify", "or", "store"] as const;

/** Performs what a process does, until it is killed before its atomic operation number `step`. @returns whether it was */
function killedAt(step: number, action: () => void): boolean {
  let left = step;
  const spies = ATOMIC.map((name) => {
    const original = Atomics[name] as (...values: unknown[]) => unknown;
    return vi.spyOn(Atomics, name).mockImplementation((...values: unknown[]) => {
      // A dead process does nothing more, even if something has caught this.
      if (--left < 0) throw new Killed();
      return original(...values) as never;
    });
  });
  try {
    action();
  } catch (error) {
    if (!(error instanceof Killed)) throw error;
  } finally {
    for (const spy of spies) spy.mockRestore();
  }
  return left < 0;
}

/** Performs `round` with a kill at the first step, the second, and so on, until an operation is through. @returns the kills */
function atEveryStep(round: (step: number) => boolean): number {
  for (let step = 0; step < MANY; step++) if (!round(step)) return step;
  throw new Error(`not through after ${MANY} steps`);
}

interface View {
  readonly id: number;
  readonly mapping: Mapping;
  readonly delivery: EventDelivery;
  readonly events: EventChannels;
}

describe.runIf(process.platform === "linux")("events of a process that is killed", () => {
  let table: DomainTable;
  let mappings: Mapping[];

  beforeEach(() => {
    table = new DomainTable();
    mappings = [];
  });
  afterEach(() => {
    for (const mapping of mappings) mapping.release();
    table.close();
  });

  /** A domain as a process of it sees it. */
  function view(id: number): View {
    const mapping = table.attach(id);
    if (mapping === undefined) throw new Error(`no domain ${id}`);
    mappings.push(mapping);
    const delivery = new EventDelivery(mapping);
    const peers = new Peers(DomainDirectory.open(table.directory?.path ?? ""), id, mapping);
    const events = new EventChannels({
      self: domId(id),
      mapping,
      delivery,
      vcpus: () => VCPUS,
      notifyHost: () => {},
      peer: (other) => peers.mapping(other),
    });
    return { id, mapping, delivery, events };
  }

  function add(): View {
    const id = table.take();
    table.create(id, 1);
    const made = view(id);
    made.delivery.initialise();
    return made;
  }

  function connect(from: View, to: View): { readonly near: number; readonly far: number } {
    const near = from.events.allocUnbound(to.id);
    return { near, far: to.events.bindInterdomain(from.id, near) };
  }

  function taken({ mapping, delivery }: View, vcpu = 0): number[] {
    const ports: number[] = [];
    while (takePending(mapping, delivery, vcpu, (port) => ports.push(port)));
    return ports;
  }

  it("one that sends and is started again reaches its peer, and so does everybody else", () => {
    const kills = atEveryStep((step) => {
      const [receiver, sender, other] = [add(), add(), add()];
      const first = connect(receiver, sender);
      const second = connect(receiver, other);
      receiver.events.bindVcpu(first.near, 2);
      receiver.events.bindVcpu(second.near, 2);
      const killed = killedAt(step, () => sender.events.send(first.far));
      table.recover(sender.id);
      taken(receiver, 2);
      view(sender.id).events.send(first.far);
      expect(taken(receiver, 2), `${step} steps`).toEqual([first.near]);
      other.events.send(second.far);
      expect(taken(receiver, 2), `${step} steps`).toEqual([second.near]);
      return killed;
    });
    expect(kills).toBeGreaterThan(10);
  });

  it("an event that it had begun to send arrives without another", () => {
    const arrived: boolean[] = [];
    atEveryStep((step) => {
      const [receiver, sender] = [add(), add()];
      const { near, far } = connect(receiver, sender);
      const killed = killedAt(step, () => sender.events.send(far));
      const begun = receiver.delivery.isPending(near);
      const rung = receiver.delivery.doorbell(0);
      table.recover(sender.id);
      expect(receiver.delivery.doorbell(0), `${step} steps`).not.toBe(rung);
      expect(taken(receiver), `${step} steps`).toEqual(begun ? [near] : []);
      arrived.push(begun);
      return killed;
    });
    // Nothing before the pending bit is set, and always from then on.
    expect(arrived[0]).toBe(false);
    expect(arrived.filter(Boolean).length).toBeGreaterThan(3);
  });

  it("one that takes events misses none in its next life", () => {
    const kills = atEveryStep((step) => {
      const [sender, receiver] = [add(), add()];
      const { near, far } = connect(sender, receiver);
      taken(receiver);
      receiver.events.bindVcpu(far, 3);
      sender.events.send(near);
      const killed = killedAt(step, () => void taken(receiver, 3));
      table.recover(receiver.id);
      const next = view(receiver.id);
      taken(next, 3);
      sender.events.send(near);
      expect(taken(next, 3), `${step} steps`).toEqual([far]);
      return killed;
    });
    expect(kills).toBeGreaterThan(10);
  });

  it("one that sends and is not started again silences nobody", () => {
    const kills = atEveryStep((step) => {
      const [driver, guest, other] = [add(), add(), add()];
      const first = connect(guest, driver);
      const second = connect(other, driver);
      // With the first event the guest opens the other's memory, which is not what is looked at here.
      guest.events.send(first.near);
      taken(driver);
      for (const { far } of [first, second]) driver.events.bindVcpu(far, 1);
      const killed = killedAt(step, () => guest.events.send(first.near));
      table.settle(guest.id);
      // The driver lets go of the channel before the rest of the guest is cleared away.
      taken(driver, 1);
      driver.events.close(first.far);
      table.destroy(guest.id);
      other.events.send(second.near);
      expect(taken(driver, 1), `${step} steps`).toEqual([second.far]);
      return killed;
    });
    expect(kills).toBeGreaterThan(10);
  });

  it("leaves those alone that have no channel with it, and those that never ran", () => {
    const [sender, peer, stranger] = [add(), add(), add()];
    connect(peer, sender);
    const id = table.take();
    table.create(id, 1);
    const fresh = view(id);
    table.recover(sender.id);
    table.recover(id);
    expect([sender, peer, stranger].map(({ delivery }) => delivery.upcallPending(0))).toEqual([true, true, false]);
    expect(fresh.mapping.bytes.subarray(fresh.mapping.base, fresh.mapping.base + 4096).some((byte) => byte !== 0)).toBe(
      false,
    );
  });
});
