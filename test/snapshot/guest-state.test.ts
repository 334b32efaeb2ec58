import fc from "fast-check";
import { expect, it } from "vitest";
import { flatProtectedState } from "../../engine/cpu/state.ts";
import type { Domain, SavedDomain } from "../../engine/hypervisor/domain.ts";
import { restoreDomain, saveDomain } from "../../engine/hypervisor/saved-domain.ts";
import { decodeGuestState, encodeGuestState, type GuestState } from "../../engine/snapshot/guest-state.ts";
import { fakeDomain } from "../hypervisor/fake-domain.ts";

const STORAGE = 1;
const EVENT_CHANNEL_OP = 32;
const ALLOC_UNBOUND = 6;

/** A domain with some of everything that a guest may set. */
function usedDomain(): ReturnType<typeof fakeDomain> {
  const fake = fakeDomain();
  const { domain, vcpu, call, ram } = fake;
  ram.setUint16(0x1000, 0x7ff0, true); // dom: DOMID_SELF
  ram.setUint16(0x1002, STORAGE, true);
  expect(call(EVENT_CHANNEL_OP, ALLOC_UNBOUND, 0x1000)).toBe(0);
  domain.events.bindVirq(0, 0);
  vcpu.timers.setSingleshot(5_000_000);
  vcpu.timers.setPeriodic(10_000_000, 1000);
  vcpu.runstateArea = { address: 0x2000n, narrow: false };
  vcpu.timeArea = 0x3000n;
  vcpu.upcallVector = 0xf3;
  vcpu.apic.write(0x808, 0x20n);
  domain.watchdogs.set(0, 30, 1000);
  domain.params.set(0, (2n << 56n) | 0xf3n);
  return fake;
}

function saved(domain: Domain): SavedDomain {
  const result = saveDomain(domain, [STORAGE]);
  if ("problem" in result) throw new Error(result.problem);
  return result;
}

function document(domain: Domain): GuestState {
  const state = saved(domain) as GuestState["domain"];
  const cpu = { ...flatProtectedState(0x1000), pendingVector: 33 } as GuestState["cpu"];
  const wait = { kind: "poll" as const, ports: [3] };
  return { memoryMiB: 1, domid: 7, stoppedAt: 1_700_000_000_000, cpu, wait, domain: state };
}

it("puts a domain together again that is the same", () => {
  const { domain } = usedDomain();
  const before = document(domain);
  const read = decodeGuestState(JSON.parse(JSON.stringify(encodeGuestState(before))), domain.plan);
  expect(read).toEqual(before);

  const other = fakeDomain();
  other.time.now = before.domain.clock;
  restoreDomain(other.domain, read.domain);
  // The versions count what was written; times and frames are the same.
  const again = saved(other.domain);
  expect({ ...again, wallclockVersion: 0, vcpus: [] }).toEqual({ ...before.domain, wallclockVersion: 0, vcpus: [] });
  expect(again.vcpus[0]).toEqual({
    ...before.domain.vcpus[0],
    timeVersion: (before.domain.vcpus[0]?.timeVersion ?? 0) + 2,
  });
  expect(other.cpu.line.vector).toBe(0xf3);
});

it("offers channels to backends anew, keeps those of the toolstack, and lets go of grants", () => {
  const { domain } = usedDomain();
  const state = saved(domain);
  const open = state.ports.find((port) => port.kind === 2);
  const connected = state.ports.map((port) => (port === open ? { ...port, kind: 3 as const, number: 9 } : port));
  const { domain: other } = fakeDomain();
  const grants = other.mapping.base + other.plan.grantTable;
  other.mapping.view.setUint32(grants + 8 * 8, 1 | 8 | 16 | (STORAGE << 16), true);
  other.mapping.view.setUint32(grants + 9 * 8, 2 | 8, true);
  restoreDomain(other, { ...state, ports: connected });
  expect(other.events.get(open?.port ?? 0)).toMatchObject({ kind: 2, domain: STORAGE });
  expect(other.events.get(other.consolePort)).toMatchObject({ kind: 3, domain: 0, toolstack: true });
  expect(other.mapping.view.getUint32(grants + 8 * 8, true)).toBe(1 | (STORAGE << 16));
  expect(other.mapping.view.getUint32(grants + 9 * 8, true)).toBe(2 | 8);
});

it("keeps frames that the guest has given back free, and finds the others where they were", () => {
  const { domain } = usedDomain();
  const state = saved(domain);
  const [run] = state.physmap;
  if (run === undefined) throw new Error("no frames");
  const moved = [
    { ...run, count: 100 },
    { frame: run.frame + 5000, count: 10, offset: 200 * 4096, readOnly: true },
    ...state.physmap.slice(1),
  ];
  const { domain: other } = fakeDomain();
  restoreDomain(other, { ...state, physmap: moved });
  expect(saved(other).physmap).toEqual(moved);
  expect(other.ram.used).toBe(110);
});

it("says why a guest cannot be saved that depends on another", () => {
  const { domain } = usedDomain();
  const port = domain.events.allocUnbound(9);
  domain.mapping.view.setUint32(
    domain.mapping.base + domain.plan.control + 12288 + port * 4,
    3 | (9 << 3) | (4 << 18),
    true,
  );
  expect(saveDomain(domain, [STORAGE])).toEqual({ problem: `its event channel ${port} leads to domain 9` });
});

it("believes no document: any change of one value is refused or gives a domain that can be saved again", () => {
  const { domain } = usedDomain();
  const good = JSON.stringify(encodeGuestState(document(domain)));
  const numbers = [...good.matchAll(/(?<=[:[,])-?\d+(\.\d+)?(?=[,\]}])/g)].map((match) => match.index);
  const values = fc.oneof(fc.integer(), fc.constantFrom(-1, 0, 4095, 4096, 2 ** 31, 2 ** 32, 2 ** 53, 1e300, 0.5));
  const { domain: other } = fakeDomain();
  let refused = 0;
  fc.assert(
    fc.property(fc.nat(numbers.length - 1), values, (which, value) => {
      const at = numbers[which] ?? 0;
      const text = good.slice(0, at) + String(value) + good.slice(at).replace(/^-?\d+(\.\d+)?/, "");
      let state: GuestState;
      try {
        state = decodeGuestState(JSON.parse(text), domain.plan);
      } catch (error) {
        refused++;
        expect((error as Error).name).toBe("GuestStateError");
        return;
      }
      restoreDomain(other, state.domain);
      expect("problem" in saveDomain(other, [STORAGE])).toBe(false);
    }),
    { numRuns: 300 },
  );
  expect(refused).toBeGreaterThan(50);
});

it("knows no document that is not one", () => {
  const { domain } = usedDomain();
  const good = encodeGuestState(document(domain));
  const bad = [null, [], {}, { ...good, cpu: undefined }, { ...good, more: 1 }, { ...good, wait: { kind: "dance" } }];
  for (const each of bad) expect(() => decodeGuestState(each, domain.plan)).toThrowError(/: /);
});
