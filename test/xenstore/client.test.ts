import { link, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { connectXenstoreSocket, type XenstoreClient } from "../../engine/xenstore/client.ts";
import { serveXenstoreSocket, type XenstoreSocket } from "../../engine/xenstore/socket-server.ts";
import { lab } from "./harness.ts";

let folder = "";
let socket: XenstoreSocket;
let client: XenstoreClient;
let daemon = lab();

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "domlab-xs-"));
  daemon = lab();
  socket = await serveXenstoreSocket(daemon, join(folder, "s"));
  client = await connectXenstoreSocket(join(folder, "s"));
});

afterEach(async () => {
  client.close();
  await socket.close();
  await rm(folder, { recursive: true });
});

describe("XenStore client over a socket", () => {
  it("reads, writes, lists, removes and sets permissions", async () => {
    await client.write("/a/b", "grüße");
    await client.mkdir("/a/c");
    expect(await client.read("/a/b")).toBe("grüße");
    expect(await client.read("/a/none")).toBeUndefined();
    expect(await client.directory("/a")).toEqual(["b", "c"]);
    expect(await client.directory("/none")).toBeUndefined();
    await client.setPermissions("/a", ["n0", "r7"]);
    expect(await client.getPermissions("/a")).toEqual(["n0", "r7"]);
    await client.remove("/a");
    await client.remove("/a");
    await client.remove("/no/such");
    expect(await client.read("/a/b")).toBeUndefined();
    expect(await client.getDomainPath(7)).toBe("/local/domain/7");
  });

  it("tells errors by name, and does not send what would end the connection", async () => {
    await expect(client.write("bad//path", "x")).rejects.toMatchObject({ code: "EINVAL" });
    await expect(client.write("/a", "x".repeat(4096))).rejects.toMatchObject({ code: "E2BIG" });
    expect(await client.read("/local/domain/7/name")).toBe("guest7");
  });

  it("lists a directory longer than a message", async () => {
    const names = Array.from({ length: 1000 }, (_, i) => `name-of-node-${i}`);
    for (const name of names) daemon.toolstack.write(`/many/${name}`, "");
    expect(await client.directory("/many")).toEqual(names);
  });

  it("repeats a transaction until nobody interferes, and drops one that fails", async () => {
    let attempts = 0;
    await client.transaction(async (store) => {
      const value = Number((await store.read("/counter")) ?? 0);
      if (++attempts < 3) daemon.toolstack.write("/counter", String(10 * attempts));
      await store.write("/counter", String(value + 1));
    });
    expect(attempts).toBe(3);
    expect(await client.read("/counter")).toBe("21");
    const failing = client.transaction(async (store) => {
      await store.write("/counter", "0");
      throw new Error("no");
    });
    await expect(failing).rejects.toThrow("no");
    expect(await client.read("/counter")).toBe("21");
    expect(daemon.usage(0)?.transactions).toBe(0);
  });

  it("hears events in order until the watch is closed", async () => {
    const heard: string[] = [];
    const watch = await client.watch("/w", (path) => heard.push(path));
    for (const name of ["a", "b", "c"]) await client.write(`/w/${name}`, "");
    await client.read("/w");
    expect(heard).toEqual(["/w", "/w/a", "/w/b", "/w/c"]);
    await watch.close();
    await client.write("/w/d", "");
    expect(heard).toHaveLength(4);
    expect(daemon.usage(0)?.watches).toBe(0);
  });

  it("fails with ENOTCONN once the server is gone, and frees what the client had there", async () => {
    await client.watch("/w", () => {});
    await socket.close();
    await client.ended;
    await expect(client.read("/w")).rejects.toMatchObject({ code: "ENOTCONN" });
    expect(daemon.usage(0)?.watches).toBe(0);
  });

  it("replaces the socket file of a dead server, but no other file", async () => {
    await expect(serveXenstoreSocket(daemon, join(folder, "s"))).rejects.toMatchObject({ code: "EADDRINUSE" });
    await writeFile(join(folder, "file"), "mine");
    await expect(serveXenstoreSocket(daemon, join(folder, "file"))).rejects.toMatchObject({ code: "EADDRINUSE" });
    expect(await readFile(join(folder, "file"), "utf8")).toBe("mine");
    // A second name of the socket stays when its server closes.
    await link(join(folder, "s"), join(folder, "stale"));
    await socket.close();
    const again = await serveXenstoreSocket(daemon, join(folder, "stale"));
    const second = await connectXenstoreSocket(join(folder, "stale"));
    expect(await second.read("/local/domain/7/name")).toBe("guest7");
    second.close();
    await again.close();
  });

  it("is refused where nobody listens", async () => {
    await expect(connectXenstoreSocket(join(folder, "none"))).rejects.toMatchObject({ code: "ENOENT" });
  });
});
