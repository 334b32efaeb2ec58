import { describe, expect, it } from "vitest";
import { XsType } from "../../engine/abi/xs-wire.ts";
import { Connection } from "../../engine/xenstore/connection.ts";
import { decodeText, encodeStrings, encodeText, MessageParser } from "../../engine/xenstore/protocol.ts";
import { introduceDomain, Store } from "../../engine/xenstore/store.ts";

function connected() {
  const store = new Store();
  const facts = { name: "g", ramKib: 65536, vcpus: 1, consolePort: 2, consoleGfn: 5, storePort: 1, storeGfn: 4 };
  introduceDomain(store, { id: 7, ...facts });
  let wakes = 0;
  const connection = new Connection(store, 7, () => wakes++);
  /** Waiting messages as [type name, payload]. */
  function drain(): (readonly [string, string])[] {
    const found = [];
    for (let bytes = connection.take(); bytes !== undefined; bytes = connection.take()) {
      for (const event of new MessageParser().push(bytes)) {
        if (event === "too-long") throw new Error("too long");
        const name = Object.entries(XsType).find(([, number]) => number === event.type)?.[0] ?? String(event.type);
        found.push([name, decodeText(event.payload)] as const);
      }
    }
    return found;
  }
  function ask(type: number, payload: Uint8Array | string, transactionId = 0) {
    connection.handle({
      type,
      requestId: 1,
      transactionId,
      payload: typeof payload === "string" ? encodeText(payload) : payload,
    });
    return drain();
  }
  return { store, connection, ask, drain, wakes: () => wakes };
}

/** Request type, payload, expected reply type and payload. */
const CASES: readonly (readonly [number, string, string, string])[] = [
  [XsType.READ, "domid\0", "READ", "7"],
  [XsType.READ, "/local/domain/7/memory/target\0", "READ", "65536"],
  [XsType.READ, "cpu/0/availability\0", "READ", "online"],
  [XsType.READ, "device/vbd\0", "ERROR", "ENOENT\0"],
  [XsType.READ, "/local/domain/8/name\0", "ERROR", "EACCES\0"],
  [XsType.READ, "bad//path\0", "ERROR", "EINVAL\0"],
  [XsType.READ, "", "ERROR", "EINVAL\0"],
  [
    XsType.DIRECTORY,
    "control\0",
    "DIRECTORY",
    "platform-feature-xs_reset_watches\0platform-feature-multiprocessor-suspend\0shutdown\0sysrq\0",
  ],
  [XsType.WRITE, "control/feature-poweroff\u00001", "WRITE", "OK\0"],
  [XsType.WRITE, "name\0evil", "ERROR", "EACCES\0"],
  [XsType.WRITE, "/tool\0x", "ERROR", "EACCES\0"],
  [XsType.WRITE, "no-terminator", "ERROR", "EINVAL\0"],
  [XsType.WRITE, `data/big\0${"x".repeat(2049)}`, "ERROR", "ENOSPC\0"],
  [XsType.MKDIR, "data/a/b\0", "MKDIR", "OK\0"],
  [XsType.RM, "data/nothing\0", "RM", "OK\0"],
  [XsType.RM, "data/no/thing\0", "ERROR", "ENOENT\0"],
  [XsType.GET_DOMAIN_PATH, "12\0", "GET_DOMAIN_PATH", "/local/domain/12\0"],
  [XsType.GET_DOMAIN_PATH, "x\0", "ERROR", "EINVAL\0"],
  [XsType.TRANSACTION_END, "T\0", "ERROR", "ENOENT\0"],
  [XsType.UNWATCH, "a\0t\0", "ERROR", "ENOENT\0"],
  [XsType.INTRODUCE, "", "ERROR", "ENOSYS\0"],
  [XsType.SET_QUOTA, "", "ERROR", "ENOSYS\0"],
  [99, "", "ERROR", "ENOSYS\0"],
];

describe("XenStore connection", () => {
  it.each(CASES)("request %i %j is answered %s %j", (type, payload, replyType, reply) => {
    expect(connected().ask(type, payload)).toEqual([[replyType, reply]]);
  });

  it("fires a watch at once, then for the node and below, in the form it was asked in", () => {
    const { ask, store, drain, wakes } = connected();
    expect(ask(XsType.WATCH, "control/shutdown\0tok\0")).toEqual([
      ["WATCH", "OK\0"],
      ["WATCH_EVENT", "control/shutdown\0tok\0"],
    ]);
    expect(ask(XsType.WATCH, "control/shutdown\0tok\0")).toEqual([["ERROR", "EEXIST\0"]]);
    store.write("/local/domain/7/control/shutdown", "poweroff");
    expect(wakes()).toBe(1);
    expect(drain()).toEqual([["WATCH_EVENT", "control/shutdown\0tok\0"]]);
    store.write("/local/domain/7/control/other", "x");
    expect(drain()).toEqual([]);
    expect(ask(XsType.RESET_WATCHES, "\0")).toEqual([["RESET_WATCHES", "OK\0"]]);
    store.write("/local/domain/7/control/shutdown", "");
    expect(drain()).toEqual([]);
  });

  it("merges events that wait for a slow guest", () => {
    const { ask, store, drain } = connected();
    ask(XsType.WATCH, "data\0t\0");
    for (let i = 0; i < 100_000; i++) store.write("/local/domain/7/data/key", String(i));
    expect(drain()).toEqual([["WATCH_EVENT", "data/key\0t\0"]]);
  });

  it("isolates a transaction, commits it, and refuses it after a conflict", () => {
    const { ask, store } = connected();
    expect(ask(XsType.TRANSACTION_START, "\0")).toEqual([["TRANSACTION_START", "1\0"]]);
    ask(XsType.WRITE, "data/a\0x", 1);
    expect(ask(XsType.READ, "data/a\0")).toEqual([["ERROR", "ENOENT\0"]]);
    expect(ask(XsType.READ, "data/a\0", 1)).toEqual([["READ", "x"]]);
    expect(ask(XsType.TRANSACTION_END, "T\0", 1)).toEqual([["TRANSACTION_END", "OK\0"]]);
    expect(store.read("/local/domain/7/data/a")).toBe("x");
    ask(XsType.TRANSACTION_START, "\0");
    ask(XsType.WRITE, "data/a\0y", 2);
    store.write("/local/domain/7/data/b", "z");
    expect(ask(XsType.TRANSACTION_END, "T\0", 2)).toEqual([["ERROR", "EAGAIN\0"]]);
    expect(store.read("/local/domain/7/data/a")).toBe("x");
  });

  it("holds its quotas", () => {
    const { ask } = connected();
    for (let i = 0; i < 10; i++) ask(XsType.TRANSACTION_START, "\0");
    expect(ask(XsType.TRANSACTION_START, "\0")).toEqual([["ERROR", "ENOSPC\0"]]);
    for (let i = 0; i < 128; i++) ask(XsType.WATCH, encodeStrings(["data", String(i)]));
    expect(ask(XsType.WATCH, "data\0more\0")).toEqual([["ERROR", "E2BIG\0"]]);
    const replies = Array.from({ length: 1100 }, (_, i) =>
      ask(XsType.WRITE, `data/n${i}\0`).find(([t]) => t !== "WATCH_EVENT"),
    );
    expect(replies[0]).toEqual(["WRITE", "OK\0"]);
    expect(replies.at(-1)).toEqual(["ERROR", "ENOSPC\0"]);
  });
});
