import { describe, expect, it } from "vitest";
import { lab, peer, type TypeName } from "./harness.ts";

/** Domain, request type, payload, expected reply; | stands for NUL. */
const CASES: readonly (readonly [number, TypeName | number, string, string])[] = [
  [7, "READ", "domid|", "READ 7"],
  [7, "READ", "/local/domain/7/memory/target|", "READ 65536"],
  [7, "READ", "cpu/0/availability|", "READ online"],
  [7, "READ", "device/vbd|", "ERROR ENOENT|"],
  [7, "READ", "/local/domain/8/name|", "ERROR EACCES|"],
  [7, "READ", "/local/domain/8/nothing|", "ERROR EACCES|"],
  [0, "READ", "/local/domain/8/name|", "READ guest8"],
  [0, "READ", "/nothing|", "ERROR ENOENT|"],
  [7, "READ", "bad//path|", "ERROR EINVAL|"],
  [7, "READ", "bad/|", "ERROR EINVAL|"],
  [7, "READ", "no-terminator", "ERROR EINVAL|"],
  [7, "READ", "", "ERROR EINVAL|"],
  [7, "READ", `${"x".repeat(2048)}|`, "ERROR ENOENT|"],
  [7, "READ", `${"x".repeat(2049)}|`, "ERROR EINVAL|"],
  [7, "READ", "@releaseDomain|", "ERROR EINVAL|"],
  [7, "DIRECTORY", "cpu|", "DIRECTORY 0|"],
  [7, "DIRECTORY_PART", "cpu|9|", "DIRECTORY_PART"],
  [7, "DIRECTORY_PART", "cpu|x|", "ERROR EINVAL|"],
  [7, "WRITE", "control/feature-poweroff|1", "WRITE OK|"],
  [7, "WRITE", "data/a/b/c|1", "WRITE OK|"],
  [7, "WRITE", "name|evil", "ERROR EACCES|"],
  [7, "WRITE", "new|x", "ERROR EACCES|"],
  [7, "WRITE", "/tool|x", "ERROR EACCES|"],
  [7, "WRITE", "/local/domain/8/data/a|x", "ERROR EACCES|"],
  [7, "WRITE", "no-terminator", "ERROR EINVAL|"],
  [7, "WRITE", `data/big|${"x".repeat(2048)}`, "WRITE OK|"],
  [7, "WRITE", `data/big|${"x".repeat(2049)}`, "ERROR ENOSPC|"],
  [7, "MKDIR", "data/a/b|", "MKDIR OK|"],
  [7, "MKDIR", "name|", "ERROR EACCES|"],
  [7, "RM", "data/nothing|", "RM OK|"],
  [7, "RM", "data/no/thing|", "ERROR ENOENT|"],
  [7, "RM", "name|", "ERROR EACCES|"],
  [0, "RM", "/|", "ERROR EINVAL|"],
  [7, "GET_PERMS", "name|", "GET_PERMS n0|r7|"],
  [7, "GET_PERMS", "data|", "GET_PERMS n7|"],
  [7, "GET_PERMS", "@releaseDomain|", "ERROR EACCES|"],
  [0, "GET_PERMS", "@releaseDomain|", "GET_PERMS n0|"],
  [7, "SET_PERMS", "data|n7|r8|", "SET_PERMS OK|"],
  [7, "SET_PERMS", "data|n8|", "ERROR EPERM|"],
  [7, "SET_PERMS", "name|n7|", "ERROR EACCES|"],
  [7, "SET_PERMS", "data|x7|", "ERROR EINVAL|"],
  [7, "SET_PERMS", "data|r99999|", "ERROR EINVAL|"],
  [7, "SET_PERMS", "data|", "ERROR EINVAL|"],
  [7, "SET_PERMS", "data|n7|r1|r2|r3|r4|r5|", "ERROR ENOSPC|"],
  [0, "SET_PERMS", "/local/domain/7/data|n8|", "SET_PERMS OK|"],
  [7, "GET_DOMAIN_PATH", "012|", "GET_DOMAIN_PATH /local/domain/12|"],
  [7, "GET_DOMAIN_PATH", "x|", "ERROR EINVAL|"],
  [7, "TRANSACTION_END", "T|", "ERROR ENOENT|"],
  [7, "TRANSACTION_END", "X|", "ERROR EINVAL|"],
  [7, "UNWATCH", "a|t|", "ERROR ENOENT|"],
  [7, "WATCH", "a|", "ERROR EINVAL|"],
  [7, "WATCH", "data|t|-1|", "ERROR EINVAL|"],
  [7, "WATCH", "@other|t|", "ERROR EINVAL|"],
  [7, "WATCH", "@releaseDomain|t|2|", "ERROR EINVAL|"],
  [7, "IS_DOMAIN_INTRODUCED", "8|", "IS_DOMAIN_INTRODUCED T|"],
  [7, "IS_DOMAIN_INTRODUCED", "9|", "IS_DOMAIN_INTRODUCED F|"],
  [7, "INTRODUCE", "9|1|1|", "ERROR EACCES|"],
  [0, "INTRODUCE", "9|1|1|", "INTRODUCE OK|"],
  [0, "INTRODUCE", "0|1|1|", "ERROR EINVAL|"],
  [0, "RELEASE", "8|", "RELEASE OK|"],
  [0, "RELEASE", "9|", "ERROR ENOENT|"],
  [7, "RELEASE", "8|", "ERROR EACCES|"],
  [0, "RESUME", "9|", "ERROR ENOENT|"],
  [0, "RESUME", "8|", "RESUME OK|"],
  [7, "SET_TARGET", "7|8|", "ERROR EACCES|"],
  [0, "SET_TARGET", "7|9|", "ERROR ENOENT|"],
  [7, "RESET_WATCHES", "|", "RESET_WATCHES OK|"],
  [7, "GET_FEATURE", "", "GET_FEATURE 7|"],
  [7, "GET_FEATURE", "8|", "ERROR EACCES|"],
  [0, "SET_FEATURE", "9|8|", "ERROR EINVAL|"],
  [0, "SET_FEATURE", "8|1|", "ERROR EBUSY|"],
  [0, "SET_FEATURE", "9|1|", "SET_FEATURE OK|"],
  [7, "GET_QUOTA", "nodes|", "ERROR EACCES|"],
  [0, "GET_QUOTA", "nodes|", "GET_QUOTA 1000|"],
  [0, "GET_QUOTA", "7|watches|", "GET_QUOTA 128|"],
  [0, "GET_QUOTA", "7|nonsense|", "ERROR EINVAL|"],
  [0, "SET_QUOTA", "7|nodes|5|", "SET_QUOTA OK|"],
  [0, "SET_QUOTA", "constructor|5|", "ERROR EINVAL|"],
  [7, "CONTROL", "check|", "ERROR EACCES|"],
  [0, "CONTROL", "check|", "CONTROL OK|"],
  [0, "CONTROL", "nonsense|", "ERROR EINVAL|"],
  [7, "WATCH_EVENT", "a|b|", "ERROR ENOSYS|"],
  [7, "ERROR", "EINVAL|", "ERROR ENOSYS|"],
  [7, 20, "7|", "ERROR ENOSYS|"],
  [7, 27, "", "ERROR ENOSYS|"],
  [7, 0xffff, "", "ERROR ENOSYS|"],
];

describe("requests", () => {
  it.each(CASES)("domain %i: %s %j is answered %j", (domain, type, payload, expected) => {
    const [reply, ...more] = peer(lab(), domain).ask(type, payload);
    expect(more).toEqual([]);
    // Only the start of what holds a generation is known.
    expect(expected === "DIRECTORY_PART" ? reply?.split(" ")[0] : reply).toBe(expected);
  });

  it("lists a directory of any length in parts that end with an empty name", () => {
    const daemon = lab();
    const names = Array.from({ length: 400 }, (_, i) => `a-name-of-some-length-${i}`);
    for (const name of names) daemon.toolstack.write(`/many/${name}`, "");
    const tool = peer(daemon, 0);
    expect(tool.ask("DIRECTORY", "/many|")).toEqual(["ERROR E2BIG|"]);
    const found: string[] = [];
    for (let offset = 0; !found.includes(""); offset = found.join("|").length + 1) {
      const part = tool.ask("DIRECTORY_PART", `/many|${offset}|`)[0] ?? "";
      expect(part.length).toBeLessThanOrEqual(4096 + "DIRECTORY_PART ".length);
      found.push(
        ...part
          .replace(/^DIRECTORY_PART \d+\|/, "")
          .split("|")
          .slice(0, -1),
      );
    }
    expect(found).toEqual([...names, ""]);
  });

  it("ends the connection at an oversized message", () => {
    const guest = peer(lab(), 7);
    guest.connection.receive(Uint8Array.from([2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 16, 0, 0]));
    expect(guest.drain()).toEqual(["ERROR E2BIG|"]);
    expect(guest.closed()).toBe(3);
    expect(guest.ask("READ", "name|")).toEqual([]);
  });

  it("lends a device model the rights of its target", () => {
    const daemon = lab();
    const model = peer(daemon, 8);
    expect(model.ask("WRITE", "/local/domain/7/data/x|1")).toEqual(["ERROR EACCES|"]);
    peer(daemon, 0).ask("SET_TARGET", "8|7|");
    expect(model.ask("WRITE", "/local/domain/7/data/x|1")).toEqual(["WRITE OK|"]);
    expect(model.ask("READ", "/local/domain/7/name|")).toEqual(["READ guest7"]);
    daemon.releaseDomain(7);
    expect(daemon.find(8)?.target).toBeUndefined();
  });
});

describe("watches", () => {
  it("fire at once, then for the node and below, in the form they were asked in", () => {
    const daemon = lab();
    const guest = peer(daemon, 7);
    expect(guest.ask("WATCH", "control/shutdown|tok|")).toEqual(["WATCH OK|", "WATCH_EVENT control/shutdown|tok|"]);
    expect(guest.ask("WATCH", "control/shutdown|tok|")).toEqual(["ERROR EEXIST|"]);
    daemon.toolstack.write("/local/domain/7/control/shutdown", "poweroff");
    expect(guest.drain()).toEqual(["WATCH_EVENT control/shutdown|tok|"]);
    daemon.toolstack.write("/local/domain/7/control/other", "x");
    expect(guest.drain()).toEqual([]);
    guest.ask("WATCH", "/local/domain/7/data|abs|");
    expect(guest.ask("WRITE", "data/a/b|x")).toEqual(["WRITE OK|", "WATCH_EVENT /local/domain/7/data/a/b|abs|"]);
    guest.ask("RESET_WATCHES", "|");
    expect(guest.ask("WRITE", "data/a/b|y")).toEqual(["WRITE OK|"]);
  });

  it("look as deep as they say", () => {
    const daemon = lab();
    const tool = peer(daemon, 0);
    for (const watch of ["d0|0|", "d1|1|", "d|"]) tool.ask("WATCH", `/t|${watch}`);
    const fired = (path: string) => {
      daemon.toolstack.write(path, "");
      return tool.drain().map((event) => event.split("|")[1]);
    };
    expect(fired("/t")).toEqual(["d0", "d1", "d"]);
    expect(fired("/t/a")).toEqual(["d1", "d"]);
    expect(fired("/t/a/b")).toEqual(["d"]);
    expect(fired("/tt")).toEqual([]);
  });

  it("below a removed node fire for themselves, those above once", () => {
    const daemon = lab();
    daemon.toolstack.write("/a/b/c/d", "");
    const tool = peer(daemon, 0);
    for (const path of ["/a", "/a/b/c", "/a/b/other"]) tool.ask("WATCH", `${path}|${path}|`);
    daemon.toolstack.remove("/a/b");
    expect(tool.drain()).toEqual(["WATCH_EVENT /a/b|/a|", "WATCH_EVENT /a/b/c|/a/b/c|"]);
  });

  it("tell nobody of what they may not read", () => {
    const daemon = lab();
    const spy = peer(daemon, 8);
    spy.ask("WATCH", "/local/domain/7|t|");
    const guest = peer(daemon, 7);
    guest.ask("WRITE", "data/secret|x");
    guest.ask("RM", "data/secret|");
    expect(spy.drain()).toEqual([]);
    guest.ask("SET_PERMS", "data|n7|r8|");
    expect(spy.drain()).toEqual(["WATCH_EVENT /local/domain/7/data|t|"]);
    guest.ask("WRITE", "data/open|x");
    expect(spy.drain()).toEqual(["WATCH_EVENT /local/domain/7/data/open|t|"]);
  });

  it("tell of domains that come and go, to the privileged and to whom that is permitted", () => {
    const daemon = lab();
    const tool = peer(daemon, 0);
    const guest = peer(daemon, 7);
    tool.ask("WATCH", "@introduceDomain|i|");
    tool.ask("WATCH", "@releaseDomain|d|1|");
    tool.ask("WATCH", "@releaseDomain/9|nine|");
    guest.ask("WATCH", "@releaseDomain|g|");
    daemon.introduceDomain(9);
    daemon.shutDownDomain(9);
    daemon.shutDownDomain(9);
    expect(tool.drain()).toEqual([
      "WATCH_EVENT @introduceDomain|i|",
      "WATCH_EVENT @releaseDomain/9|d|",
      "WATCH_EVENT @releaseDomain/9|nine|",
    ]);
    expect(guest.drain()).toEqual([]);
    tool.ask("SET_PERMS", "@releaseDomain|n0|r7|");
    expect(guest.drain()).toEqual(["WATCH_EVENT @releaseDomain|g|"]);
    daemon.releaseDomain(9);
    expect(guest.drain()).toEqual(["WATCH_EVENT @releaseDomain|g|"]);
  });
});

describe("transactions", () => {
  const begin = (guest: ReturnType<typeof peer>) =>
    Number(/\d+/.exec(guest.ask("TRANSACTION_START", "|")[0] ?? "")?.[0]);

  it("are isolated, tell once per path at their commit, and can be dropped", () => {
    const daemon = lab();
    const guest = peer(daemon, 7);
    const tool = peer(daemon, 0);
    tool.ask("WATCH", "/local/domain/7/data|t|");
    const id = begin(guest);
    for (const value of ["x", "y"]) guest.ask("WRITE", `data/a|${value}`, id);
    expect(guest.ask("READ", "data/a|")).toEqual(["ERROR ENOENT|"]);
    expect(guest.ask("READ", "data/a|", id)).toEqual(["READ y"]);
    expect(tool.drain()).toEqual(["WATCH_EVENT /local/domain/7/data|t|"].slice(1));
    expect(guest.ask("TRANSACTION_END", "T|", id)).toEqual(["TRANSACTION_END OK|"]);
    expect(tool.drain()).toEqual(["WATCH_EVENT /local/domain/7/data/a|t|"]);
    const dropped = begin(guest);
    guest.ask("RM", "data/a|", dropped);
    guest.ask("TRANSACTION_END", "F|", dropped);
    expect(guest.ask("READ", "data/a|")).toEqual(["READ y"]);
    expect(guest.ask("READ", "data/a|", dropped)).toEqual(["ERROR ENOENT|"]);
    expect(guest.ask("TRANSACTION_START", "|", begin(guest))).toEqual(["ERROR EBUSY|"]);
  });

  /** What the transaction does, what somebody else does meanwhile, what the commit answers. */
  const MEANWHILE: readonly (readonly [TypeName, string, TypeName, string, string])[] = [
    ["READ", "data/a|", "WRITE", "data/a|2", "ERROR EAGAIN|"],
    ["READ", "data/a|", "RM", "data/a|", "ERROR EAGAIN|"],
    ["READ", "data/new|", "WRITE", "data/new|2", "ERROR EAGAIN|"],
    ["READ", "data/a|", "SET_PERMS", "data/a|n7|r8|", "ERROR EAGAIN|"],
    ["DIRECTORY", "data|", "WRITE", "data/new|2", "ERROR EAGAIN|"],
    ["WRITE", "data/a|1", "WRITE", "data/a|2", "ERROR EAGAIN|"],
    ["RM", "data|", "WRITE", "data/d/e|2", "ERROR EAGAIN|"],
    ["WRITE", "data/x|1", "RM", "data|", "ERROR EAGAIN|"],
    ["WRITE", "data/x|1", "WRITE", "data/y|2", "TRANSACTION_END OK|"],
    ["READ", "data/a|", "WRITE", "data/b|2", "TRANSACTION_END OK|"],
    ["READ", "data/d|", "WRITE", "data/d/e|2", "TRANSACTION_END OK|"],
    ["RM", "data/d|", "WRITE", "data/a|2", "TRANSACTION_END OK|"],
  ];

  it.each(MEANWHILE)("%s %j, while another does %s %j: %s", (mine, payload, theirs, other, answer) => {
    const daemon = lab();
    const guest = peer(daemon, 7);
    for (const path of ["data/a", "data/b", "data/d/e"]) guest.ask("WRITE", `${path}|0`);
    const id = begin(guest);
    guest.ask(mine, payload, id);
    guest.ask(theirs, other);
    expect(guest.ask("TRANSACTION_END", "T|", id)).toEqual([answer]);
    expect(daemon.check()).toEqual([]);
    if (mine === "WRITE" && answer.includes("OK")) {
      expect(guest.ask("READ", "data/x|")).toEqual(["READ 1"]);
      expect(guest.ask("READ", "data/y|")).toEqual(["READ 2"]);
    }
  });
});
