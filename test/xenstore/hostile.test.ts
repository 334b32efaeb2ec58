/** The XenStore rows of the list of what hostile guests have done (Xen security advisories, XSA). */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { encodeMessage, encodeText } from "../../engine/xenstore/protocol.ts";
import { introduce, lab, peer } from "./harness.ts";

describe("quotas", () => {
  it("hold for nodes, watches and transactions, and nothing else stops working", () => {
    const daemon = lab();
    const guest = peer(daemon, 7);
    const before = daemon.usage(7)?.nodes ?? 0;
    const writes = Array.from({ length: 1100 }, (_, i) => guest.ask("WRITE", `data/n${i}|`)[0]);
    expect(writes.indexOf("ERROR ENOSPC|")).toBe(1000 - before);
    expect(daemon.usage(7)?.nodes).toBe(1000);
    const watches = Array.from({ length: 130 }, (_, i) => guest.ask("WATCH", `data|${i}|`)[0]);
    expect(watches.indexOf("ERROR E2BIG|")).toBe(128);
    const starts = Array.from({ length: 12 }, () => guest.ask("TRANSACTION_START", "|")[0]);
    expect(starts.indexOf("ERROR ENOSPC|")).toBe(10);
    expect(guest.ask("READ", "name|")).toEqual(["READ guest7"]);
    expect(peer(daemon, 8).ask("WRITE", "data/x|1")).toEqual(["WRITE OK|"]);
  });

  it("XSA-326: fat transactions stay under the memory quota", () => {
    const daemon = lab();
    const guest = peer(daemon, 7);
    let refused = 0;
    for (let id = 1; id <= 10; id++) {
      guest.ask("TRANSACTION_START", "|");
      for (let i = 0; i < 900; i++) {
        const [reply] = guest.ask("WRITE", `data/n${i}|${"x".repeat(2000)}`, id);
        if (reply === "ERROR ENOMEM|") refused++;
      }
    }
    expect(refused).toBeGreaterThan(5000);
    expect(daemon.usage(7)?.memory).toBeLessThan(2_800_000);
    guest.ask("RESET_WATCHES", "|");
    expect(daemon.usage(7)).toMatchObject({ transactions: 0, watches: 0 });
  });

  it("XSA-326: a transaction looks at no more nodes than it may", () => {
    const guest = peer(lab(), 7);
    guest.ask("TRANSACTION_START", "|");
    const replies = Array.from({ length: 1100 }, (_, i) => guest.ask("READ", `data/n${i}|`, 1)[0]);
    expect(replies[0]).toBe("ERROR ENOENT|");
    expect(replies.at(-1)).toBe("ERROR ENOSPC|");
  });

  it("XSA-326: who does not read replies is not listened to, and goes on once it reads", () => {
    const daemon = lab();
    const guest = peer(daemon, 7, 8224);
    for (let i = 0; i < 100; i++) {
      const payload = encodeText(`data/x\0${i}`);
      guest.connection.receive(encodeMessage({ type: 11, requestId: i, transactionId: 0, payload }));
    }
    expect(guest.count()).toBe(20);
    expect(daemon.toolstack.read("/local/domain/7/data/x")).toBe("19");
    for (let i = 0; i < 100; i++) guest.connection.taken(19);
    expect(guest.count()).toBe(100);
  });

  it("XSA-349, 416: a flood of changes to a watched key leaves one event, a flood of keys a bounded queue", () => {
    const daemon = lab();
    const guest = peer(daemon, 7, 8224);
    guest.ask("WATCH", "data|t|");
    const start = guest.count();
    for (let i = 0; i < 100_000; i++) daemon.toolstack.write("/local/domain/7/data/key", String(i));
    guest.connection.taken(1e9);
    // A window full of them was under way; after it only one waited.
    expect(guest.count() - start).toBeLessThan(200);
    for (let i = 0; i < 5000; i++) daemon.toolstack.write(`/local/domain/7/data/k${i}`, "");
    expect(daemon.usage(7)?.memory).toBeLessThan(2_800_000);
    for (let i = 0; i < 2000; i++) guest.connection.taken(1e9);
    expect(guest.drain().length).toBeLessThan(1500);
  });
});

describe("XSA-115, 322, 483: a domid that is used again", () => {
  it("finds nothing of its predecessor", () => {
    const daemon = lab();
    const old = peer(daemon, 7);
    const other = peer(daemon, 8);
    old.ask("WATCH", "data|t|");
    old.ask("TRANSACTION_START", "|");
    old.ask("WRITE", "data/x|secret");
    other.ask("WRITE", "data/for7|x");
    other.ask("SET_PERMS", "data/for7|n8|b7|");
    peer(daemon, 0).ask("SET_QUOTA", "7|nodes|5|");
    daemon.toolstack.write("/elsewhere", "");
    daemon.toolstack.setPermissions("/elsewhere", ["n7"]);
    daemon.releaseDomain(7);
    expect(daemon.usage(7)).toBeUndefined();
    expect(daemon.toolstack.read("/elsewhere")).toBeUndefined();
    expect(daemon.toolstack.directory("/local/domain/7")).toBeUndefined();
    expect(old.ask("READ", "name|")).toEqual([]);
    introduce(daemon, 7);
    const fresh = peer(daemon, 7);
    expect(daemon.usage(7)).toMatchObject({ watches: 0, transactions: 0 });
    expect(fresh.ask("READ", "data/x|")).toEqual(["ERROR ENOENT|"]);
    expect(fresh.ask("READ", "/local/domain/8/data/for7|")).toEqual(["ERROR EACCES|"]);
    expect(fresh.ask("WRITE", "data/x|1")).toEqual(["WRITE OK|"]);
    expect(peer(daemon, 0).ask("GET_QUOTA", "7|nodes|")).toEqual(["GET_QUOTA 1000|"]);
    expect(daemon.check()).toEqual([]);
  });

  it("gets no right that was given before it existed", () => {
    const daemon = lab();
    const giver = peer(daemon, 8);
    giver.ask("SET_PERMS", "data|n8|b9|");
    introduce(daemon, 9);
    expect(peer(daemon, 9).ask("READ", "/local/domain/8/data|")).toEqual(["ERROR EACCES|"]);
  });
});

const path = fc.constantFrom(
  "data",
  "data/a",
  "data/a/b",
  "data/a/b/c",
  "data/d",
  "/local/domain/8/data/a",
  "x//y",
  "/",
);
const step = fc.record({
  who: fc.constantFrom(0, 7, 8),
  type: fc.integer({ min: 0, max: 28 }).filter((type) => type !== 8 && type !== 9),
  payload: fc.oneof(
    path.map((p) => `${p}|`),
    fc.tuple(path, fc.constantFrom("", "v", "x".repeat(100))).map(([p, v]) => `${p}|${v}`),
    fc.tuple(path, fc.constantFrom("n7", "n8", "b8", "r7")).map(([p, v]) => `${p}|${v}|`),
    fc.constantFrom("T|", "F|", "|", "7|", "7|8|"),
    fc.string({ maxLength: 20 }),
  ),
  transaction: fc.constantFrom(0, 0, 0, 1, 2, 3),
});

describe("XSA-421, 481, 484: stateful fuzzing", () => {
  it("keeps the accounts right and never throws, whatever is asked", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const daemon = lab();
        const peers = new Map([0, 7, 8].map((domain) => [domain, peer(daemon, domain)]));
        for (const { who, type, payload, transaction } of steps) {
          const came = peers.get(who)?.ask(type, payload, transaction) ?? [];
          expect(came.filter((message) => !message.startsWith("WATCH_EVENT"))).toHaveLength(1);
        }
        expect(daemon.check()).toEqual([]);
        for (const domain of [7, 8]) daemon.releaseDomain(domain);
        const owners = [...daemon.store.recount().entries()].map(([owner]) => owner);
        expect(owners).toEqual([0]);
      }),
      { numRuns: 300 },
    );
  });

  it("survives random bytes", () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 10 }), (chunks) => {
        const daemon = lab();
        const guest = peer(daemon, 7);
        for (const chunk of chunks) guest.connection.receive(chunk);
        expect(daemon.check()).toEqual([]);
        expect(peer(daemon, 7).ask("READ", "name|")).toEqual(["READ guest7"]);
      }),
      { numRuns: 200 },
    );
  });
});
