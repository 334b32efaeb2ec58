import { describe, expect, it } from "vitest";
import type { XenstoreNode } from "../../main/lab/xenstore-api.ts";
import {
  fromHex,
  isNodeName,
  permissionTexts,
  readPermissions,
  toHex,
} from "../../renderer/views/xenstore/node-text.ts";
import {
  ancestorsOf,
  childPath,
  isBelow,
  moveFrom,
  nameOf,
  nearest,
  parentPath,
  rowsOf,
  touchedBy,
} from "../../renderer/views/xenstore/tree-rows.ts";

const node = (name: string, hasChildren = false, value = ""): XenstoreNode => ({
  name,
  value,
  encoding: "text",
  permissions: ["n0"],
  hasChildren,
});
const root = node("/", true);
const lists = new Map([
  ["/", [node("vm", true), node("local", true)]],
  ["/local", [node("domain", true)]],
  ["/local/domain", [node("10", true), node("2", true), node("0", true)]],
  ["/local/domain/2", [node("name", false, "web"), node("device", true)]],
]);
const open = new Set(["/", "/local", "/local/domain"]);
const paths = (rows: readonly { path: string }[]) => rows.map(({ path }) => path);

describe("paths", () => {
  it("lead up and down", () => {
    expect([childPath("/", "a"), childPath("/a", "b")]).toEqual(["/a", "/a/b"]);
    expect([parentPath("/a/b"), parentPath("/a"), parentPath("/")]).toEqual(["/a", "/", "/"]);
    expect([nameOf("/a/b"), nameOf("/")]).toEqual(["b", "/"]);
    expect(ancestorsOf("/a/b/c")).toEqual(["/", "/a", "/a/b"]);
    expect([isBelow("/a/b", "/a"), isBelow("/ab", "/a"), isBelow("/a", "/a"), isBelow("/a", "/")]).toEqual([
      true,
      false,
      true,
      true,
    ]);
  });
});

describe("rows", () => {
  it("are those of open nodes, numbers in their order, with their places", () => {
    const rows = rowsOf(root, lists, open, "");
    expect(paths(rows)).toEqual([
      "/",
      "/local",
      "/local/domain",
      "/local/domain/0",
      "/local/domain/2",
      "/local/domain/10",
      "/vm",
    ]);
    expect(rows[5]).toMatchObject({ level: 4, place: 3, siblings: 3, open: false });
    const inner = rowsOf(root, lists, new Set([...open, "/local/domain/2"]), "");
    expect(inner.find(({ path }) => path === "/local/domain/2/name")?.open).toBeUndefined();
  });

  it("with a filter are what matches in path or value and what leads there, open or not", () => {
    expect(paths(rowsOf(root, lists, new Set(["/"]), "WEB"))).toEqual([
      "/",
      "/local",
      "/local/domain",
      "/local/domain/2",
      "/local/domain/2/name",
    ]);
    expect(paths(rowsOf(root, lists, open, "nothing like it"))).toEqual(["/"]);
  });
});

describe("a change", () => {
  it("touches the list that has the node, and all that is loaded below it", () => {
    expect(touchedBy("/local/domain/2", lists)).toEqual(["/local/domain", "/local/domain/2"]);
    expect(touchedBy("/local/domain/2/name", lists)).toEqual(["/local/domain/2"]);
    expect(touchedBy("/", lists)).toEqual([...lists.keys()]);
  });

  it("where nothing is loaded touches nothing, unless a node on the way is new", () => {
    expect(touchedBy("/local/domain/10/memory/target", lists)).toEqual([]);
    expect(touchedBy("/local/domain/7/memory/target", lists)).toEqual(["/local/domain"]);
    expect(touchedBy("/local/domain/2/name/inner/more", lists)).toEqual(["/local/domain/2"]);
  });
});

describe("a node that is gone", () => {
  it("leaves the nearest one above it, as far as that is known", () => {
    expect(nearest("/local/domain/2/name", lists)).toBe("/local/domain/2/name");
    expect(nearest("/local/domain/2/gone/below", lists)).toBe("/local/domain/2");
    expect(nearest("/local/domain/7/name", lists)).toBe("/local/domain");
    expect(nearest("/local/domain/10/unknown", lists)).toBe("/local/domain/10/unknown");
    expect(nearest("/", lists)).toBe("/");
    expect(nearest("/gone", new Map([["/", []]]))).toBe("/");
  });
});

describe("keys", () => {
  const rows = rowsOf(root, lists, open, "");
  const move = (from: string, key: string) => moveFrom(rows, from, key, 3);

  it("lead from row to row", () => {
    expect(move("/", "ArrowDown")).toBe("/local");
    expect(move("/", "ArrowUp")).toBe("/");
    expect(move("/vm", "ArrowDown")).toBe("/vm");
    expect([move("/", "PageDown"), move("/vm", "PageUp")]).toEqual(["/local/domain/0", "/local/domain/0"]);
    expect([move("/local", "Home"), move("/local", "End")]).toEqual(["/", "/vm"]);
  });

  it("lead into open nodes and out of closed ones", () => {
    expect(move("/local", "ArrowRight")).toBe("/local/domain");
    expect(move("/vm", "ArrowRight")).toBeUndefined();
    expect(move("/local/domain/2", "ArrowLeft")).toBe("/local/domain");
    expect(move("/local", "ArrowLeft")).toBeUndefined();
    expect(move("/gone", "ArrowDown")).toBe("/");
    expect(move("/local", "x")).toBeUndefined();
  });
});

describe("values and permissions", () => {
  it("are bytes in hexadecimal digits and back", () => {
    const bytes = Uint8Array.from({ length: 18 }, (_, index) => index * 15);
    expect(toHex(bytes).split("\n")).toHaveLength(2);
    expect(fromHex(toHex(bytes))).toEqual(bytes);
    expect(fromHex("")).toEqual(new Uint8Array());
    for (const text of ["0", "0g", "zz", "0x00"]) expect(fromHex(text)).toBeUndefined();
  });

  it("are entries with an owner, and back", () => {
    const entries = ["n0", "r12", "b7"];
    expect(readPermissions(entries)).toEqual([
      { domid: 0, access: "n" },
      { domid: 12, access: "r" },
      { domid: 7, access: "b" },
    ]);
    expect(permissionTexts(readPermissions(entries))).toEqual(entries);
  });

  it("names of nodes are told from what is none", () => {
    for (const name of ["a", "a/b-c", "@x_1"]) expect(isNodeName(name)).toBe(true);
    for (const name of ["", "/a", "a/", "a b", "a//b", "ä"]) expect(isNodeName(name)).toBe(false);
  });
});
