/** One domain's part of the store, saved and given to another domain. */
import { describe, expect, it } from "vitest";
import { XsType } from "../../engine/abi/xs-wire.ts";
import { Xenstored } from "../../engine/xenstore/daemon.ts";
import { encodeMessage, encodeText } from "../../engine/xenstore/protocol.ts";
import { DaemonRelay, type RelayMessage } from "../../engine/xenstore/relay.ts";
import { frontendNodes } from "../../engine/xenstore/save.ts";
import { parseSavedStore, type SavedStore } from "../../engine/xenstore/saved-state.ts";
import { introduce, lab, type Peer, peer } from "./harness.ts";

/** As it comes out of a file. */
function throughFile(saved: SavedStore): SavedStore {
  return parseSavedStore(JSON.parse(JSON.stringify(saved)));
}

/** Restores into domain `id` of another lab, whose domain 7 is somebody else. */
function restored(saved: SavedStore, id = 9, daemon: Xenstored = lab()): { daemon: Xenstored; guest: Peer } {
  introduce(daemon, id);
  daemon.restoreDomain(id, throughFile(saved));
  expect(daemon.check()).toEqual([]);
  const guest = peer(daemon, id);
  const connection = daemon.find(id)?.restoring;
  if (connection) guest.connection.restore(connection);
  guest.connection.release();
  return { daemon, guest };
}

/** Saves domain 7 after some requests, and restores it. */
function moved(requests: (guest: Peer, daemon: Xenstored) => void, id = 9) {
  const daemon = lab();
  const guest = peer(daemon, 7);
  requests(guest, daemon);
  guest.drain();
  return restored(daemon.saveDomain(7), id);
}

describe("nodes", () => {
  it("come back with values, order and permissions, and what was removed stays away", () => {
    const { daemon, guest } = moved((guest, daemon) => {
      guest.ask("WRITE", "data/b|text");
      guest.ask("WRITE", "data/a|");
      guest.ask("SET_PERMS", "data/a|b7|r8|r0|");
      guest.ask("RM", "hvmloader|");
      const bytes = Uint8Array.from([0xff, 0, 0xfe]);
      daemon.toolstack.writeNodes([{ path: "/local/domain/7/data/bytes", value: bytes, permissions: ["r0"] }]);
      daemon.toolstack.write("/local/domain/7/data/mark", "\ufeffx");
    });
    expect(guest.ask("DIRECTORY", "data|")).toEqual(["DIRECTORY b|a|bytes|mark|"]);
    expect(guest.ask("READ", "data/b|")).toEqual(["READ text"]);
    expect(guest.ask("READ", "data/bytes|")).toEqual(["READ \u00ff|\u00fe"]);
    expect(daemon.toolstack.read("/local/domain/9/data/mark")).toBe("\ufeffx");
    expect(daemon.toolstack.getPermissions("/local/domain/9/data/bytes")).toEqual(["r0"]);
    // Whoever is domain 8 now was not meant.
    expect(daemon.toolstack.getPermissions("/local/domain/9/data/a")).toEqual(["b9", "r0"]);
    expect(guest.ask("READ", "hvmloader|")).toEqual(["ERROR ENOENT|"]);
  });

  it("of the toolstack are those of the new domain", () => {
    const { daemon, guest } = moved((_, daemon) => {
      daemon.toolstack.write("/local/domain/7/name", "renamed");
      daemon.toolstack.write("/local/domain/7/device/vbd/51712/state", "4");
      daemon.toolstack.write("/local/domain/7/console/port", "77");
    });
    expect(guest.ask("READ", "name|")).toEqual(["READ guest9"]);
    expect(guest.ask("READ", "console/port|")).toEqual(["READ 2"]);
    expect(daemon.toolstack.directory("/local/domain/9/device")).toEqual([]);
  });

  it("tell the tools that watch, and count against the domain", () => {
    const daemon = lab();
    for (let i = 0; i < 50; i++) peer(daemon, 7).ask("WRITE", `data/n${i}|${"x".repeat(i)}`);
    for (const connection of daemon.find(7)?.connections ?? []) connection.close();
    const usage = daemon.usage(7);
    const saved = daemon.saveDomain(7);
    expect(saved.connection).toBeUndefined();
    const target = lab();
    const seen: string[] = [];
    target.toolstack.watch("/local/domain/9/data/n3", (path) => seen.push(path));
    introduce(target, 9);
    target.toolstack.write("/local/domain/9/data/gone", "");
    target.toolstack.watch("/local/domain/9/data/gone", (path) => seen.push(path));
    target.restoreDomain(9, throughFile(saved));
    expect(seen).toEqual([3, "gone", 3, "gone"].map((name) => `/local/domain/9/data/${name === 3 ? "n3" : name}`));
    expect(target.usage(9)).toEqual(usage);
    expect(target.check()).toEqual([]);
  });

  it("have stamps that the guest cannot have met", () => {
    const daemon = lab();
    const guest = peer(daemon, 7);
    for (let i = 0; i < 1000; i++) guest.ask("WRITE", "data/n|x");
    guest.ask("WRITE", "data/last|x");
    const stamp = (from: Peer) => Number(/ (\d+)\|/.exec(from.ask("DIRECTORY_PART", "data|0|")[0] ?? "")?.[1]);
    const before = stamp(guest);
    expect(stamp(restored(daemon.saveDomain(7)).guest)).toBeGreaterThan(before);
  });

  it("of a frontend go over those that the toolstack makes", () => {
    const daemon = lab();
    const device = "/local/domain/7/device/vbd/51712";
    const permissions = ["n7", "r1"];
    daemon.toolstack.writeNodes([
      { path: device, value: "", permissions },
      { path: `${device}/backend`, value: "/local/domain/1/backend/vbd/7/51712", permissions },
      { path: `${device}/backend-id`, value: "1", permissions },
      { path: `${device}/state`, value: "1", permissions },
      { path: `${device}/secret`, value: "x", permissions: ["n0"] },
      { path: "/local/domain/7/device/vbd/5171/state", value: "4", permissions },
    ]);
    const guest = peer(daemon, 7);
    guest.ask("WRITE", "device/vbd/51712/state|4");
    guest.ask("WRITE", "device/vbd/51712/queue-0/ring-ref|8");
    guest.ask("WRITE", "device/vbd/51712/backend-idle|1");
    const nodes = frontendNodes(throughFile(daemon.saveDomain(7)), 9, { type: "vbd", number: 51712 });
    const texts = nodes.map(({ path, value }) => `${path} ${Buffer.from(value).toString()}`);
    expect(texts).toEqual(
      ["state 4", "queue-0 ", "queue-0/ring-ref 8", "backend-idle 1"].map(
        (text) => `/local/domain/9/device/vbd/51712/${text}`,
      ),
    );
    const target = lab();
    introduce(target, 9);
    target.toolstack.writeNodes([
      { path: "/local/domain/9/device/vbd/51712", value: "", permissions: ["n9", "r1"] },
      ...nodes,
    ]);
    expect(target.toolstack.getPermissions("/local/domain/9/device/vbd/51712/queue-0/ring-ref")).toEqual(["n9", "r1"]);
  });
});

describe("the connection", () => {
  it("keeps watches, which do not fire, and reports as before", () => {
    const { daemon, guest } = moved((guest) => {
      guest.ask("WATCH", "data|relative|");
      guest.ask("WATCH", "/local/domain/7/data|absolute|1|");
      guest.ask("WATCH", "/local/domain/1/backend/vbd/7/51712/state|state|");
      guest.ask("WATCH", "@releaseDomain|special|");
    });
    expect(guest.drain()).toEqual([]);
    daemon.toolstack.write("/local/domain/9/data/a/b", "x");
    expect(guest.drain()).toEqual(["WATCH_EVENT data/a/b|relative|"]);
    daemon.toolstack.write("/local/domain/9/data/c", "x");
    expect(guest.drain()).toEqual(["WATCH_EVENT data/c|relative|", "WATCH_EVENT /local/domain/7/data/c|absolute|"]);
    daemon.toolstack.writeNodes([
      { path: "/local/domain/1/backend/vbd/9", value: "", permissions: ["n1", "r9"] },
      { path: "/local/domain/1/backend/vbd/9/51712/state", value: "5" },
    ]);
    expect(guest.drain()).toContain("WATCH_EVENT /local/domain/1/backend/vbd/7/51712/state|state|");
    daemon.toolstack.write("/local/domain/7/data/c", "x");
    expect(guest.drain()).toEqual([]);
    expect(guest.ask("UNWATCH", "/local/domain/7/data|absolute|")).toEqual(["UNWATCH OK|"]);
    expect(guest.ask("UNWATCH", "data|relative|")).toEqual(["UNWATCH OK|"]);
    daemon.toolstack.setPermissions("@releaseDomain", ["r0"]);
    guest.drain();
    daemon.releaseDomain(8);
    expect(guest.drain()).toEqual(["WATCH_EVENT @releaseDomain|special|"]);
  });

  it("keeps the numbers of transactions, which can only fail", () => {
    const { daemon, guest } = moved((guest) => {
      guest.ask("TRANSACTION_START", "|");
      guest.ask("TRANSACTION_START", "|");
      guest.ask("WRITE", "data/a|lost", 1);
    });
    daemon.toolstack.write("/local/domain/9/data/b", "unrelated");
    expect(guest.ask("READ", "data/a|", 1)).toEqual(["ERROR ENOENT|"]);
    expect(guest.ask("READ", "name|", 1)).toEqual(["READ guest9"]);
    expect(guest.ask("WRITE", "data/a|lost", 1)).toEqual(["WRITE OK|"]);
    expect(guest.ask("TRANSACTION_END", "T|", 1)).toEqual(["ERROR EAGAIN|"]);
    expect(guest.ask("TRANSACTION_END", "F|", 2)).toEqual(["TRANSACTION_END OK|"]);
    expect(guest.ask("READ", "data/a|")).toEqual(["ERROR ENOENT|"]);
    expect(guest.ask("TRANSACTION_START", "|")).toEqual(["TRANSACTION_START 3|"]);
    expect(guest.ask("WRITE", "data/a|kept", 3)).toEqual(["WRITE OK|"]);
    expect(guest.ask("TRANSACTION_END", "T|", 3)).toEqual(["TRANSACTION_END OK|"]);
  });

  it("fails a transaction that has seen nothing, too", () => {
    const { guest } = moved((guest) => guest.ask("TRANSACTION_START", "|"));
    expect(guest.ask("TRANSACTION_END", "T|", 1)).toEqual(["ERROR EAGAIN|"]);
  });

  it("goes on in the middle of a message", () => {
    const bytes = encodeMessage({ type: XsType.READ, requestId: 1, transactionId: 0, payload: encodeText("name\0") });
    for (let cut = 0; cut <= bytes.length; cut++) {
      const { guest } = moved((before) => before.connection.receive(bytes.slice(0, cut)));
      guest.connection.receive(bytes.slice(cut));
      // A whole message was answered before the save.
      expect(guest.drain()).toEqual(cut === bytes.length ? [] : ["READ guest9"]);
    }
  });

  it("gives what waited for a guest that did not read", () => {
    const daemon = lab();
    const guest = peer(daemon, 7, 8224);
    guest.ask("WATCH", "data|t|");
    guest.connection.taken(1e9);
    guest.connection.hold();
    for (let i = 0; i < 30; i++) {
      daemon.toolstack.write(`/local/domain/7/data/e${i}`, "");
      const payload = encodeText(`data/x\0${i}`);
      guest.connection.receive(encodeMessage({ type: XsType.WRITE, requestId: i, transactionId: 0, payload }));
    }
    guest.drain();
    const { daemon: after, guest: heir } = restored(daemon.saveDomain(7));
    const came = heir.drain();
    expect(came.filter((text) => text === "WRITE OK|")).toHaveLength(30);
    expect(came.filter((text) => /data\/e\d+\|t\|$/.test(text))).toHaveLength(30);
    expect(after.toolstack.read("/local/domain/9/data/x")).toBe("29");
  });

  it("that was over stays over until the guest reconnects", () => {
    const daemon = lab();
    const saved = daemon.saveDomain(7);
    const posted: RelayMessage[] = [];
    introduce(daemon, 9);
    const relay = new DaemonRelay(daemon, 9, (message) => posted.push(message));
    expect(() => relay.restore()).toThrow("has not been restored");
    daemon.restoreDomain(9, throughFile(saved));
    relay.restore();
    expect(daemon.find(9)?.connections.size).toBe(0);
    relay.receive({ quiesce: 5 });
    relay.receive({ resume: true });
    relay.receive({ reset: true });
    expect(posted).toEqual([{ quiesce: 5 }, { reset: true }]);
    expect(daemon.find(9)?.connections.size).toBe(1);
  });
});

describe("what the domain may", () => {
  it("is what it was, but no more than the lab grants", () => {
    const daemon = lab();
    const tools = peer(daemon, 0);
    tools.ask("SET_QUOTA", "7|nodes|500|");
    tools.ask("SET_QUOTA", "7|watches|0|");
    tools.ask("SET_QUOTA", "7|memory|9999999|");
    tools.ask("SET_TARGET", "7|8|");
    const before = daemon.find(7);
    if (before !== undefined) before.features = 3;
    const saved = daemon.saveDomain(7);
    expect(saved).toMatchObject({ quotas: { nodes: 500, watches: 0, memory: 9999999 }, features: 3, target: 8 });
    const { daemon: after, guest } = restored(saved);
    expect(after.find(9)).toMatchObject({ features: 3, target: undefined });
    expect(after.find(9)?.quotas).toMatchObject({ nodes: 500, watches: 128, memory: 2_621_440, outstanding: 20 });
    expect(guest.ask("WATCH", "data|t|1|")).toEqual(["ERROR EINVAL|"]);
    introduce(after, 10);
    after.restoreDomain(10, saved, { target: 8 });
    expect(after.find(10)?.target).toBe(8);
  });
});

describe("a domain with another number", () => {
  const answers: [string, Parameters<Peer["ask"]>[0], string, string][] = [
    ["its old home", "READ", "/local/domain/7/data/k|", "READ mine"],
    ["its new home", "READ", "/local/domain/9/data/k|", "READ mine"],
    ["its old home itself", "DIRECTORY", "/local/domain/7/data|", "DIRECTORY k|"],
    ["a number that only looks old", "READ", "/local/domain/07/data/k|", "ERROR EACCES|"],
    ["a longer number", "READ", "/local/domain/77/data/k|", "ERROR EACCES|"],
    ["its backend", "READ", "/local/domain/1/backend/vbd/7/51712/state|", "READ 4"],
    ["a backend of any type", "READ", "/local/domain/2/backend/vif/7/0/state|", "READ 4"],
    ["another's backend", "READ", "/local/domain/1/backend/vbd/8/51712/state|", "ERROR EACCES|"],
    ["whether it exists", "IS_DOMAIN_INTRODUCED", "7|", "IS_DOMAIN_INTRODUCED T|"],
    ["its path", "GET_DOMAIN_PATH", "7|", "GET_DOMAIN_PATH /local/domain/7|"],
    ["its rights", "GET_PERMS", "data/k|", "GET_PERMS n7|"],
    ["rights that it gives", "SET_PERMS", "data/k|r7|w7|", "SET_PERMS OK|"],
    ["rights that it gives away", "SET_PERMS", "data/k|n8|", "ERROR EPERM|"],
  ];

  it.each(answers)("is answered about %s", (_, type, payload, answer) => {
    // Nobody is domain 7 in the new lab.
    const daemon = new Xenstored();
    introduce(daemon, 8);
    for (const backend of ["1/backend/vbd/9/51712", "2/backend/vif/9/0"]) {
      const path = `/local/domain/${backend}/state`;
      daemon.toolstack.writeNodes([{ path, value: "4", permissions: ["n0", "r9"] }]);
    }
    daemon.toolstack.writeNodes([
      { path: "/local/domain/1/backend/vbd/8/51712/state", value: "4", permissions: ["n0", "r8"] },
    ]);
    const old = lab();
    peer(old, 7).ask("WRITE", "data/k|mine");
    const { guest } = restored(old.saveDomain(7), 9, daemon);
    expect(guest.ask(type, payload)).toEqual([answer]);
  });

  it("is alone in that: others mean whom they name, and the namesake is safe", () => {
    const { daemon, guest } = moved((guest) => guest.ask("WRITE", "data/k|mine"));
    const namesake = peer(daemon, 7);
    namesake.ask("WRITE", "data/k|theirs");
    expect(guest.ask("READ", "/local/domain/7/data/k|")).toEqual(["READ mine"]);
    expect(guest.ask("WRITE", "/local/domain/7/data/k|changed")).toEqual(["WRITE OK|"]);
    expect(guest.ask("RM", "/local/domain/7/data/k|")).toEqual(["RM OK|"]);
    expect(namesake.ask("READ", "/local/domain/7/data/k|")).toEqual(["READ theirs"]);
    expect(peer(daemon, 0).ask("READ", "/local/domain/7/data/k|")).toEqual(["READ theirs"]);
    expect(guest.ask("SET_PERMS", "data|n7|r8|")).toEqual(["SET_PERMS OK|"]);
    expect(daemon.toolstack.getPermissions("/local/domain/9/data")).toEqual(["n9", "r8"]);
  });

  it("keeps all its old numbers over several moves, and its own if it gets it again", () => {
    const first = moved((guest) => guest.ask("WATCH", "/local/domain/7/data|first|"));
    first.guest.ask("WATCH", "/local/domain/9/data|second|");
    first.guest.drain();
    const again = first.daemon.saveDomain(9);
    expect(again).toMatchObject({ domain: 9, aliases: [7] });
    const second = restored(again, 11);
    second.daemon.toolstack.write("/local/domain/11/data/k", "v");
    expect(second.guest.drain()).toEqual([
      "WATCH_EVENT /local/domain/7/data/k|first|",
      "WATCH_EVENT /local/domain/9/data/k|second|",
    ]);
    for (const id of [7, 9, 11]) expect(second.guest.ask("READ", `/local/domain/${id}/data/k|`)).toEqual(["READ v"]);
    const home = new Xenstored();
    const third = restored(second.daemon.saveDomain(11), 7, home);
    expect(home.find(7)?.aliases.earlier).toEqual([9, 11]);
    expect(third.guest.ask("READ", "/local/domain/11/data/k|")).toEqual(["READ v"]);
    expect(third.guest.ask("READ", "/local/domain/7/data/k|")).toEqual(["READ v"]);
  });

  it("is translated in nothing if the number is the same", () => {
    const { guest } = moved((guest) => guest.ask("WATCH", "/local/domain/7/data|t|"), 10);
    const same = restored(lab().saveDomain(7), 7, new Xenstored());
    expect(same.daemon.find(7)?.aliases.earlier).toEqual([]);
    expect(same.guest.ask("GET_PERMS", "data|")).toEqual(["GET_PERMS n7|"]);
    expect(guest.ask("GET_PERMS", "data|")).toEqual(["GET_PERMS n7|"]);
  });
});

describe("waitFor", () => {
  it("is fulfilled when the predicate holds, at once or later, and says so when it never does", async () => {
    const { toolstack } = new Xenstored();
    const state = () => toolstack.read("/a/state");
    expect(await toolstack.waitFor("/a/state", (value) => value === undefined, 60_000)).toBe(true);
    const asked: (string | undefined)[] = [];
    const connected = toolstack.waitFor("/a", () => asked.push(state()) > 0 && state() === "4", 60_000);
    toolstack.write("/a/state", "2");
    toolstack.write("/b/state", "4");
    toolstack.write("/a/state", "4");
    toolstack.write("/a/state", "5");
    expect(await connected).toBe(true);
    expect(asked).toEqual([undefined, "2", "4"]);
    expect(await toolstack.waitFor("/a/state", (value) => value === "6", 1)).toBe(false);
    const refuses = () => {
      throw new TypeError("a bug");
    };
    await expect(toolstack.waitFor("/a/state", refuses, 60_000)).rejects.toThrow(TypeError);
  });
});
