import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { constants } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { describe, expect, it, onTestFinished } from "vitest";
import type { BlockStore } from "../../engine/device/block/store.ts";
import { DiskError } from "../../engine/disk/errors.ts";
import { openStore } from "../../engine/disk/open.ts";
import type { NbdSpec } from "../../engine/disk/spec.ts";
import { discard, flush, memoryOf, scatterOf, temporaryFolder, transfer } from "./helpers.ts";

const has = (command: string) => spawnSync(command, ["--version"]).error === undefined;
const nbdkit = has("nbdkit");
const qemuNbd = has("qemu-nbd");
const openssl = spawnSync("openssl", ["version"]).error === undefined;

function spec(address: NbdSpec["address"], more: Partial<NbdSpec> = {}): NbdSpec {
  return { kind: "nbd", address, export: "", readOnly: false, ...more };
}

async function opened(what: NbdSpec): Promise<BlockStore & { lines: string[] }> {
  const lines: string[] = [];
  const store = await openStore(what, (line) => lines.push(line));
  onTestFinished(() => store.close());
  return Object.assign(store, { lines });
}

function kept(child: ChildProcess): ChildProcess {
  onTestFinished(() => void child.kill("SIGKILL"));
  return child;
}

/** Starts a server on a Unix socket and waits until it accepts. */
async function onSocket(socket: string, command: string, args: string[]): Promise<ChildProcess> {
  const child = kept(spawn(command, args, { stdio: ["ignore", "ignore", "inherit"] }));
  for (let i = 0; i < 200 && child.exitCode === null; i++) {
    if (existsSync(socket)) {
      const probe = connect(socket);
      const [event] = await Promise.race([once(probe, "data").then(() => ["data"]), once(probe, "error")]);
      probe.destroy();
      if (event === "data") return child;
    }
    await delay(25);
  }
  throw new Error(`${command} does not listen`);
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

async function roundTrip(store: BlockStore): Promise<void> {
  const memory = memoryOf(1 << 20);
  memory.bytes.forEach((_, i, all) => {
    all[i] = (i * 13 + (i >> 9)) & 0xff;
  });
  const pieces = [
    [65_536, 4096],
    [0, 512],
    [131_072, 262_144],
  ] as const;
  expect(await transfer(store, "write", 8192, scatterOf(memory, pieces))).toBeUndefined();
  expect(await flush(store)).toBeUndefined();
  const into = memoryOf(1 << 20);
  const length = 4096 + 512 + 262_144;
  expect(
    await transfer(
      store,
      "read",
      8192,
      scatterOf(into, [
        [1024, 512],
        [4096, length - 512],
      ]),
    ),
  ).toBeUndefined();
  const expected = Buffer.concat(pieces.map(([at, size]) => memory.bytes.slice(at, at + size)));
  const got = Buffer.concat([into.bytes.slice(1024, 1536), into.bytes.slice(4096, 4096 + length - 512)]);
  expect(got.equals(expected)).toBe(true);
}

describe.runIf(nbdkit)("an export of nbdkit", () => {
  it("is read, written and discarded over a Unix socket", async () => {
    const socket = join(temporaryFolder(), "s");
    await onSocket(socket, "nbdkit", ["-f", "-U", socket, "memory", "8M"]);
    const store = await opened(spec({ socket }));
    expect([store.size, store.sectorSize, store.synchronous]).toEqual([8 << 20, 512, false]);
    await roundTrip(store);
    expect(store.discard).toBeDefined();
    expect(await discard(store, 0, 4 << 20)).toBeUndefined();
    const memory = memoryOf(4096);
    memory.bytes.fill(1);
    expect(await transfer(store, "read", 8192, scatterOf(memory, [[0, 4096]]))).toBeUndefined();
    expect(memory.bytes.every((byte) => byte === 0)).toBe(true);
  });

  it("keeps many requests under way over TCP", async () => {
    const port = await freePort();
    kept(spawn("nbdkit", ["-f", "-i", "127.0.0.1", "-p", String(port), "memory", "8M"], { stdio: "ignore" }));
    let store: BlockStore | undefined;
    for (let i = 0; i < 200 && !store; i++) {
      store = await opened(spec({ host: "127.0.0.1", port })).catch(() => delay(25).then(() => undefined));
    }
    const memory = memoryOf(1 << 20);
    for (let i = 0; i < 256; i++) memory.bytes.fill(i, i * 4096, i * 4096 + 4096);
    const all = (what: "read" | "write", from: typeof memory) =>
      Promise.all(
        Array.from({ length: 256 }, (_, i) => transfer(store!, what, i * 8192, scatterOf(from, [[i * 4096, 4096]]))),
      );
    expect((await all("write", memory)).every((failure) => failure === undefined)).toBe(true);
    const into = memoryOf(1 << 20);
    expect((await all("read", into)).every((failure) => failure === undefined)).toBe(true);
    expect(Buffer.from(into.bytes).equals(Buffer.from(memory.bytes))).toBe(true);
  });

  it("is refused when it is read-only, and served with access=ro", async () => {
    const socket = join(temporaryFolder(), "s");
    await onSocket(socket, "nbdkit", ["-f", "-r", "-U", socket, "memory", "1M"]);
    await expect(opened(spec({ socket }))).rejects.toMatchObject({ code: "read-only-image" });
    expect((await opened(spec({ socket }, { readOnly: true }))).readOnly).toBe(true);
  });

  it("passes the server's errors on", async () => {
    const socket = join(temporaryFolder(), "s");
    const args = [
      "-f",
      "-U",
      socket,
      "--filter=error",
      "memory",
      "1M",
      "error-pwrite=ENOSPC",
      "error-pwrite-rate=100%",
    ];
    await onSocket(socket, "nbdkit", args);
    const store = await opened(spec({ socket }));
    const scatter = scatterOf(memoryOf(4096), [[0, 4096]]);
    expect(await transfer(store, "write", 0, scatter)).toMatchObject({ errno: constants.errno.ENOSPC });
    expect(await transfer(store, "read", 0, scatter)).toBeUndefined();
  });

  it.runIf(openssl)("speaks TLS, and only with the right certificate", async () => {
    const folder = temporaryFolder();
    const certificates = join(folder, "pki");
    mkdirSync(certificates);
    const at = (name: string) => join(certificates, name);
    const run = (...args: string[]) => execFileSync("openssl", args, { stdio: "ignore" });
    const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj"];
    run("req", "-x509", ...key, "/CN=ca", "-keyout", at("ca-key.pem"), "-out", at("ca-cert.pem"), "-days", "2");
    run("req", ...key, "/CN=localhost", "-keyout", at("server-key.pem"), "-out", at("server.csr"));
    writeFileSync(at("extensions"), "subjectAltName=DNS:localhost\n");
    const sign = ["x509", "-req", "-in", at("server.csr"), "-CA", at("ca-cert.pem"), "-CAkey", at("ca-key.pem")];
    run(...sign, "-CAcreateserial", "-extfile", at("extensions"), "-out", at("server-cert.pem"), "-days", "2");
    const socket = join(folder, "s");
    const tls = ["--tls=require", `--tls-certificates=${certificates}`];
    await onSocket(socket, "nbdkit", ["-f", "-U", socket, ...tls, "memory", "8M"]);
    await roundTrip(await opened(spec({ socket }, { tls: { ca: at("ca-cert.pem") } })));
    await expect(opened(spec({ socket }))).rejects.toMatchObject({ code: "nbd-refused" });
    await expect(opened(spec({ socket }, { tls: {} }))).rejects.toMatchObject({ code: "nbd-refused" });
    const wrong = { ca: at("ca-cert.pem"), serverName: "elsewhere" };
    await expect(opened(spec({ socket }, { tls: wrong }))).rejects.toMatchObject({ code: "nbd-refused" });
  });
});

describe.runIf(qemuNbd)("an export of qemu-nbd", () => {
  it("loses nothing when the server is killed and started again in the middle", async () => {
    const folder = temporaryFolder();
    const [socket, path] = [join(folder, "s"), join(folder, "d")];
    writeFileSync(path, "");
    truncateSync(path, 8 << 20);
    const start = () => onSocket(socket, "qemu-nbd", ["-t", "-f", "raw", "-e", "8", "-x", "e", "-k", socket, path]);
    const first = await start();
    const store = await opened(spec({ socket }, { export: "e" }));
    const memory = memoryOf(8 << 20);
    for (let i = 0; i < 512; i++) memory.bytes.fill(i * 3 + 1, i * 16_384, i * 16_384 + 16_384);
    const write = (i: number) => transfer(store, "write", i * 16_384, scatterOf(memory, [[i * 16_384, 16_384]]));
    const writes = Array.from({ length: 256 }, (_, i) => write(i));
    await writes[20];
    const gone = once(first, "exit");
    first.kill("SIGKILL");
    await gone;
    for (let i = 256; i < 512; i++) writes.push(write(i));
    const flushed = flush(store);
    await start();
    expect((await Promise.all([...writes, flushed])).filter((failure) => failure !== undefined)).toEqual([]);
    expect(store.lines.some((line) => line.includes("is back"))).toBe(true);
    expect(readFileSync(path).equals(Buffer.from(memory.bytes))).toBe(true);
  });

  it("names the export that is missing", async () => {
    const folder = temporaryFolder();
    const [socket, path] = [join(folder, "s"), join(folder, "d")];
    writeFileSync(path, Buffer.alloc(65_536));
    await onSocket(socket, "qemu-nbd", ["-t", "-f", "raw", "-e", "8", "-x", "e", "-k", socket, path]);
    await expect(opened(spec({ socket }, { export: "f" }))).rejects.toMatchObject({ code: "nbd-refused" });
    await roundTripSmall(await opened(spec({ socket }, { export: "e" })));
  });
});

/** A read of a sparse export: qemu-nbd answers with holes. */
async function roundTripSmall(store: BlockStore): Promise<void> {
  const memory = memoryOf(65_536);
  memory.bytes.fill(1);
  expect(
    await transfer(
      store,
      "read",
      0,
      scatterOf(memory, [
        [0, 32_768],
        [32_768, 32_768],
      ]),
    ),
  ).toBeUndefined();
  expect(memory.bytes.every((byte) => byte === 0)).toBe(true);
}

const words = (...values: (bigint | number)[]) => {
  const bytes = Buffer.alloc(values.length * 8);
  values.forEach((value, i) => {
    bytes.writeBigUInt64BE(BigInt(value), i * 8);
  });
  return bytes;
};
const greeting = Buffer.concat([words(0x4e42444d41474943n, 0x49484156454f5054n), Buffer.from([0, 3])]);
const reply = (option: number, type: number, data = Buffer.alloc(0)) => {
  const header = Buffer.alloc(20);
  header.writeBigUInt64BE(0x0003e889045565a9n, 0);
  header.writeUInt32BE(option, 8);
  header.writeUInt32BE(type >>> 0, 12);
  header.writeUInt32BE(data.length, 16);
  return Buffer.concat([header, data]);
};
const exportInfo = (size: bigint) => Buffer.concat([Buffer.from([0, 0]), words(size), Buffer.from([0, 1])]);
const noStructured = reply(8, 0x80000001);
const accepted = (size = 65_536n) => Buffer.concat([noStructured, reply(7, 3, exportInfo(size)), reply(7, 1)]);

/** A server that says `handshake` at once (the client's words do not matter), then answers what it gets with `answer`. */
async function hostile(
  handshake: Buffer,
  answer?: (request: Buffer, socket: Socket) => void,
): Promise<NbdSpec["address"]> {
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.write(handshake);
    socket.on("data", (bytes) => {
      const magic = bytes.indexOf(Buffer.from([0x25, 0x60, 0x95, 0x13]));
      if (magic >= 0) answer?.(bytes.subarray(magic), socket);
    });
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => void server.close());
  return { host: "127.0.0.1", port: (server.address() as AddressInfo).port };
}

describe("a hostile server", () => {
  it.each([
    ["other magic", Buffer.alloc(18, 0x41)],
    ["no fixed newstyle", Buffer.concat([greeting.subarray(0, 16), Buffer.from([0, 0])])],
    ["an answer to something else", Buffer.concat([greeting, reply(99, 1)])],
    ["an answer of 4 GiB", Buffer.concat([greeting, noStructured.subarray(0, 16), Buffer.alloc(4, 0xff)])],
    ["a size of 2^63", Buffer.concat([greeting, accepted(1n << 63n)])],
    ["no size", Buffer.concat([greeting, noStructured, reply(7, 1)])],
    ["a size of 0", Buffer.concat([greeting, accepted(0n)])],
    ["a short description", Buffer.concat([greeting, noStructured, reply(7, 3, Buffer.from([0]))])],
    [
      "answers without end",
      Buffer.concat([greeting, noStructured, ...Array(200).fill(reply(7, 3, Buffer.from([0, 9])))]),
    ],
    ["words before they are asked for", Buffer.concat([greeting, accepted(), Buffer.from([1])])],
  ])("with %s is refused in one line", async (_, handshake) => {
    const failure = await opened(spec(await hostile(handshake))).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(DiskError);
    expect((failure as DiskError).message).toMatch(/^[^\n]+; [^\n]+$/);
  });

  const simple = (cookie: bigint) => Buffer.concat([Buffer.from([0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0]), words(cookie)]);
  it.each([
    ["no reply at all", () => Buffer.alloc(64, 7)],
    ["a reply to nothing", () => simple(12345n)],
    ["a huge cookie", () => simple(0xffffffffffffffffn)],
    [
      "a chunk of 4 GiB",
      (cookie: bigint) =>
        Buffer.concat([
          Buffer.from([0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1]),
          words(cookie),
          Buffer.alloc(4, 0xff),
          words(0),
        ]),
    ],
    [
      "data from elsewhere",
      (cookie: bigint) => {
        const length = Buffer.from([0, 0, 0, 16]);
        return Buffer.concat([
          Buffer.from([0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1]),
          words(cookie),
          length,
          words(1 << 20, 0),
        ]);
      },
    ],
    [
      "an end without data",
      (cookie: bigint) =>
        Buffer.concat([Buffer.from([0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 0]), words(cookie), Buffer.alloc(4)]),
    ],
  ])("that answers a read with %s costs an I/O error after the deadline, no more", async (_, answer) => {
    const address = await hostile(Buffer.concat([greeting, accepted()]), (request, socket) => {
      socket.write(answer(request.readBigUInt64BE(8)));
    });
    const store = await opened(spec(address, { deadlineSeconds: 0.3 }));
    const memory = memoryOf(8192);
    const failure = await transfer(store, "read", 4096, scatterOf(memory, [[0, 4096]]));
    expect(failure).toMatchObject({ errno: constants.errno.EIO });
    expect(memory.bytes.every((byte) => byte === 0)).toBe(true);
  });

  it("that never answers costs an I/O error after the deadline", async () => {
    const store = await opened(spec(await hostile(Buffer.concat([greeting, accepted()])), { deadlineSeconds: 0.2 }));
    const scatter = scatterOf(memoryOf(4096), [[0, 4096]]);
    expect(await transfer(store, "write", 0, scatter)).toMatchObject({ errno: constants.errno.EIO });
  });

  it("is not there: one line", async () => {
    const address = { host: "127.0.0.1", port: await freePort() };
    await expect(opened(spec(address))).rejects.toMatchObject({ code: "nbd-unreachable" });
    const socket = join(temporaryFolder(), "none");
    await expect(opened(spec({ socket }))).rejects.toMatchObject({ code: "nbd-unreachable" });
  });
});
