import { mkdtempSync, readFileSync, realpathSync, rmSync, statSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { labName } from "../../../main/lab/server/server-file.ts";
import { readAppFile } from "../../../main/serve/app-file.ts";
import { findApp, Instance, type InstanceFunctions, type OtherApp } from "../../../main/serve/instance.ts";
import { DEFAULT_PORT, listenSomewhere } from "../../../main/serve/ports.ts";
import { parseAddress, parsePort } from "../../../main/serve/serve-command.ts";
import { sessionKey } from "../../../main/serve/session-cookies.ts";

let home: string;
let root: string;
let open: Instance[];

beforeEach(() => {
  home = realpathSync(mkdtempSync(path.join(os.tmpdir(), "domlab-instance-")));
  root = path.join(home, "run");
  open = [];
});
afterEach(async () => {
  for (const instance of open) await instance.close();
  rmSync(home, { recursive: true, force: true });
});

const functions = (more: Partial<InstanceFunctions> = {}): InstanceFunctions => ({
  info: () => ({ pid: process.pid, port: 7411 }),
  link: () => "http://127.0.0.1:7411/#token=x",
  stop: () => {},
  ...more,
});

async function first(more: Partial<InstanceFunctions> = {}): Promise<Instance> {
  const instance = await Instance.claim({ home, root });
  if (!(instance instanceof Instance)) throw new Error("another app runs");
  open.push(instance);
  await instance.serve(functions(more));
  return instance;
}

describe("the app of a lab's folder", () => {
  it("is one: a second gets a link of the first", async () => {
    await first();
    const second = await Instance.claim({ home, root });
    expect(second).not.toBeInstanceOf(Instance);
    expect(second).toMatchObject({ pid: process.pid, port: 7411 });
    expect(await (second as OtherApp).link()).toBe("http://127.0.0.1:7411/#token=x");
  });

  it("is another for another folder", async () => {
    await first();
    const elsewhere = path.join(home, "run");
    const other = await Instance.claim({ home: elsewhere, root });
    expect(other).toBeInstanceOf(Instance);
    open.push(other as Instance);
    await (other as Instance).serve(functions({ info: () => ({ pid: process.pid, port: 7412 }) }));
    expect((await findApp({ home, root }))?.port).toBe(7411);
    expect((await findApp({ home: elsewhere, root }))?.port).toBe(7412);
  });

  it("is waited for while it is starting", async () => {
    const instance = (await Instance.claim({ home, root })) as Instance;
    open.push(instance);
    const second = Instance.claim({ home, root });
    await instance.serve(functions());
    expect(await second).toMatchObject({ port: 7411 });
  });

  it("can be followed by the next one, in whatever way it ended", async () => {
    await (await first()).close();
    open = [];
    expect(await findApp({ home, root })).toBeUndefined();
    // What a killed one leaves: a name that nobody listens at.
    writeFileSync(path.join(root, `${labName(home)}.app`), "");
    expect(await findApp({ home, root })).toBeUndefined();
    await first();
    expect((await findApp({ home, root }))?.port).toBe(7411);
  });

  it("is told to end, and has ended when the call returns", async () => {
    let instance: Instance | undefined;
    let ended = false;
    instance = await first({
      stop: () => {
        setTimeout(async () => {
          ended = true;
          open = [];
          await instance?.close();
        }, 20);
      },
    });
    const other = await findApp({ home, root });
    await other?.stop();
    expect(ended).toBe(true);
    expect(await findApp({ home, root })).toBeUndefined();
    await first();
  });

  it("remembers its port for the next start", async () => {
    expect(await readAppFile(home)).toBeUndefined();
    await first();
    expect(await readAppFile(home)).toMatchObject({ pid: process.pid, port: 7411 });
    writeFileSync(path.join(home, "app.json"), '{"pid":1,"port":99999,"started":""}');
    expect(await readAppFile(home)).toBeUndefined();
    writeFileSync(path.join(home, "app.json"), "{");
    expect(await readAppFile(home)).toBeUndefined();
  });
});

describe("the key of sessions", () => {
  it("is made once, for the user alone, and made anew when it is damaged", async () => {
    const file = path.join(home, "app.key");
    const key = await sessionKey(file);
    expect(key).toHaveLength(32);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect((await sessionKey(file)).equals(key)).toBe(true);
    writeFileSync(file, readFileSync(file).subarray(0, 10));
    const other = await sessionKey(file);
    expect(other).toHaveLength(32);
    expect(other.equals(key)).toBe(false);
  });

  it("that cannot be kept is told in a line", async () => {
    await expect(sessionKey(path.join(home, "nowhere", "app.key"))).rejects.toThrow(
      /app\.key cannot be used \(ENOENT\); make/,
    );
  });
});

describe("the port", () => {
  const said: string[] = [];
  const taken =
    (ports: readonly number[], code = "EADDRINUSE") =>
    async (port: number) => {
      if (!ports.includes(port)) return port;
      throw Object.assign(new Error("no"), { code });
    };
  const choose = (wish: Parameters<typeof listenSomewhere>[0], ports: readonly number[], code?: string) => {
    said.length = 0;
    return listenSomewhere(wish, taken(ports, code), (line) => said.push(line));
  };

  it("is the usual one, or that of the last time, or the next that is free", async () => {
    expect(await choose({}, [])).toBe(DEFAULT_PORT);
    expect(await choose({ remembered: 9000 }, [])).toBe(9000);
    expect(said).toEqual([]);
    expect(await choose({}, [7411, 7412])).toBe(7413);
    expect(said).toEqual(["port 7411 is taken by another program: 7413 is used instead"]);
    expect(await choose({ remembered: 9000 }, [9000])).toBe(7411);
    expect(said).toEqual(["port 9000 is taken by another program: 7411 is used instead"]);
  });

  it("that the user named is taken or nothing is", async () => {
    expect(await choose({ port: 80, remembered: 9000 }, [])).toBe(80);
    await expect(choose({ port: 9000 }, [9000])).rejects.toThrow(
      "port 9000 is taken by another program; choose another --port, or leave it out",
    );
    await expect(choose({ port: 80 }, [80], "EACCES")).rejects.toThrow(
      "port 80 is not for users; choose a --port from 1024 on",
    );
    await expect(choose({ port: 80 }, [80], "EADDRNOTAVAIL")).rejects.toThrow(
      /EADDRNOTAVAIL.*; check --host and --port/,
    );
  });

  it("may be none at all", async () => {
    const all = Array.from({ length: 21 }, (_, index) => DEFAULT_PORT + index);
    await expect(choose({}, all)).rejects.toThrow("ports 7411 to 7431 are all taken; choose one with --port");
  });

  it("and the address are checked", () => {
    expect([parsePort("0"), parsePort("65535")]).toEqual([0, 65_535]);
    for (const text of ["", "-1", "65536", "http", "1e3", "7411 "])
      expect(() => parsePort(text), text).toThrow(/is no port; say/);
    for (const host of [undefined, "localhost", "127.0.0.1"]) expect(parseAddress(host, false)).toBeUndefined();
    expect(parseAddress("::1", false)).toBe("::1");
    expect(parseAddress("0.0.0.0", true)).toBe("0.0.0.0");
    expect(() => parseAddress("0.0.0.0", false)).toThrow(/unencrypted over the network.*; reach it with: ssh -L/);
    expect(() => parseAddress("example.org", true)).toThrow(/is no address/);
  });
});
