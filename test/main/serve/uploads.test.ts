import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import http from "node:http";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
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
