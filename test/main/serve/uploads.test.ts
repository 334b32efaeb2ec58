import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, utimesSync, writeFileSync } from "node:fs";
import http from "node:http";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { BadInput } from "../../../main/failure.ts";
import { until } from "../app/fake-lab.ts";
import { Served } from "./served.ts";

const MOST = 1 << 20;

let served: Served;
let headers: { origin: string; cookie: string };

beforeEach(async () => {
  served = new Served({}, { mostUploadBytes: MOST });
  await served.start();
  headers = { origin: served.origin, cookie: await served.cookie() };
});
afterEach(() => served.close());

const folder = () => path.join(served.lab.folder, "tmp");
const files = () => (existsSync(folder()) ? readdirSync(folder()) : []);
const put = (name: string, body: string | Buffer, more: http.OutgoingHttpHeaders = {}) =>
  served.request(`/upload?name=${encodeURIComponent(name)}`, { method: "PUT", headers: { ...headers, ...more }, body });

/** An upload that the test feeds. */
function slowly(length?: number): http.ClientRequest {
  const more = length === undefined ? { "transfer-encoding": "chunked" } : { "content-length": length };
  return http.request({
    host: "127.0.0.1",
    port: served.server.port,
    method: "PUT",
    path: "/upload?name=disk.img",
    headers: { ...headers, ...more },
    agent: false,
  });
}

describe("an upload", () => {
  it("becomes a file that only the user can read", async () => {
    const body = Buffer.alloc(300_000, "disk");
    const answer = await put("disk.qcow2", body);
    expect(answer.status).toBe(200);
    const { path: file, bytes } = JSON.parse(answer.body);
    expect(bytes).toBe(body.length);
    expect(file).toMatch(/\/tmp\/upload-[0-9a-f]{16}-disk\.qcow2$/);
    expect(readFileSync(file).equals(body)).toBe(true);
    expect(statSync(file).mode & 0o777).toBe(0o600);
  });

  it("stays in its folder whatever it is called", async () => {
    for (const name of ["../../etc/passwd", "/etc/passwd", "..", "", "a\0b", "x".repeat(4000), "ä ö/ü\n.img"]) {
      const { status, body } = await put(name, "x");
      expect(status, name).toBe(200);
      const file: string = JSON.parse(body).path;
      expect(path.dirname(file), name).toBe(folder());
      expect(path.basename(file), name).toMatch(/^upload-[0-9a-f]{16}-[\w][\w.-]{0,99}$/);
    }
    expect(files()).toHaveLength(7);
  });

  it("needs a session", async () => {
    const answer = await put("disk.img", "x", { cookie: "" });
    expect(answer.status).toBe(401);
    expect(files()).toEqual([]);
  });

  it("is refused by its length before any of it is read", async () => {
    const request = slowly(MOST + 1);
    const answer = new Promise<http.IncomingMessage>((resolve, reject) => {
      request.once("response", resolve);
      request.once("error", reject);
    });
    request.flushHeaders();
    const response = await answer;
    expect(response.statusCode).toBe(413);
    let text = "";
    for await (const piece of response) text += piece;
    expect(JSON.parse(text).line).toMatch(/^the file is larger than .*; copy it to the host .*--most-upload$/);
    request.destroy();
    expect(files()).toEqual([]);
  });

  it("is refused when it grows too large without having said so, and leaves nothing", async () => {
    const request = slowly();
    const answer = new Promise<number>((resolve, reject) => {
      request.once("response", (response) => resolve(response.statusCode ?? 0));
      request.once("error", reject);
    });
    for (let index = 0; index <= MOST; index += 1 << 16) request.write(Buffer.alloc(1 << 16));
    expect(await answer).toBe(413);
    request.destroy();
    expect(files()).toEqual([]);
  });

  it("of just the largest size is taken", async () => {
    expect((await put("disk.img", Buffer.alloc(MOST))).status).toBe(200);
  });

  it("that is aborted leaves nothing", async () => {
    const request = slowly(MOST);
    request.on("error", () => {});
    request.write(Buffer.alloc(1 << 17));
    await until("the file", () => files().length === 1);
    request.destroy();
    await until("its removal", () => files().length === 0);
    expect((await put("disk.img", "x")).status).toBe(200);
    expect(served.said).toEqual([]);
  });

  it("is not taken while many others are under way", async () => {
    const others = Array.from({ length: 8 }, () => slowly(MOST));
    for (const request of others) {
      request.on("error", () => {});
      request.write("x");
    }
    await until("their files", () => files().length === 8);
    expect((await put("disk.img", "x")).status).toBe(429);
    for (const request of others) request.destroy();
    // Bounded by the test's own time limit.
    while ((await put("disk.img", "x")).status !== 200) await new Promise((resolve) => setTimeout(resolve, 5));
    await until("their removal", () => files().length === 1);
  });
});

describe("what a page has sent", () => {
  const image = { name: "disk", path: "/lab/images/library/disk.qcow2", format: "qcow2" as const, virtualSize: 1 };
  let asked: string[];

  /** @param returnMs how long it outlives its page @param refuses what the lab answers to an import */
  async function begin(returnMs: number, refuses?: string): Promise<void> {
    await served.close();
    asked = [];
    const imageImport = ({ path: file }: { readonly path: string }) => {
      asked.push(file);
      if (refuses !== undefined) throw new BadInput("bad-option", refuses, "choose another one");
      return image;
    };
    served = new Served({ imageImport }, { mostUploadBytes: MOST });
    await served.start({ returnMs });
    headers = { origin: served.origin, cookie: await served.cookie() };
  }

  async function send(page: string): Promise<string> {
    const words = new URLSearchParams({ name: "disk.img", page });
    const answer = await served.request(`/upload?${words}`, { method: "PUT", headers, body: "x" });
    return JSON.parse(answer.body).path;
  }

  async function pageName({ call }: Awaited<ReturnType<Served["page"]>>): Promise<string> {
    const { result } = (await call("appInfo")) as { readonly result: { readonly page: string } };
    return result.page;
  }

  it("goes with the page that did not import it, and with no other", async () => {
    await begin(1);
    const [one, two] = [await served.page(), await served.page()];
    const [left, stays] = [await send(await pageName(one)), await send(await pageName(two))];
    expect(files()).toHaveLength(2);
    one.socket.close();
    await until("the removal", () => !existsSync(left));
    expect(existsSync(stays)).toBe(true);
    // Sent by a page that is gone already.
    const late = await send("gone");
    await until("its removal", () => !existsSync(late));
  });

  it("is the lab's once it was asked to take it over", async () => {
    await begin(1);
    const page = await served.page();
    const [taken, read] = [await send(await pageName(page)), await send(await pageName(page))];
    expect(await page.call("imageImport", { path: taken, move: true })).toMatchObject({ ok: true });
    expect(await page.call("imageImport", { path: read, move: false })).toMatchObject({ ok: true });
    page.socket.close();
    await until("the removal of the other", () => !existsSync(read));
    expect(asked).toEqual([taken, read]);
    expect(existsSync(taken)).toBe(true);
  });

  it("is gone at once when the lab refuses it, and nothing else is", async () => {
    await begin(600_000, "this is no image");
    const page = await served.page();
    const sent = await send(await pageName(page));
    const own = path.join(served.lab.folder, "upload-0123456789abcdef-own.img");
    writeFileSync(own, "the user's");
    for (const file of [sent, own]) {
      expect(await page.call("imageImport", { path: file, move: true })).toMatchObject({ ok: false });
    }
    await until("the removal", () => !existsSync(sent));
    expect(existsSync(own)).toBe(true);
  });

  it("and was left by an app that was killed is removed at the next start", async () => {
    await served.close();
    served = new Served({}, { mostUploadBytes: MOST });
    mkdirSync(folder());
    const [old, young, other] = ["upload-0123456789abcdef-a.img", "upload-fedcba9876543210-b.img", "import-1"].map(
      (name) => path.join(folder(), name),
    ) as [string, string, string];
    for (const file of [old, young, other]) writeFileSync(file, "x");
    const hourAgo = Date.now() / 1000 - 3600;
    for (const file of [old, other]) utimesSync(file, hourAgo, hourAgo);
    await served.start();
    await until("the removal", () => !existsSync(old));
    // The lab may be importing it.
    expect(existsSync(young)).toBe(true);
    expect(existsSync(other)).toBe(true);
  });
});

it("an upload that the disk has no room for is refused before it is read", async () => {
  await served.close();
  served = new Served({}, { mostUploadBytes: Number.MAX_SAFE_INTEGER });
  await served.start();
  headers = { origin: served.origin, cookie: await served.cookie() };
  const request = slowly(2 ** 60 / 256);
  const answer = new Promise<http.IncomingMessage>((resolve, reject) => {
    request.once("response", resolve);
    request.once("error", reject);
  });
  request.flushHeaders();
  const response = await answer;
  expect(response.statusCode).toBe(507);
  let text = "";
  for await (const piece of response) text += piece;
  expect(JSON.parse(text).line).toMatch(/has no room for the file \(.* GiB can be used\); free some space$/);
  request.destroy();
  expect(files()).toEqual([]);
});
