import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Xenstored } from "../../engine/xenstore/daemon.ts";
import { serveXenstoreSocket, type XenstoreSocket } from "../../engine/xenstore/socket-server.ts";
import { addXenstoreCommand } from "../../main/xenstore-command.ts";

let folder = "";
let socket: XenstoreSocket;
let daemon = new Xenstored();

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "domlab-xsc-"));
  daemon = new Xenstored();
  for (const [path, value] of [
    ["/local/domain/7/name", "guest"],
    ["/local/domain/7/data", 'a"b\n\u0001'],
    ["/tool", ""],
  ] as const) {
    daemon.toolstack.write(path, value);
  }
  daemon.toolstack.setPermissions("/local/domain/7/data", ["n7", "r8"]);
  socket = await serveXenstoreSocket(daemon, join(folder, "lab"));
});

afterEach(async () => {
  await socket.close();
  await rm(folder, { recursive: true });
});

async function run(...args: string[]): Promise<{ output: string; status: number | undefined }> {
  let output = "";
  let status: number | undefined;
  const program = new Command().exitOverride();
  addXenstoreCommand(program, {
    socketOf: (name) => join(folder, name ?? "lab"),
    setStatus: (value) => {
      status = value;
    },
    print: (text) => {
      output += text;
    },
  });
  await program.parseAsync(["xenstore", ...args], { from: "user" });
  return { output, status };
}

describe("domlab xenstore", () => {
  it("ls shows the tree", async () => {
    expect((await run("ls")).output).toBe(
      'local = ""\n domain = ""\n  7 = ""\n   name = "guest"\n   data = "a\\"b\\n\\x01"\ntool = ""\n',
    );
    expect((await run("ls", "-f", "-p", "/local/domain/7")).output).toBe(
      '/local/domain/7/name = "guest"   (n0)\n/local/domain/7/data = "a\\"b\\n\\x01"   (n7,r8)\n',
    );
  });

  it("read, write, list and exists", async () => {
    await run("write", "/a/b", "1", "/a/c", "2");
    expect((await run("read", "/a/b", "/a/c")).output).toBe("1\n2\n");
    expect((await run("list", "/a")).output).toBe("b\nc\n");
    expect((await run("exists", "/a/b")).status).toBe(0);
    expect((await run("exists", "/a/b", "/a/none")).status).toBe(1);
  });

  it("rm removes, with -t empty ancestors too", async () => {
    await run("write", "/x/y/z", "1");
    await run("rm", "-t", "/x/y/z");
    expect(daemon.toolstack.read("/x")).toBeUndefined();
    await run("write", "/x/y/z", "1");
    await run("rm", "/x/y/z");
    expect(daemon.toolstack.read("/x/y")).toBe("");
  });

  it("chmod sets permissions, with -r below too", async () => {
    await run("chmod", "-r", "/local/domain/7", "n0", "r7");
    expect(daemon.toolstack.getPermissions("/local/domain/7")).toEqual(["n0", "r7"]);
    expect(daemon.toolstack.getPermissions("/local/domain/7/data")).toEqual(["n0", "r7"]);
  });

  it("watch prints changes and ends after -n of them", async () => {
    const watching = run("watch", "-n", "2", "/tool");
    const poke = setInterval(() => daemon.toolstack.write("/tool/x", ""), 5);
    expect((await watching).output).toBe("/tool\n/tool/x\n");
    clearInterval(poke);
  });

  it.each([
    [["read", "/none"], /^\/none does not exist in XenStore; /],
    [["list", "/none"], /^\/none does not exist in XenStore; /],
    [["rm", "/none"], /^\/none does not exist in XenStore; /],
    [["read", "/a//b"], /^XenStore does not accept \/a\/\/b; /],
    [["chmod", "/tool", "x7"], /^XenStore does not accept \/tool; /],
    [["write", "/a", "1", "/b"], /^a path without a value; /],
    [["write", "/a", "x".repeat(5000)], /^the value for \/a is too long; /],
    [["watch", "-n", "0", "/a"], /^-n 0 is no number of events; /],
    [["ls", "--lab", "gone"], /^no lab is running there; /],
  ])("%j fails in one line", async (args, message) => {
    await expect(run(...args)).rejects.toThrow(message);
  });
});
